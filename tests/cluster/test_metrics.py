"""A real Prometheus scrapes a real cluster that renders, with a worker that is killed and a video
that is not finite: every panel has data, and what is exported is what is declared."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from glc_ray.store import manifest, run_status
from glc_ray.store.output import Output
from glc_ray.telemetry import METRICS
from tests.cluster.nodes import HEAD, Nodes, environment, free_port
from tests.dashboards.test_dashboards import BOARDS, FOLDER
from tests.prometheus import Prometheus, binary, prometheus

pytestmark = pytest.mark.slow

_STEPS = 12
"""So many that every video is in work for a few scrapes."""
_EXPORT_MS = 2000
"""Ray's agents have news so often, in place of every ten seconds."""
_RAYS_OWN = {"Component", "NodeAddress", "SessionName", "Version", "WorkerId", "JobId"}
_SCRAPES = {"__name__", "instance", "job", "le"}
_IN_PANEL = {"$__rate_interval": "20s", "[10m]": "[20s]"}
"""Shorter than in Grafana, for a run of a minute."""


def test_every_panel_has_data_and_every_metric_is_declared(tmp_path: Path) -> None:
    binary("prometheus")
    output = tmp_path / "out"
    port = free_port("127.0.0.1")
    with _cluster() as (cluster, discovery):
        config = _config(tmp_path, discovery, port)
        with prometheus(config, tmp_path, free_port("127.0.0.1")) as server:
            start = time.time()
            _render(cluster, output, port, tmp_path)
            video = "good-0"
            _check_names(server, str(output))
            for uid, board in BOARDS.items():
                for panel in board["panels"]:
                    for target in panel.get("targets", ()):
                        query = _query(target["expr"], video)
                        found = server.values(query, start, time.time())
                        assert any(found), f"{uid}, {panel['title']}: no data of {query}"
            _check_values(server, start, str(output))


def _check_names(server: Prometheus, output: str) -> None:
    """Declared is exported, exported is declared, with the declared labels."""
    seen = {name for name in server.names() if re.match(r"(ray_)?glc_", name)}
    declared = {name: metric for metric in METRICS for name in metric.series}
    assert seen == declared.keys()
    for name, metric in declared.items():
        labels = server.labels(f'{name}{{output="{output}"}}')
        assert labels - _RAYS_OWN - _SCRAPES == metric.labels.keys(), name


def _check_values(server: Prometheus, start: float, output: str) -> None:
    """Against the manifest, whose figures come another way."""
    rows = manifest.read(Output(output))
    done = [row for row in rows if row.status == "done"]

    def highest(query: str) -> float:
        return max(max(values) for values in server.values(query, start, time.time()))

    assert len(done) == 3
    assert highest('glc_videos{state="done"}') == 3
    assert highest('glc_videos{state="failed"}') == 1
    assert highest("glc_scored_videos") == 3
    assert highest("sum(ray_glc_frames_total)") == sum(row.num_frames for row in done)
    # A window that was computed twice counts once for its video, as it does here.
    windows = sum(row.num_windows for row in rows)
    assert highest("sum(ray_glc_windows_total)") >= windows > 0
    assert highest("sum(ray_glc_steps_total)") == pytest.approx(3 * _STEPS)
    assert highest("sum(ray_glc_worker_restarts_total)") >= 1
    assert highest('sum(ray_glc_retries_total{reason="lost"})') >= 1
    assert highest("sum(ray_glc_nonfinite_total)") >= 1
    assert highest("sum(glc:nonfinite:last10m)") >= 1
    # γ of the literal preset at the first timestep (0.005 · exp(0.0005 · 999)) or below.
    assert 0.005 < highest("ray_glc_gamma") < 0.0083
    before, after = (
        highest(f'avg(avg_over_time(ray_glc_motion_loss{{when="{when}"}}[5m]))')
        for when in ("before", "after")
    )
    assert 0 < after < before


def _query(expression: str, video: str) -> str:
    for before, after in {"$output": ".*", "$video": video, **_IN_PANEL}.items():
        expression = expression.replace(before, after)
    return expression


@contextmanager
def _cluster() -> Iterator[tuple[Nodes, str]]:
    """A head, and the file with the addresses of its agents."""
    # Ray's sockets must have short names.
    folder = tempfile.mkdtemp(prefix="glc-", dir="/tmp")
    own = {**environment(), "RAY_metrics_report_interval_ms": str(_EXPORT_MS)}
    cluster = Nodes(own, f"{HEAD}:{free_port()}", f"http://{HEAD}:{free_port()}")
    try:
        cluster.start_head(4, f"--temp-dir={folder}", f"--metrics-export-port={free_port()}")
        yield cluster, f"{folder}/session_latest/prom_metrics_service_discovery.json"
    finally:
        cluster.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _config(folder: Path, discovery: str, port: int) -> Path:
    """The committed configuration, with this cluster's addresses and less time in between."""
    config = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "2s", "evaluation_interval": "2s"}
    config["rule_files"] = [str(FOLDER / rules) for rules in config["rule_files"]]
    by_name = {job["job_name"]: job for job in config["scrape_configs"]}
    by_name["ray"]["file_sd_configs"] = [{"files": [discovery], "refresh_interval": "2s"}]
    del by_name["glc-ray"]["file_sd_configs"]
    by_name["glc-ray"]["static_configs"] = [{"targets": [f"127.0.0.1:{port}"]}]
    path = folder / "prometheus.yml"
    path.write_text(yaml.safe_dump(config))
    return path


def _render(cluster: Nodes, output: Path, port: int, folder: Path) -> None:
    """Three videos and one that is not finite, with a worker killed on the way."""
    catalog = folder / "catalog.jsonl"
    rows = [
        {"prompt": "a red ball rolls over the meadow at day", "name": f"good-{i}", "seed": i}
        for i in range(3)
    ]
    rows.insert(1, {**rows[0], "name": "nan", "guidance_scale": 1e38})
    catalog.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    command = [sys.executable, "-m", "glc_ray.render", "--catalog", str(catalog)]
    command += ["--output", str(output), "--address", cluster.address, "--workers", "2"]
    command += ["--steps", str(_STEPS), "--num-frames", "97"]
    command += ["--set", "resources.coordinators.count=2"]
    command += ["--set", "decode.segment=8"]
    command += ["--set", "resources.checkpoint.max_share=1"]
    exporter = [sys.executable, "-m", "glc_ray.status", str(output)]
    exporter += ["--serve-metrics", str(port)]
    with (folder / "render.log").open("wb") as log:
        render = subprocess.Popen(command, env=cluster.environment, stdout=log, stderr=log)
        try:
            _wait_until(lambda: _steps(output) >= 1, render, folder)
            serving = subprocess.Popen(exporter)
            try:
                cluster.actors("Denoiser")[0].send_signal(signal.SIGKILL)
                assert render.wait(300) == 1, (folder / "render.log").read_text()
                evaluate = [sys.executable, "-m", "glc_ray.evaluate", str(output)]
                evaluate += ["--scores", "change,sharpness,cuts,toyworld"]
                subprocess.run(evaluate, check=True, stdout=log, stderr=log)
                # What was counted last is exported, scraped, and put into rules.
                time.sleep(4 * _EXPORT_MS / 1000)
            finally:
                serving.terminate()
                serving.wait()
        finally:
            render.kill()
            render.wait()


def _steps(output: Path) -> int:
    """Done of the video that has most."""
    status = run_status.read(Output(str(output)))
    return max((video.steps_done for video in status.in_work), default=0) if status else 0


def _wait_until(is_so: Callable[[], bool], render: subprocess.Popen[bytes], folder: Path) -> None:
    deadline = time.monotonic() + 240
    while not is_so():
        if render.poll() is not None or time.monotonic() > deadline:
            pytest.fail((folder / "render.log").read_text())
        time.sleep(0.2)
