"""What Ray's own launcher, compose and the image builder read: schemas, linters, versions."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml
from compose_spec import PyCompose
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from ray.autoscaler._private.util import prepare_config, validate_config

import glc_ray
from tests.cluster_files.commands import parse, render_spec, shell_commands, unplaced

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
README = (CLUSTER / "README.md").read_text()
COMPOSE = yaml.safe_load((CLUSTER / "compose.yaml").read_text())
TEXTS = {
    str(path.relative_to(CLUSTER)): path.read_text()
    for path in sorted(CLUSTER.rglob("*"))
    if path.is_file() and "secrets" not in path.parts
}
LAUNCHER = {name: yaml.safe_load(text) for name, text in TEXTS.items() if name.startswith("ray/")}


def tool(name: str) -> str:
    found = shutil.which(name, path=str(Path(sys.executable).parent))
    assert found is not None, f"{name} is not installed"
    return found


def start_commands(config: dict[str, Any]) -> list[str]:
    commands = [*config["head_start_ray_commands"], *config["worker_start_ray_commands"]]
    return [command for command in commands if "ray start" in command]


@pytest.mark.parametrize("name", LAUNCHER)
def test_ray_up_takes_the_file(name: str) -> None:
    validate_config(prepare_config(LAUNCHER[name]))


@pytest.mark.parametrize("name", LAUNCHER)
def test_nodes_start_with_the_token_and_flags_that_ray_has(name: str) -> None:
    config = LAUNCHER[name]
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"  # noqa: S105
    commands = start_commands(config)
    assert len(commands) == 2
    for command in commands:
        limit, started = command.split("; ")
        assert limit == "ulimit -n 65536"
        variable, start = started.split(" ", maxsplit=1)
        assert variable == "RAY_AUTH_MODE=token"
        start = re.sub(r'"\$\(.*\)"', "{}", start).replace("/opt/glc-ray/bin/", "")
        context = parse(start.replace("$RAY_HEAD_IP", "10.0.0.1").split())
        assert context is not None
        assert context.params["dashboard_host"] in ("localhost", "127.0.0.1")


def test_the_farm_on_ec2_has_room_for_what_the_walk_through_renders() -> None:
    config = LAUNCHER["ray/aws.yaml"]
    (submitted,) = (
        words
        for words in shell_commands(README)
        if words[:2] == ["ray", "job"] and "s3" in str(words)
    )
    spec = render_spec(submitted)
    types = config["available_node_types"]
    assert types["head"]["resources"] == {"CPU": 0}
    most = [one["resources"] for one in types.values() for _ in range(one.get("max_workers", 0))]
    assert unplaced(spec, most) == ""
    assert sum(one.get("max_workers", 0) for one in types.values()) <= config["max_workers"]


def test_compose_takes_the_file() -> None:
    # Keys merged and variables filled in, as compose does before it looks.
    text = re.sub(r"\$\{\w+:-(.*?)\}", r"\1", yaml.safe_dump(COMPOSE))
    compose = PyCompose.from_yaml(text)
    assert set(compose.service_names()) == {"ray", "farm-metrics", "prometheus", "grafana"}
    with pytest.raises(ValueError, match="comand"):
        PyCompose.from_yaml("services: {ray: {image: 'a:1', comand: b}}")


def test_compose_publishes_ports_on_loopback_alone() -> None:
    services = COMPOSE["services"]
    # Ray's ports listen on all addresses that there are: those of the containers' own network.
    assert not any("network_mode" in one or "networks" in one for one in services.values())
    assert "networks" not in COMPOSE
    published = {name: one["ports"] for name, one in services.items() if "ports" in one}
    assert published == {
        "ray": ["127.0.0.1:8265:8265"],
        "prometheus": ["127.0.0.1:9090:9090"],
        "grafana": ["127.0.0.1:3000:3000"],
    }
    ray_node = parse(services["ray"]["command"].split())
    assert ray_node is not None
    # Of its container: what is published leads to an address that is not the loopback.
    assert ray_node.params["dashboard_host"] == "0.0.0.0"  # noqa: S104
    assert ray_node.params["dashboard_port"] == 8265
    assert services["ray"]["environment"]["RAY_AUTH_MODE"] == "token"
    assert services["ray"]["environment"]["RAY_ADDRESS"] == "auto"
    assert not any("listen" in flag for flag in services["prometheus"]["command"])
    assert "GF_SERVER_HTTP_ADDR" not in services["grafana"]["environment"]


def test_compose_shows_the_dashboards_that_there_are() -> None:
    if not (ROOT / "dashboards").is_dir():
        pytest.skip("this checkout has no dashboards/")
    services = COMPOSE["services"]
    for service in services.values():
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            assert not source.startswith("../dashboards") or (CLUSTER / source).exists(), source
    metrics = parse(services["farm-metrics"]["command"].split())
    assert metrics is not None
    assert metrics.params["host"] == "0.0.0.0"  # noqa: S104
    mounted = "./compose-targets.yml:/etc/prometheus/targets/glc-ray.yml:ro"
    assert mounted in services["prometheus"]["volumes"]
    scraped = [{"targets": [f"farm-metrics:{metrics.params['port']}"]}]
    assert yaml.safe_load(TEXTS["compose-targets.yml"]) == scraped
    assert services["grafana"]["environment"]["GLC_RAY_PROMETHEUS"] == "http://prometheus:9090"
    shown = services["grafana"]["environment"]["GLC_RAY_DASHBOARDS"]
    assert f"../dashboards/grafana:{shown}:ro" in services["grafana"]["volumes"]


@pytest.mark.parametrize("name", [name for name in TEXTS if name != "compose.yaml"])
def test_no_listener_is_open_to_all(name: str) -> None:
    """Compose's are open to its own network, and published on loopback."""
    lines = [line for line in TEXTS[name].splitlines() if not line.lstrip().startswith("#")]
    assert "0.0.0.0" not in "\n".join(lines)  # noqa: S104


def test_versions_are_those_of_the_project() -> None:
    own = {
        match
        for text in TEXTS.values()
        for match in re.findall(r"(?:registry\.example\.com|YOUR\.REGISTRY)/glc-ray:(\S+)", text)
    }
    assert own == {glc_ray.__version__}
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    assert f"ray=={ray.__version__}" in pins
    # A newer Ray would start nodes that this one's driver does not talk to.
    assert f"rayVersion: {ray.__version__}" in TEXTS["kuberay/rayjob.yaml"]


@pytest.mark.parametrize("python", ["3.10", "3.12"])
def test_the_image_for_ec2_takes_boto3_beside_the_pins(python: str) -> None:
    """boto3 1.44.5 brings botocore 1.44, with what its metadata asks for."""
    assert "EXTRA_PACKAGES=boto3==1.44.5" in README
    bounds = {
        "python-dateutil": "<3.0.0,>=2.1",
        "urllib3": "!=2.2.0,<3,>=1.25.4",
        "jmespath": "<2.0.0,>=0.7.1",
    }
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [Requirement(line) for line in lines if not line.startswith("#")]
    environment = {"python_version": python}
    for pin in pins:
        if pin.name in bounds and (pin.marker is None or pin.marker.evaluate(environment)):
            (version,) = pin.specifier
            assert SpecifierSet(bounds[pin.name]).contains(version.version), str(pin)


@pytest.mark.parametrize("name", [name for name in TEXTS if name.endswith((".yaml", "file"))])
def test_images_and_packages_are_pinned(name: str) -> None:
    images = re.findall(
        r"^\s*(?:- )?(?:image: (?:&\w+ )?|ARG BASE=)(\S+)", TEXTS[name], re.MULTILINE
    )
    for image in images:
        if not image.startswith("*"):
            assert re.search(r":v?\d+\.\d+\.\d+[\w.-]*$", image), image
    for requirement in re.findall(r"pip install (.*)", TEXTS[name]):
        assert "==" in requirement or "PIP_CONSTRAINT=/src/constraints.txt" in TEXTS[name]


def test_the_image_is_built_of_what_the_project_has() -> None:
    subprocess.run([tool("hadolint"), str(CLUSTER / "Containerfile")], check=True)
    text = TEXTS["Containerfile"]
    users = re.findall(r"^USER (\S+)", text, re.MULTILINE)
    assert users == ["10001:10001"]
    allowed = set(re.findall(r"^!(\S+)", TEXTS["Containerfile.dockerignore"], re.MULTILINE))
    copied = {
        word
        for line in re.findall(r"^COPY (?!--from)(.*) \S+$", text, re.MULTILINE)
        for word in line.split()
    }
    assert copied == allowed
    assert all((ROOT / name).exists() for name in copied)


@pytest.mark.parametrize("name", [name for name in TEXTS if name.endswith(".sbatch")])
def test_shell_scripts_are_sound(name: str) -> None:
    subprocess.run(["bash", "-n", str(CLUSTER / name)], check=True)
    subprocess.run([tool("shellcheck"), str(CLUSTER / name)], check=True)


@pytest.mark.parametrize("name", ["README.md", "cluster/README.md", "dashboards/README.md"])
def test_clusters_that_documents_start_ask_for_a_token(name: str) -> None:
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / name).read_text(), flags=re.DOTALL)
    starting = [block for block in blocks if re.search(r"^ray start", block, re.MULTILINE)]
    assert starting
    for block in starting:
        before = block[: block.index("ray start")]
        assert "export RAY_AUTH_MODE=token" in before
        assert "ray get-auth-token --generate" in before


def test_commands_of_the_walk_through_are_understood() -> None:
    known = []
    for words in shell_commands(README):
        if words[0] == "sbatch":
            script = next(i for i, word in enumerate(words) if word.endswith(".sbatch"))
            words = ["glc-ray", "render", *words[script + 1 :]]
        if parse(words) is not None:
            known.append(words[0])
        for word in words:
            if words[0] != "mkdir" and word.startswith("cluster/") and "secrets" not in word:
                assert (ROOT / word).exists(), word
    assert len(known) > 10
    assert {"ray", "glc-ray"} <= set(known)
