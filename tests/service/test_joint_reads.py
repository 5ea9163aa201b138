"""Lists of a store whose partitions are all on one server: a script on this server merges small ranges."""

from collections.abc import Iterator

import grpc
import pytest
from harness.connections import connect_blocking
from harness.failures import failure_of
from harness.ports import free_port
from harness.services import Service
from harness.stores import Store

from userservice import SyncUserManager
from userservice.v1.user_service_pb2 import CountUsersRequest, ListUsersChunkedRequest, ListUsersRequest
from userservice.v1.user_service_pb2_grpc import UserServiceStub
from userservice_server.config import Store as StoreSettings
from userservice_server.domain.ports import TableRead
from userservice_server.errors import StoreChangedError
from userservice_server.process.store_opening import open_store
from userservice_server.store.keys import Keys

PARTITIONS = 16
COUNT = 700
TABLES = Keys("userservice", PARTITIONS).all_users()


@pytest.fixture(scope="module")
def running() -> Iterator[tuple[Store, Service]]:
    """A store with imported users, whose ids follow each other in each partition, and with users added one by one."""
    with Store() as store, Service("--partitions", str(PARTITIONS), redis_url=store.url) as service:
        with SyncUserManager(service.address) as users:
            users.import_users({"user_id": f"imported{number}"} for number in range(COUNT - 20))
            for number in range(20):
                users.add(user_id=f"added{number}")
        yield store, service


def ids_of(store: Store) -> list[int]:
    """Returns the ids of all users in the store, in order."""
    with store.client() as client:
        return sorted(int(score) for table in TABLES for _, score in client.zrange(table.rows, 0, -1, withscores=True))


def calls_of(store: Store, command: str) -> int:
    """Returns how many times the store has executed a command."""
    with store.client() as client:
        return int(client.info("commandstats").get(f"cmdstat_{command}", {"calls": 0})["calls"])


def learn_the_size_of_records(users: UserServiceStub) -> None:
    """Reads pages until the service estimates the size of a record; until then, it reads fewer records at once."""
    for _ in range(10):
        users.ListUsers(ListUsersRequest(limit=100))


def pages(users: UserServiceStub, limit: int, order_by: str = "") -> list[list[int]]:
    """Returns the ids of each page."""
    found, request = [], ListUsersRequest(limit=limit, order_by=order_by)
    while True:
        page = users.ListUsers(request)
        assert page.total_size == COUNT
        found.append([user.id for user in page.users])
        request.cursor = page.next_cursor
        if not page.next_cursor:
            return found


@pytest.mark.parametrize("order_by", ["id", "id desc"])
def test_pages_are_in_the_order_of_ids(running: tuple[Store, Service], order_by: str) -> None:
    store, service = running
    expected = ids_of(store)
    assert len(expected) == COUNT
    if order_by != "id":
        expected.reverse()
    with connect_blocking(service.address) as stubs:
        for limit in (13, 100, 128, 1000):
            found = pages(stubs.users, limit, order_by)
            assert [user for page in found for user in page] == expected
            assert {len(page) for page in found[:-1]} <= {limit}
        assert stubs.users.CountUsers(CountUsersRequest()).count == COUNT


def test_a_stream_and_its_continuation_are_in_the_order_of_ids(running: tuple[Store, Service]) -> None:
    store, service = running
    expected = ids_of(store)
    with connect_blocking(service.address) as stubs:
        for chunk_size, cursor, end in ((1000, 0, 0), (50, 0, 0), (50, expected[99], expected[299])):
            request = ListUsersChunkedRequest(chunk_size=chunk_size, cursor=cursor, end_cursor=end)
            found = [user.id for chunk in stubs.users.ListUsersChunked(request) for user in chunk.users]
            assert found == [user for user in expected if cursor < user <= (end or expected[-1])]


def test_a_page_is_read_by_two_scripts(running: tuple[Store, Service]) -> None:
    """Later pages are not read ahead."""
    store, service = running
    with connect_blocking(service.address) as stubs:
        learn_the_size_of_records(stubs.users)
        before = calls_of(store, "evalsha")
        for _ in range(20):
            stubs.users.ListUsers(ListUsersRequest(limit=100))
        # The health checks run scripts too.
        assert 20 * 2 <= calls_of(store, "evalsha") - before < 20 * 3


def test_a_page_of_one_partition_reads_nothing_ahead() -> None:
    with Store() as store, Service(redis_url=store.url) as service, connect_blocking(service.address) as stubs:
        with SyncUserManager(service.address) as users:
            users.import_users({"user_id": f"user{number}"} for number in range(300))
        learn_the_size_of_records(stubs.users)
        before = calls_of(store, "zrange")
        for _ in range(5):
            assert len(stubs.users.ListUsers(ListUsersRequest(limit=100)).users) == 100
        assert calls_of(store, "zrange") - before == 5 * 2, "the newest user, and one range"


@pytest.mark.parametrize(("fault", "count"), [("lost", 5), ("replaced", 200)])
async def test_a_read_of_several_ranges_is_rejected_if_the_store_was(fault: str, count: int) -> None:
    """Streams read so after their first users. With 5 users, most partitions are empty."""
    with Store() as store, store.client() as client:
        service = Service("--partitions", str(PARTITIONS), redis_url=store.url)
        with service, SyncUserManager(service.address) as users:
            users.import_users({"user_id": f"user{number}"} for number in range(count))
        settings = StoreSettings(redis_url=store.url, partitions=PARTITIONS)
        service_store = await open_store(settings, lambda: False, lambda: None, 5, None)
        try:
            reads = [TableRead(table, 0, count) for table in service_store.tables.all_users()]

            async def read() -> int:
                ranges = await service_store.ranges(
                    reads, service_store.identity, is_resumed=False, descending=False, end=0
                )
                return sum(map(len, ranges)) // 2

            assert await read() == count
            if fault == "lost":
                client.delete(next(table.rows for table in TABLES if client.exists(table.rows)))
            else:
                for table in TABLES:
                    client.set(table.store_id, "of another store")
            with pytest.raises(StoreChangedError):
                await read()
        finally:
            await service_store.close()


@pytest.mark.parametrize("fault", ["lost", "replaced"])
def test_pages_are_rejected_if_a_partition_was(fault: str) -> None:
    with (
        Store() as store,
        Service("--partitions", str(PARTITIONS), redis_url=store.url) as service,
        connect_blocking(service.address) as stubs,
        store.client() as client,
    ):
        with SyncUserManager(service.address) as users:
            users.import_users({"user_id": f"user{number}"} for number in range(200))
        cursor = stubs.users.ListUsers(ListUsersRequest(limit=50)).next_cursor
        if fault == "lost":
            client.delete(TABLES[7].rows)
        else:
            client.set(TABLES[7].store_id, "of another store")
        for request in (ListUsersRequest(limit=50), ListUsersRequest(limit=50, cursor=cursor)):
            with pytest.raises(grpc.RpcError) as raised:
                stubs.users.ListUsers(request)
            assert failure_of(raised.value).reason == "STORE_CHANGED"


def test_a_server_whose_scripts_cannot_use_several_partitions() -> None:
    """Simulates a proxy that hides the shards of a cluster: a cluster of one node, whose user may not run INFO."""
    port = free_port()
    with Store("redis", port=port, options=["--cluster-enabled", "yes", "--cluster-port", str(free_port())]) as store:
        with store.client() as client:
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            client.execute_command("ACL", "SETUSER", "app", "on", ">secret", "~*", "&*", "+@all", "-info")
            client.execute_command("CONFIG", "SET", "cluster-require-full-coverage", "no")
        url = f"redis://app:secret@127.0.0.1:{port}"
        with Service("--partitions", str(PARTITIONS), redis_url=url) as service:
            with SyncUserManager(service.address) as users:
                users.import_users({"user_id": f"user{number}"} for number in range(COUNT))
            with connect_blocking(service.address) as stubs:
                found = pages(stubs.users, 100)
        assert [user for page in found for user in page] == ids_of(store)
