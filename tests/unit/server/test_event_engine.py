"""grpc's internal settings are chosen by the version of grpcio, and only for versions where they were measured."""

import grpc
import pytest

from userservice_server.process import event_engine
from userservice_server.process.event_engine import EXPERIMENTS, VARIABLE, select_event_engine

MAJOR, MINOR = map(int, grpc.__version__.split(".")[:2])
INSTALLED = (MAJOR, MINOR)


def test_a_measured_version_gets_its_experiments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EXPERIMENTS, INSTALLED, "-event_engine_listener")
    environment: dict[str, str] = {}
    select_event_engine(environment)
    assert environment == {VARIABLE: "-event_engine_listener"}


def test_an_unmeasured_version_keeps_the_default_of_grpc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(EXPERIMENTS, INSTALLED, raising=False)
    environment: dict[str, str] = {}
    select_event_engine(environment)
    assert environment == {}


@pytest.mark.parametrize("strange", ["", "1", "main", "1.x.0"])
def test_a_version_that_cannot_be_read_keeps_the_default_of_grpc(strange: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_engine, "version", lambda _: strange)
    environment: dict[str, str] = {}
    select_event_engine(environment)
    assert environment == {}


def test_the_value_of_the_operator_is_kept() -> None:
    environment = {VARIABLE: ""}
    select_event_engine(environment)
    assert environment == {VARIABLE: ""}
