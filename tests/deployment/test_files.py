"""The files in deploy/ agree with each other, with the service and with the documentation."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
METRICS_PAGE = ROOT / "docs" / "metrics.md"
MANIFESTS = sorted([*DEPLOY.rglob("*.yaml"), *DEPLOY.rglob("*.yml")])
_METRIC = re.compile(r"\b(?:grpc_server|userservice|process)_[a-z_]+\b")
_PART_OF_HISTOGRAM = re.compile(r"_(?:bucket|sum|count)$")


def parsed(path: Path) -> list[Any]:
    return list(yaml.safe_load_all(path.read_text()))


def alerts() -> list[dict[str, Any]]:
    [rules] = parsed(DEPLOY / "prometheus" / "alerts.yml")
    return [rule for group in rules["groups"] for rule in group["rules"]]


def known_metrics() -> set[str]:
    return set(re.findall(r"^\| `(\w+)` \|", METRICS_PAGE.read_text(), re.MULTILINE))


def unknown_metrics(expressions: list[str]) -> set[str]:
    named = {name for expression in expressions for name in _METRIC.findall(expression)}
    assert named
    known = known_metrics()
    return {name for name in named if name not in known and _PART_OF_HISTOGRAM.sub("", name) not in known}


def panels() -> list[dict[str, Any]]:
    dashboard = json.loads((DEPLOY / "grafana" / "dashboards" / "userservice.json").read_text())
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: str(path.relative_to(DEPLOY)))
def test_every_file_is_yaml(path: Path) -> None:
    assert all(isinstance(document, (dict, list)) for document in parsed(path))


def test_the_alert_rules_name_existing_metrics() -> None:
    assert unknown_metrics([alert["expr"] for alert in alerts()]) == set()


def test_the_dashboard_names_existing_metrics() -> None:
    assert unknown_metrics([target["expr"] for panel in panels() for target in panel["targets"]]) == set()


def test_the_dashboard_shows_every_metric() -> None:
    shown = {name for panel in panels() for target in panel["targets"] for name in _METRIC.findall(target["expr"])}
    shown = {_PART_OF_HISTOGRAM.sub("", name) for name in shown}
    # The calls that started are those that are handled or in progress; the start time is for an alert rule.
    assert known_metrics() - shown <= {"grpc_server_started_total", "process_start_time_seconds"}


def test_every_alert_has_a_section_in_the_runbooks() -> None:
    page = (ROOT / "docs" / "runbooks.md").read_text()
    sections = re.findall(r"^### (\w+)\n\n\*\*(critical|warning)\.\*\*", page, re.MULTILINE)
    assert sections == [(alert["alert"], alert["labels"]["severity"]) for alert in alerts()]
    for alert in alerts():
        assert alert["annotations"]["runbook_url"] == f"docs/runbooks.md#{alert['alert'].lower()}"


def test_links_to_sections_of_the_runbooks_exist() -> None:
    page = (ROOT / "docs" / "runbooks.md").read_text()
    names = {alert["alert"].lower() for alert in alerts()}
    assert {link for link in re.findall(r"\(#([\w-]+)\)", page) if link not in names} == set()


def test_every_alert_fires_in_a_test_of_the_rules() -> None:
    [tests] = parsed(DEPLOY / "prometheus" / "alerts.test.yml")
    fired = {
        re.findall(r'alertname="(\w+)"', sample["labels"])[0]
        for group in tests["tests"]
        for checked in group["promql_expr_test"]
        for sample in checked["exp_samples"]
    }
    assert fired == {alert["alert"] for alert in alerts()}
    silent = [group for group in tests["tests"] if group["promql_expr_test"][0]["exp_samples"]]
    assert silent == [], "each group first shows that no alert fires"


def test_settings_exist() -> None:
    """A misspelt variable would be ignored without a message."""
    texts = [path.read_text() for path in DEPLOY.rglob("*") if path.is_file() and path.suffix not in {".md", ".json"}]
    named = {name for text in texts for name in re.findall(r"USERSERVICE_[A-Z_]+", text)}
    known = set(re.findall(r"`(USERSERVICE_[A-Z_]+)`", (ROOT / "README.md").read_text()))
    of_clients = set(re.findall(r"`(USERSERVICE_[A-Z_]+)`", (ROOT / "docs" / "security.md").read_text()))
    assert "USERSERVICE_AUTH" in named
    assert named - known - of_clients - {"USERSERVICE_"} == set()


def test_the_image_has_the_version_of_the_project() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    [component] = parsed(DEPLOY / "kubernetes" / "components" / "pod" / "kustomization.yaml")
    assert [image["newTag"] for image in component["images"]] == [version]
    tags = re.findall(
        r"\buserservice:([0-9]+\.[0-9.]+)", "".join(p.read_text() for p in DEPLOY.rglob("*") if p.is_file())
    )
    assert len(tags) >= 2
    assert set(tags) == {version}


def test_the_compose_file_mounts_files_that_exist() -> None:
    [compose] = parsed(DEPLOY / "compose.yaml")
    volumes = [volume for service in compose["services"].values() for volume in service.get("volumes", [])]
    mounted = [volume.partition(":")[0] for volume in volumes if volume.startswith(".")]
    assert mounted
    assert [path for path in mounted if not (DEPLOY / path).is_dir()] == []
    named = {volume.partition(":")[0] for volume in volumes if not volume.startswith(".")}
    assert named == compose["volumes"].keys()
    built = compose["services"]["userservice"]["build"]
    assert (DEPLOY / built["context"] / built["dockerfile"]).is_file()
