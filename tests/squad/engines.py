"""Who fetches and post-processes: SQUAD's two workers, or two pools of Longshore in their place. The rest is shared."""

import sys

from installation import FETCH, NOTIFICATION, POSTPROCESS, REST
from longshore import Longshore, migrate


class Squad:
    """SQUAD's own workers, one process each."""

    REST = (NOTIFICATION,)

    def __init__(self, site):
        self.site = site
        self.workers = [site.worker(FETCH), site.worker(POSTPROCESS)]

    def stop(self):
        """Lets the workers finish what they run, and ends them."""
        for worker in self.workers:
            worker.stop()


class InPlaceOfSquad:
    """Longshore's pools on the same queues, as an operator configures them."""

    REST = REST
    SLOTS, KEYS = 1, "checked"

    def __init__(self, site):
        self.site = site
        config = configuration(site, self.SLOTS, self.KEYS)
        migrate(site, config)
        site.declare(FETCH, POSTPROCESS, *REST)  # as they are where SQUAD's workers have been
        self.workers = [Longshore(site, pool, config).wait_ready() for pool in ("fetch", "postprocess")]

    def stop(self):
        for worker in self.workers:
            worker.stop()


class Hosted:
    """SQUAD's own tasks, in Python processes of Longshore's workers: nothing of Longshore knows SQUAD here."""

    REST = (NOTIFICATION,)

    def __init__(self, site):
        self.site = site
        config = hosting(site)
        migrate(site, config)
        self.workers = [
            Longshore(site, pool, config, **site.environment).wait_ready() for pool in ("fetch", "postprocess")
        ]

    def stop(self):
        for worker in self.workers:
            worker.stop()


def hosting(site):
    """What an operator writes to have SQUAD's tasks run as they are."""
    return f"""
[store]
url = "{site.database.url}"

[broker]
url = "{site.vhost.url}"
queue_type = "classic"

[http]
listen = "127.0.0.1:0"

[python]
app = "squad.celery:app"
python = "{sys.executable}"
repeat = ["squad.ci.tasks.fetch"]

[celery]
results = "django"

[celery.routes]
"*" = "{FETCH}"

[pools.fetch]
kind = "pinned"
queues = ["{FETCH}"]
slots = 1

[pools.postprocess]
kind = "pinned"
queues = ["{POSTPROCESS}"]
slots = 1
"""


def configuration(site, slots=1, keys="checked"):
    """What an operator of SQUAD writes for Longshore."""
    storage, more = site.for_longshore()
    return f"""
[store]
url = "{site.database.url}"

[testjobs]
store = "squad"

[squad]
storage = "{storage}"
url = "{site.environment['SQUAD_BASE_URL']}"
foreign_keys = "{keys}"

[broker]
url = "{site.vhost.url}"
queue_type = "classic"

[http]
listen = "127.0.0.1:0"

[pools.fetch]
kind = "elastic"
queues = ["{FETCH}"]
slots = {slots}

[pools.postprocess]
kind = "pinned"
queues = ["{POSTPROCESS}", "longshore_postprocess"]
slots = {slots}
{more}
"""


ENGINES = {"squad": Squad, "longshore": InPlaceOfSquad, "hosted": Hosted}


def settle(site, engine, rest):
    """Ends the engine, and SQUAD's worker `rest` once it has run what the engine left for it."""
    engine.stop()
    for queue in engine.REST:
        site.drained(queue)
    site.drained(NOTIFICATION)
    rest.stop()
