"""What KubeRay 1.7 takes, as far as ``cluster/kuberay`` uses it: a strict JSON schema.

Kubernetes' own types are those of ``kubernetes_validate``. KubeRay's are listed here;
``python -m tests.cluster_files.kuberay ray.io_rayjobs.yaml ray.io_rayclusters.yaml`` holds them
against the definitions in KubeRay's Helm chart (``helm-chart/kuberay-operator/crds``), and what
``cluster/kuberay`` has against all of those, made strict.
"""

from __future__ import annotations

import json
import sys
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import yaml

KUBERNETES = "1.34"
FOLDER = Path(__file__).parents[2] / "cluster" / "kuberay"
Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
NUMBER: Schema = {"type": "integer"}
SWITCH: Schema = {"type": "boolean"}
TEXTS: Schema = {"type": "object", "additionalProperties": TEXT}


def one_of(*names: str) -> Schema:
    return {"type": "string", "enum": list(names)}


def kubernetes(name: str) -> Schema:
    return {"$ref": f"#/$defs/{name}"}


def section(required: tuple[str, ...] = (), /, **properties: Schema) -> Schema:
    """A mapping with these keys and no other."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


def list_of(items: Schema) -> Schema:
    return {"type": "array", "items": items}


POD = kubernetes("io.k8s.api.core.v1.PodTemplateSpec")
METADATA = kubernetes("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta")
GROUP = {"rayStartParams": TEXTS, "resources": TEXTS, "labels": TEXTS, "template": POD}
CLUSTER = section(
    ("headGroupSpec",),
    rayVersion=TEXT,
    authOptions=section(mode=one_of("disabled", "token"), secretName=TEXT),
    enableInTreeAutoscaling=SWITCH,
    autoscalerOptions=section(
        version=one_of("v1", "v2"),
        upscalingMode=one_of("Default", "Aggressive", "Conservative"),
        idleTimeoutSeconds=NUMBER,
        securityContext=kubernetes("io.k8s.api.core.v1.SecurityContext"),
        resources=kubernetes("io.k8s.api.core.v1.ResourceRequirements"),
        volumeMounts=list_of(kubernetes("io.k8s.api.core.v1.VolumeMount")),
    ),
    headGroupSpec=section(("template",), **GROUP),
    workerGroupSpecs=list_of(
        section(
            ("groupName", "minReplicas", "maxReplicas", "template"),
            groupName=TEXT,
            replicas=NUMBER,
            minReplicas=NUMBER,
            maxReplicas=NUMBER,
            idleTimeoutSeconds=NUMBER,
            **GROUP,
        )
    ),
)
JOB = section(
    entrypoint=TEXT,
    backoffLimit=NUMBER,
    activeDeadlineSeconds=NUMBER,
    shutdownAfterJobFinishes=SWITCH,
    ttlSecondsAfterFinished=NUMBER,
    runtimeEnvYAML=TEXT,
    submitterPodTemplate=POD,
    suspend=SWITCH,
    rayClusterSpec=CLUSTER,
)
KINDS = {"RayCluster": CLUSTER, "RayJob": JOB}


@cache
def _definitions() -> Schema:
    folder = files("kubernetes_validate") / "kubernetes-json-schema"
    file = folder / f"v{KUBERNETES}.0-local-strict" / "_definitions.json"
    return json.loads(file.read_text())["$defs"]


def validate(document: Schema) -> None:
    """Raise jsonschema.ValidationError where a RayCluster or RayJob is none."""
    schema = section(
        ("apiVersion", "kind", "metadata", "spec"),
        apiVersion=one_of("ray.io/v1"),
        kind=one_of(*KINDS),
        metadata=METADATA,
        spec=KINDS[document["kind"]],
    )
    # Not `jsonschema.validate`, which checks the definitions themselves again every time.
    jsonschema.Draft202012Validator(schema | {"$defs": _definitions()}).validate(document)


def differences(own: Schema, theirs: Schema, where: str) -> list[str]:
    """Keys, types and choices of ``own`` that are not in a definition of KubeRay's."""
    if "$ref" in own:
        return [] if theirs.get("type") == "object" else [f"{where}: no object"]
    found = []
    for key in ("type", "enum"):
        if own.get(key) != theirs.get(key):
            found.append(f"{where}: {key} {own.get(key)} is {theirs.get(key)}")
    if set(own.get("required", ())) != set(theirs.get("required", ())):
        found.append(f"{where}: required {own.get('required')} is {theirs.get('required')}")
    for name, one in own.get("properties", {}).items():
        place = f"{where}.{name}"
        if name not in theirs.get("properties", {}):
            found.append(f"{place}: unknown")
        else:
            found += differences(one, theirs["properties"][name], place)
    if "items" in own:
        found += differences(own["items"], theirs["items"], f"{where}[]")
    return found


def strict(schema: Any) -> Any:
    """A definition that refuses keys that it does not name, as ``kubectl`` does."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: strict(value) for key, value in schema.items()}
    if found.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    if isinstance(found.get("properties"), dict) and "additionalProperties" not in found:
        found["additionalProperties"] = False
    return found


def main() -> None:
    found = []
    for path in sys.argv[1:]:
        definition = yaml.safe_load(Path(path).read_text())["spec"]
        (version,) = (one for one in definition["versions"] if one["name"] == "v1")
        theirs = version["schema"]["openAPIV3Schema"]
        kind = definition["names"]["kind"]
        found += differences(KINDS[kind], theirs["properties"]["spec"], kind)
        # The definition leaves metadata to the API server.
        theirs["properties"]["metadata"] = {}
        for file in sorted(FOLDER.glob("*.yaml")):
            for document in yaml.safe_load_all(file.read_text()):
                if document["kind"] == kind:
                    jsonschema.validate(document, strict(theirs))
                    print(f"{file.name}: {kind} as KubeRay defines it")
    sys.exit("\n".join(found) or 0)


if __name__ == "__main__":
    main()
