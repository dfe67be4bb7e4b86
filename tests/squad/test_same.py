"""What SQUAD shows after Longshore's pools is what it shows after its own workers."""

import difflib
import os
import pprint

from scenarios import run, scenarios


def test_every_scenario_ends_as_with_squads_own_workers(site, template, tmp_path, quiet_lava):
    from installation import Installation

    first = quiet_lava.next_id
    names = os.environ.get("ONLY")
    pick = [s for s in scenarios(quiet_lava) if not names or s.name in names.split(",")]
    theirs = run("squad", site, quiet_lava, pick)
    quiet_lava.reset()
    quiet_lava.next_id = first
    other = Installation(template, tmp_path / "other")
    pick = [s for s in scenarios(quiet_lava) if not names or s.name in names.split(",")]
    try:
        ours = run("longshore", other, quiet_lava, pick)
    except BaseException:
        for process in other.processes:
            print(f"===== {process.name}\n{process.text()[-5000:]}")
        raise
    other.close()
    theirs, ours = ({name: comparable(found) for name, found in side.items()} for side in (theirs, ours))
    differences = [difference(name, theirs[name], ours[name]) for name in theirs if ours[name] != theirs[name]]
    assert not differences, "\n".join(differences)


def difference(name, theirs, ours):
    lines = [pprint.pformat(side, width=160).splitlines() for side in (theirs, ours)]
    return "\n".join([f"{name}:", *difflib.unified_diff(*lines, "squad", "longshore", lineterm="", n=1)][:30])


def comparable(found):
    """Without what Longshore keeps in other words: a result that is none of SQUAD's is "skip" in its tests_file too."""
    for testrun in found["testruns"]:
        for entry in (testrun["tests_file"] or {}).values():
            if isinstance(entry, dict) and entry["result"] not in ("pass", "fail"):
                entry["result"] = "skip"
    return found
