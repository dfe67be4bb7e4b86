"""Fixtures: Longshore without a SQUAD, on each store, and beside it, where a test needs one, the real SQUAD of tests/squad."""

import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "squad"))

from alone import Alone, Embedded, Servers  # noqa: E402
from fixtures import lava, site, template  # noqa: E402, F401


@pytest.fixture(params=[Embedded, Servers], ids=["sqlite", "postgres"])
def alone(request, tmp_path):
    """Longshore with a store of its own."""
    servers = request.param()
    alone = Alone(tmp_path / "longshore", servers)
    yield alone
    alone.close()
    servers.close()
