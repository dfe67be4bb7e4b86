"""Evaluates an admission policy: admission.py < {"policy": …, "requests": [{"request", "object", "oldObject"}, …]}

Prints for each request, a line each, "not matched", "allowed", or the message of the validation that refuses it. An error
counts as a refusal, as failurePolicy Fail has it.
"""

import json
import sys

import cel


def true(expression, request):
    try:
        return cel.evaluate(expression, request) is True
    except (ValueError, RuntimeError, TypeError) as error:
        print(f"admission: {error}", file=sys.stderr)
        return False


given = json.load(sys.stdin)
spec = given["policy"]["spec"]
for request in given["requests"]:
    if not all(true(condition["expression"], request) for condition in spec["matchConditions"]):
        print("not matched")
        continue
    refused = [rule["message"] for rule in spec["validations"] if not true(rule["expression"], request)]
    print(refused[0] if refused else "allowed")
