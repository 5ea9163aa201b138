"""The work of one call is limited if it has a filter; cases/filters.json contains the other cases."""

import pytest
from harness.connections import Stubs
from harness.population import fill
from harness.services import Service
from harness.stores import Store

from userservice import SyncUserManager
from userservice.v1 import user_service_pb2 as messages
from userservice_server.domain.filters import selecting

LARGE, MANY = 60_000, 400  # 23 MiB, so a page examines about 280 users
WANTED = "metadata.k : 'y' AND email = 'e*'"


@pytest.mark.parametrize("order_by", ["id", "id desc"])
async def test_a_page_without_users_has_a_cursor(stubs: Stubs, store: Store, service: Service, order_by: str) -> None:
    stored = fill(store, [f"u{number}" for number in range(MANY)], [LARGE] * MANY, email="e")
    request = messages.ListUsersRequest(filter=WANTED, order_by=order_by)
    page = await stubs.users.ListUsers(request, timeout=30)
    assert (list(page.users), page.total_size) == ([], 0)
    examined = sorted((user.id for user in stored.values()), reverse=order_by != "id").index(page.next_cursor) + 1
    assert 200 < examined < MANY
    request.cursor = page.next_cursor
    assert not (await stubs.users.ListUsers(request, timeout=30)).next_cursor
    if order_by != "id":
        return
    chunked = messages.ListUsersChunkedRequest(filter=WANTED)
    chunks = [(len(chunk.users), bool(chunk.next_cursor)) async for chunk in stubs.users.ListUsersChunked(chunked)]
    assert chunks == [(0, True), (0, False)]
    with SyncUserManager(service.address, timeout=30) as users:
        last = users.update({"user_id": f"u{MANY - 1}", "metadata": {"k": "y"}})
        assert list(users.list_chunked(filter=WANTED)) == [[last]]
        assert users.count(WANTED) == 1


@pytest.mark.long
async def test_a_count_examines_at_most_100_000_users_per_call(stubs: Stubs, store: Store, service: Service) -> None:
    stored = list(fill(store, [f"u{number}" for number in range(100_050)], email="e").values())
    request = messages.CountUsersRequest(filter="email = 'e'")
    first = await stubs.users.CountUsers(request, timeout=60)
    assert (first.count, first.next_cursor) == (100_000, stored[99_999].id)
    request.cursor = first.next_cursor
    second = await stubs.users.CountUsers(request, timeout=60)
    assert (second.count, second.next_cursor) == (50, 0)
    with SyncUserManager(service.address, timeout=60) as users:
        assert users.count("email = 'e'") == 100_050


@pytest.mark.long
async def test_a_count_examines_at_most_64_mib_per_call(stubs: Stubs, store: Store) -> None:
    fill(store, [f"u{number}" for number in range(1300)], [LARGE] * 1300)
    found = await stubs.users.CountUsers(messages.CountUsersRequest(filter="metadata : 'k'"), timeout=60)
    assert 1100 < found.count < 1300
    assert found.next_cursor


def test_users_without_the_text_of_the_filter_are_not_decoded() -> None:
    matching = selecting("email = 'nobody' AND metadata.a > 1")
    assert matching is not None
    assert matching([b"not a record"]) == []
