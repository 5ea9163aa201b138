"""Collects the alerts that a Prometheus fires."""

import time
from collections import defaultdict
from contextlib import suppress
from threading import Event, Thread
from typing import Any, Self

from demo.monitoring import get


class Alerts:
    """Reads the alerts of a Prometheus several times a second.

    Attributes:
        seconds: when each alert fired first, in seconds since the start.
        texts: the descriptions that alerts had when they fired.
    """

    def __init__(self, prometheus: str) -> None:
        self._prometheus = prometheus
        self._instances: dict[str, set[str]] = defaultdict(set)
        self._started = time.monotonic()
        self._ending = Event()
        self._reader = Thread(target=self._read, daemon=True)
        self.seconds: dict[str, float] = {}
        self.texts: set[str] = set()

    def fired(self, alert: str, instance: str) -> bool:
        """Returns whether an alert has fired, for this instance if the alert has an instance."""
        return bool(self._instances[alert] & {instance, ""})

    def _read(self) -> None:
        while not self._ending.wait(0.3):
            with suppress(OSError):
                for alert in get(f"{self._prometheus}/api/v1/alerts")["data"]["alerts"]:
                    if alert["state"] == "firing":
                        self._add(alert)

    def _add(self, alert: dict[str, Any]) -> None:
        name = alert["labels"]["alertname"]
        self._instances[name].add(alert["labels"].get("instance", ""))
        self.seconds.setdefault(name, time.monotonic() - self._started)
        self.texts.add(alert["annotations"]["description"])

    def __enter__(self) -> Self:
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._reader.join()
