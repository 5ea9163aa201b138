"""The metrics of several workers, one of which is killed while calls run."""

import asyncio
import itertools
import os
import signal
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import grpc
import pytest
from harness.connections import Stubs, connect
from harness.failures import failure_of
from harness.metrics import METRICS, Scrape, metrics_address, scrape
from harness.population import add_users
from harness.programs import command_line, descendants
from harness.services import Service
from harness.stores import Store
from harness.waiting import until

from userservice.v1.user_service_pb2 import AddUserRequest, GetUserRequest, ListUsersRequest, UpdateUserRequest
from userservice_server.observability.metrics.definitions import CODES

OWN = {"grpc_service": "userservice.v1.UserService"}


def workers_of(service: Service) -> list[int]:
    return [pid for pid in descendants(service.pid) if "spawn_main" in command_line(pid)]


@dataclass
class Load:
    """Calls of several callers, until a number of them has ended with a status of the service.

    Attributes:
        left: calls that are still to be made.
        ended: the number of calls by method and code, as the callers saw them end.
    """

    left: int
    ended: Counter[tuple[str, str]] = field(default_factory=Counter)

    async def run(self, stubs: Stubs, first: int) -> None:
        """One caller: makes one call after the other."""
        for number in itertools.count(first):
            if self.left <= 0:
                return
            method, code = await self._call(stubs, number)
            if code:
                self.left -= 1
                self.ended[method, code] += 1

    async def _call(self, stubs: Stubs, number: int) -> tuple[str, str]:
        """Makes a call; returns its method and the code that the service sent, empty if the connection was lost."""
        method, call = (
            lambda: ("GetUser", stubs.users.GetUser(GetUserRequest(user_id="u1"))),
            lambda: ("GetUser", stubs.users.GetUser(GetUserRequest(user_id="nobody"))),
            lambda: ("AddUser", stubs.users.AddUser(AddUserRequest(user_id="u1"))),
            lambda: ("UpdateUser", stubs.users.UpdateUser(UpdateUserRequest(user_id="u2", first_name=str(number)))),
            lambda: ("ListUsers", stubs.users.ListUsers(ListUsersRequest(limit=-1))),
        )[number % 5]()
        try:
            await call
        except grpc.aio.AioRpcError as error:
            if not failure_of(error).raw:  # made up by the client
                await asyncio.sleep(0.01)
                return method, ""
            return method, CODES[error.code().value[0]]
        return method, "OK"


class Watch:
    """Scrapes again and again, and fails if a counter falls."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._last: Scrape | None = None
        self.scrapes = 0

    def look(self) -> Scrape:
        found = scrape(self._address)
        if self._last is not None:
            now = found.counters()
            assert not {key for key, value in self._last.counters().items() if now.get(key, -1) < value}
        self._last = found
        self.scrapes += 1
        return found

    async def run(self) -> None:
        while True:
            await asyncio.to_thread(self.look)
            await asyncio.sleep(0.2)


@pytest.mark.parametrize(
    ("workers", "calls", "callers"), [(2, 1500, 16), pytest.param(4, 100_000, 64, marks=pytest.mark.long)]
)
@pytest.mark.timeout(900)
@pytest.mark.long
async def test_a_killed_worker_loses_no_counts(workers: int, calls: int, callers: int) -> None:
    with Store() as store, Service(*METRICS, "--workers", str(workers), redis_url=store.url) as service:
        watch = Watch(metrics_address(service))
        async with AsyncExitStack() as stack:
            stubs = [await stack.enter_async_context(connect(service.address)) for _ in range(callers)]
            await add_users(stubs[0], ["u1", "u2"])
            before = watch.look()
            load = Load(calls)
            watching = asyncio.create_task(watch.run())
            running = [asyncio.create_task(load.run(own, first)) for first, own in enumerate(stubs)]
            while load.left > calls / 2:  # noqa: ASYNC110 - the callers count in a plain number
                await asyncio.sleep(0.01)
            [killed, *_] = workers_of(service)
            os.kill(killed, signal.SIGKILL)
            await asyncio.gather(*running)
            until(lambda: watch.look().value("userservice_calls_in_progress") == 0)
            if watching.done():
                await watching  # raises what it has found
            watching.cancel()
        after = watch.look()

        def handled(method: str, code: str) -> float:
            labels = {**OWN, "grpc_method": method, "grpc_code": code}
            name = "grpc_server_handled_total"
            return after.value(name, **labels) - before.value(name, **labels)

        excess = {key: handled(*key) - number for key, number in load.ended.items()}
        assert all(number >= 0 for number in excess.values()), excess
        assert sum(excess.values()) <= callers
        assert len(load.ended) == 5
        assert watch.scrapes > 3
        assert after.value("userservice_store_update_retries_total") > 0, "updates on several workers meet"
        assert after.value("userservice_store_batch_size_sum") > after.value("userservice_store_batch_size_count") > 0
        until(lambda: len(watch.look().values("userservice_store_up")) == workers)
        restarted = watch.look()
        assert restarted.value("userservice_worker_restarts_total") == 1
        labels = {sample.labels["worker"] for sample in restarted.samples if sample.name == "process_open_fds"}
        assert labels == {*map(str, range(workers)), "supervisor"}
        assert service.stop() == 0
