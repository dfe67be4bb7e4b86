"""Where what Longshore leaves in SQUAD is another thing than what SQUAD's own workers leave, and is meant to be."""

import re

# Scenario, views, the beginning of the difference (see `dump.differences`), and the reason.
DELIBERATE = [
    (
        "no_such_job",
        ("tables", "api"),
        r"\.testjobs\[\]\.failure: 'read http://\S+: the server answered 404' instead of '",
        "SQUAD shows the answer's body, which may hold what the server was sent; ours says what was asked and the status",
    ),
    (
        "no_such_job",
        ("pages",),
        r"\[\]\[\]: 'read http://\S+: the server answered 404' instead of '",
        "the same in a browser",
    ),
    (
        "tradefed_missing",
        ("pages",),
        r"\[\]\[\]: only here '(title Job failure message|Error message|plugin tradefed: read http://\S+: the server answered 404)'",
        "the same in a browser",
    ),
    (
        "tradefed_missing",
        ("tables", "api"),
        r"\.testjobs\[\]\.failure: 'plugin tradefed: read http://\S+: the server answered 404' instead of None",
        "SQUAD's plugin says nothing of an archive that it cannot get",
    ),
]


def unexpected(scenario, view, differences):
    """Those of the differences that are not meant to be; fails for what is listed and not found."""
    patterns = [pattern for name, views, pattern, _ in DELIBERATE if name == scenario and view in views]
    for pattern in patterns:
        assert any(re.match(pattern, line) for line in differences), f"no longer so: {pattern}"
    return [line for line in differences if not any(re.match(pattern, line) for pattern in patterns)]
