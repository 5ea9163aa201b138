"""A store in a Redis or Valkey Cluster: order of lists, redirects, failovers, lost partitions, wrong URLs."""

import asyncio
import contextlib
import zlib
from collections.abc import Iterator
from uuid import uuid4

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from harness.clusters import Cluster
from harness.connections import Stubs, connect, connect_blocking, health
from harness.failures import failure_of
from harness.population import add_users, names, read_chunks
from harness.ports import free_port
from harness.refusals import refusal_of
from harness.services import Service
from harness.stores import Store
from harness.waiting import until

from userservice.v1.session_service_pb2 import AddSessionRequest, GetSessionRequest
from userservice.v1.user_service_pb2 import (
    AddUserRequest,
    BatchGetUsersRequest,
    CountUsersRequest,
    DeleteUserRequest,
    GetUserRequest,
    GetUserSessionsRequest,
    ListUsersChunkedRequest,
    ListUsersChunkedResponse,
    ListUsersRequest,
    PlanUserScanRequest,
    UpdateUserRequest,
)
from userservice_server.check import check
from userservice_server.config.settings import _PARTITION_COUNTS
from userservice_server.store.keys import Keys
from userservice_server.store.partitions import PARTITION_COUNTS, SLOTS, slot_of, tags
from userservice_server.wire import ids

NODE_TIMEOUT_MS = 2000
KEYS = Keys("userservice", 16)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster("redis", masters=3, node_timeout_ms=NODE_TIMEOUT_MS) as made:
        yield made


@pytest.fixture(scope="module", name="running")
def _running(cluster: Cluster) -> Iterator[Service]:
    with Service(redis_url=cluster.url) as service:
        yield service
        assert service.stop() == 0


def slot_of_user(user_id: str) -> int:
    return slot_of(KEYS.users(user_id).rows)


async def test_lists_are_in_the_order_of_ids_and_end_once(running: Service) -> None:
    user_ids = [f"u{number}" for number in range(1000)]
    async with connect(running.address) as stubs:
        added = await add_users(stubs, user_ids)
        expected = sorted(added, key=lambda user_id: added[user_id].id)
        assert len({zlib.crc32(user_id.encode()) % 16 for user_id in user_ids}) == 16
        for chunk_size in (7, 100, 1000):
            chunks = await read_chunks(stubs, chunk_size)
            assert names(chunks) == expected
            assert {chunk.total_size for chunk in chunks} == {1000}
            assert [bool(chunk.next_cursor) for chunk in chunks] == [True] * (len(chunks) - 1) + [False]
        assert names(await read_chunks(stubs, 50, added[expected[499]].id)) == expected[500:]
        found, cursor = [], 0
        while True:
            page = await stubs.users.ListUsers(ListUsersRequest(limit=300, cursor=cursor))
            found += [user.user_id for user in page.users]
            cursor = page.next_cursor
            if not cursor:
                break
        assert found == expected
        batch = await stubs.users.BatchGetUsers(BatchGetUsersRequest(user_ids=["u7", "none", "u3", "u7", "u999"]))
        assert [user.user_id for user in batch.users] == ["u7", "u3", "u7", "u999"]
        assert list(batch.missing_user_ids) == ["none"]


async def test_calls_are_atomic_and_idempotent_in_every_partition(running: Service) -> None:
    async with connect(running.address) as stubs:
        for number in range(32):
            user_id, request_id = f"call{number}", str(uuid4())
            for _ in range(2):
                await stubs.users.AddUser(AddUserRequest(user_id=user_id, request_id=request_id))
            await stubs.users.UpdateUser(UpdateUserRequest(user_id=user_id, email=user_id))
            await stubs.sessions.AddSession(AddSessionRequest(user_id=user_id, session_id="s"))
            await stubs.sessions.GetSession(GetSessionRequest(user_id=user_id, session_id="s"))
            sessions = await stubs.users.GetUserSessions(GetUserSessionsRequest(user_id=user_id))
            assert [session.session_id for session in sessions.sessions] == ["s"]
            assert (await stubs.users.GetUser(GetUserRequest(user_id=user_id))).user.email == user_id
            await stubs.users.DeleteUser(DeleteUserRequest(user_id=user_id))
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await stubs.sessions.GetSession(GetSessionRequest(user_id=user_id, session_id="s"))
            assert failure_of(raised.value).reason == "USER_NOT_FOUND"


async def test_a_slot_that_moves_key_by_key_is_followed(cluster: Cluster, running: Service) -> None:
    """ASK with many callers, TRYAGAIN while half of the keys have moved, and MOVED at the end."""
    user_id = "moved"
    slot = slot_of_user(user_id)
    source = cluster.owner(slot)
    target = next(node for node in cluster.masters if node is not source)
    async with connect(running.address) as stubs:
        await add_users(stubs, [user_id])

        async def read(rounds: int) -> None:
            for _ in range(rounds):
                found = (await stubs.users.GetUser(GetUserRequest(user_id=user_id), timeout=10)).user
                assert found.user_id == user_id

        async with asyncio.TaskGroup() as tasks:
            for _ in range(64):
                tasks.create_task(read(20))
            await asyncio.to_thread(cluster.move_slot, slot, source, target, pause=0.02, ends=False)
        await asyncio.gather(*(read(2) for _ in range(64)))  # all keys have moved: every command is redirected by ASK
        cluster.end_move(slot, target)
        await read(1)
        await stubs.users.UpdateUser(UpdateUserRequest(user_id=user_id, email="after"))
        assert len(names(await read_chunks(stubs, 1000))) == len(set(names(await read_chunks(stubs, 1000))))
    assert cluster.owner(slot) is target
    assert check(cluster.url, "userservice", 5).findings == []


async def test_a_command_waits_for_half_moved_keys(cluster: Cluster, running: Service) -> None:
    """A script whose keys are on two nodes is rejected with TRYAGAIN."""
    user_id = "half"
    slot = slot_of_user(user_id)
    source = cluster.owner(slot)
    target = next(node for node in cluster.masters if node is not source)
    async with connect(running.address) as stubs:
        await add_users(stubs, [user_id])
        cluster.move_slot(slot, source, target, keys=2)
        adding = asyncio.create_task(add_users(stubs, [in_slot(slot)]))
        await asyncio.sleep(0.3)
        assert not adding.done()
        await asyncio.to_thread(cluster.move_slot, slot, source, target)
        await adding
        assert (await stubs.users.GetUser(GetUserRequest(user_id=user_id))).user.user_id == user_id


def in_slot(slot: int) -> str:
    """Returns a user_id whose partition is in this slot."""
    return next(name for number in range(10_000) if slot_of_user(name := f"in{number}") == slot)


async def test_nodes_that_redirect_to_each_other_are_not_followed_for_ever(cluster: Cluster, running: Service) -> None:
    user_id = "loop"
    slot = slot_of_user(user_id)
    source = cluster.owner(slot)
    target = next(node for node in cluster.masters if node is not source)
    async with connect(running.address) as stubs:
        await add_users(stubs, [user_id])
        await asyncio.to_thread(cluster.move_slot, slot, source, target, ends=False)
        with target.client() as client:  # the target no longer imports the slot, so it answers ASKING with MOVED
            client.execute_command("CLUSTER", "SETSLOT", slot, "STABLE")
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await stubs.users.GetUser(GetUserRequest(user_id=user_id), timeout=10)
        assert failure_of(raised.value).reason == "STORE_UNAVAILABLE"
        cluster.end_move(slot, target)
        assert (await stubs.users.GetUser(GetUserRequest(user_id=user_id))).user.user_id == user_id


async def test_nodes_may_leave_their_host_out(cluster: Cluster) -> None:
    """CLUSTER SLOTS and MOVED then contain only the port."""
    with contextlib.ExitStack() as resetting:
        for node in cluster.nodes:
            client = resetting.enter_context(node.client())
            client.config_set("cluster-preferred-endpoint-type", "unknown-endpoint")
            resetting.callback(client.config_set, "cluster-preferred-endpoint-type", "ip")
        with Service(redis_url=cluster.url) as service:
            async with connect(service.address) as stubs:
                await add_users(stubs, [f"host{number}" for number in range(32)])
                slot = slot_of_user("host1")
                source = cluster.owner(slot)
                target = next(node for node in cluster.masters if node is not source)
                await asyncio.to_thread(cluster.move_slot, slot, source, target)
                assert (await stubs.users.GetUser(GetUserRequest(user_id="host1"))).user.user_id == "host1"


def test_the_check_reads_all_masters(cluster: Cluster, running: Service) -> None:
    assert running.address
    names_of_keys = [f"userservice:{{{tag}}}:unknown" for tag in tags(16)]
    assert len({cluster.owner(slot_of(name.encode())).port for name in names_of_keys}) == 3
    with cluster.client() as client:
        for name in names_of_keys:
            client.set(name, "x")
        report = check(cluster.url, "userservice", 5)
        for name in names_of_keys:
            client.delete(name)
    assert sorted(finding.key for finding in report.findings) == sorted(name.encode() for name in names_of_keys)


@pytest.mark.long
def test_expired_sessions_are_removed_in_every_partition(cluster: Cluster, running: Service) -> None:
    tables = [KEYS.sessions(f"ends{number}") for number in range(64)]
    assert {table.partition for table in tables} == set(range(16))
    with connect_blocking(running.address) as stubs, cluster.client() as client:
        for table in tables:
            stubs.users.AddUser(AddUserRequest(user_id=table.owner))
            for session_id, seconds in (("short", 1), ("long", 900)):
                ttl = Duration(seconds=seconds)
                stubs.sessions.AddSession(AddSessionRequest(user_id=table.owner, session_id=session_id, ttl=ttl))
        until(lambda: all(client.zcard(table.rows) == client.zcard(table.session_expiry) == 1 for table in tables))
        assert check(cluster.url, "userservice", 5).findings == []
        # The check compares these keys on every master.
        queues = {table.partition: table.expiry_queue for table in tables}.values()
        assert len({cluster.owner(slot_of(queue)).port for queue in queues}) == 3
        for queue in queues:
            client.delete(queue)
        findings = check(cluster.url, "userservice", 5).findings
        assert sorted(finding.key for finding in findings) == sorted(table.session_expiry for table in tables)
        for table in tables:
            stubs.users.DeleteUser(DeleteUserRequest(user_id=table.owner))
    assert check(cluster.url, "userservice", 5).findings == []


async def test_a_list_has_no_end_while_a_master_rejects_writes(cluster: Cluster, running: Service) -> None:
    """The service cannot raise the last ids of its partitions. A master without free memory still allows this."""
    async with connect(running.address) as stubs:
        added = await add_users(stubs, [f"end{number}" for number in range(32)])
        start = min(user.id for user in added.values()) - 1
        expected = sorted(added, key=lambda user_id: added[user_id].id)
        last = added[expected[-1]].id
        victim = next(node for node in cluster.masters if node is not cluster.owner(slot_of_user(expected[-1])))
        with victim.client() as client:
            client.config_set("min-replicas-to-write", 1)
            try:
                page = await stubs.users.ListUsers(ListUsersRequest(limit=1000, cursor=start))
                assert [user.user_id for user in page.users] == expected
                assert page.next_cursor == last
                nobody = "email = 'nobody'"
                page = await stubs.users.ListUsers(ListUsersRequest(limit=1000, cursor=start, filter=nobody))
                assert (list(page.users), page.next_cursor) == ([], last), "not an end"
                chunks: list[ListUsersChunkedResponse] = []

                async def read() -> None:
                    async for chunk in stubs.users.ListUsersChunked(ListUsersChunkedRequest(cursor=start)):
                        chunks.append(chunk)  # noqa: PERF401 - those before the error

                with pytest.raises(grpc.aio.AioRpcError) as raised:
                    await read()
                assert failure_of(raised.value).reason == "STORE_UNAVAILABLE"
                with pytest.raises(grpc.aio.AioRpcError) as raised:
                    await stubs.users.PlanUserScan(PlanUserScanRequest())
                assert failure_of(raised.value).reason == "STORE_UNAVAILABLE"
                assert names(chunks) == expected
                assert chunks[-1].next_cursor == last
            finally:
                client.config_set("min-replicas-to-write", 0)
            client.config_set("maxmemory", 1024)
            try:
                assert names(await read_chunks(stubs, 1000, start)) == expected
                assert (await stubs.users.PlanUserScan(PlanUserScanRequest())).parts
            finally:
                client.config_set("maxmemory", "200mb")


@pytest.mark.parametrize("read", ["stream", "pages", "parts"])
async def test_later_users_are_after_the_end_of_a_list(cluster: Cluster, running: Service, read: str) -> None:
    """One partition assigns ids of the future, as if the clocks of the other nodes were 10 s behind."""

    async def follow(cursor: int) -> list[str]:
        if read != "pages":
            return names(await read_chunks(stubs, 1000, cursor))
        page = await stubs.users.ListUsers(ListUsersRequest(limit=1000, cursor=cursor))
        assert not page.next_cursor
        return [user.user_id for user in page.users]

    ahead, behind = f"ahead-{read}", f"behind-{read}"
    assert KEYS.users(ahead) != KEYS.users(behind)
    async with connect(running.address) as stubs:
        start = (await add_users(stubs, [f"start-{read}"]))[f"start-{read}"].id
        with cluster.client() as client:
            client.incrby(KEYS.users(ahead).last_id, 10 * ids.TICKS_A_SECOND * ids.PARTITIONS)
        end = (await add_users(stubs, [ahead]))[ahead].id
        if read == "parts":
            plan = await stubs.users.PlanUserScan(PlanUserScanRequest())
            assert {part.end_cursor for part in plan.parts} == {end}
        else:
            assert await follow(start) == [ahead]
        await add_users(stubs, [behind])
        assert await follow(end) == [behind]


@pytest.mark.long
def test_bad_urls_are_rejected_with_one_line(cluster: Cluster) -> None:
    node = cluster.nodes[0]
    assert "the server is part of a cluster; use redis-cluster://" in refusal_of(redis_url=node.url)
    assert "a cluster has only database 0" in refusal_of(redis_url=f"{cluster.url}/1")
    assert "--partitions must be 1, 16 or 64" in refusal_of("--partitions", "8", redis_url=cluster.url)
    assert "16 partitions, and --partitions 64 cannot change" in refusal_of("--partitions", "64", redis_url=cluster.url)
    one = refusal_of("--partitions", "1", "--key-prefix", "other", redis_url=cluster.url)
    assert "a store with one partition cannot be in a cluster" in one
    with Store(port=free_port()) as store:
        line = refusal_of(redis_url=f"redis-cluster://127.0.0.1:{store.port}")
        assert "the server is not part of a cluster" in line
    with Store("redis", port=free_port(), options=["--cluster-enabled", "yes"]) as store:
        line = refusal_of(redis_url=f"redis-cluster://127.0.0.1:{store.port}")
        assert "the cluster does not cover all slots" in line


def test_a_store_with_several_partitions_on_one_server(cluster: Cluster) -> None:
    assert cluster.backend
    with Store(port=free_port()) as store:
        with Service("--partitions", "64", redis_url=store.url) as service, connect_blocking(service.address) as stubs:
            added = [
                stubs.users.AddUser(AddUserRequest(user_id=f"u{number}", last_name=str(number)[-1])).user
                for number in range(300)
            ]
            page = stubs.users.ListUsers(ListUsersRequest(limit=1000))
            assert [user.user_id for user in page.users] == [user.user_id for user in added]
            expected = [user.user_id for user in added if user.user_id.endswith("7")]
            found, request = [], ListUsersRequest(limit=7, filter="first_name != '' OR last_name = '7'")
            while page := stubs.users.ListUsers(request):
                assert page.total_size == 0
                found += [user.user_id for user in page.users]
                request.cursor = page.next_cursor
                if not page.next_cursor:
                    break
            assert found == expected
            assert stubs.users.CountUsers(CountUsersRequest(filter=request.filter)).count == len(expected)
            assert stubs.users.CountUsers(CountUsersRequest()).count == 300
        assert "the store has 64 partitions" in refusal_of("--partitions", "1", redis_url=store.url)
        with Service(redis_url=store.url) as service, connect_blocking(service.address) as stubs:
            assert stubs.users.ListUsers(ListUsersRequest()).total_size == 300
        assert check(store.url, "userservice", 5).users == 300


@pytest.mark.long
async def test_masters_that_hang_are_unavailable_and_the_others_are_not(cluster: Cluster) -> None:
    first, *others = cluster.masters
    held = {user_id: cluster.owner(slot_of_user(user_id)) for user_id in (f"hang{number}" for number in range(32))}
    lost, kept = (next(user_id for user_id in held if (held[user_id] is first) is hangs) for hangs in (True, False))
    with Service("--store-timeout", "1.5", redis_url=cluster.url) as service:
        async with connect(service.address) as stubs:
            await add_users(stubs, [lost, kept])
            for user_id in (lost, kept):
                ttl = Duration(seconds=1)
                await stubs.sessions.AddSession(AddSessionRequest(user_id=user_id, session_id="s", ttl=ttl))
            try:
                first.freeze()
                await until_reason(stubs, lost)
                with held[kept].client() as client:
                    await asyncio.to_thread(until, lambda: not client.exists(KEYS.sessions(kept).session_expiry))
                for _ in range(20):
                    await stubs.users.GetUser(GetUserRequest(user_id=kept))
                    assert health(service.address) == "SERVING"
                    await asyncio.sleep(0.1)
                for node in others:
                    node.freeze()
                await asyncio.to_thread(until, lambda: health(service.address) == "NOT_SERVING")
                for _ in range(20):
                    assert health(service.address) == "NOT_SERVING"
                    await asyncio.sleep(0.2)
            finally:
                for node in (first, *others):
                    node.thaw()
            await asyncio.to_thread(cluster.settle, 0)
            await asyncio.to_thread(until, lambda: health(service.address) == "SERVING")
            for user_id in (lost, kept):
                assert (await stubs.users.GetUser(GetUserRequest(user_id=user_id))).user.user_id == user_id
            with cluster.client() as client:
                await asyncio.to_thread(until, lambda: not client.exists(KEYS.sessions(lost).session_expiry))


async def until_reason(stubs: Stubs, user_id: str) -> None:
    """Reads a user of a master that hangs."""
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await stubs.users.GetUser(GetUserRequest(user_id=user_id), timeout=10)
    assert failure_of(raised.value).reason == "STORE_UNAVAILABLE"


async def test_a_partition_that_lost_its_keys_is_not_created_again(cluster: Cluster, running: Service) -> None:
    async with connect(running.address) as stubs:
        await add_users(stubs, [f"lost{number}" for number in range(50)])
        victim = cluster.owner(slot_of_user("lost7"))
        victim.empty()
        await asyncio.to_thread(until, lambda: health(running.address) == "NOT_SERVING")
        for call in (
            stubs.users.GetUser(GetUserRequest(user_id="lost7")),
            stubs.users.AddUser(AddUserRequest(user_id="lost7")),
            stubs.users.ListUsers(ListUsersRequest()),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await call
            assert failure_of(raised.value).reason == "STORE_CHANGED"
        assert "the partition is empty" in refusal_of(redis_url=cluster.url)
        # A store that was emptied as a whole is a new store.
        cluster.empty()
        await asyncio.to_thread(until, lambda: health(running.address) == "SERVING")
        await add_users(stubs, ["lost7"])
        assert names(await read_chunks(stubs)) == ["lost7"]


def test_the_tags_distribute_the_partitions() -> None:
    assert _PARTITION_COUNTS == PARTITION_COUNTS
    assert tags(1) == ("0",)
    for count in PARTITION_COUNTS[1:]:
        slots = [slot_of(f"p:{{{tag}}}:users".encode()) for tag in tags(count)]
        share = SLOTS // count
        assert sorted(slot // share for slot in slots) == list(range(count))
        assert all(abs(slot % share - share // 2) <= share // 8 for slot in slots)
        for masters in range(3, 1 + (8 if count == 16 else 20)):
            held = [0] * masters
            for slot in slots:
                held[min(slot * masters // SLOTS, masters - 1)] += 1
            assert max(held) * masters / count <= {16: 1.32, 64: 1.25}[count]


def test_slots_are_those_of_the_engine(cluster: Cluster) -> None:
    with cluster.nodes[0].client() as client:
        for key in (
            "",
            "x",
            "{}x",
            "a{b}c",
            "{a}{b}",
            "x{",
            "}{x}",
            "{{a}}",
            "x{}{y}",
            KEYS.layout,
            KEYS.users("x").rows,
        ):
            encoded = key if isinstance(key, bytes) else key.encode()
            assert slot_of(encoded) == client.execute_command("CLUSTER", "KEYSLOT", encoded), key
