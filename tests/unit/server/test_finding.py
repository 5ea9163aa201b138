"""Pages of FindUsers are joined from the replies of several scripts and partitions."""

import asyncio
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

import pytest

from userservice.v1.user_pb2 import User
from userservice.v1.user_service_pb2 import FindUsersResponse
from userservice.v1.view_pb2 import VIEW_FULL
from userservice_server.domain.finding import Search, found_page
from userservice_server.domain.ports import FindQuery, FoundUsers
from userservice_server.domain.stream_memory import ReadLimit
from userservice_server.domain.users import Users
from userservice_server.wire.emails import all_normalized, email_in, emails_in, normalized
from userservice_server.wire.records import frame


def records(ids: Sequence[int], size: int = 0) -> list[bytes]:
    return [
        frame(User(user_id=f"u{number}", id=number, uuid=str(uuid4()), email="E@x", last_name="x" * size))
        for number in ids
    ]


@pytest.mark.parametrize("others", [[], ["É@x", "\u212a@x", "E\u0301@x", "ß" * 63, "ß" * 64, "ß" * 160]])
def test_addresses_of_many_records_are_read_and_normalized_as_those_of_one(others: list[str]) -> None:
    """Addresses of 128 bytes and more have a length of two bytes."""
    emails = ["", "Ada@Example.com", "a" * 127, "a" * 128, "A" * 320, *others]
    found = [frame(User(user_id="u", id=1, uuid=str(uuid4()), email=email, last_name="x")) for email in emails]
    assert emails_in(found) == list(map(email_in, found)) == emails
    assert all_normalized(emails) == list(map(normalized, emails))


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


async def test_a_user_whose_address_changes_between_two_scripts_is_returned_once() -> None:
    """The search for more than 200 addresses needs several scripts."""
    store = Partitions(FoundUsers(0, records([64, 128])))
    found = FindUsersResponse.FromString(
        await found_page(store, Search.of(["e@x", *(f"{number}@x" for number in range(200))], 10, 0), None)  # type: ignore[arg-type]
    )
    assert [user.id for user in found.users] == [64, 128]


async def test_a_partition_is_asked_for_its_share_of_a_page() -> None:
    queries: list[FindQuery] = []

    class Asked(Partitions):
        async def find(self, table: int, query: FindQuery, identity: object) -> FoundUsers:
            queries.append(query)
            return await super().find(table, query, identity)

    for partitions, limit, wanted in ((1, 1000, 1000), (16, 20, 20), (16, 1000, 87), (64, 1000, 32)):
        queries.clear()
        await page(Asked(*[FoundUsers(0, [])] * partitions), limit)
        assert {query.limit for query in queries} == {wanted}


@pytest.mark.parametrize("cursor", [0, 64])
async def test_few_searches_for_many_addresses_run_at_the_same_time(cursor: int) -> None:
    """The replies of each can take tens of MiB."""
    running = most = 0

    class Slow(Partitions):
        async def find(self, table: int, query: FindQuery, identity: object) -> FoundUsers:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await asyncio.sleep(0.01)
            running -= 1
            return await super().find(table, query, identity)

        async def reread(self, read: Any) -> Any:
            return await read()

    users = Users(Slow(FoundUsers(0, [])), ReadLimit())  # type: ignore[arg-type]
    emails = [f"{number}@x" for number in range(101)]
    await asyncio.gather(*(users.find(emails, 10, cursor, VIEW_FULL) for _ in range(20)))
    assert most <= 4
