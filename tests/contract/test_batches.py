"""BatchGetUsers of many users: order, duplicates, missing users and large responses, however the store reads them."""

import random
from collections.abc import Iterator

import pytest
from harness.connections import Stubs, connect
from harness.population import fill
from harness.services import Service
from harness.stores import Store

from userservice import UserManager
from userservice.v1.user_pb2 import User
from userservice.v1.user_service_pb2 import BatchGetUsersRequest, BatchGetUsersResponse

MIB = 1 << 20
NAMES = [f"u{number}" for number in range(4000)]
LARGEST_METADATA = 65521  # characters: 64 KiB encoded


def expected(stored: dict[str, User], user_ids: list[str]) -> BatchGetUsersResponse:
    return BatchGetUsersResponse(
        users=[stored[user_id] for user_id in user_ids if user_id in stored],
        missing_user_ids=[user_id for user_id in user_ids if user_id not in stored],
    )


def shuffled(user_ids: list[str]) -> list[str]:
    return random.Random(12).sample(user_ids, len(user_ids))  # noqa: S311 - no secret


NEIGHBOURS = NAMES[700:1700]
BATCHES = {
    "neighbours": NEIGHBOURS,
    "neighbours in another order": shuffled(NEIGHBOURS),
    "every second one": NAMES[::2][:1000],
    "far from each other": NAMES[::4],
    "far from each other in another order": shuffled(NAMES)[:1000],
    "each twice": shuffled(NEIGHBOURS[:500] * 2),
    "one user a thousand times": ["u7"] * 1000,
    "half of them missing": shuffled(NAMES[:500] + [f"missing {number}" for number in range(500)]),
    "missing in every second place": [name for user_id in NAMES[:500] for name in (user_id, f"{user_id} missing")],
    "all missing": [f"missing {number}" for number in range(1000)],
    "the first and the last": [NAMES[0], NAMES[-1]],
    "one": ["u9"],
    "one more than a script reads": NAMES[:201],
}


@pytest.fixture(scope="module")
def filled(backend: str) -> Iterator[tuple[Store, Service, dict[str, User]]]:
    """A service without metrics and its store with users. Metrics read the store too, to count sessions."""
    with Store(backend) as store:
        stored = fill(store, NAMES)
        with Service(redis_url=store.url) as service:
            yield store, service, stored


async def test_a_batch_has_the_order_of_the_request(store: Store, stubs: Stubs) -> None:
    stored = fill(store, NAMES, email="ada@example.org")
    for what, user_ids in BATCHES.items():
        batch = await stubs.users.BatchGetUsers(BatchGetUsersRequest(user_ids=user_ids), timeout=30)
        assert batch == expected(stored, user_ids), what


@pytest.mark.parametrize(
    ("user_ids", "most_reads"),
    [
        (NAMES[100:300], 2),
        (shuffled(NAMES[100:300]), 2),
        (NAMES[100:300] * 2, 4),
        # Two far users are two reads; one read from the first to the last would return the whole store.
        ([NAMES[0], NAMES[-1]], 3),
    ],
    ids=["neighbours", "in another order", "twice", "far"],
)
async def test_neighbours_are_read_at_once_and_only_they(
    filled: tuple[Store, Service, dict[str, User]], user_ids: list[str], most_reads: int
) -> None:
    store, service, stored = filled
    request = BatchGetUsersRequest(user_ids=user_ids)
    async with connect(service.address) as stubs:
        await stubs.users.BatchGetUsers(request, timeout=30)  # the service finds the new store
        with store.client() as client:
            client.config_resetstat()
            batch = await stubs.users.BatchGetUsers(request, timeout=30)
            statistics = client.info("commandstats")["cmdstat_zrange"]
    assert batch == expected(stored, user_ids)
    assert statistics["calls"] == most_reads


@pytest.mark.parametrize("count", [20, 80])
async def test_a_batch_may_be_larger_than_1_and_4_mib(store: Store, service: Service, count: int) -> None:
    """No limit of a page or chunk applies; grpc's own limit of 4 MiB is the caller's to raise, as the clients do."""
    names = [f"u{number}" for number in range(count)]
    stored = fill(store, names, sizes=[LARGEST_METADATA] * count)
    user_ids = shuffled(names)
    async with connect(service.address, ("grpc.max_receive_message_length", -1)) as stubs:
        batch = await stubs.users.BatchGetUsers(BatchGetUsersRequest(user_ids=user_ids), timeout=30)
    assert batch == expected(stored, user_ids)
    assert batch.ByteSize() > (MIB if count == 20 else 4 * MIB)
    async with UserManager(service.address) as manager:
        users = await manager.batch_get([*user_ids, "missing"])
    assert [(user.user_id, user.etag) for user in users] == [(name, stored[name].etag) for name in user_ids]
