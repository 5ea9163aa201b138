"""The parts of a plan."""

from typing import Any, cast

from userservice.v1.user_service_pb2 import UserScanPart
from userservice_server.domain.ports import RecordStore
from userservice_server.domain.scanning import planned


class FakeStore:
    """A store with one table for each list of cuts, whose largest id at the start of the plan is `end`."""

    identity = None

    def __init__(self, end: int, *cuts: list[int]) -> None:
        self.tables = self
        self._end = end
        self._cuts = cuts
        self.asked: list[int] = []

    def all_users(self) -> range:
        return range(len(self._cuts))

    async def fence(self) -> int:
        return self._end

    async def cuts(self, table: int, parts: int, _identity: object) -> list[int]:
        self.asked.append(parts)
        return self._cuts[table]


async def plan(store: FakeStore, parts: int) -> list[tuple[int, int, int]]:
    found: list[UserScanPart] = await planned(cast("RecordStore", cast("Any", store)), parts)
    return [(part.partition, part.cursor, part.end_cursor) for part in found]


async def test_users_that_are_added_meanwhile_are_after_the_end() -> None:
    """The cuts are read after the end, so they can be the ids of later users."""
    store = FakeStore(10, [5, 8, 9], [7, 12, 15], [11, 12])
    assert await plan(store, 9) == [(3, 0, 5), (3, 5, 8), (3, 8, 10), (4, 0, 7), (4, 7, 10), (5, 0, 10)]
    assert store.asked == [3, 3, 3]


async def test_every_partition_with_users_has_a_part() -> None:
    store = FakeStore(10, [9], [], [3])
    assert await plan(store, 1) == [(3, 0, 10), (5, 0, 10)]
    assert store.asked == [1, 1, 1]
