"""A program that a test starts, with its log."""

import os
import signal
import subprocess

from services import LIMIT, wait_for


class Process:
    """A program in a session of its own, so that all that it starts can be ended with it."""

    def __init__(self, name, arguments, environment, log, **options):
        self.name, self.log = name, log
        with open(log, "ab") as output:
            self.child = subprocess.Popen(
                # it ends when the tests do, however they do
                ["setpriv", "--pdeathsig", "KILL", "--", *map(str, arguments)],
                env=environment,
                start_new_session=True,
                **{"stdin": subprocess.DEVNULL, "stdout": output, "stderr": output, **options},
            )
        self.pid = self.child.pid

    def text(self):
        """What it has written."""
        with open(self.log, errors="replace") as log:
            return log.read()

    def running(self):
        return self.child.poll() is None

    def expect_running(self):
        assert self.running(), f"{self.name} ended with {self.child.returncode}:\n{self.text()[-4000:]}"

    def wait_for_line(self, part):
        """Waits until its log has a line with `part`."""

        def there():
            if part in self.text():
                return True
            self.expect_running()
            return False

        wait_for(f"{part!r} in the log of {self.name} ({self.log})", there)

    def signal(self, number):
        """Sends a signal to it alone."""
        self.child.send_signal(number)

    def wait(self, limit=LIMIT):
        """Waits for its end; returns its exit status, negative for a signal."""
        try:
            return self.child.wait(limit)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} did not end within {limit} s:\n{self.text()[-4000:]}") from None

    def stop(self, limit=LIMIT):
        """SIGTERM, and waits for its end."""
        if self.running():
            self.signal(signal.SIGTERM)
        return self.wait(limit)

    def kill(self):
        """SIGKILL to it and to all that it started."""
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        return self.child.wait()
