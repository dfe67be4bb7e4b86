"""The application's own producers, through RabbitMQ, as they are."""

import json
import os
import subprocess
import sys

import celery
import pytest
from conftest import HERE, until

PRODUCER = """
import sys
import shop
for line in sys.argv[1:]:
    name, text = line.split(" ", 1)
    args, kwargs, options = eval(text)
    shop.app.tasks[name].apply_async(args, kwargs, **options)
"""


@pytest.fixture
def shop(site):
    broker = os.environ["LONGSHORE_TEST_AMQP_URL"]
    site = site(
        "shop:app",
        environment={"SHOP_BROKER": broker, "SHOP_QUEUE": "shop"},
        broker={"url": broker, "queue_type": "passive"},
    )
    return site


# Celery 5.2 writes no bytes in JSON.
FOR_BYTES = "json" if celery.VERSION >= (5, 3) else "msgpack"


def produce(site, *calls):
    """`name (args, kwargs, options)` each, published by the application itself."""
    command = [sys.executable, "-c", PRODUCER, *calls]
    environment = dict(site.environment, PYTHONPATH=str(HERE / "application"))
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_what_the_application_publishes_is_run_as_celery_would(shop):
    produce(
        shop,
        "shop.add ((2, 3), {}, {'task_id': 'sum'})",
        "shop.who (('a',), {'b': 1}, {'task_id': 'who', 'priority': 3, 'headers': {'trace': 't1'}})",
        f"shop.size ((b'\\xff\\x00\\x01',), {{}}, {{'task_id': 'bytes', 'serializer': '{FOR_BYTES}'}})",
        "shop.order (('tea',), {}, {'task_id': 'tea'})",
        "shop.stubborn ((), {}, {'task_id': 'limited', 'time_limit': 0.2})",
    )
    shop.worker()
    assert shop.result("sum") == 5
    seen = shop.result("who")
    assert (seen["id"], seen["args"], seen["kwargs"]) == ("who", ["a"], {"b": 1})
    assert seen["queue"] == "shop" and not seen["direct"]
    if celery.VERSION >= (5, 3):  # before, producers mixed their own headers with Celery's
        assert seen["own"]["trace"] == "t1"
    assert shop.result("bytes")["type"] == "bytes"
    assert shop.result("tea") == "tea after 2 retries"
    assert shop.ended("limited", "dead")["reason"].startswith("TimeLimitExceeded: 0.2")


def test_a_hosted_task_publishes_by_celerys_own_producer(shop):
    produce(shop, "shop.passes_on ((41,), {}, {'task_id': 'first'})")
    shop.worker()
    assert shop.result(shop.result("first")) == 42


WAITER = """
import json, shop
from celery import chain, group, chord
def told(get):
    try:
        return get()
    except Exception as error:
        return [type(error).__name__, str(error)]
get = lambda sent: told(lambda: sent.get(timeout=30))
print(json.dumps({
    "chain": get(chain(shop.add.s(1, 2), shop.add.s(10), shop.add.s(100)).apply_async()),
    "bad": get(shop.divide.delay(1, 0)),
    "closed": get(shop.enter.delay()),
    "tea": get(shop.order.delay("tea")),
    "soft": get(shop.rests.apply_async(soft_time_limit=0.2))[0],
}))
"""


def test_workflows_go_on_and_results_come_back(shop):
    with open(shop.folder / "longshore.toml", "a") as file:
        file.write('[celery]\nresults = "rpc"\n[celery.routes]\n"shop.*" = "shop"\n')
    shop.worker()
    environment = dict(shop.environment, PYTHONPATH=str(HERE / "application"), SHOP_RESULTS="rpc://")
    done = subprocess.run(
        [sys.executable, "-c", WAITER], env=environment, capture_output=True, text=True, timeout=90
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "chain": 113,
        "bad": ["ZeroDivisionError", "division by zero"],
        "closed": ["Closed", "come back tomorrow"],
        "tea": "tea after 2 retries",
        "soft": "SoftTimeLimitExceeded",
    }


def test_an_ignored_task_ends_its_chain(shop):
    produce(shop, "shop.ignored ((), {}, {'task_id': 'ignored', 'link': shop.add.si(1, 1).set(task_id='after')})")
    shop.worker()
    assert shop.result("ignored") is None
    produce(shop, "shop.add ((2, 2), {}, {'task_id': 'later'})")
    assert shop.result("later") == 4
    assert '"after"' not in shop.run("task", "list", "--json")


def test_an_id_that_is_used_again_is_run_again_where_the_configuration_says_so(shop):
    toml = shop.folder / "longshore.toml"
    toml.write_text(toml.read_text().replace('[\"python\"]', '[\"python\"]\nrepeat = ["shop.add"]'))
    shop.worker()
    for name in ("shop.add", "shop.divide"):
        for x in (2, 4, 6):
            produce(shop, "%s ((%d, 2), {}, {'task_id': '%s'})" % (name, x, name))
            until("the end of it", lambda: shop.run("task", "show", name, missing=True) and shop.ended(name))
    until("the third", lambda: shop.result("shop.add") == 8)
    # Each of the other's messages has gone, and it was run once.
    produce(shop, "shop.add ((1, 1), {}, {'task_id': 'last'})")
    assert shop.result("last") == 2 and shop.result("shop.divide") == 1
    notes = (shop.folder / "notes").read_text().splitlines()
    assert [note for note in notes if note.startswith("on_success")] == [
        "on_success shop.add 4",
        "on_success shop.add 6",
        "on_success shop.add 8",
        "on_success shop.divide 1.0",
        "on_success shop.add 2",
    ]
