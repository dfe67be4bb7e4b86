"""Celery's own tools see Longshore's workers: `celery inspect`, `celery control`, `celery events` and Flower, as they are
installed, against workers as they run."""

import json
import os
import pathlib
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

import kombu
import pytest
from celery.exceptions import TaskRevokedError

from conftest import HERE, LIMIT, ROOT, Process, show, wait_for

def switch(longshore, tools):
    longshore.configure(old="[celery]", new=f'[celery]\ntools = "{tools}"')
    return longshore


@pytest.fixture
def tooled(longshore):
    """Longshore with the switch on."""
    return switch(longshore, "on")


class Tool:
    """Celery's command line."""

    def __init__(self, folder, vhost):
        self.folder = folder
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(HERE),
            "TEST_BROKER": vhost.url,
            "TEST_BACKEND": "rpc://",
            "TEST_FOLDER": str(folder),
        }

    def arguments(self, *arguments):
        return [sys.executable, "-m", "celery", "-A", "application:app", *arguments]

    def __call__(self, *arguments, code=0):
        done = subprocess.run(
            self.arguments(*arguments), capture_output=True, text=True, timeout=LIMIT, cwd=self.folder, env=self.environment
        )
        assert done.returncode == code, f"{arguments} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
        return done.stdout

    def inspect(self, node, *arguments):
        """What one worker answers. Asked by name, it is waited for, not for all that might still come."""
        return json.loads(self("inspect", *arguments, "--json", "-d", node, "-t", str(LIMIT)))[node]

    def control(self, node, *arguments):
        return self("control", *arguments, "-d", node, "-t", str(LIMIT))

    def start(self, log, *arguments):
        return Process(self.arguments(*arguments), self.folder / log, cwd=self.folder, env=self.environment)


@pytest.fixture
def tool(tmp_path, vhost):
    return Tool(tmp_path, vhost)


def node(process, pool="work"):
    """A worker's name among Celery's."""
    return f"longshore-{pool}@{socket.gethostname()}.{process.process.pid}"


def known(app, process):
    """Waits until the worker answers, and returns its name."""
    name = node(process)
    wait_for(f"an answer of {name}", lambda: app.control.ping([name], timeout=5))
    return name


def asked(node):
    """One worker, for as long as it takes: whoever does not name one waits out the whole time."""
    return {"destination": [node], "timeout": LIMIT}


def told(node):
    return {**asked(node), "reply": True}


def waiting(app, folder, number=0, **more):
    """A task that has begun, and the file that lets it end."""
    begun, go = folder / f"begun-{number}", folder / f"go-{number}"
    sent = app.send_task("wait", (str(begun), str(go)), **more)
    wait_for("a task that runs", begun.exists)
    return sent, go


class Ear:
    """Every event, as any consumer of them gets it."""

    def __init__(self, app):
        self.app, self.events = app, []
        self.receiver, ready = None, threading.Event()
        self.thread = threading.Thread(target=self.listen, args=(ready,), daemon=True)
        self.thread.start()
        assert ready.wait(LIMIT)

    def listen(self, ready):
        with self.app.connection() as connection:
            self.receiver = self.app.events.Receiver(connection, handlers={"*": self.events.append})
            self.receiver.on_consume_ready = lambda *_, **__: ready.set()
            self.receiver.capture(limit=None, timeout=None, wakeup=False)

    def of(self, sent):
        """The types of a task's events, in their order."""
        return [event["type"] for event in list(self.events) if event.get("uuid") == str(sent)]

    def hears(self, kind, **fields):
        def look():
            for event in list(self.events):
                if event["type"] == kind and all(event.get(key) == value for key, value in fields.items()):
                    return event
            return None

        return wait_for(f"{kind} {fields} among the events", look)

    def close(self):
        self.receiver.should_stop = True
        self.thread.join(LIMIT)


@pytest.fixture
def ear(app):
    ear = Ear(app)
    yield ear
    ear.close()


def test_without_the_switch_nobody_answers_and_nothing_is_declared(longshore, app, vhost, api):
    longshore.worker()
    assert app.control.ping(timeout=1) == []
    queues = [queue["name"] for queue in api("GET", f"queues/{vhost.name}")]
    assert not [name for name in queues if name.startswith("longshore-")]


def test_inspect_sees_the_worker_and_what_it_does(tooled, app, tool, tmp_path):
    worker = tooled.worker()
    name = known(app, worker)
    assert tool.inspect(name, "ping") == {"ok": "pong"}
    assert name in tool("status", "-t", "5")
    assert tool.inspect(name, "active") == []
    sent, go = waiting(app, tmp_path, priority=3)
    (active,) = tool.inspect(name, "active")
    assert active["id"] == sent.id and active["name"] == active["type"] == "wait"
    assert active["args"] == [str(tmp_path / "begun-0"), str(go)] and active["kwargs"] == {}
    assert active["hostname"] == name and active["worker_pid"] == worker.process.pid
    assert active["delivery_info"]["routing_key"] == "longshore" and active["delivery_info"]["priority"] == 3
    assert abs(active["time_start"] - time.time()) < LIMIT
    assert isinstance(app.control.inspect(**asked(name)).active(safe=True)[name][0]["args"], str)
    assert app.control.inspect(**asked(name)).query_task([sent.id, "another"])[name] == {sent.id: ["active", active]}
    assert tool.inspect(name, "reserved") == []
    assert {"add", "wait", "testjob.fetch"} <= set(tool.inspect(name, "registered"))
    (queue,) = tool.inspect(name, "active_queues")
    assert queue["name"] == queue["routing_key"] == "longshore"
    stats = tool.inspect(name, "stats")
    assert stats["total"] == {"wait": 1} and stats["pid"] == worker.process.pid
    assert stats["pool"]["max-concurrency"] == stats["prefetch_count"] == 4
    assert stats["broker"]["virtual_host"] == tooled.vhost.name
    assert "longshore:" in tool("inspect", "report", "-d", name, "-t", str(LIMIT))
    assert isinstance(app.control.inspect(**asked(name)).clock()[name]["clock"], int)
    conf = tool("inspect", "conf", "-d", name, "-t", str(LIMIT))
    assert "worker.lease" in conf and "guest" not in conf and tooled.database.name not in conf
    go.touch()
    tooled.reaches(sent.id, "done")


def test_what_waits_for_its_time_is_scheduled(tooled, app, tool):
    name = known(app, tooled.worker())
    sent = app.send_task("add", (2, 3), countdown=3600)
    tooled.reaches(sent.id, "waiting")
    (scheduled,) = tool.inspect(name, "scheduled")
    assert scheduled["request"]["id"] == sent.id and scheduled["request"]["args"] == [2, 3]
    assert scheduled["eta"].endswith("+00:00")
    assert app.control.inspect(**asked(name)).query_task(sent.id)[name][sent.id][0] == "scheduled"


def test_requests_are_for_those_they_name(tooled, app, tool):
    one, other = tooled.worker(), tooled.worker()
    one, other = known(app, one), known(app, other)
    assert sorted(json.loads(tool("inspect", "ping", "--json", "-t", "5"))) == sorted([one, other])
    assert tool.inspect(other, "ping") == {"ok": "pong"}
    inspect = app.control.inspect
    pattern = other.replace("longshore", "long*")
    assert inspect(pattern=pattern, matcher="glob", limit=1, timeout=LIMIT).ping() == {other: {"ok": "pong"}}
    assert inspect(pattern="nobody.*", matcher="pcre", timeout=0.5).ping() is None
    tool("inspect", "ping", "-d", "celery@elsewhere", code=69)


def test_what_cannot_be_done_is_an_error_that_says_where_it_is_set(tooled, app, tool):
    name = known(app, tooled.worker())
    control = app.control
    errors = {
        "pool_grow": control.pool_grow(1, **told(name)),
        "pool_shrink": control.pool_shrink(1, **told(name)),
        "rate_limit": control.rate_limit("add", "1/s", **told(name)),
        "time_limit": control.time_limit("add", 1, 2, **told(name)),
        "nonesuch": control.broadcast("nonesuch", **told(name)),
        "revoke": control.broadcast("revoke", arguments={}, **told(name)),
        "add_consumer": control.add_consumer("elsewhere", **told(name)),
    }
    reasons = {what: answer[0][name]["error"] for what, answer in errors.items()}
    assert reasons["nonesuch"] == "KeyError('nonesuch')"
    for what, words in (("rate_limit", "slots"), ("time_limit", "[tasks."), ("pool_grow", "slots"), ("add_consumer", "queues")):
        assert words in reasons[what], reasons
    assert tool.inspect(name, "ping") == {"ok": "pong"}


def test_a_revoked_task_never_runs_whether_it_waits_or_has_not_come(tooled, app, tool, ear):
    worker = tooled.worker()
    name = known(app, worker)
    app.control.enable_events(**told(name))
    waits = app.send_task("add", (1, 1), countdown=3600)
    tooled.reaches(waits.id, "waiting")
    assert "flagged as revoked" in tool.control(name, "revoke", waits.id)
    tooled.reaches(waits.id, "canceled")
    with pytest.raises(TaskRevokedError):
        waits.get(timeout=LIMIT)
    # Revoked before it was sent, and by a worker that is another then.
    app.control.revoke("to-come", **told(name))
    assert set(app.control.inspect(**asked(name)).revoked()[name]) == {waits.id, "to-come"}
    assert worker.stop() == 0
    name = known(app, tooled.worker())
    app.control.enable_events(**told(name))
    came = app.send_task("add", (1, 1), task_id="to-come")
    other = app.send_task("add", (1, 1))
    tooled.reaches(other.id, "done")
    ear.hears("task-revoked", uuid="to-come", terminated=False)
    assert ear.of("to-come") == ["task-received", "task-revoked"]
    assert tooled.state("to-come") == "canceled"
    with pytest.raises(TaskRevokedError):
        came.get(timeout=LIMIT)


def test_a_running_task_ends_only_if_it_is_to_be_terminated(tooled, app, tool, tmp_path, ear):
    name = known(app, tooled.worker())
    app.control.enable_events(**told(name))
    sent, go = waiting(app, tmp_path)
    app.control.revoke(sent.id, **told(name))
    go.touch()
    tooled.reaches(sent.id, "done")
    sent, go = waiting(app, tmp_path, 1)
    assert f"terminate: {sent.id}" in tool.control(name, "terminate", "KILL", sent.id)
    tooled.reaches(sent.id, "canceled")
    ear.hears("task-revoked", uuid=sent.id, terminated=True)
    assert not go.exists()


def test_a_queue_is_left_and_taken_from_again(tooled, app, tool):
    worker = tooled.worker()
    name = known(app, worker)
    first = app.send_task("add", (1, 1))
    tooled.reaches(first.id, "done")
    assert "no longer consuming from longshore" in tool.control(name, "cancel_consumer", "longshore")
    assert tool.inspect(name, "active_queues") == []
    wait_for("a queue that nobody takes from", lambda: consumers(tooled.vhost, "longshore") == 0)
    held = app.send_task("add", (1, 2))
    assert tooled.vhost.depth("longshore") == 1 and tooled.state(held.id) is None
    assert "add consumer longshore" in tool.control(name, "add_consumer", "longshore")
    tooled.reaches(held.id, "done")


def consumers(vhost, queue):
    with kombu.Connection(vhost.url) as connection:
        return connection.channel().queue_declare(queue, passive=True).consumer_count


def test_shutdown_drains(tooled, app, tool, tmp_path, ear):
    worker = tooled.worker()
    name = known(app, worker)
    sent = app.send_task("wait", (str(tmp_path / "begun"), str(tmp_path / "go")), {"obeys": True})
    wait_for("a task that runs", (tmp_path / "begun").exists)
    tool("control", "shutdown", "-d", name)
    assert worker.process.wait(LIMIT) == 0
    assert "draining" in (tmp_path / "begun").read_text()
    tooled.reaches(sent.id, "queued")
    ear.hears("worker-offline", hostname=name)


def test_events_of_tasks_come_once_they_are_asked_for(tooled, app, ear):
    name = known(app, tooled.worker())
    ear.hears("worker-heartbeat", hostname=name, sw_ident="longshore", freq=2.0, active=0)
    silent = app.send_task("add", (2, 3))
    tooled.reaches(silent.id, "done")
    assert app.control.enable_events(**told(name)) == [{name: {"ok": "task events enabled"}}]
    sent = app.send_task("add", (2, 3), {"more": "x"}, root_id="root", parent_id="parent")
    done = ear.hears("task-succeeded", uuid=sent.id, hostname=name, result="5")
    assert 0 <= done["runtime"] < LIMIT and abs(done["timestamp"] - time.time()) < LIMIT
    received = ear.hears("task-received", uuid=sent.id)
    assert (received["name"], received["args"], received["kwargs"]) == ("add", "(2, 3)", "{'more': 'x'}")
    assert (received["root_id"], received["parent_id"], received["retries"]) == ("root", "parent", 0)
    assert ear.of(sent.id) == ["task-received", "task-started", "task-succeeded"]
    clocks = [event["clock"] for event in ear.events if event.get("uuid") == sent.id]
    assert clocks == sorted(set(clocks))
    assert ear.of(silent.id) == []
    assert app.control.disable_events(**told(name)) == [{name: {"ok": "task events disabled"}}]
    silent = app.send_task("add", (2, 3))
    tooled.reaches(silent.id, "done")
    app.control.heartbeat()
    ear.hears("worker-heartbeat", hostname=name, processed=3)
    assert ear.of(silent.id) == []


def test_events_of_failures_expiry_and_unknown_names(longshore, app, ear):
    switch(longshore, "events")
    worker = longshore.worker()
    known(app, worker)
    failed = app.send_task("fail", ("oh dear",))
    event = ear.hears("task-failed", uuid=failed.id)
    assert "oh dear" in event["exception"] and "oh dear" in event["traceback"]
    retried = ["task-received", "task-started", "task-retried", "task-received", "task-started", "task-failed"]
    assert ear.of(failed.id) == retried
    assert "oh dear" in ear.hears("task-retried", uuid=failed.id)["exception"]
    assert ear.hears("task-received", uuid=failed.id, retries=1)
    late = app.send_task("add", (1, 1), expires=-10)
    ear.hears("task-revoked", uuid=late.id, expired=True)
    unknown = app.send_task("nobody.knows", queue="longshore")
    ear.hears("task-rejected", uuid=unknown.id)
    eta = app.send_task("add", (1, 1), countdown=3600)
    assert ear.hears("task-received", uuid=eta.id)["eta"]


def test_celerys_own_state_of_the_cluster_is_right(longshore, app, ear):
    switch(longshore, "events")
    name = known(app, longshore.worker())
    done = app.send_task("add", (2, 3))
    failed = app.send_task("fatal", ("no",))
    ear.hears("task-succeeded", uuid=done.id)
    ear.hears("task-failed", uuid=failed.id)
    ear.hears("worker-heartbeat", hostname=name)
    state = app.events.State()
    for event in ear.events:
        state.event(dict(event))
    assert state.workers[name].alive and state.workers[name].sw_ident == "longshore"
    task = state.tasks[done.id]
    assert (task.state, task.name, task.result, task.worker.hostname) == ("SUCCESS", "add", "5", name)
    assert state.tasks[failed.id].state == "FAILURE"


def test_celery_events_shows_them(tooled, app, tool, request):
    name = known(app, tooled.worker())
    dump = tool.start("dump.log", "events", "--dump")
    try:
        dump.says(f"{name} ")
        dump.says("heartbeat: ")
        app.control.enable_events(**told(name))
        sent = app.send_task("add", (2, 3))
        dump.says(f"task succeeded: add({sent.id})")
        assert name in dump.text()
    finally:
        show(request, [dump])
        dump.end()


def test_a_worker_of_celerys_is_not_disturbed(tooled, app, python_worker, tool):
    """One that asks its neighbours when it starts, and listens to their events."""
    name = known(app, tooled.worker())
    app.control.revoke("told-to-neighbours", **told(name))
    log = tooled.folder / "neighbour.log"
    neighbour = tool.start(log.name, "worker", "-Q", "python", "-P", "solo", "-l", "DEBUG", "-n", "neighbour@here", "-E")
    try:
        neighbour.says(" ready.")
        assert "mingle: sync with 1 nodes" in neighbour.text()
        neighbour.says(f"{name} joined the party")
        assert "told-to-neighbours" in app.control.inspect(["neighbour@here"], timeout=LIMIT).revoked()["neighbour@here"]
        assert app.send_task("py.add", (2, 3)).get(timeout=LIMIT) == 5
        assert "ERROR" not in neighbour.text() and "Traceback" not in neighbour.text(), neighbour.text()
    finally:
        neighbour.end()


class Flower:
    """Flower, which is installed beside the newest Celery."""

    PYTHON = ROOT / "target" / "tools" / "celery" / "bin" / "python"

    def __init__(self, tool, port):
        self.base = f"http://127.0.0.1:{port}"
        arguments = [self.PYTHON, *tool.arguments("flower", "--address=127.0.0.1", f"--port={port}")[1:]]
        environment = {**tool.environment, "FLOWER_UNAUTHENTICATED_API": "true"}
        self.process = Process(arguments, tool.folder / "flower.log", cwd=tool.folder, env=environment)

    def get(self, path):
        try:
            with urllib.request.urlopen(f"{self.base}{path}", timeout=LIMIT) as answer:
                text = answer.read().decode()
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{path}: {error.code}\n{error.read().decode()}") from error
        return json.loads(text) if path.startswith("/api/") else text

    def post(self, path, **fields):
        data = urllib.parse.urlencode(fields).encode()
        with urllib.request.urlopen(f"{self.base}{path}", data=data, timeout=LIMIT) as answer:
            return json.loads(answer.read())

    def is_up(self):
        try:
            return self.get("/healthcheck")
        except OSError:
            return False


@pytest.fixture
def flower(tool, request):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flower = Flower(tool, port)
    wait_for("a Flower that answers", flower.is_up)
    yield flower
    show(request, [flower.process])
    flower.process.end()


def test_flower_shows_workers_and_tasks(tooled, app, flower, tmp_path):
    name = known(app, tooled.worker())
    wait_for("a worker that is online", lambda: flower.get("/api/workers?status=1").get(name))
    # It asks for events of tasks by itself.
    wait_for("events of tasks", lambda: app.control.enable_events(**told(name)) == [{name: {"ok": "task events already enabled"}}])
    sent, go = waiting(app, tmp_path)
    wait_for("a task that has started", lambda: flower.get("/api/tasks").get(sent.id, {}).get("state") == "STARTED")
    worker = wait_for("what inspect says", lambda: flower.get(f"/api/workers?refresh=1&workername={name}").get(name))
    keys = ("stats", "active_queues", "registered", "scheduled", "active", "reserved", "revoked", "conf")
    assert not [key for key in keys if key not in worker], worker
    assert worker["active"][0]["id"] == sent.id and isinstance(worker["active"][0]["args"], str)
    page = flower.get(f"/worker/{name}")
    assert name in page and "longshore:pinned" in page.lower() and "wait" in page
    go.touch()
    task = wait_for("a task that is done", lambda: done(flower.get(f"/api/task/info/{sent.id}")))
    assert task["name"] == "wait" and task["result"] == "'went on'" and task["worker"] == name
    assert sent.id in flower.get(f"/task/{sent.id}")
    assert name in flower.get("/workers")
    assert flower.post(f"/api/worker/queue/cancel-consumer/{name}", queue="longshore")["message"].startswith("no longer")
    assert flower.post(f"/api/worker/queue/add-consumer/{name}", queue="longshore")["message"].startswith("add consumer")
    waits = app.send_task("add", (1, 1), countdown=3600)
    tooled.reaches(waits.id, "waiting")
    flower.post(f"/api/task/revoke/{waits.id}")
    tooled.reaches(waits.id, "canceled")
    flower.post(f"/api/worker/shutdown/{name}")
    assert tooled.processes[0].process.wait(LIMIT) == 0
    wait_for("a worker that is offline", lambda: not flower.get("/api/workers?status=1").get(name))


def done(task):
    return task if task.get("state") == "SUCCESS" else None


def cut(api, vhost):
    """Ends every connection of the vhost; returns how many there were."""
    found = [c["name"] for c in api("GET", "connections") if c.get("vhost") == vhost.name]
    for name in found:
        try:
            api("DELETE", f"connections/{urllib.parse.quote(name, safe='')}")
        except urllib.error.HTTPError:
            pass  # it has ended by itself
    return len(found)


def test_a_cut_connection_costs_neither_a_task_nor_the_worker_its_tools(longshore, app, api, vhost, tmp_path):
    switch(longshore, "events")
    worker = longshore.worker()
    name = known(app, worker)
    sent, go = waiting(app, tmp_path)
    # The management API knows a connection only a while after it was made.
    wait_for("connections to cut", lambda: cut(api, vhost) >= 2)
    worker.says("the connection of Celery's tools was interrupted")
    wait_for("an answer again", lambda: answers(app, name))
    ear = Ear(app)
    try:
        go.touch()
        longshore.reaches(sent.id, "done")
        ear.hears("task-succeeded", uuid=sent.id)
        ear.hears("worker-heartbeat", hostname=name)
    finally:
        ear.close()
    assert (tmp_path / "begun-0").read_text().count("begun") == 1


def test_after_a_restart_of_the_broker_its_tools_are_there_again(longshore, app, tmp_path):
    switch(longshore, "events")
    name = known(app, longshore.worker())
    sent, go = waiting(app, tmp_path)
    restart = pathlib.Path(os.environ["LONGSHORE_TEST_SERVICES_DIR"], "rabbitmq-restart")
    subprocess.run([restart], check=True, timeout=4 * LIMIT, capture_output=True)
    wait_for("an answer again", lambda: answers(app, name), limit=2 * LIMIT)
    go.touch()
    longshore.reaches(sent.id, "done")
    assert (tmp_path / "begun-0").read_text().count("begun") == 1


def answers(app, name):
    with app.connection_for_write() as connection:
        try:
            return app.control.ping([name], timeout=2, connection=connection)
        except (OSError, *connection.connection_errors):
            return None


def test_a_flood_with_events_loses_no_task(longshore, app, ear):
    switch(longshore, "events")
    name = known(app, longshore.worker())
    most = 3000
    with app.producer_pool.acquire() as producer:
        for number in range(most):
            app.send_task("add", (number, 1), producer=producer, ignore_result=True)

    def finished():
        ((count,),) = longshore.database.query("select count(*) from longshore.tasks where state = 'done'")
        return count == most

    wait_for("all tasks done", finished, limit=4 * LIMIT)
    assert app.control.ping([name], timeout=LIMIT)
    # More than its queue holds may be dropped; the most are told, and the worker itself is never forgotten.
    def most_are_told():
        return sum(event["type"] == "task-succeeded" for event in list(ear.events)) > most // 2

    wait_for("events of most tasks", most_are_told)
    ear.hears("worker-heartbeat", hostname=name, processed=most)


@pytest.fixture
def alarm():
    """Raises RabbitMQ's memory alarm, which blocks every connection that publishes, and takes it back."""
    ctl = pathlib.Path(os.environ["LONGSHORE_TEST_AMQP_MANAGE"])

    def watermark(*value):
        subprocess.run([ctl, "set_vm_memory_high_watermark", *value], check=True, timeout=4 * LIMIT, capture_output=True)

    def raised(yes):
        watermark("absolute", "1" if yes else "1GB")

    yield raised
    raised(False)


def metric(port, name):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=LIMIT) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_events_are_dropped_and_counted_while_the_broker_takes_none_and_no_task_waits(longshore, app, api, vhost, alarm, tmp_path):
    port = free_port()
    longshore.configure(old="[celery]", new='[celery]\ntools = "events"', more=f'[http]\nlisten = "127.0.0.1:{port}"\n')
    most = 3000
    with app.producer_pool.acquire() as producer:
        for number in range(most):
            app.send_task("add", (number, 1), producer=producer, ignore_result=True)
    alarm(True)
    # It can begin, take tasks and finish them all without one message of its own.
    name = node(longshore.worker())

    def finished(count):
        ((done,),) = longshore.database.query("select count(*) from longshore.tasks where state = 'done'")
        return done == count

    wait_for("all tasks done", lambda: finished(most), limit=4 * LIMIT)
    dropped = wait_for("events that are dropped", lambda: metric(port, "longshore_celery_events_dropped_total"))
    # Three events a task, of which some wait in its queue and on their way.
    assert dropped >= 3 * most - 4096 - 2000
    alarm(False)
    wait_for("an answer again", lambda: answers(app, name), limit=2 * LIMIT)
    ear = Ear(app)
    try:
        ear.hears("worker-heartbeat", hostname=name, processed=most)
        sent = app.send_task("add", (1, 1))
        assert sent.get(timeout=LIMIT) == 2
        ear.hears("task-succeeded", uuid=sent.id, hostname=name)
    finally:
        ear.close()


def test_flower_and_celery_events_see_the_worker_again_after_an_alarm(longshore, app, vhost, alarm, tool, flower, request, tmp_path):
    switch(longshore, "events")
    name = known(app, longshore.worker())
    wait_for("a worker that is online", lambda: flower.get("/api/workers?status=1").get(name))
    sent, go = waiting(app, tmp_path, ignore_result=True)
    alarm(True)
    go.touch()
    longshore.reaches(sent.id, "done")
    alarm(False)
    wait_for("an answer again", lambda: answers(app, name), limit=2 * LIMIT)
    after = app.send_task("add", (2, 3))
    assert after.get(timeout=LIMIT) == 5
    wait_for("its task in Flower", lambda: flower.get("/api/tasks").get(after.id, {}).get("state") == "SUCCESS", limit=2 * LIMIT)
    wait_for("a worker that is online", lambda: flower.get("/api/workers?status=1").get(name))
    dump = tool.start("dump.log", "events", "--dump")
    try:
        dump.says(f"{name} ")
        later = app.send_task("add", (2, 3))
        dump.says(f"task succeeded: add({later.id})")
    finally:
        show(request, [dump])
        dump.end()
