"""The files for KubeRay: strict schemas, roles that fit, pods that have no more than they need."""

from __future__ import annotations

import copy
import inspect
import re
import shlex
import subprocess
from collections.abc import Iterator
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import ray
import yaml
from ray.autoscaler._private.kuberay.autoscaling_config import (
    _generate_available_node_types_from_ray_cr_spec,
)

from tests.cluster_files import kuberay
from tests.cluster_files.commands import parse, render_spec, unplaced

Document = dict[str, Any]


def documents() -> Iterator[tuple[str, Document]]:
    for path in sorted(kuberay.FOLDER.glob("*.yaml")):
        for document in yaml.safe_load_all(path.read_text()):
            yield f"{path.name}: {document['kind']} {document['metadata']['name']}", document


ALL = dict(documents())
JOB = next(one for one in ALL.values() if one["kind"] == "RayJob")
CLUSTER = next(one for one in ALL.values() if one["kind"] == "RayCluster")["spec"]
GROUPS = {"head": CLUSTER["headGroupSpec"]} | {
    group["groupName"]: group for group in CLUSTER["workerGroupSpecs"]
}
PODS = {name: group["template"]["spec"] for name, group in GROUPS.items()} | {
    "submitter": JOB["spec"]["submitterPodTemplate"]["spec"],
    "model": next(one for one in ALL.values() if one["kind"] == "Job")["spec"]["template"]["spec"],
}


@pytest.mark.parametrize("name", ALL)
def test_every_document_is_what_its_strict_schema_says(name: str) -> None:
    if ALL[name]["apiVersion"].startswith("ray.io/"):
        kuberay.validate(ALL[name])
    else:
        kubernetes_validate.validate(ALL[name], kuberay.KUBERNETES, strict=True)


@pytest.mark.parametrize(
    ("place", "key", "value"),
    [
        ((), "rayVersions", "2.60.0"),
        (("authOptions",), "mode", "tokens"),
        (("headGroupSpec", "template", "spec"), "securityContexts", {}),
        (("workerGroupSpecs", 0), "minReplicas", "none"),
        (("workerGroupSpecs", 0, "resources"), "coordinator", 2),
    ],
)
def test_the_schema_refuses_what_kuberay_does(
    place: tuple[Any, ...], key: str, value: object
) -> None:
    document = copy.deepcopy(next(one for one in ALL.values() if one["kind"] == "RayCluster"))
    target = document["spec"]
    for part in place:
        target = target[part]
    target[key] = value
    with pytest.raises(jsonschema.ValidationError):
        kuberay.validate(document)


def test_a_job_brings_the_cluster_that_stands() -> None:
    assert JOB["spec"]["rayClusterSpec"] == CLUSTER


def test_all_lives_in_one_namespace() -> None:
    assert {one["metadata"].get("namespace", "glc-ray") for one in ALL.values()} == {"glc-ray"}


def test_the_job_renders_on_the_groups_that_its_roles_name() -> None:
    """As Ray's autoscaler reads the groups."""
    spec = render_spec(shlex.split(JOB["spec"]["entrypoint"]))
    types = _generate_available_node_types_from_ray_cr_spec(CLUSTER)
    assert types["headgroup"]["resources"]["CPU"] == 0
    assert types["headgroup"]["resources"]["memory"] > 8e9
    most = [type["resources"] for type in types.values() for _ in range(type["max_workers"])]
    assert unplaced(spec, most) == ""
    for actors in ("denoisers", "coordinators", "decoders"):
        (role,) = getattr(spec.resources, actors).custom
        offered = [name for name, type in types.items() if role in type["resources"]]
        assert offered == [actors]
    assert spec.resources.wait_for_nodes, "groups begin with no pod"


def test_memory_is_what_the_pipeline_file_says() -> None:
    """36 GB of anchors, 21 GB of weights while a text is encoded; what coordinators may take."""
    spec = render_spec(shlex.split(JOB["spec"]["entrypoint"]))
    memory = {
        name: pod["containers"][0]["resources"]["limits"]["memory"] for name, pod in PODS.items()
    }
    assert int(memory["denoisers"].removesuffix("Gi")) >= 36 + 21
    assert spec.resources.coordinators.memory_gb is not None
    assert int(memory["coordinators"].removesuffix("Gi")) > spec.resources.coordinators.memory_gb


@pytest.mark.parametrize("name", GROUPS)
def test_ray_starts_with_these_flags(name: str) -> None:
    words = [f"--{flag}={value}" for flag, value in GROUPS[name]["rayStartParams"].items()]
    context = parse(["ray", "start", *(["--head"] if name == "head" else []), "--block", *words])
    assert context is not None
    shm = next(one for one in PODS[name]["volumes"] if one["name"] == "shm")
    assert shm["emptyDir"]["medium"] == "Memory"
    assert context.params["object_store_memory"] < 5 * 2**30
    assert shm["emptyDir"]["sizeLimit"] == "5Gi"


@pytest.mark.parametrize("name", GROUPS)
def test_nodes_tell_how_full_their_disks_are(name: str) -> None:
    """Ray makes its figures up in a pod, unless it is told otherwise as it starts."""
    from ray.dashboard.modules.reporter import reporter_agent

    switch = "RAY_DASHBOARD_ENABLE_K8S_DISK_USAGE"
    assert {"name": switch, "value": "1"} in PODS[name]["containers"][0]["env"]
    assert switch in inspect.getsource(reporter_agent)


def test_version_and_token() -> None:
    assert CLUSTER["rayVersion"] == ray.__version__
    assert CLUSTER["authOptions"] == {"mode": "token", "secretName": "glc-ray-token"}


@pytest.mark.parametrize("name", PODS)
def test_pods_have_no_more_than_they_need(name: str) -> None:
    pod = PODS[name]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == 10001
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod.get("automountServiceAccountToken") is (name == "head"), (
        "its autoscaler asks the API"
    )
    assert not any(pod.get(key) for key in ("hostNetwork", "hostPID", "hostIPC"))
    for container in pod["containers"]:
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["readOnlyRootFilesystem"] is True
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert {"requests", "limits"} <= set(container["resources"])
        # Each mount has its volume, and each volume a mount.
        mounts = {mount["name"] for mount in container["volumeMounts"]}
        assert mounts == {volume["name"] for volume in pod["volumes"]}
        assert "/tmp" in {mount["mountPath"] for mount in container["volumeMounts"]}  # noqa: S108


@pytest.mark.parametrize("name", GROUPS)
def test_nodes_end_in_time_for_a_checkpoint(name: str) -> None:
    container = PODS[name]["containers"][0]
    env = yaml.safe_load(JOB["spec"]["runtimeEnvYAML"])["env_vars"]
    assert PODS[name]["terminationGracePeriodSeconds"] > float(env["RAY_JOB_STOP_WAIT_TIME_S"]) > 60
    for probe in ("readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"] == {"path": "/api/healthz", "port": 52365}


@pytest.mark.parametrize(
    ("line", "is_ended"),
    [
        (JOB["spec"]["entrypoint"], True),
        ("/opt/venv/bin/python3.12 -m glc_ray.render --output a", True),
        ("/opt/venv/bin/python3 /opt/venv/bin/glc-ray render --output a", True),
        ("python -m glc_ray.retry /output/farm", True),
        ("python -m glc_ray.compare", True),
        ("/opt/venv/bin/python /opt/venv/bin/glc-ray compare --prompt a", True),
        ("/opt/venv/bin/python /opt/venv/bin/glc-ray status render", False),
        # The shell that Ray's job runs in, whose end would be the job's.
        ("/bin/bash -c " + JOB["spec"]["entrypoint"], False),
        ("python -m glc_ray.status /output/farm", False),
    ],
)
def test_the_head_asks_renders_to_end_and_waits(line: str, is_ended: bool) -> None:
    hook = PODS["head"]["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    assert hook[:2] == ["bash", "-c"]
    subprocess.run(["bash", "-n", "-c", hook[2]], check=True)
    assert hook[2].count('-f "$ours"') == 2, "those that are asked are waited for"
    (ours,) = re.findall(r"^ours='(.*?)'; pkill ", hook[2])
    assert (re.search(ours, line) is not None) is is_ended


def test_the_budget_and_the_policies_name_pods_that_there_are() -> None:
    (budget,) = (one for one in ALL.values() if one["kind"] == "PodDisruptionBudget")
    labels = {name: group["template"]["metadata"]["labels"] for name, group in GROUPS.items()}
    assert budget["spec"]["selector"]["matchLabels"] == labels["head"]
    policies = [one["spec"] for one in ALL.values() if one["kind"] == "NetworkPolicy"]
    # One that refuses everything both ways, to which the others add.
    closed = {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    assert closed in policies
    ports = {
        port["port"]
        for policy in policies
        for rule in policy.get("ingress", ())
        for port in rule.get("ports", ())
    }
    own = {port["containerPort"] for port in PODS["head"]["containers"][0]["ports"]}
    assert ports == {8265, 8080}
    assert ports <= own
