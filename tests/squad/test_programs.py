"""Plugins that are programs of their own, over test jobs whose results go into SQUAD."""

import json
import pathlib

import pytest

from lava import Job, log_of
from longshore import longshore
from scenarios import SMOKE
from windows import Lane, ended, ends, row_of

EXAMPLES = pathlib.Path(__file__).resolve().parents[2] / "examples" / "plugins"

LOG = log_of(
    "[    0.000000] Linux version 6.12",
    "[    1.200000] WARNING: CPU: 0 PID: 1 at kernel/foo.c:12 foo_init+0x10/0x20",
    "[    4.125000] Run /sbin/init as init process",
)

PLUGINS = f"""
[plugins.boot-time]
command = ["{EXAMPLES}/boot-time.sh"]

[plugins.kernel-warnings]
command = ["{EXAMPLES}/kernel-warnings.py"]

[projects."programs/given"]
plugins = ["boot-time"]
"""


@pytest.mark.parametrize("crash", [None, "publish:ready#2", "publish:stored#2", "publish:ready#3"])
def test_programs_add_to_a_test_run_before_it_is_shown(site, quiet_lava, crash):
    """One that the configuration gives to the project, and one that SQUAD has enabled for it."""
    site.inside("result = None")
    own = Lane(site, "programs")
    own.config += PLUGINS
    build = site.build("programs/given", plugins=["kernel-warnings"])
    pk = site.testjob(build, site.backend("lab", quiet_lava.rest), quiet_lava.add(Job(SMOKE, log=LOG)))
    python = site.worker()
    own.fetch(pk)
    if crash:
        assert ends(own.start(LONGSHORE_CRASH_AT=crash).process) == -6
    with own.running():
        ended(site, pk)
    python.stop()
    run = row_of(site, pk)["testrun_id"]
    found = site.database.rows(
        """select m.suite || '/' || m.name as name, c.result from core_test c join core_suitemetadata m on m.id = c.metadata_id
           where c.test_run_id = %s and m.suite in ('boot', 'kernel-warnings')""",
        [run],
    )
    assert {row["name"]: row["result"] for row in found} == {"boot/reached-init": True, "kernel-warnings/foo_init": False}
    assert len(found) == 2
    measured = site.database.rows(
        """select m.name, c.result, c.unit from core_metric c join core_suitemetadata m on m.id = c.metadata_id
           where c.test_run_id = %s and m.suite in ('boot', 'kernel-warnings')""",
        [run],
    )
    assert {row["name"]: (row["result"], row["unit"]) for row in measured} == {"time-to-init": (4.125, "s"), "number": (1.0, "")}
    files = site.database.rows("select filename from core_attachment where test_run_id = %s", [run])
    assert {"lines.txt", "warnings.txt"} <= {row["filename"] for row in files}
    told = json.loads(longshore(site, own.config, "squad", "doctor", "--json").stdout)
    assert [finding for finding in told["findings"] if finding["about"] == "plugins"] == []
