"""A real Prometheus scrapes a real service: every panel of the dashboard has data, and an alert fires and ends."""

import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness.fast_rules import minutes_as_seconds
from harness.ports import free_port
from harness.services import Service
from harness.stores import Store
from harness.tools import require
from harness.waiting import until

from demo import dashboard
from demo.monitoring import alerts_page, firing, get, load, running_prometheus

pytestmark = [pytest.mark.long, pytest.mark.timeout(180)]
WITHOUT_DATA = {"Certificate"}  # the service has no TLS here
PATIENCE = 60
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    with Store(port=free_port()) as store:
        yield store


@pytest.fixture(scope="module")
def prometheus(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a Prometheus that scrapes a service under a small load."""
    require("prometheus")
    metrics = f"127.0.0.1:{free_port()}"
    with (
        Service("--workers", "2", "--metrics-listen", metrics, redis_url=store.url) as service,
        running_prometheus(
            tmp_path_factory.mktemp("prometheus"), [metrics], free_port(), change=minutes_as_seconds
        ) as url,
        load(service.address),
    ):
        yield url


def test_every_panel_has_data(prometheus: str) -> None:
    def empty() -> set[str]:
        now = time.time()
        return {
            panel.title for panel in dashboard.panels() if not dashboard.series(prometheus, panel, now - PATIENCE, now)
        }

    until(lambda: empty() == WITHOUT_DATA, within=PATIENCE)


def test_prometheus_evaluates_every_rule(prometheus: str) -> None:
    def rules() -> list[dict[str, Any]]:
        groups = get(f"{prometheus}/api/v1/rules")["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]

    until(lambda: all(rule["health"] != "unknown" for rule in rules()), within=PATIENCE)
    assert [rule["name"] for rule in rules() if rule["health"] != "ok"] == []
    assert not {"UserServiceDown", "UserServiceStoreDown"} & set(firing(prometheus))


def test_the_page_of_alerts_that_the_demo_prints_exists(prometheus: str) -> None:
    with urllib.request.urlopen(alerts_page(prometheus), timeout=10) as response:  # noqa: S310 - http, on loopback
        assert b"Prometheus" in response.read()


def test_an_alert_fires_while_the_store_is_down(prometheus: str, store: Store) -> None:
    store.kill()
    until(lambda: "UserServiceStoreDown" in firing(prometheus), within=PATIENCE)
    alerts = get(f"{prometheus}/api/v1/alerts")["data"]["alerts"]
    [alert] = [alert for alert in alerts if alert["labels"]["alertname"] == "UserServiceStoreDown"]
    instance = alert["labels"]["instance"]
    assert alert["annotations"]["description"].startswith(f"At least one worker of {instance} has not been able to")
    assert Path(re.sub("#.*", "", alert["annotations"]["runbook_url"])).suffix == ".md"
    store.start()
    until(lambda: "UserServiceStoreDown" not in firing(prometheus), within=PATIENCE)


@pytest.mark.parametrize("option", ["--metrics-port", "--prometheus-port"])
def test_a_port_in_use_is_an_error(option: str) -> None:
    other = {"--metrics-port": "--prometheus-port", "--prometheus-port": "--metrics-port"}[option]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        command = [sys.executable, "-m", "demo.monitoring", option, str(port), other, "0"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    reason = f"cannot listen on 127.0.0.1:{port}: Address already in use"
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"demo: FAILED: {reason}; choose another port with {option}\n"
