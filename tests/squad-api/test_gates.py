"""`POST /api/gates/NAME/entries`: entries of a gate over HTTP, by whom the configuration allows it."""

import json

import requests

GATES = """
[gates.stable]
tests = ["package.test"]
publish = "package.publish"
[gates.other]
publish = "package.publish"
[api.tokens.packages]
token = "packages-token"
tasks = ["gate/stable"]
"""


def post(api, entries, gate="stable", token="packages-token"):
    body = entries if isinstance(entries, str) else json.dumps({"entries": entries})
    headers = {"Authorization": f"Token {token}"} if token else {}
    return requests.post(f"{api}/api/gates/{gate}/entries", data=body, headers=headers, timeout=30)


def test_entries_are_in_the_gate_whole_or_not_at_all(alone):
    alone.configure(GATES)
    _process, api = alone.api()
    answer = post(api, [{"id": "a", "kwargs": {"package": "hello"}}, {"id": "b", "needs": ["a"], "change": "x"}])
    assert answer.status_code == 201, answer.text
    assert answer.json()["entries"] == [{"id": "a", "new": True}, {"id": "b", "new": True}]
    tests = {"gate/stable/a/1/package.test", "gate/stable/b/1/package.test"}
    assert set(alone.tasks()) == tests
    # the same id is the same entry
    again = post(api, [{"id": "a"}, {"id": "c"}])
    assert again.json()["entries"] == [{"id": "a", "new": False}, {"id": "c", "new": True}]
    tests.add("gate/stable/c/1/package.test")

    ok = {"id": "d"}
    for wrong, status, text in [
        ([ok, {"id": "e", "needs": ["nobody"]}], 400, "needs nobody"),
        ([ok, {"id": "e/f"}], 400, "no /"),
        ([ok, {"id": "e", "need": []}], 400, "need"),
        ("{", 400, "no entries"),
    ]:
        answer = post(api, wrong)
        assert (answer.status_code, text in answer.text) == (status, True), answer.text
    assert post(api, [ok], gate="other").status_code == 403
    assert post(api, [ok], token=None).status_code == 401
    assert set(alone.tasks()) == tests
