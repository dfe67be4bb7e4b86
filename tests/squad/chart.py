"""What the Helm chart makes of its examples, and what a pod of it has mounted."""

import pathlib
import subprocess

import yaml

SOURCE = pathlib.Path(__file__).resolve().parents[2]
CHART = SOURCE / "charts/longshore"
HELM = SOURCE / "target/tools/helm4"


def manifests(example, *more):
    """The objects of release `ci`, by kind and name."""
    assert HELM.exists(), f"{HELM} is missing: scripts/tools"
    values = CHART / f"ci/{example}-values.yaml"
    done = subprocess.run(
        [HELM, "template", "ci", CHART, "--kube-version", "1.33.0", "--values", values, *more],
        capture_output=True,
        text=True,
        check=True,
    )
    found = [document for document in yaml.safe_load_all(done.stdout) if document]
    return {(document["kind"], document["metadata"]["name"]): document for document in found}


def pod(workload):
    """The pod of a workload, or the pod itself."""
    return workload["spec"].get("template", workload)


def containers(workload):
    """Its containers, by name."""
    return {each["name"]: each for each in pod(workload)["spec"]["containers"]}


def mount(release, workload, folder):
    """Puts what a pod has as /etc/longshore into a folder; a file of a Secret holds its own path. Returns the configuration."""
    (config,) = [volume for volume in pod(workload)["spec"]["volumes"] if volume["name"] == "config"]
    for source in config["projected"]["sources"]:
        if "configMap" in source:
            files = release["ConfigMap", source["configMap"]["name"]]["data"]
        else:
            files = {item["path"]: item["path"] for item in source["secret"]["items"]}
        for name, text in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    return folder / "longshore.toml"
