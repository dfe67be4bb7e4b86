"""`POST /api/tasks`: a graph of tasks over HTTP, by whom the configuration allows their names."""

import json

import requests

TASKS = """
[api.tokens.packages]
token = "packages-token"
tasks = ["package.*"]
"""


def post(alone, api, tasks, token="packages-token"):
    body = tasks if isinstance(tasks, str) else json.dumps({"tasks": tasks})
    headers = {"Authorization": f"Token {token}"} if token else {}
    return requests.post(f"{api}/api/tasks", data=body, headers=headers, timeout=30)


def test_a_graph_is_stored_whole_or_not_at_all(alone):
    alone.configure(TASKS)
    _process, api = alone.api()
    graph = [
        {"ref": "build", "name": "package.build"},
        {"ref": "promote", "id": "p1", "name": "package.promote", "lane": "apt:stable", "after": ["build"]},
        {"name": "package.verify", "after": ["promote"]},
    ]
    answer = post(alone, api, graph)
    assert answer.status_code == 201, answer.text
    answered = answer.json()["tasks"]
    assert [task.get("ref") for task in answered] == ["build", "promote", None]
    assert all(task["new"] for task in answered) and answered[1]["id"] == "p1"
    states = {task["name"]: task["state"] for task in alone.tasks().values()}
    assert states == {"package.build": "queued", "package.promote": "blocked", "package.verify": "blocked"}
    # the same id is the same task
    again = post(alone, api, [{"id": "p1", "name": "package.promote", "lane": "apt:stable"}])
    assert again.json()["tasks"] == [{"id": "p1", "new": False}]

    ok = {"name": "package.other"}
    for wrong, status, text in [
        ([ok, {"name": "package.late", "after": ["nobody"]}], 400, "nobody"),
        ([ok, {"ref": "x", "name": "package.x", "after": ["x"]}], 400, "wait for one another"),
        ("{", 400, "no graph"),
        ([ok, {"name": "testjob.fetch"}], 403, ""),
    ]:
        answer = post(alone, api, wrong)
        assert (answer.status_code, text in answer.text) == (status, True), answer.text
    assert post(alone, api, [ok], token="a-token-for-tests").status_code == 403
    assert post(alone, api, [ok], token=None).status_code == 401
    assert len(alone.tasks()) == 3
