"""The sweeper of expired sessions."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from typing import Any, cast

import pytest

from userservice_server.process.sweeping import Sweeper
from userservice_server.store import scripts
from userservice_server.store.keys import Keys
from userservice_server.store.partitions import slot_of
from userservice_server.store.redis_store import RedisStore
from userservice_server.store.sweeping import Step, sweep


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
            reply.set_result([b"2500000", b"64", None])
        return reply

    for table in keys.all_users():
        assert await sweep(keys, table, b"store", send, send) == Step(1, 2.5)
    assert len(steps) == 16
    for table, redis_keys in zip(keys.all_users(), steps, strict=True):
        assert {slot_of(key) for key in redis_keys} == {slot_of(table.rows)}


class Steps:
    """A store of two partitions in which each step takes some seconds; notes the pauses after the steps."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, steps: Sequence[tuple[float, Step]]) -> None:
        self.now = 0.0
        self.pauses: list[float] = []
        self._steps: Iterator[tuple[float, Step]] = iter(steps)
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        monkeypatch.setattr(asyncio, "sleep", self.pause)

    async def sweepable(self) -> list[int]:
        return [0, 1]

    async def sweep(self, _partition: int) -> Step:
        taken, step = next(self._steps, (0.0, None))
        if step is None:
            raise asyncio.CancelledError
        self.now += taken
        return step

    async def pause(self, seconds: float) -> None:
        self.now += seconds
        self.pauses.append(round(seconds, 6))


async def test_the_sweeper_pauses_between_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step takes a hundredth of the time, or a quarter if a session has been expired for an hour.

    A pause follows the step of each partition; a pause of a second follows if nothing has expired in any partition.
    """
    steps = [
        (0.001, Step()),
        (0.001, Step(5, 3000)),
        (0.005, Step(5, 3000)),
        (0.5, Step(5, 3000)),
        (0.1, Step(5, 4000)),
        (0.001, Step(5, 3000)),
        (0.001, Step()),
        (0.001, Step()),
    ]
    store = Steps(monkeypatch, steps)
    with pytest.raises(asyncio.CancelledError):
        await Sweeper(cast("RedisStore", store)).run()
    assert store.pauses == [0.099, 0.495, 1.0, 0.3, 0.099, 1.0]
