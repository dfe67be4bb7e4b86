"""What SQUAD has of a build: `dump` reads its tables and files, `api` its REST API, `pages` its web pages.

Both name rows by what they mean instead of their ids, and write `T` for a moment that nobody can foretell, so that two
installations with the same results have equal dumps. What is in no order is sorted.
"""

import hashlib
import html.parser
import json
import re
import urllib.parse

import requests

from services import LIMIT

MOMENT = "T"


def plain(text):
    """Text without the port of a server of this run and without ids in paths."""
    text = re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:PORT", text)
    return re.sub(r"\b(testruns?|attachment)/\d+", r"\1/N", text)


def normal(value):
    """A column's value, comparable."""
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, str):
        return plain(value)
    return MOMENT  # a moment


def in_order(values):
    return sorted(values, key=lambda value: json.dumps(value, sort_keys=True))


class Reader:
    """Reads one build of an installation."""

    def __init__(self, site, build):
        self.site, self.build = site, build
        self.rows = site.database.rows
        self.of_build = site.database.row("select * from core_build where id = %s", [build])
        self.project = self.of_build["project_id"]
        self.environments = self.names("core_environment", "slug")
        self.suites = self.names("core_suite", "slug")
        self.backends = {row["id"]: row["name"] for row in self.rows("select id, name from ci_backend")}

    def names(self, table, column):
        rows = self.rows(f"select id, {column} from {table} where project_id = %s", [self.project])
        return {row["id"]: row[column] for row in rows}

    def columns(self, row, *without, **instead):
        """A row without its id and the columns `without`, and with those `instead`."""
        kept = {name: normal(value) for name, value in row.items() if name not in ("id", *without)}
        return kept | instead

    def file(self, path):
        """The content of a file of SQUAD's storage; None when there is none."""
        return self.site.file(path) if path else None

    def parsed(self, path):
        content = self.file(path)
        return None if content is None else json.loads(plain(content.decode()))

    def dump(self):
        testruns = self.rows("select * from core_testrun where build_id = %s order by job_id, id", [self.build])
        return {
            "build": self.columns(self.of_build, "project_id"),
            "finished": self.site.inside(
                "result = core.Build.objects.get(pk=build).finished", build=self.build
            ),
            "testruns": [self.testrun(row) for row in testruns],
            "testjobs": self.testjobs({row["id"]: row["job_id"] for row in testruns}),
            "environments": in_order(
                self.columns(row, "project_id")
                for row in self.rows("select * from core_environment where project_id = %s", [self.project])
            ),
            "suites": self.suites_of_project(),
            "known_issues": self.known_issues(),
            "project_status": self.of_the_build("core_projectstatus"),
            "build_summary": in_order(
                self.columns(row, "build_id", environment_id=self.environments[row["environment_id"]])
                for row in self.rows("select * from core_buildsummary where build_id = %s", [self.build])
            ),
            "plugin_scratch": in_order(
                row["storage"]
                for row in self.rows("select storage from core_pluginscratch where build_id = %s", [self.build])
            ),
            # of the whole installation: nothing tells whose they are
            "chord_counters": [
                row["count"] for row in self.rows("select count from django_celery_results_chordcounter")
            ],
        }

    def of_the_build(self, table):
        rows = self.rows(f"select * from {table} where build_id = %s", [self.build])
        versions = self.names("core_build", "version")
        return [self.columns(row, "build_id", baseline_id=versions.get(row["baseline_id"])) for row in rows]

    def suites_of_project(self):
        """Suites, and the metadata of their names, by kind; with the versions seen."""
        metadata = {
            row["id"]: [row["kind"], row["suite"], row["name"]]
            for row in self.rows("select * from core_suitemetadata")
        }
        suites = []
        for row in self.rows("select * from core_suite where project_id = %s", [self.project]):
            versions = self.rows("select * from core_suiteversion where suite_id = %s", [row["id"]])
            suites.append(
                self.columns(
                    row,
                    "project_id",
                    metadata_id=metadata.get(row["metadata_id"]),
                    versions=sorted(version["version"] for version in versions),
                    names=in_order(entry for entry in metadata.values() if entry[1] == row["slug"]),
                )
            )
        return sorted(suites, key=lambda suite: suite["slug"])

    def known_issues(self):
        """Each known issue of an environment of the project, as often as it is there."""
        rows = self.rows(
            """select issue.*, environment.slug as environment from core_knownissue issue
               join core_knownissue_environments link on link.knownissue_id = issue.id
               join core_environment environment on environment.id = link.environment_id
               where environment.project_id = %s""",
            [self.project],
        )
        return in_order(self.columns(row) for row in rows)

    def testjobs(self, testruns):
        jobs = []
        for row in self.rows("select * from ci_testjob where target_build_id = %s order by job_id, id", [self.build]):
            parent = self.rows("select job_id from ci_testjob where id = %s", [row["parent_job_id"]])
            inputs = self.rows("select text from ci_resultsinput where test_job_id = %s", [row["id"]])
            jobs.append(
                self.columns(
                    row,
                    "target_id",
                    "target_build_id",
                    backend_id=self.backends[row["backend_id"]],
                    testrun_id=testruns.get(row["testrun_id"], row["testrun_id"]),
                    parent_job_id=parent[0]["job_id"] if parent else None,
                    # told by the server, so equal everywhere
                    started_at=row["started_at"] and row["started_at"].isoformat(),
                    ended_at=row["ended_at"] and row["ended_at"].isoformat(),
                    results_input=[entry["text"] for entry in inputs],
                )
            )
        return jobs

    def testrun(self, row):
        log = self.file(row["log_file_storage"])
        return self.columns(
            row,
            "build_id",
            environment_id=self.environments[row["environment_id"]],
            metadata_file=row["metadata_file"] and json.loads(plain(row["metadata_file"])),
            tests_file=self.parsed(row["tests_file_storage"]),
            metrics_file=self.parsed(row["metrics_file_storage"]),
            log_file=None if log is None else plain(log.decode()),
            tests=self.tests(row["id"]),
            metrics=self.metrics(row["id"]),
            statuses=self.statuses(row["id"]),
            attachments=self.attachments(row["id"]),
        )

    def results(self, table, testrun):
        """Rows of tests or metrics with the names that their ids stand for."""
        return self.rows(
            f"""select result.*, metadata.kind as metadata_kind, metadata.suite as metadata_suite,
                       metadata.name as metadata_name
                from {table} result left join core_suitemetadata metadata on metadata.id = result.metadata_id
                where result.test_run_id = %s""",
            [testrun],
        )

    def names_of(self, row):
        return {
            "build_id": row["build_id"] == self.build,
            "environment_id": self.environments[row["environment_id"]],
            "suite_id": self.suites[row["suite_id"]],
        }

    def tests(self, testrun):
        issues = self.rows(
            """select link.test_id, issue.test_name from core_test_known_issues link
               join core_knownissue issue on issue.id = link.knownissue_id
               join core_test test on test.id = link.test_id where test.test_run_id = %s""",
            [testrun],
        )
        named = {}
        for link in issues:
            named.setdefault(link["test_id"], []).append(link["test_name"])
        return in_order(
            self.columns(
                row,
                "test_run_id",
                "metadata_id",
                **self.names_of(row),
                known_issues=sorted(named.get(row["id"], [])),
            )
            for row in self.results("core_test", testrun)
        )

    def metrics(self, testrun):
        return in_order(
            self.columns(row, "test_run_id", "metadata_id", **self.names_of(row))
            for row in self.results("core_metric", testrun)
        )

    def statuses(self, testrun):
        rows = self.rows(
            """select status.*, version.version from core_status status
               left join core_suiteversion version on version.id = status.suite_version_id
               where test_run_id = %s""",
            [testrun],
        )
        return in_order(
            self.columns(
                row, "test_run_id", "suite_version_id", suite_id=row["suite_id"] and self.suites[row["suite_id"]]
            )
            for row in rows
        )

    def attachments(self, testrun):
        attachments = []
        for row in self.rows("select * from core_attachment where test_run_id = %s", [testrun]):
            content = self.file(row["storage"])
            same = content
            if content is not None:
                try:
                    same = plain(content.decode()).encode()
                except UnicodeDecodeError:
                    pass
            attachments.append(
                self.columns(
                    row,
                    "test_run_id",
                    # an id in the text makes it longer or shorter
                    length=row["length"] - (len(content) - len(same)) if content else row["length"],
                    stored=None if same is None else {"length": len(same), "sha256": hashlib.sha256(same).hexdigest()},
                )
            )
        return in_order(attachments)


def dump(site, build):
    """Everything in SQUAD's tables and files that belongs to the build with that primary key."""
    return Reader(site, build).dump()


# --- over the API ---

ID = re.compile(r"^(id|.*_id)$")
MOMENTS = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d")
ASCERTAINED = ("started_at", "ended_at")


def seen(value, key=""):
    """A value of the API, comparable: without ids, in URLs too."""
    if isinstance(value, dict):
        return {name: seen(member, name) for name, member in value.items() if not drop(name, value[name])}
    if isinstance(value, list):
        return in_order(seen(member) for member in value)
    if isinstance(value, str):
        if MOMENTS.match(value) and key not in ASCERTAINED:
            return MOMENT
        if value.startswith("http://127.0.0.1") and "/api/" in value:
            return re.sub(r"/\d+(?=/|$)", "/N", plain(value))
        return plain(value)
    return value


def drop(name, value):
    """Whether a member is an id of a row, or hangs on one: a style sheet's length does, and `dump` has it."""
    return bool(ID.match(name) or name == "length") and isinstance(value, int)


def listed(site, path):
    """All pages of a list of the API."""
    objects, headers = [], {"Authorization": f"Token {site.token()}"}
    address = f"{site.start_web()}{path}"
    while address:
        answer = requests.get(address, headers=headers, timeout=LIMIT)
        assert answer.status_code == 200, f"GET {address}: {answer.status_code} {answer.text[:2000]}"
        page = answer.json()
        objects += page["results"]
        address = page["next"]
    return objects


def api(site, build):
    """The same build as programs see it by SQUAD's web server."""
    headers = {"Authorization": f"Token {site.token()}"}

    def one(path):
        return seen(site.get(path, headers=headers).json())

    runs = sorted(listed(site, f"/api/builds/{build}/testruns/"), key=lambda run: str(run["job_id"]))
    return {
        "build": one(f"/api/builds/{build}/"),
        "metadata": one(f"/api/builds/{build}/metadata/"),
        "testjobs": seen(listed(site, f"/api/builds/{build}/testjobs/")),
        "testruns": [
            {
                "testrun": seen(run),
                "tests": seen(listed(site, f"/api/testruns/{run['id']}/tests/?limit=1000")),
                "metrics": seen(listed(site, f"/api/testruns/{run['id']}/metrics/?limit=1000")),
                "status": seen(listed(site, f"/api/testruns/{run['id']}/status/")),
                "metadata_file": one(f"/api/testruns/{run['id']}/metadata_file/"),
                "tests_file": one(f"/api/testruns/{run['id']}/tests_file/"),
                "log_file": plain(site.get(f"/api/testruns/{run['id']}/log_file/", headers=headers).content.decode()),
            }
            for run in runs
        ],
    }


# --- in a browser ---

AGO = re.compile(r"\b(\d+|an?)\s(second|minute|hour)s? ago|\bnow\b|\w+\. \d+, \d{4}(, \d+:\d+ [ap]\.m\.)?")


class Page(html.parser.HTMLParser):
    """What a page says: its texts, the titles of its badges and where it leads; not how it is made, which is full of ids."""

    def __init__(self, text):
        super().__init__()
        self.lines, self.within = [], None
        self.feed(text)

    def say(self, text):
        text = AGO.sub(MOMENT, plain(" ".join(text.split())))
        if text:
            self.lines.append(text)

    def handle_starttag(self, tag, attributes):
        self.within = tag
        for name, value in attributes:
            if name == "title" or (name == "href" and tag == "a"):
                self.say(f"{name} {re.sub(r'/[0-9]+(?=/|$)', '/N', value or '')}")

    def handle_data(self, data):
        if self.within not in ("script", "style"):
            self.say(data)


def pages(site, build):
    """The same build as people see it: its web pages, and those of its first tests."""
    row = site.database.row(
        """select g.slug || '/' || p.slug as project, b.version from core_build b
           join core_project p on p.id = b.project_id join core_group g on g.id = p.group_id where b.id = %s""",
        [build],
    )
    tests = site.database.rows(
        """select t.test_run_id, s.slug, m.name from core_test t join core_suite s on s.id = t.suite_id
           join core_suitemetadata m on m.id = t.metadata_id where t.build_id = %s order by s.slug, m.name, t.test_run_id limit 3""",
        [build],
    )
    base = f"/{row['project']}/build/{row['version']}/"
    paths = [base, *(base + name for name in ("metrics/", "testjobs/", "metadata/"))]
    for test in tests:
        suite, name = (urllib.parse.quote(text.replace("/", "$")) for text in (test["slug"], test["name"]))
        paths += [f"{base}testrun/{test['test_run_id']}/suite/{suite}/{rest}" for rest in ("tests/", f"test/{name}/details/")]
    headers = {"Authorization": f"Token {site.token()}"}
    # which tests stand on which of its pages hangs on ids
    (names,) = site.database.row("select count(distinct metadata_id) from core_test where build_id = %s", [build]).values()
    listed = [f"{base}tests/?page={number}" for number in range(1, names // 50 + 2)]

    def lines(path):
        return Page(site.get(path, headers=headers).text).lines

    return [*map(lines, paths), [line for path in listed for line in lines(path)]]


# --- where SQUAD errs ---


# lines of pages
DEFECTS = ("Known issue: ", "test_results.xml (")


def but_for_defects(value):
    """A dump, of either kind, without what SQUAD 1.98 itself gets wrong, differently from run to run or for nobody's use:

    - which tests its known issues are linked to, and so on whose pages they are named (`has_known_issues` is right),
    - the metadata without a name that tradefed's plugin adds for each suite, again for each job: once, and with the name
      that those of other suites have,
    - the attachment test_results.xml, which is empty when the plugin has extracted the tests from it;

    and its files of tests and metrics in one of the forms that SQUAD reads alike.
    """
    if isinstance(value, list):
        named = [[*member[:-1], "-"] for member in value if nameless(member)][:1]
        kept = [member for member in value if not nameless(member) and not str(member).startswith(DEFECTS)]
        return [but_for_defects(member) for member in [new for new in named if new not in kept] + kept]
    if not isinstance(value, dict):
        return value
    kept = {name: but_for_defects(member) for name, member in value.items() if name != "metadata_id"}
    for name in ("tests_file", "metrics_file"):
        if isinstance(kept.get(name), dict):
            kept[name] = {key.removeprefix("/"): entry(found) for key, found in kept[name].items() if is_read(key)}
    if "has_known_issues" in kept:
        kept.pop("known_issues", None)
    if kept.get("filename") == "test_results.xml":
        kept.pop("length", None)
        kept.pop("stored", None)
    return kept


def entry(found):
    """An entry of a file of tests or metrics: what is no result of SQUAD's it counts as skipped."""
    found = dict(found) if isinstance(found, dict) else {"result": found, "log": None}
    if "result" in found and found["result"] not in ("pass", "fail"):
        found["result"] = "skip"
    return found


def is_read(key):
    """Whether SQUAD makes a row of an entry: longer names it drops."""
    return len(key.rsplit("/", 1)[-1]) <= 256


def nameless(member):
    """Whether it is the metadata of a suite without a name."""
    return isinstance(member, list) and member[:1] == ["suite"] and member[-1] is None


def differences(ours, theirs, path=""):
    """Where two dumps differ, a line for each place: short enough to read."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return [
            line
            for name in sorted(set(ours) | set(theirs))
            for line in differences(ours.get(name, "(missing)"), theirs.get(name, "(missing)"), f"{path}.{name}")
        ]
    if isinstance(ours, list) and isinstance(theirs, list):
        left = [member for member in ours if member not in theirs]
        right = [member for member in theirs if member not in ours]
        if len(left) == len(right):
            return [line for pair in zip(left, right) for line in differences(*pair, f"{path}[]")]
        return [f"{path}[]: only here {member!r:.300}" for member in left] + [
            f"{path}[]: only with SQUAD {member!r:.300}" for member in right
        ]
    return [] if ours == theirs else [f"{path}: {ours!r:.300} instead of {theirs!r:.300}"]
