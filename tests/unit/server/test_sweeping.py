"""The sweeper of expired sessions."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from typing import Any, cast

import pytest

from userservice_server.process.sweeping import sweep_sessions
from userservice_server.store import scripts
from userservice_server.store.keys import Keys
from userservice_server.store.partitions import slot_of
from userservice_server.store.redis_store import RedisStore
from userservice_server.store.sweeping import sweep_all


async def test_all_keys_of_a_step_are_in_one_slot_also_if_a_user_is_missing() -> None:
    """A server of an earlier release leaves users whom it deletes in the expiry queue."""
    keys = Keys("userservice", 16)
    steps: list[tuple[Any, ...]] = []

    def send(*command: Any) -> "asyncio.Future[Any]":
        reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if command[0] == "EVALSHA" and command[1] == scripts.SWEEP.sha1:
            steps.append(command[3 : 3 + command[2]])
            reply.set_result(0)
        else:
            reply.set_result(1 if command[0] == "EXISTS" else [b"64", None])
        return reply

    assert await sweep_all(keys, b"store", [send] * 16, [send] * 16) == 16
    assert len(steps) == 16
    for table, redis_keys in zip(keys.all_users(), steps, strict=True):
        assert {slot_of(key) for key in redis_keys} == {slot_of(table.rows)}


class Steps:
    """A store in which each step takes some seconds and examines some users; notes the pauses after the steps."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, steps: Sequence[tuple[float, int]]) -> None:
        self.now = 0.0
        self.pauses: list[float] = []
        self._steps: Iterator[tuple[float, int]] = iter(steps)
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        monkeypatch.setattr(asyncio, "sleep", self.pause)

    async def sweep(self) -> int:
        taken, examined = next(self._steps, (0.0, -1))
        if examined < 0:
            raise asyncio.CancelledError
        self.now += taken
        return examined

    async def pause(self, seconds: float) -> None:
        self.now += seconds
        self.pauses.append(round(seconds, 6))


async def pauses(monkeypatch: pytest.MonkeyPatch, steps: Sequence[tuple[float, int]]) -> list[float]:
    store = Steps(monkeypatch, steps)
    with pytest.raises(asyncio.CancelledError):
        await sweep_sessions(cast("RedisStore", store))
    return store.pauses


async def test_the_sweeper_takes_a_hundredth_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    assert await pauses(monkeypatch, [(0.001, 0), (0.001, 5), (0.005, 5), (0.5, 5)]) == [1.0, 0.099, 0.495, 1.0]


async def test_the_sweeper_hurries_after_an_hour_until_nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    found = await pauses(monkeypatch, [*[(0.1, 9)] * 3300, (0.1, 0), (0.1, 9)])
    hurried = [pause for pause in found if pause == 0.3]
    assert found[:3000] == [1.0] * 3000
    assert hurried == found[-2 - len(hurried) : -2]
    assert hurried
    assert found[-2:] == [1.0, 1.0]
