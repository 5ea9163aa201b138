"""The end of the feed: how its watches are woken."""

import asyncio
from itertools import pairwise
from typing import Any, cast

from userservice_server.domain.feed import Feed


class Follower:
    """Records in which turn of the event loop it was woken."""

    with_sessions = False
    behind_since = None

    def __init__(self, turns: list[int], woken: list[int]) -> None:
        self._turns = turns
        self._woken = woken

    def wake(self) -> None:
        self._woken.append(len(self._turns))

    def distrust(self, partition: int) -> None:
        raise AssertionError(partition)


async def test_other_calls_run_between_the_messages_of_many_watches() -> None:
    turns: list[int] = []
    woken: list[int] = []
    feed = Feed(cast(Any, None))
    feed._followers.update(Follower(turns, woken) for _ in range(100))

    async def other_calls() -> None:
        while True:
            turns.append(0)
            await asyncio.sleep(0)

    others = asyncio.create_task(other_calls())
    await feed._wake_followers()
    others.cancel()
    assert len(woken) == 100
    assert woken == sorted(woken)
    assert max(woken.count(turn) for turn in set(woken)) <= 10
    assert all(later - earlier <= 1 for earlier, later in pairwise(woken))
