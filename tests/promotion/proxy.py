"""Stands between one worker and the bucket: makes it slow, acts in the middle of an upload, holds a request up."""

import http.client
import http.server
import threading
import time
import urllib.parse

# Smaller bodies are read whole before they are passed on, so that one that is held needs its sender no more.
BIG = 1_000_000
# The parts that the worker sends of a large object.
PART = 8 * 1024 * 1024


class Proxy:
    """`rate`: so many bytes a second of one connection; `size`: what an upload has in all."""

    def __init__(self, server, rate, size):
        self.server, self.rate, self.size = server, rate, size
        self.answers = []
        self._triggers, self._hold = [], None
        self.lives = 0  # how often a sender died: what it had sent on into buffers goes with it
        self._lock = threading.Lock()
        self.held, self._opened = threading.Event(), threading.Event()
        self._listener = Listener(("127.0.0.1", 0), Handler)
        self._listener.proxy = self
        self.address = "127.0.0.1:%d" % self._listener.server_address[1]
        threading.Thread(target=self._listener.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True).start()

    def close(self):
        self._opened.set()
        self._listener.shutdown()
        self._listener.server_close()

    def at(self, share, act):
        """Calls `act` once, when this share of an upload has passed."""
        with self._lock:
            self._triggers.append((share, None, act))

    def after(self, end, act):
        """Calls `act` once, when a PUT of a name with this end was done and its sender does not know yet."""
        with self._lock:
            self._triggers.append((None, end, act))

    def disarm(self):
        with self._lock:
            self._triggers.clear()

    def hold(self, end):
        """The next PUT of a name with this end waits; `held` says when it does."""
        with self._lock:
            self._hold = end

    def open(self):
        self._opened.set()

    def gate(self, method, name):
        with self._lock:
            if method != "PUT" or self._hold is None or not name.endswith(self._hold):
                return
            self._hold = None
        self.held.set()
        self._opened.wait(120)

    def fire(self, fits):
        with self._lock:
            firing = [trigger for trigger in self._triggers if fits(*trigger[:2])]
            self._triggers = [trigger for trigger in self._triggers if trigger not in firing]
        for share, _, act in firing:
            act()
            self.lives += share is not None


class Listener(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_):
        """Senders die here by design."""


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def pass_on(self):
        proxy = self.server.proxy
        life, length = proxy.lives, int(self.headers.get("Content-Length") or 0)
        name, _, query = self.path.partition("?")
        before = PART * (int(urllib.parse.parse_qs(query).get("partNumber", ["1"])[0]) - 1)
        server = http.client.HTTPConnection(proxy.server, timeout=120)
        try:
            body = b"" if length >= BIG else self.rfile.read(length)
            if length < BIG and len(body) < length:
                raise ConnectionError("the sender is gone")
            proxy.gate(self.command, name)
            server.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for key, value in self.headers.items():
                if key.lower() != "expect":
                    server.putheader(key, value)
            server.endheaders()
            server.send(body)
            sent = len(body)
            while sent < length:
                piece = self.rfile.read1(min(1 << 16, length - sent))
                if not piece or life != proxy.lives:
                    raise ConnectionError("the sender is gone")
                time.sleep(len(piece) / proxy.rate)
                server.send(piece)
                sent += len(piece)
                passed = (before + sent) / proxy.size
                proxy.fire(lambda share, _: share is not None and passed >= share)
            answer = server.getresponse()
            data = answer.read()
            proxy.answers.append((self.command, name, answer.status))
            if self.command == "PUT" and answer.status < 300:
                proxy.fire(lambda _, end: end is not None and name.endswith(end))
            self.answer(answer, data)
        except (OSError, http.client.HTTPException):
            self.close_connection = True
        finally:
            server.close()

    def answer(self, answer, data):
        proxy = self.server.proxy
        self.send_response_only(answer.status, answer.reason)
        for key, value in answer.getheaders():
            if key.lower() not in ("connection", "transfer-encoding", "content-length"):
                self.send_header(key, value)
        length = answer.getheader("Content-Length", "0") if self.command == "HEAD" else len(data)
        if answer.status not in (204, 304):
            self.send_header("Content-Length", str(length))
        self.end_headers()
        for at in range(0, len(data), 1 << 16):
            piece = data[at:at + (1 << 16)]
            if len(data) >= BIG:
                time.sleep(len(piece) / proxy.rate)
            self.wfile.write(piece)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = pass_on
