"""Runs every case of cases/*.json with every driver on every backend."""

import time
from collections.abc import Iterator, Mapping

import pytest
from _pytest.mark import ParameterSet
from case_language import Case, Scope, each_binding, load_cases, match, match_error
from drivers import DRIVERS, Driver, Refused
from harness.services import Service
from harness.stores import BACKENDS
from harness.topologies import SHORT, TOPOLOGIES

SHORT_FILES = ("users_list_chunked", "users_scan", "users_batch_get", "users_delete", "sessions_end", "filters")


def _runs(case: Case, driver: str) -> bool:
    if case.drivers is None:
        return True
    return driver in case.drivers or (driver != "stubs" and "managers" in case.drivers)


def _combinations() -> list[ParameterSet]:
    """Every case through every driver and on every backend.

    `make test` takes the last driver of a case on Redis and the first one on Valkey, because the drivers differ in the
    client, which does not see the store. The other combinations are long. On stores with
    several servers, every case runs through its first driver, which takes the least time; `make test` takes the cases
    of lists, which are merged there, and of sessions that end, which each partition has.
    """
    found = []
    for backend in sorted(BACKENDS, reverse=True):
        for case in load_cases():
            drivers = [driver for driver in DRIVERS if _runs(case, driver)]
            for driver in drivers:
                is_long = driver != drivers[-1 if backend == "redis" else 0]
                found.append(pytest.param(backend, driver, case, marks=[pytest.mark.long] if is_long else []))
    for topology in TOPOLOGIES:
        for case in load_cases():
            driver = next(driver for driver in DRIVERS if _runs(case, driver))
            is_long = topology != SHORT or case.file not in SHORT_FILES
            found.append(pytest.param(topology, driver, case, marks=[pytest.mark.long] if is_long else []))
    return found


@pytest.fixture(scope="session")
def all_drivers(shared_service: Service) -> Iterator[Mapping[str, Driver]]:
    drivers = {name: driver(shared_service.address) for name, driver in DRIVERS.items()}
    yield drivers
    for driver in drivers.values():
        driver.close()


@pytest.mark.usefixtures("service")
@pytest.mark.parametrize(("backend", "driver", "case"), _combinations(), ids=str, indirect=["backend"], scope="session")
def test_case(all_drivers: Mapping[str, Driver], driver: str, case: Case) -> None:
    scope = Scope()
    for number, step in enumerate(case.steps, 1):
        for _ in each_binding(step, scope):
            try:
                _take(step, all_drivers[driver], scope)
            except (AssertionError, Refused) as problem:
                value = f" with {scope.saved['each']!r:.80}" if "each" in step else ""
                problem.add_note(f"in step {number}, {step['call']}{value}")
                raise


def _take(step: dict[str, object], driver: Driver, scope: Scope) -> None:
    arguments = scope.evaluate(step.get("args", {}))
    if step["call"] == "wait":
        time.sleep(arguments["seconds"])
        return
    if "error" in step:
        with pytest.raises(Refused) as refused:
            driver.call(str(step["call"]), arguments)
        match_error(scope.evaluate(step["error"]), refused.value.error)
        return
    answer = driver.call(str(step["call"]), arguments)
    if "result" in step:
        match(scope.evaluate(step["result"]), answer)
    if "save" in step:
        scope.saved[str(step["save"])] = answer


def test_every_restricted_case_gives_a_reason() -> None:
    assert all(case.because for case in load_cases() if case.drivers is not None)
    names = [str(case) for case in load_cases()]
    assert len(set(names)) == len(names)
