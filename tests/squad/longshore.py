"""The program under test as a worker."""

import os
import pathlib
import re
import subprocess
import uuid

import requests

from services import unique, wait_for

PROGRAM = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", "target")).resolve() / "debug" / "longshore"


class Longshore:
    """`longshore run --pool POOL` beside an installation of SQUAD."""

    def __init__(self, site, pool, config, **variables):
        self.site = site
        environment = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
        # a name of its own: several are started at once
        path = site.folder / f"{uuid.uuid4().hex}-{pool}.toml"
        path.write_text(config)
        assert PROGRAM.exists(), f"{PROGRAM} is missing: cargo build"
        self.process = site.process(
            f"longshore-{pool}",
            [PROGRAM, "run", "--pool", pool, "--config", path],
            environment={**environment, **variables},
        )

    def wait_ready(self):
        """Waits until it says by HTTP that it is ready."""
        address = wait_for(f"the address of {self.process.name} in its log", self.address)

        def ready():
            self.process.expect_running()
            try:
                return requests.get(f"{address}/readyz", timeout=5).status_code == 200
            except requests.ConnectionError:
                return False

        wait_for(f"{address}/readyz", ready)
        return self

    def address(self):
        """Where it answers HTTP, as it wrote into its log; the configuration says port 0."""
        self.process.expect_running()
        found = re.search(r"answering probes address=(\S+)", self.process.text())
        return found and f"http://{found[1]}"

    def stop(self):
        """SIGTERM, and waits until it has drained."""
        status = self.process.stop()
        assert status == 0, f"{self.process.name} ended with {status}:\n{self.process.text()[-4000:]}"


def migrate(site, config):
    """Gives the database the tables of Longshore, beside SQUAD's."""
    path = site.folder / f"{unique('migrate')}.toml"
    path.write_text(config)
    subprocess.run([PROGRAM, "migrate", "--config", path], check=True, env={"PATH": os.environ["PATH"]})


def longshore(site, config, *arguments, **variables):
    """A verb of the command line; returns how it ended."""
    path = site.folder / "verb.toml"
    path.write_text(config)
    return subprocess.run(
        [PROGRAM, *arguments, "--config", path], env={"PATH": os.environ["PATH"], **variables}, capture_output=True, text=True, timeout=60
    )
