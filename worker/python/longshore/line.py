"""Speaks ``longshore.plugin.v1``: one JSON object a line, over the socket that is standard input."""

import base64
import contextlib
import json
import os
import socket
import threading

LONGEST = 16 * 1024 * 1024


class TooLong(ValueError):
    pass


class Line:
    """The connection to the worker. Any thread may say something; one listens."""

    def __init__(self):
        # The socket goes where no child of ours inherits it, and reading standard input finds an end.
        self._socket = socket.socket(fileno=os.dup(0))
        self._socket.setblocking(True)
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 0)
        os.close(null)
        self._input = self._socket.makefile("rb")
        self._lock = threading.Lock()
        # How deep the main thread is in what no signal's handler may cut short: half a line would be the end of us.
        self.busy = 0

    @contextlib.contextmanager
    def undisturbed(self):
        mine = threading.current_thread() is threading.main_thread()
        self.busy += mine
        try:
            yield
        finally:
            self.busy -= mine

    def say(self, kind, **fields):
        line = json.dumps({kind: fields}, allow_nan=False, separators=(",", ":")).encode() + b"\n"
        if len(line) > LONGEST:
            raise TooLong("%s: %d bytes are more than the %d that a message may have" % (kind, len(line), LONGEST))
        with self.undisturbed(), self._lock:
            self._socket.sendall(line)

    def hear(self):
        """The next message as (kind, fields); ``None`` at the end."""
        line = self._input.readline()
        if not line:
            return None
        return next(iter(json.loads(line).items()))


def pack(value):
    """Bytes become what JSON can hold, at any depth."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        return {"$bytes": base64.b64encode(bytes(value)).decode()}
    if isinstance(value, dict):
        return {key: pack(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [pack(item) for item in value]
    return value


def unpack(value, hook=None):
    """The other way round. ``hook`` is what a decoder of JSON does with each object."""
    if isinstance(value, list):
        return [unpack(item, hook) for item in value]
    if isinstance(value, dict):
        if len(value) == 1 and isinstance(value.get("$bytes"), str):
            return base64.b64decode(value["$bytes"])
        value = {key: unpack(item, hook) for key, item in value.items()}
        return hook(value) if hook else value
    return value
