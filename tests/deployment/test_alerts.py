"""Every alert fires because of a real fault: a real Prometheus evaluates the rules for real services.

The only change of the rules: minutes are seconds and hours are minutes (harness/fast_rules.py), and Prometheus scrapes
and evaluates every second. The faults are in harness/faults.py; they run at the same time, each with a service of its
own.
"""

import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from harness.alerts import Alerts
from harness.fast_rules import minutes_as_seconds
from harness.faults import AT_THE_END, FAULTS, Stage, stage
from harness.ports import free_port
from harness.tools import require
from harness.waiting import until

from demo.monitoring import firing, get, running_prometheus

ROOT = Path(__file__).resolve().parents[2]
PREFIX = "UserService"
DOWN = f"{PREFIX}Down"
EXPECTED = {alert: fault.__name__ for fault, alerts in FAULTS.items() for alert in alerts}
PATIENCE = 90


@pytest.mark.long
@pytest.mark.timeout(300)
def test_every_alert_fires_because_of_a_real_fault(tmp_path: Path) -> None:
    require("prometheus")
    with stage(tmp_path) as shared, ThreadPoolExecutor(32) as threads:
        with ThreadPoolExecutor(3) as starts:  # more at once could exceed the time limit of a start
            work = [task for tasks in starts.map(lambda fault: fault(shared), FAULTS) for task in tasks]
        targets = list(shared.metrics.values())
        with running_prometheus(tmp_path, targets, free_port(), "1s", minutes_as_seconds) as url:
            # Down fires until the first scrape, which is no fault.
            until(lambda: has_scraped(url, targets) and DOWN not in firing(url), within=PATIENCE, every=0.5)
            with Alerts(url) as alerts:
                try:
                    running = [threads.submit(task) for task in work]
                    wait(alerts, shared)
                finally:
                    shared.ended.set()
                for task in running:
                    task.result()
                until(lambda: alerts.fired(f"{PREFIX}{AT_THE_END}", ""), within=PATIENCE, every=0.5)
    assert not [text for text in alerts.texts if "<no value>" in text or "error expanding" in text]


def has_scraped(prometheus: str, targets: list[str]) -> bool:
    found = get(f"{prometheus}/api/v1/query?query=up==1")["data"]["result"]
    return {series["metric"]["instance"] for series in found} == {*targets}


def wait(alerts: Alerts, shared: Stage) -> None:
    """Waits until each alert has fired for the service of its fault."""
    deadline = time.monotonic() + PATIENCE
    while missing := silent(alerts, shared):
        assert time.monotonic() < deadline, f"did not fire: {missing}; fired, after seconds: {alerts.seconds}"
        time.sleep(0.5)


def silent(alerts: Alerts, shared: Stage) -> list[str]:
    """Returns the alerts that have not fired for the service of their fault."""
    return [alert for alert, fault in EXPECTED.items() if not alerts.fired(f"{PREFIX}{alert}", shared.metrics[fault])]


def test_the_documented_faults_are_those_of_the_test() -> None:
    page = (ROOT / "docs" / "operations.md").read_text()
    documented = set(
        re.findall(rf"\b{PREFIX}(\w+)\b", page.partition("| fault in the test | alerts |")[2].partition("\n\n")[0])
    )
    assert documented == {*EXPECTED, AT_THE_END}


def test_only_times_of_the_rules_are_changed() -> None:
    rules = (ROOT / "deploy" / "prometheus" / "alerts.yml").read_text()
    times = r"(?<= for: )\d+[smh]$|(?<=\[)\d+[smh](:\d+[smh])?(?=\])|(?<= offset )\d+[smh]"
    fast = minutes_as_seconds(rules)
    assert re.sub(times, "TIME", fast, flags=re.MULTILINE) == re.sub(times, "TIME", rules, flags=re.MULTILINE)
    assert "for: 2s" in fast
    assert "[30s:1s]" in fast
    assert "[1m] offset 10s" in fast
