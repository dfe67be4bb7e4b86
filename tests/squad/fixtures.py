"""What tests beside SQUAD start from: a template of SQUAD's database once, and from it an installation for each test."""

import pytest

from installation import Installation, migrate
from lava import Lava
from services import Database


@pytest.fixture(scope="session")
def template(tmp_path_factory):
    """A database with SQUAD's own migrations applied."""
    database = Database()
    migrate(database, tmp_path_factory.mktemp("migrations"))
    yield database
    database.drop()


@pytest.fixture(scope="session")
def lava():
    """A stand-in LAVA server."""
    server = Lava()
    yield server
    server.close()


@pytest.fixture
def site(template, tmp_path):
    """SQUAD, of this test alone."""
    installation = Installation(template, tmp_path / "squad")
    yield installation
    installation.close()


@pytest.fixture
def quiet_lava(lava):
    """The LAVA server without what earlier tests asked and commanded."""
    lava.reset()
    yield lava
    lava.reset()
