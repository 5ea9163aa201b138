"""Scrapes the metrics of a service as Prometheus does, in both formats."""

import json
import urllib.request
from dataclasses import dataclass
from typing import Any

from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from prometheus_client.samples import Sample

from harness.services import Service

METRICS = ("--metrics-listen", "127.0.0.1:0")
TEXT = "text/plain;version=0.0.4"
OPENMETRICS = "application/openmetrics-text;version=1.0.0"


@dataclass(frozen=True)
class Scrape:
    """One scrape.

    Attributes:
        families: the type of each metric, by its name, as the parser shows it.
        samples: all samples.
        text: the body of the response.
    """

    families: dict[str, str]
    samples: list[Sample]
    text: str

    def values(self, name: str, **labels: str) -> list[float]:
        """Returns the values of the samples with this name and these labels, perhaps among others."""
        return [
            sample.value for sample in self.samples if sample.name == name and labels.items() <= sample.labels.items()
        ]

    def value(self, name: str, **labels: str) -> float:
        """Returns the sum of these values. Fails if there are none."""
        found = self.values(name, **labels)
        assert found, f"no sample {name}{labels}"
        return sum(found)

    def counters(self) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
        """Returns every value that must never fall."""
        counting = ("_total", "_count", "_bucket", "_sum")
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for sample in self.samples
            if sample.name.endswith(counting)
        }


def metrics_address(service: Service) -> str:
    line = service.wait_for("stderr", r'^(\{.*"serving metrics".*\})$')[1]
    address: str = json.loads(line)["address"]
    return address


def get(address: str, path: str = "/metrics", accept: str = TEXT) -> tuple[str, str]:
    """Returns the content type and the body."""
    request = urllib.request.Request(f"http://{address}{path}", headers={"Accept": accept})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=10) as response:
        return response.headers["Content-Type"], response.read().decode()


def scrape(address: str, accept: str = TEXT) -> Scrape:
    content_type, text = get(address, accept=accept)
    parse: Any = parse_openmetrics if "openmetrics" in content_type else parse_text
    families = list(parse(text))
    samples = [sample for family in families for sample in family.samples]
    return Scrape({family.name: family.type for family in families}, samples, text)
