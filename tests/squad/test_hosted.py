"""SQUAD's own tasks, in Python processes of Longshore's workers, leave what they leave in SQUAD's workers."""

import pytest

from dump import but_for_defects, differences
from scenarios import LOSSY, NAMES, outcome_of


@pytest.fixture(scope="module")
def hosted(template, tmp_path_factory):
    """What they leave, of each scenario."""
    return outcome_of("hosted", template, tmp_path_factory.mktemp("hosted") / "squad")


@pytest.mark.parametrize("view", ["tables", "api", "pages"])
@pytest.mark.parametrize("scenario", [name for name in NAMES if name not in LOSSY])
def test_the_same_as_in_squads_workers(truth, hosted, scenario, view):
    ours, theirs = (but_for_defects(seen[scenario][view]) for seen in (hosted, truth))
    assert differences(ours, theirs) == []
    # in which order pages list what came at once is a matter of moments
    if view != "pages":
        assert ours == theirs
