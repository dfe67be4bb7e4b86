import pytest
from bench import S3
from trial import Trial


@pytest.fixture(scope="session")
def s3():
    server = S3()
    yield server
    server.close()


@pytest.fixture
def trial(tmp_path, s3):
    """Makes trials, each in a folder of its own."""
    made = []

    def make(publisher, **options):
        folder = tmp_path / str(len(made))
        folder.mkdir()
        made.append(Trial(folder, publisher, s3, **options))
        return made[-1]

    yield make
    for one in made:
        one.__exit__()
