"""kustomize builds the overlays, and the results are valid Kubernetes resources with the promised properties."""

import os
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from harness.tools import require

pytestmark = pytest.mark.long
KUBERNETES = Path(__file__).parents[2] / "deploy" / "kubernetes"
OLDEST, NEWEST = "1.30", "1.37"  # of Kubernetes
OPERATOR = "monitoring.coreos.com/v1"
Resources = dict[str, dict[str, Any]]


@cache
def built(overlay: str, *components: str) -> Resources:
    """Returns the resources of an overlay by kind, after validation against the schemas of Kubernetes."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made).resolve()
        resources = kustomized(folder, overlay, components)
        native = folder / "native.yaml"
        native.write_text(yaml.safe_dump_all([one for one in resources if one["apiVersion"] != OPERATOR]))
        for version in (OLDEST, NEWEST):
            command = [str(require("kubernetes-validate")), "--strict", "--kubernetes-version", version, str(native)]
            ended = subprocess.run(command, capture_output=True, text=True, check=False)
            assert ended.returncode == 0, ended.stdout + ended.stderr
    return {resource["kind"]: resource for resource in resources}


def kustomized(folder: Path, overlay: str, components: tuple[str, ...]) -> list[dict[str, Any]]:
    entries = {
        "resources": [_from(folder, KUBERNETES / "overlays" / overlay)],
        "components": [_from(folder, KUBERNETES / "components" / name) for name in components],
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(entries))
    command = [str(require("kustomize")), "build", str(folder)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return list(yaml.safe_load_all(ended.stdout))


def _from(folder: Path, target: Path) -> str:
    return os.path.relpath(target, folder)  # kustomize rejects absolute paths


def pod(resources: Resources) -> dict[str, Any]:
    workload = resources.get("Deployment") or resources["StatefulSet"]
    return dict(workload["spec"]["template"]["spec"])


def variables(container: dict[str, Any]) -> dict[str, str]:
    return {variable["name"]: variable["value"] for variable in container["env"]}


@pytest.mark.parametrize("overlay", ["embedded", "external"])
def test_pods_are_restricted(overlay: str) -> None:
    spec = pod(built(overlay))
    [container] = spec["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert (spec["securityContext"]["runAsUser"], spec["securityContext"]["runAsNonRoot"]) == (65532, True)
    assert spec["automountServiceAccountToken"] is False
    assert variables(container)["USERSERVICE_AUTH"] == "keys"
    assert [mount["name"] for mount in container["volumeMounts"] if mount["mountPath"] == "/data"] == ["data"]
    # The service rejects files with secrets that others can read.
    secrets = [volume["secret"]["defaultMode"] for volume in spec["volumes"] if "secret" in volume]
    assert set(secrets) == {0o440}


@pytest.mark.parametrize("overlay", ["embedded", "external"])
def test_probes_separate_the_process_from_the_store(overlay: str) -> None:
    [container] = pod(built(overlay))["containers"]
    assert container["livenessProbe"]["grpc"] == {"port": 50051, "service": "liveness"}
    assert container["startupProbe"]["grpc"] == {"port": 50051, "service": "liveness"}
    assert container["readinessProbe"]["grpc"] == {"port": 50051}


@pytest.mark.parametrize("overlay", ["embedded", "external"])
def test_with_tls_the_probes_run_the_command(overlay: str) -> None:
    [container] = pod(built(overlay, "tls"))["containers"]
    for name in ("livenessProbe", "startupProbe", "readinessProbe"):
        assert "grpc" not in container[name]
        assert container[name]["exec"]["command"][:2] == ["userservice", "health"]
        assert container[name]["timeoutSeconds"] == 5
    assert {"USERSERVICE_TLS_CERT", "USERSERVICE_TLS_KEY", "USERSERVICE_KEYS_FILE"} <= set(variables(container))


def test_the_embedded_store_has_one_pod_and_time_to_stop() -> None:
    resources = built("embedded")
    workload = resources["StatefulSet"]["spec"]
    assert workload["replicas"] == 1
    assert workload["serviceName"] == resources["Service"]["metadata"]["name"]
    assert "PodDisruptionBudget" not in resources  # with one pod, it would prevent that a node is drained
    assert pod(resources)["terminationGracePeriodSeconds"] > 5 + 10 + 1 + 35


def test_an_external_store_has_several_pods_and_egress() -> None:
    resources = built("external")
    workload = resources["Deployment"]["spec"]
    assert workload["replicas"] > 1
    assert workload["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    assert pod(resources)["terminationGracePeriodSeconds"] > 5 + 10 + 1
    [container] = pod(resources)["containers"]
    assert container["lifecycle"]["preStop"] == {"sleep": {"seconds": 5}}
    assert float(variables(container)["USERSERVICE_MAX_CONNECTION_AGE"]) > 0
    ports = [port["port"] for rule in resources["NetworkPolicy"]["spec"]["egress"] for port in rule["ports"]]
    assert ports == [53, 53, 6379]


@pytest.mark.parametrize("overlay", ["embedded", "external"])
def test_selectors_match_the_pods(overlay: str) -> None:
    resources = built(overlay, "monitoring")
    workload = resources.get("Deployment") or resources["StatefulSet"]
    labels = workload["spec"]["template"]["metadata"]["labels"].items()
    assert resources["Service"]["spec"]["clusterIP"] == "None"
    selectors = [
        workload["spec"]["selector"]["matchLabels"],
        resources["Service"]["spec"]["selector"],
        resources["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
    ]
    if overlay == "external":
        selectors.append(resources["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"])
    assert all(selector and selector.items() <= labels for selector in selectors)
    monitor = resources["ServiceMonitor"]["spec"]
    assert monitor["selector"]["matchLabels"].items() <= resources["Service"]["metadata"]["labels"].items()
    ports = {port["name"] for port in resources["Service"]["spec"]["ports"]}
    assert {endpoint["port"] for endpoint in monitor["endpoints"]} <= ports


def test_the_operator_gets_the_same_alert_rules() -> None:
    rules = yaml.safe_load((KUBERNETES.parent / "prometheus" / "alerts.yml").read_text())
    assert built("external", "monitoring")["PrometheusRule"]["spec"] == rules
