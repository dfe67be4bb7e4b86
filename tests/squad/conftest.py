"""The fixtures of `fixtures.py`, which other folders use too, and what SQUAD's own workers do."""

import pytest

from fixtures import lava, quiet_lava, site, template  # noqa: F401
from scenarios import outcome_of


@pytest.fixture(scope="session")
def truth(template, tmp_path_factory):  # noqa: F811
    """What SQUAD's own workers leave, of each scenario."""
    return outcome_of("squad", template, tmp_path_factory.mktemp("truth") / "squad")
