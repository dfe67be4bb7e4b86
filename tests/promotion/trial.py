"""The promotions P1 to P8 and their verifications V1 to V8, while workers die at every point. What must hold beside what
observer.py looks at:

    I4  the journal has P1 to P8 in that order
    I5  its tokens strictly increase
    I6  verifications run beside each other, none holds up a later promotion, and none begins before its own one's commit
    I7  the journal has each promotion once
    I8  nobody does anything by hand: what a dead or stopped worker held goes on within a lease, if a slot is free, and all ends

and in test_s1.py

    I9  the lane takes as long as the commits, not as the uploads
    I10 after a promotion that can never succeed the lane halts, skips it or cancels the rest, as declared
    I11 a version that is there with other bytes is refused, and never replaced

Of a tool that knows nothing of Longshore, looks in between may find two generations mixed (I1, I2), and only its index is asked.
"""

import random
import time

from bench import Failed, deb
from observer import Damage, Observer, Reader, Wrong
from publishers import CHANNEL, LANE, PUBLISHERS
from scene import LEASE, Scene

# What two busy cores may need beyond the lease.
EPSILON = 10
# A point that is reached by fewer and fewer tasks comes before those that every attempt passes.
EARLY = ("upload 25 %", "upload 50 %", "upload 75 %", "after pool")


def course(seed, servers, names=("disk", "bucket")):
    """What a seed stands for: the publisher, the options of its Trial, and those of `Trial.run`. Three in a row let
    each point be reached by a worker that is alone; `servers`: every third and fourth one has PostgreSQL and RabbitMQ."""
    chance = random.Random(seed)
    publisher = PUBLISHERS[names[seed % len(names)]]
    points = list(publisher.points(1))
    alone = [points[(4 * seed + at) % len(points)] for at in range(4)]
    others = [point for point in points if point not in alone]
    together = chance.sample(others, min(2, len(others)))
    with_servers, single = servers and seed % 4 >= 2, seed % 8 == 4
    # A command goes on beside its heir while its worker is stopped, and a tool that knows no token cannot be fenced.
    disturbances = (["stop"] if publisher.own and seed % 2 else []) + (["broker restart", "database restart"] if with_servers else [])
    options = {"seed": seed, "servers": with_servers, "whole": seed % 3 == 1, "workers": 1 if single else 4,
               "slots": 1 if single else 4, "meet": not single}
    return publisher, options, {"alone": alone, "together": together, "disturbances": disturbances}


class Trial:
    """`more` is for the Scene. `lane`: what a task says of its lane; None: it is in none. `until`: the ids of the tasks whose
    end is awaited begin so."""

    def __init__(self, folder, publisher, s3=None, seed=1, workers=4, lane=LANE, whole=False, limit=180, until="", **more):
        self.scene = Scene(folder, publisher, s3, **more)
        self.publisher, self.lane, self.whole, self.count, self.limit = publisher, lane, whole, workers, limit
        self.random, self.until = random.Random(seed), until
        self.points = publisher.points(self.scene.size)
        self.reached, self.deaths, self.slowest = [], 0, 0.0
        self.wrong, self.recovering, self.later, self.restart = [], {}, [], None
        reader = Reader(self.scene.address, CHANNEL, self.scene.key.public, folder)
        self.reader, self.took, self.watch = reader, 0.0, None
        self.uploads = self.commits = 0.0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.watch:
            self.watch.close()
        self.scene.close()

    def say(self, invariant, text):
        self.wrong.append(Wrong(invariant, text))

    def begin(self):
        """Enqueues everything, and begins to look."""
        for name in self.scene.names:
            deb(self.scene.folder / "incoming", name, self.scene.size)
        self.scene.enqueue(self.whole, self.lane)
        self.watch = Observer(self.reader, self.publisher.own, self.scene.names if self.lane else None)

    # Disturbances

    def arm(self, worker, point):
        """Starts a worker that will die at a point; None: at none."""
        how, _, what = self.points[point].partition(" ") if point else ("", "", "")
        worker.armed = point
        if worker.proxy:
            worker.proxy.disarm()
        if how == "sent":
            worker.proxy.at(float(what), worker.kill)
        elif how == "put":
            worker.proxy.after(what, worker.kill)
        elif how == "verify":
            self.scene.chosen.touch()
        elif how == "publishing":
            # How long after its begin; it takes about as long in all.
            self.scene.chosen_to_publish.write_text(f"{self.random.random() * 0.3:.3f}")
        worker.start(what if how == "crash" else None)

    def bury(self, worker):
        """Notes a death, and what was held."""
        self.deaths += 1
        crashed = worker.process.returncode == -6
        how = (self.points[worker.armed] if worker.armed else "").partition(" ")[0]
        if worker.armed and crashed == (how == "crash"):
            self.reached.append(worker.armed)
        worker.armed = None
        self.forsaken(worker)

    def forsaken(self, worker):
        for task, epoch in self.scene.held_by(worker.process).items():
            self.recovering[task] = epoch, time.monotonic()

    def look_after(self):
        """Whether what was held goes on."""
        if not self.recovering:
            return
        states = self.scene.rows("select id, epoch, state from tasks")
        # Its time begins when the store can be asked and a worker that lives has a free slot.
        slots = self.scene.slots * sum(worker.lives() and not worker.stopped for worker in self.scene.workers)
        busy = [task for task, epoch, state in states or () if state == "running" and self.recovering.get(task, (0,))[0] < epoch]
        if states is None or len(busy) >= slots:
            self.recovering = {task: (epoch, time.monotonic()) for task, (epoch, _) in self.recovering.items()}
            if states is None:
                return
        for task, epoch, state in states:
            if task not in self.recovering:
                continue
            old, since = self.recovering[task]
            gone = time.monotonic() - since
            if epoch > old or state in ("done", "dead", "canceled"):
                self.slowest = max(self.slowest, gone)
                del self.recovering[task]
            elif gone > LEASE + EPSILON:
                self.say("I8", f"{task} has not gone on within {gone:.0f} s after its worker's death")
                del self.recovering[task]

    def kill_chosen(self, workers):
        """Kills the worker whose verification says that it waits for that."""
        pids = [event["pid"] for event in self.scene.said() if event["what"] == "kill"]
        for worker in workers:
            if worker.lives() and worker.process.pid in pids:
                worker.armed = "in verify"
                worker.kill()

    def stop(self, workers):
        """SIGSTOP for two leases, then SIGCONT."""
        worker = self.random.choice(workers)
        if worker.lives() and not worker.stopped:
            worker.freeze()
            self.forsaken(worker)
            self.later.append((time.monotonic() + 2 * LEASE, worker.wake))
            self.reached.append("stop")

    def disturb(self, what, workers):
        if what == "stop":
            self.stop(workers)
        elif what == "broker restart":
            self.restart = self.scene.servers.restart_broker()
            self.reached.append(what)
        elif what == "database restart":
            self.scene.servers.restart_database()
            self.reached.append(what)

    # The course

    def alone(self, points):
        """One worker after the other, alone, until it dies at its point: so each is surely reached."""
        for point in sorted(points, key=lambda point: point not in EARLY):
            worker = self.scene.worker()
            self.arm(worker, point)
            end = time.monotonic() + self.limit / 3
            while worker.lives():
                self.kill_chosen([worker])
                self.look_after()
                if time.monotonic() > end:
                    raise TimeoutError(f"{point} was never reached")
                time.sleep(0.02)
            self.bury(worker)

    def together(self, points, disturbances=()):
        """All workers, until everything is verified: each dies at one of the points, and another takes its place."""
        begun = time.monotonic()
        points = list(points)
        moments = sorted((begun + self.random.uniform(0.2, 3), what) for what in disturbances)
        workers = [self.scene.worker() for _ in range(self.count)]
        for worker in workers:
            self.arm(worker, points.pop(0) if points else None)
        while not self.is_over() or self.recovering or self.later or moments or (self.restart and self.restart.poll() is None):
            now = time.monotonic()
            if now - begun > self.limit:
                self.say("I8", f"not over within {self.limit} s: {self.open()}")
                return
            for worker in workers:
                if not worker.lives():
                    self.bury(worker)
                    self.arm(worker, points.pop(0) if points else None)
            self.kill_chosen(workers)
            while moments and moments[0][0] <= now:
                self.disturb(moments.pop(0)[1], workers)
            for late in [late for late in self.later if late[0] <= now]:
                self.later.remove(late)
                late[1]()
            self.look_after()
            time.sleep(0.05)

    def open(self):
        return self.scene.rows("select id, state, reason from tasks where state not in ('done', 'dead', 'canceled') "
                               f"and id like '{self.until}%'")

    def is_over(self):
        return self.open() == []

    def run(self, alone=(), together=(), disturbances=()):
        """Everything; returns what was wrong."""
        self.begin()
        begun = time.monotonic()
        self.alone(alone)
        self.together(together, disturbances)
        self.took = time.monotonic() - begun
        return self.end()

    def a_late_write(self):
        """The first promotion's `InRelease` is on its way when its worker is stopped, for longer than its lease; it arrives after
        its heir's and all others'. Returns how the bucket answered it."""
        self.begin()
        zombie, heir = self.scene.worker(), self.scene.worker()
        zombie.proxy.hold("/InRelease")
        zombie.start()
        assert zombie.proxy.held.wait(60), "nothing was published"
        zombie.freeze()
        heir.start()
        self.scene.wait("all is promoted", lambda: self.scene.rows("select id from tasks where id like 'p-%' and state <> 'done'") == [])
        count = len(self.scene.names)
        self.scene.wait("it is seen", lambda: self.watch.last and self.watch.last.generation == count)
        before = len(zombie.proxy.answers)
        zombie.proxy.open()

        def answers():
            return [status for _, name, status in zombie.proxy.answers[before:] if name.endswith("/InRelease")]

        self.scene.wait("the late write is answered", answers)
        looks = self.watch.looks
        self.scene.wait("somebody looks", lambda: self.watch.looks > looks + 1)
        status = answers()[0]
        zombie.wake()
        self.scene.wait("it ends", self.is_over)
        return status

    def end(self):
        """Looks for the last time, and at what was written down."""
        self.watch.close()
        self.wrong += self.watch.wrong
        self.at_rest()
        tasks = {row[0]: row[1:] for row in self.scene.rows("select id, state, started_at, ended_at, reason from tasks")}
        for task, (state, _, _, reason) in tasks.items():
            if state != "done" and task.startswith(self.until):
                self.say("I8", f"{task} is {state}: {reason}")
        self.uploads, self.commits = (sum(ended - begun for task, (_, begun, ended, _) in tasks.items()
                                          if task.startswith(kind) and begun and ended) / 1000 for kind in ("s-", "p-"))
        if not self.until:
            self.verified(tasks)
        return self.wrong

    def at_rest(self):
        """Everything is there, in order, once, and every package can be downloaded."""
        names = self.scene.names
        try:
            look = self.reader.look()
        except (Damage, Failed, OSError) as error:
            self.say("I1", str(error))
            return
        found = look.packages if look else frozenset()
        if found != set(names):
            self.say("I3", f"in the end there are {sorted(found)}")
        try:
            folder = self.scene.folder / "apt-last"
            self.reader.apt_get(folder, "update")
            self.reader.apt_get(folder, "download", *(f"{name}=1.0" for name in found))
        except Failed as error:
            self.say("I2", str(error))
        if not look or not look.journal:
            return
        written = [entry["task"] for entry in look.journal]
        if self.lane and written != [f"p-{name}" for name in names]:
            self.say("I4", f"the journal says {written}")
        if len(set(written)) != len(written):
            self.say("I7", f"the journal says {written}")
        tokens = [entry.get("token") for entry in look.journal]
        if self.lane and (None in tokens or any(a >= b for a, b in zip(tokens, tokens[1:]))):
            self.say("I5", f"tokens {tokens}")

    def verified(self, tasks):
        attempts = {}
        for event in self.scene.said():
            attempts.setdefault((event["verify"], event["epoch"]), []).append(event)
            if event["what"] == "failed" and self.publisher.own:
                self.say("I2", f"verification {event['verify']}: {event['why']}")
        spans = [(number, events[0]["at"] * 1000, events[-1]["at"] * 1000) for (number, _), events in attempts.items()]
        committed = {number: tasks[f"p-{name}"][1:3] for number, name in enumerate(self.scene.names, 1)}
        for number, begun, _ in spans:
            if committed[number][1] is None or begun < committed[number][1]:
                self.say("I6", f"V{number} began at {begun}, and P{number} was committed at {committed[number][1]}")
        # One slot has no room for it, and of a few none may be left that could.
        if self.count * self.scene.slots == 1 or len(self.scene.names) < 8:
            return
        if not any(a[0] != b[0] and a[1] < b[2] and b[1] < a[2] for a in spans for b in spans):
            self.say("I6", "no two verifications ran at once")
        if not any(event["what"] == "met" for event in self.scene.said()):
            self.say("I6", "no verification went on until the next one had begun")

    def summary(self):
        uploads = f"uploads of {self.uploads:.1f} s in all, " if self.uploads else ""
        return (f"{self.took:.1f} s, {uploads}{self.commits:.1f} s in the lane, {self.deaths} deaths ({', '.join(self.reached) or 'no point'}), recovered within {self.slowest:.1f} s, "
                f"{self.watch.looks} looks, {self.watch.updates} updates, {len(self.wrong)} wrong")
