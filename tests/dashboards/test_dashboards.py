"""The committed dashboards: what the script makes, complete, and linked."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from glc_ray.telemetry import METRICS
from tests.prometheus import ROOT, binary

FOLDER = ROOT / "dashboards"
BOARDS = {path.stem: json.loads(path.read_text()) for path in (FOLDER / "grafana").glob("*.json")}
RULES = {path.name: yaml.safe_load(path.read_text()) for path in sorted(FOLDER.glob("rules/*.yml"))}
PANELS = [
    pytest.param(uid, panel, id=f"{uid}: {panel['title']}")
    for uid, board in sorted(BOARDS.items())
    for panel in board["panels"]
    if panel["type"] != "row"
]


def expressions() -> Iterator[str]:
    """All PromQL of dashboards and rules."""
    for _, panel in (param.values for param in PANELS):
        yield from (target["expr"] for target in panel["targets"])
    for rules in RULES.values():
        yield from (rule["expr"] for group in rules["groups"] for rule in group["rules"])


@pytest.mark.skipif(sys.version_info < (3, 11), reason="the Grafana SDK needs Python 3.11")
def test_committed_json_is_what_the_script_makes() -> None:
    from dashboards.build import files

    committed = {path.name: path.read_text() for path in (FOLDER / "grafana").iterdir()}
    assert committed == files(), "run `python -m dashboards.build`"


def test_every_score_is_on_a_panel() -> None:
    from glc_ray.comparison.scores import COST, SCORES

    shown = [
        re.search(r'score=~?"([^"]*)"', target["expr"])
        for panel in BOARDS["glc-scores"]["panels"]
        for target in panel.get("targets", [])
    ]
    patterns = [found[1] for found in shown if found]
    missing = [
        score.name
        for score in SCORES
        if score.name not in COST and not any(re.fullmatch(p, score.name) for p in patterns)
    ]
    assert patterns
    assert missing == []


@pytest.mark.parametrize(("uid", "panel"), PANELS)
def test_each_panel_says_what_it_shows(uid: str, panel: dict[str, Any]) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    assert panel["title"]
    assert len(panel["description"]) > 10
    assert defaults["unit"]
    assert panel["targets"]
    for target in panel["targets"]:
        assert target["legendFormat"], "a series without a name shows all its labels"
        assert target["datasource"]["uid"] == "${datasource}"
        if "ray_node" not in target["expr"] and "ALERTS" not in target["expr"]:
            assert 'output=~"$output"' in target["expr"]
    steps = defaults.get("thresholds", {"steps": [{"value": None}]})["steps"]
    assert steps[0]["value"] is None
    values = [step["value"] for step in steps[1:]]
    assert values == sorted(values)


def test_an_axis_has_room_for_what_its_panel_warns_of() -> None:
    (panel,) = (p.values[1] for p in PANELS if p.values[1]["title"].endswith("takes off"))
    assert "below 0" in panel["description"]
    assert "min" not in panel["fieldConfig"]["defaults"]


def test_every_metric_is_shown_or_alerted_on_and_no_other() -> None:
    text = "\n".join(expressions())
    used = set(re.findall(r"\b(?:ray_)?glc_\w+", text))
    series = {name: metric for metric in METRICS for name in (metric.exported, *metric.series)}
    assert used <= series.keys(), "dashboards speak of what is declared"
    shown = {series[name] for name in used}
    assert [metric.name for metric in METRICS if metric not in shown] == []
    recorded = {
        rule["record"]
        for of in RULES.values()
        for group in of["groups"]
        for rule in group["rules"]
        if "record" in rule
    }
    assert set(re.findall(r"\bglc:[\w:]+", text)) <= recorded


def test_dashboards_lead_to_each_other() -> None:
    names = ("farm", "video", "workers", "decode", "faults", "scores")
    assert set(BOARDS) == {f"glc-{name}" for name in names}
    for uid, board in BOARDS.items():
        assert board["uid"] == uid
        (link,) = board["links"]
        assert link["tags"] == board["tags"] == ["glc-ray"]
        assert link["includeVars"]
        names = [variable["name"] for variable in board["templating"]["list"]]
        assert names == ["datasource", "output", *(["video"] if uid == "glc-video" else [])]
        assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    (progress,) = [p for p in BOARDS["glc-farm"]["panels"] if p["title"].startswith("Progress of")]
    (link,) = progress["fieldConfig"]["defaults"]["links"]
    assert link["url"].startswith("/d/glc-video?var-output=${__field.labels.output}&var-video=")


def test_every_alert_says_what_to_do_and_is_tested() -> None:
    tested = {
        one["alertname"]
        for path in FOLDER.glob("rules/tests/*.yml")
        for test in yaml.safe_load(path.read_text())["tests"]
        for one in test.get("alert_rule_test", ())
        if one["exp_alerts"]
    }
    alerts = {
        rule["alert"]: rule
        for of in RULES.values()
        for group in of["groups"]
        for rule in group["rules"]
        if "alert" in rule
    }
    assert set(alerts) == tested
    for rule in alerts.values():
        assert set(rule["annotations"]) == {"summary", "description"}
        assert rule["labels"]["severity"] in ("warning", "critical")


def test_no_alert_puts_a_name_into_a_command() -> None:
    """Who writes a catalog chooses names, which a person might paste into a shell."""
    texts = [
        text
        for of in RULES.values()
        for group in of["groups"]
        for rule in group["rules"]
        for text in rule.get("annotations", {}).values()
    ]
    commands = [command for text in texts for command in re.findall(r"`(.*?)`", text)]
    assert commands
    assert not [command for command in commands if "{{" in command]


def test_rules_by_promtool() -> None:
    tests = sorted(map(str, FOLDER.glob("rules/tests/*.yml")))
    done = subprocess.run([binary("promtool"), "test", "rules", *tests], capture_output=True,
                          text=True)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_configuration_by_promtool() -> None:
    checked = subprocess.run(
        [binary("promtool"), "check", "config", FOLDER / "prometheus.yml"],
        capture_output=True,
        text=True,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_provisioning_finds_the_data_source_and_the_dashboards() -> None:
    provisioning = FOLDER / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())[
        "datasources"
    ]
    assert source["type"] == "prometheus"
    assert source["url"] == "${GLC_RAY_PROMETHEUS}"
    config = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    assert source["jsonData"]["timeInterval"] == config["global"]["scrape_interval"]
    (exporter,) = (job for job in config["scrape_configs"] if job["job_name"] == "glc-ray")
    (files,) = exporter["file_sd_configs"]
    (targets,) = (path for pattern in files["files"] for path in FOLDER.glob(pattern))
    assert yaml.safe_load(targets.read_text()) == [{"targets": ["127.0.0.1:9464"]}]
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "glc-ray.yml").read_text())[
        "providers"
    ]
    assert provider["options"]["path"] == "${GLC_RAY_DASHBOARDS}"
    assert Path(FOLDER / "grafana").is_dir()
