"""Fixtures: Longshore without a SQUAD, and beside it, where a test needs one, the real SQUAD of tests/squad."""

import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "squad"))

from alone import Alone  # noqa: E402
from installation import Installation, migrate  # noqa: E402
from lava import Lava  # noqa: E402
from services import Database  # noqa: E402


@pytest.fixture
def alone(tmp_path):
    """Longshore with a store of its own in one file."""
    alone = Alone(tmp_path / "longshore")
    yield alone
    alone.close()


@pytest.fixture
def lava():
    """A stand-in LAVA server."""
    server = Lava()
    yield server
    server.close()


@pytest.fixture(scope="session")
def template(tmp_path_factory):
    """A database with SQUAD's own migrations applied."""
    database = Database()
    migrate(database, tmp_path_factory.mktemp("migrations"))
    yield database
    database.drop()


@pytest.fixture
def site(template, tmp_path):
    """SQUAD, of this test alone."""
    installation = Installation(template, tmp_path / "squad")
    yield installation
    installation.close()
