"""The RabbitMQ and PostgreSQL that `scripts/services` started: a virtual host and a database for each test."""

import os
import time
import urllib.parse
import uuid

import psycopg2
import requests

LIMIT = 60


def variable(name):
    """A variable that `scripts/services` sets."""
    try:
        return os.environ[name]
    except KeyError:
        raise RuntimeError(f"{name} is not set: run this under `scripts/services --fast --`") from None


def unique(prefix):
    return f"{prefix}_{uuid.uuid4().hex[:12]}"


def wait_for(what, condition, limit=LIMIT):
    """Returns the first true value of `condition()`."""
    deadline = time.monotonic() + limit
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {limit} s in vain for: {what}")
        time.sleep(0.05)


class Database:
    """A database of its own on that PostgreSQL, made from `template` if one is given; goes with `drop`."""

    def __init__(self, template=None):
        server = urllib.parse.urlsplit(variable("LONGSHORE_TEST_PG_URL"))
        self.name = unique("squad")
        self.host, self.port, self.user = server.hostname, server.port, server.username
        self.url = f"postgres://{self.user}@{self.host}:{self.port}/{self.name}"
        self.admin(f"create database {self.name}" + (f" template {template.name}" if template else ""))

    def admin(self, statement):
        connection = psycopg2.connect(variable("LONGSHORE_TEST_PG_URL"))
        connection.autocommit = True
        try:
            connection.cursor().execute(statement)
        finally:
            connection.close()

    def drop(self):
        self.admin(f"drop database if exists {self.name} with (force)")

    def rows(self, statement, values=()):
        """What a query answers, as dictionaries; a statement without an answer is committed."""
        connection = psycopg2.connect(self.url)
        try:
            with connection, connection.cursor() as cursor:
                cursor.execute(statement, values)
                if cursor.description is None:
                    return []
                names = [column.name for column in cursor.description]
                return [dict(zip(names, row)) for row in cursor.fetchall()]
        finally:
            connection.close()

    def row(self, statement, values=()):
        """The one row that a query answers."""
        (row,) = self.rows(statement, values)
        return row

    @property
    def for_squad(self):
        """SQUAD's variable DATABASE."""
        return (
            f"ENGINE=django.db.backends.postgresql:NAME={self.name}:HOST={self.host}:PORT={self.port}"
            f":USER={self.user}:PASSWORD=unused"
        )


class Vhost:
    """A virtual host of its own on that RabbitMQ; goes with `drop`."""

    def __init__(self):
        self.name = unique("squad")
        self.url = f"{variable('LONGSHORE_TEST_AMQP_URL')}/{self.name}"
        self.api("PUT", f"vhosts/{self.name}")
        self.api("PUT", f"permissions/{self.name}/guest", {"configure": ".*", "write": ".*", "read": ".*"})

    def api(self, method, path, body=None):
        """Asks RabbitMQ's management API."""
        answer = requests.request(method, f"{variable('LONGSHORE_TEST_AMQP_API')}/{path}", json=body, timeout=LIMIT)
        answer.raise_for_status()
        return answer.json() if answer.content else None

    def take(self, queue):
        """Takes the messages that are ready in `queue`, oldest first: each with `properties` and a base64 `payload`.

        A queue that nobody has declared yet, as Longshore does with the first message that it publishes, has none.
        """
        body = {"count": 1000, "ackmode": "ack_requeue_false", "encoding": "base64"}
        try:
            return self.api("POST", f"queues/{self.name}/{queue}/get", body)
        except requests.HTTPError as error:
            if error.response.status_code == requests.codes.not_found:
                return []
            raise

    def drop(self):
        self.api("DELETE", f"vhosts/{self.name}")
