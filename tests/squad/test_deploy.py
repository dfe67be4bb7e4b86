"""What docs/squad.md has an operator do in a cluster, with the chart's own example: its configuration, its verbs, and a
database role with no more rights than are listed there."""

import re
import subprocess

import pytest

from chart import SOURCE, containers, manifests, mount
from installation import FETCH, POSTPROCESS, REST
from lava import Job
from longshore import PROGRAM, Longshore
from scenarios import SMOKE
from services import unique


@pytest.fixture(scope="module")
def page():
    """docs/squad.md."""
    return (SOURCE / "docs/squad.md").read_text()


@pytest.fixture
def role(site, page):
    """A role with the rights that the page grants."""
    (grants,) = [block for block in re.findall(r"```sql\n(.*?)```", page, re.S) if "create schema" in block]
    name = unique("role")
    site.database.admin(f"create role {name} login")
    site.database.rows(re.sub(r"\blongshore;", f"{name};", grants))
    yield name
    site.database.rows(f"drop owned by {name}")
    site.database.admin(f"drop role {name}")


class Cluster:
    """Runs what pods of the release run, with this site's database, broker and files in the place of the example's."""

    def __init__(self, site, release, role):
        self.site, self.release = site, release
        self.variables = {
            "LONGSHORE__STORE__URL": site.database.url.replace(f"//{site.database.user}@", f"//{role}@"),
            "LONGSHORE__BROKER__URL": site.vhost.url,
            "LONGSHORE__SQUAD__STORAGE": str(site.storage),
        }

    def config(self, kind, name):
        return mount(self.release, self.release[kind, name], self.site.folder / name)

    def run(self, kind, name, container):
        """A container that ends."""
        arguments = containers(self.release[kind, name])[container]["args"]
        return self.verb(kind, name, *arguments[: arguments.index("--config")])

    def verb(self, kind, name, *words):
        """A command in a pod."""
        arguments = [PROGRAM, *words, "--config", self.config(kind, name)]
        return subprocess.run(arguments, env=self.variables, capture_output=True, text=True, timeout=60)

    def start(self, kind, name, **variables):
        """A pod of a pool."""
        (container,) = containers(self.release[kind, name]).values()
        pool = container["args"][container["args"].index("--pool") + 1]
        grace = {each["name"]: each.get("value") for each in container["env"]}["LONGSHORE__WORKER__GRACE"]
        own = {"LONGSHORE__WORKER__GRACE": grace, "LONGSHORE__HTTP__LISTEN": "127.0.0.1:0", "LONGSHORE__WORKER__LOG": "text"}
        config = self.config(kind, name).read_text()
        return Longshore(self.site, pool, config, **self.variables, **own, **variables).wait_ready()


@pytest.fixture
def cluster(site, role):
    """The whole release, its hook done."""
    cluster = Cluster(site, manifests("squad"), role)
    assert cluster.run("Job", "ci-longshore-migrate", "migrate").returncode == 0
    return cluster


def test_what_takes_too_long_for_its_pod_goes_on_in_the_pinned_pool(site, quiet_lava, cluster):
    site.declare(FETCH, POSTPROCESS, *REST)
    elastic = cluster.start("Deployment", "ci-longshore-fetch", LONGSHORE__POOLS__FETCH__BUDGET="500ms")
    pinned = cluster.start("StatefulSet", "ci-longshore-postprocess")
    rest = site.worker(*REST)
    job = quiet_lava.add(Job(SMOKE))
    gate = quiet_lava.hold(f"jobs/{job}/suites/")
    site.fetch(site.testjob(site.build("lab/long"), site.backend("lab", quiet_lava.rest), job))
    site.wait_for(
        "the pinned pool's attempt",
        """
        select 1 from longshore.tasks where name = 'squad.ci.tasks.fetch' and queue = 'longshore_postprocess' and state = 'running'
        """,
    )
    gate.open()
    site.wait_for("the end", "select 1 from ci_testjob where job_status = 'Complete' and testrun_id is not null")
    for worker in (elastic, pinned, rest):
        worker.stop()


def test_an_operator_takes_over_by_the_chart(site, quiet_lava, page, role):
    backend = site.backend("lab", quiet_lava.rest)
    jobs = [site.testjob(site.build(f"lab/{n}"), backend, quiet_lava.add(Job(SMOKE))) for n in range(3)]
    squads = [site.worker(FETCH), site.worker(POSTPROCESS)]
    rest = site.worker(*REST)
    site.fetch(jobs[0])
    site.wait_for("SQUAD's own end", "select 1 from ci_testjob where id = %s and job_status = 'Complete'", jobs[0])

    # the release without workers: its hook, and `helm test`
    (line,) = re.findall(r"helm install ci charts/longshore -f my-values.yaml (.*)", page)
    release = manifests("squad", *line.split())
    assert ("Deployment", "ci-longshore-fetch") not in release
    assert release["StatefulSet", "ci-longshore-postprocess"]["spec"]["replicas"] == 0
    cluster = Cluster(site, release, role)
    migrate, test = ("Job", "ci-longshore-migrate"), ("Pod", "ci-longshore-test")
    done = cluster.run(*migrate, "migrate")
    assert done.returncode == 0, done
    assert [cluster.run(*test, name).returncode for name in ("config", "store")] == [0, 0]
    doctor = cluster.run(*test, "squad")
    assert doctor.returncode == 3, doctor
    findings = [line for line in doctor.stdout.splitlines() if re.match(r"[a-z ]+: ", line)]
    assert findings == ["queues: queue longshore_postprocess is not there"], doctor.stdout

    # the pools, beside SQUAD's workers and then alone
    cluster = Cluster(site, manifests("squad"), role)
    pinned = ("StatefulSet", "ci-longshore-postprocess")
    pools = [cluster.start("Deployment", "ci-longshore-fetch"), cluster.start(*pinned)]
    for worker in squads:
        worker.stop()
    assert cluster.verb(*pinned, "squad", "unstick", "--dry-run").returncode == 0
    assert cluster.verb(*pinned, "squad", "unstick").returncode == 0
    for job in jobs[1:]:
        site.fetch(job)
    site.wait_for("the end of all", "select 1 where not exists (select 1 from ci_testjob where job_status <> 'Complete')")
    doctor = cluster.run(*test, "squad")
    assert doctor.returncode == 0, doctor
    pools[0].stop()  # as KEDA does when nothing waits: no reason for `helm test` to fail
    doctor = cluster.run(*test, "squad")
    assert doctor.returncode == 0, doctor

    # the next release's hook has nothing to do, and needs no more rights
    assert cluster.run(*migrate, "migrate").returncode == 0
    # and back
    pools[1].stop()
    squads = [site.worker(FETCH), site.worker(POSTPROCESS)]
    again = site.testjob(site.build("lab/again"), backend, quiet_lava.add(Job(SMOKE)))
    site.fetch(again)
    site.wait_for("SQUAD's own end", "select 1 from ci_testjob where id = %s and job_status = 'Complete'", again)
    for worker in (*squads, rest):
        worker.stop()
