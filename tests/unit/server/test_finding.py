"""Pages of FindUsers are joined from the replies of several scripts and partitions."""

from collections.abc import Sequence
from uuid import uuid4

from userservice.v1.user_pb2 import User
from userservice.v1.user_service_pb2 import FindUsersResponse
from userservice_server.domain.finding import Search, found_page
from userservice_server.domain.ports import FindQuery, FoundUsers
from userservice_server.wire.records import frame


def records(ids: Sequence[int], size: int = 0) -> list[bytes]:
    return [
        frame(User(user_id=f"u{number}", id=number, uuid=str(uuid4()), email="E@x", last_name="x" * size))
        for number in ids
    ]


class Partitions:
    """A store whose partitions give fixed replies."""

    def __init__(self, *replies: FoundUsers) -> None:
        self.identity = object()
        self.tables = self
        self._replies = replies

    def all_users(self) -> range:
        return range(len(self._replies))

    async def find(self, table: int, _query: FindQuery, _identity: object) -> FoundUsers:
        return self._replies[table]


async def page(store: Partitions, limit: int = 10) -> FindUsersResponse:
    encoded = await found_page(store, Search.of(["e@X"], limit, 0), None)  # type: ignore[arg-type]
    return FindUsersResponse.FromString(encoded)


async def test_a_page_ends_where_the_first_incomplete_reply_ends() -> None:
    found = await page(Partitions(FoundUsers(128, records([64, 128])), FoundUsers(0, records([65, 193]))))
    assert ([user.id for user in found.users], found.next_cursor) == ([64, 65, 128], 128)


async def test_a_page_without_users_has_the_cursor_of_an_incomplete_reply() -> None:
    found = await page(Partitions(FoundUsers(300, []), FoundUsers(0, records([400]))))
    assert ([user.id for user in found.users], found.next_cursor) == ([], 300)


async def test_a_page_ends_at_its_limit_and_at_1_mib() -> None:
    found = await page(Partitions(FoundUsers(0, records([64, 128, 192])), FoundUsers(0, records([65]))), limit=3)
    assert ([user.id for user in found.users], found.next_cursor) == ([64, 65, 128], 128)
    large = [FoundUsers(0, records(range(first, 1000, 64), size=60_000)) for first in (64, 65)]
    found = await page(Partitions(*large), limit=1000)
    assert (len(found.users), found.next_cursor) == (17, found.users[-1].id)
    assert found.ByteSize() <= 1 << 20
