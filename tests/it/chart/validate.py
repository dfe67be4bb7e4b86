"""Checks rendered manifests: validate.py FILE…

Kinds of Kubernetes by kubernetes-validate, strictly, for each version that the chart is for; kinds of KEDA and of the
Prometheus operator by their models, which accept unknown fields, so that those are looked for here. A kind that neither
knows is an error: kubernetes-validate alone would only warn. Says what was wrong, a line each, and how many objects of which
kind were right; ends with 1 if anything was wrong.
"""

import collections
import functools
import sys
import types
import typing

# Two megabytes of kinds that the chart does not use, which the package imports anyway.
ALPHA = "cloudcoil.models.prometheus_operator.v1alpha1"
sys.modules[ALPHA] = types.ModuleType(ALPHA)

import kubernetes_validate
import kubernetes_validate.utils
import pydantic
import yaml
from cloudcoil.models.keda import v1alpha1 as keda
from cloudcoil.models.prometheus_operator import v1 as prometheus

VERSIONS = ["1.33", "1.34", "1.35", "1.36", "1.37"]
MODELS = {
    ("keda.sh/v1alpha1", "ScaledObject"): keda.ScaledObject,
    ("keda.sh/v1alpha1", "TriggerAuthentication"): keda.TriggerAuthentication,
    ("monitoring.coreos.com/v1", "PodMonitor"): prometheus.PodMonitor,
    ("monitoring.coreos.com/v1", "PrometheusRule"): prometheus.PrometheusRule,
}

# It reads megabytes of definitions anew for each object.
kubernetes_validate.utils.schema_contents = functools.cache(kubernetes_validate.utils.schema_contents)


def unknown_fields(value, annotation, path):
    """The paths of fields in `value` that the model in `annotation` does not have."""
    if isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel):
        if not isinstance(value, dict):
            return
        fields = {field.alias or name: field for name, field in annotation.model_fields.items()}
        for key, inner in value.items():
            if key in fields:
                yield from unknown_fields(inner, fields[key].annotation, f"{path}.{key}")
            else:
                yield f"{path}.{key}"
        return
    for argument in typing.get_args(annotation):
        if isinstance(value, list):
            for index, inner in enumerate(value):
                yield from unknown_fields(inner, argument, f"{path}[{index}]")
        elif isinstance(value, dict) and typing.get_origin(annotation) is dict:
            for key, inner in value.items():
                yield from unknown_fields(inner, argument, f"{path}.{key}")
        else:
            yield from unknown_fields(value, argument, path)


def problems(document):
    model = MODELS.get((document["apiVersion"], document["kind"]))
    if model:
        try:
            model.model_validate(document)
        except pydantic.ValidationError as error:
            yield str(error)
        for path in unknown_fields({k: v for k, v in document.items() if k != "metadata"}, model, ""):
            yield f"unknown field {path}"
        return
    for version in VERSIONS:
        try:
            kubernetes_validate.validate(document, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            yield f"{version}: {'.'.join(map(str, error.path))}: {error.message}"
        except kubernetes_validate.SchemaNotFoundError as error:
            yield error.message


def main(files):
    right = collections.Counter()
    wrong = 0
    for file in files:
        with open(file) as text:
            documents = [document for document in yaml.load_all(text, yaml.CSafeLoader) if document]
        for document in documents:
            found = list(problems(document))
            for problem in found:
                print(f"{file}: {document['kind']} {document['metadata']['name']}: {problem}")
            wrong += len(found)
            right[document["kind"]] += not found
    print(" ".join(f"{kind}={count}" for kind, count in sorted(right.items())))
    return 1 if wrong or not right else 0


sys.exit(main(sys.argv[1:]))
