"""The server of an open connection becomes unfit: demoted, too few replicas, full disk, missing permissions."""

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any
from uuid import uuid4

import grpc
import pytest
from harness.connections import Stubs, connect, health
from harness.failures import failure_of
from harness.population import add_users, names, read_chunks
from harness.ports import free_port
from harness.proxies import Proxy
from harness.services import Service
from harness.stores import BACKENDS, Store, everything
from harness.tools import require
from harness.waiting import until

from userservice.v1.session_service_pb2 import AddSessionRequest, GetSessionRequest, UpdateSessionRequest
from userservice.v1.user_service_pb2 import (
    AddUserRequest,
    BatchGetUsersRequest,
    DeleteUserRequest,
    GetUserRequest,
    GetUserSessionsRequest,
    UpdateUserRequest,
)

RECOVERY = 2.0  # seconds from the moment at which the address leads to a fit server
DOCUMENT = Path(__file__).parents[2] / "docs" / "operations.md"


async def health_is(service: Service, expected: str) -> None:
    await asyncio.to_thread(until, lambda: health(service.address) == expected)


async def outcome(stubs: Stubs, user_id: str, request_id: str = "") -> str:
    """Adds a user; returns OK or the reason of the error."""
    try:
        await stubs.users.AddUser(AddUserRequest(user_id=user_id, request_id=request_id), timeout=10)
    except grpc.aio.AioRpcError as error:
        return failure_of(error).reason
    return "OK"


async def seconds_until_a_write_succeeds(stubs: Stubs, user_id: str) -> float:
    """Repeats one add without a request_id, so that a rejected add that was applied would be detected."""
    started = time.monotonic()
    while (found := await outcome(stubs, user_id)) != "OK":
        assert found in ("STORE_UNAVAILABLE", "STORE_CHANGED")
        assert time.monotonic() - started < 20
        await asyncio.sleep(0.02)
    return time.monotonic() - started


def copy_keys(source: Any, target: Any) -> None:
    for key in source.scan_iter():
        target.restore(key, 0, source.dump(key))


def log_of_outages(service: Service) -> list[dict[str, Any]]:
    return [line for line in service.log_lines_with("userservice.store") if line["message"].startswith("store ")]


# A failover, with the connections to the demoted primary open


class Writer:
    """Adds users one after the other, and repeats each add with its request_id until it is acknowledged."""

    def __init__(self, stubs: Stubs) -> None:
        self._stubs = stubs
        self.acknowledged: list[str] = []
        self.reasons: set[str] = set()
        self._is_ending = False

    async def run(self) -> None:
        while True:
            user_id, request_id = f"w{len(self.acknowledged)}", str(uuid4())
            while (found := await outcome(self._stubs, user_id, request_id)) != "OK":
                self.reasons.add(found)
                await asyncio.sleep(0.01)
            self.acknowledged.append(user_id)
            if self._is_ending:  # not after the pause: `end` waits for one more write
                return
            await asyncio.sleep(0.002)

    async def end(self) -> None:
        """Waits until the last write is acknowledged."""
        self._is_ending = True
        await self.another()

    async def another(self) -> float:
        """Returns after how many seconds the next write is acknowledged."""
        started, count = time.monotonic(), len(self.acknowledged)
        while len(self.acknowledged) == count:
            assert time.monotonic() - started < 20
            await asyncio.sleep(0.005)
        return time.monotonic() - started


async def read_for_ever(stubs: Stubs) -> None:
    while True:
        await stubs.users.GetUser(GetUserRequest(user_id="ada"), timeout=10)
        await stubs.users.BatchGetUsers(BatchGetUsersRequest(user_ids=["ada"]), timeout=10)


@contextlib.asynccontextmanager
async def running(*coroutines: Any) -> AsyncIterator[list["asyncio.Task[None]"]]:
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    try:
        yield tasks
        assert [error for task in tasks if task.done() and (error := task.exception())] == []
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def fail_over(old: Store, new: Store) -> None:
    """Makes the replica the primary without losing a write, and the old primary its replica."""
    with old.client() as demoted, new.client() as promoted:
        demoted.execute_command("REPLICAOF", "127.0.0.1", new.port)  # it rejects writes from now on
        written = demoted.info("replication")["master_repl_offset"]
        until(lambda: promoted.info("replication")["slave_repl_offset"] >= written)
        promoted.execute_command("REPLICAOF", "NO", "ONE")
        until(lambda: demoted.info("replication")["master_link_status"] == "up")


@contextlib.contextmanager
def primary_and_replica(backend: str) -> Iterator[tuple[Store, Store]]:
    options = ["--repl-diskless-sync-delay", "0"]
    with Store(backend, port=free_port(), options=options) as old, Store(backend, port=free_port()) as new:
        with new.client() as client:
            client.execute_command("REPLICAOF", "127.0.0.1", old.port)
            until(lambda: client.info("replication")["master_link_status"] == "up")
        yield old, new


@pytest.mark.parametrize("backend", ["valkey", pytest.param("redis", marks=pytest.mark.long)])
@pytest.mark.long
async def test_a_failover_while_the_old_primary_keeps_its_connections(backend: str) -> None:
    with (
        primary_and_replica(backend) as (old, new),
        Proxy(old.port or 0) as proxy,
        Service(redis_url=proxy.url) as service,
    ):
        async with connect(service.address) as stubs:
            await add_users(stubs, ["ada"])
            proxy.latency = 0.02  # so that there are always reads under way
            writer = Writer(stubs)
            async with running(writer.run(), *(read_for_ever(stubs) for _ in range(10))):
                await writer.another()
                await asyncio.to_thread(fail_over, old, new)
                await health_is(service, "NOT_SERVING")
                assert await outcome(stubs, "nobody") == "STORE_UNAVAILABLE"

                proxy.target = new.port or 0
                took = await writer.another()
                await health_is(service, "SERVING")
                await writer.end()
            assert writer.reasons == {"STORE_UNAVAILABLE"}
            assert took < RECOVERY
            assert await asyncio.to_thread(until, lambda: connections_of_the_service(old) == 0)
            assert names(await read_chunks(stubs)) == ["ada", *writer.acknowledged]
        with new.client() as client:
            assert client.zcard("userservice:{0}:users") == len(writer.acknowledged) + 1
        down, up = log_of_outages(service)
        assert down["reason"] == "the server is a read-only replica"
        assert up["since"] == down["since"]
        assert 0 < up["unavailable_seconds"] < 60


def connections_of_the_service(store: Store) -> int:
    with store.client() as client:
        return sum(
            entry["cmd"] not in ("client|list", "psync", "replconf") for entry in client.client_list(_type="normal")
        )


async def test_a_host_name_that_resolves_to_another_address(tmp_path: Path) -> None:
    """The system resolves the name (with a hosts file of its own) for every new connection.

    The name has two addresses; nothing listens at the first.
    """
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.3 store.test\n127.0.0.1 store.test\n")
    environment = {"LD_PRELOAD": str(require("nss_wrapper")), "NSS_WRAPPER_HOSTS": str(hosts)}
    bind = ["--bind", "127.0.0.2"]
    with (
        Store(port=free_port(), options=["--repl-diskless-sync-delay", "0"]) as old,
        Store(port=old.port, options=bind) as new,
    ):
        with new.client() as client:
            client.execute_command("REPLICAOF", "127.0.0.1", old.port)
            until(lambda: client.info("replication")["master_link_status"] == "up")
        with Service(redis_url=f"redis://store.test:{old.port}/0", environment=environment) as service:
            async with connect(service.address) as stubs:
                await add_users(stubs, ["ada"])
                with old.client() as demoted, new.client() as promoted:
                    demoted.execute_command("REPLICAOF", "127.0.0.2", new.port)
                    promoted.execute_command("REPLICAOF", "NO", "ONE")
                assert await outcome(stubs, "nobody") == "STORE_UNAVAILABLE"
                await health_is(service, "NOT_SERVING")

                hosts.write_text("127.0.0.3 store.test\n127.0.0.2 store.test\n")
                assert await seconds_until_a_write_succeeds(stubs, "bob") < RECOVERY
                await health_is(service, "SERVING")
                assert names(await read_chunks(stubs)) == ["ada", "bob"]


async def test_calls_do_not_use_a_server_that_may_evict_users() -> None:
    """The connections are lost, and the address then leads to a copy of the store on an unsuitable server."""
    with (
        Store(port=free_port()) as ours,
        Store(port=free_port(), options=["--maxmemory", "1gb", "--maxmemory-policy", "allkeys-lru"]) as other,
        Proxy(ours.port or 0) as proxy,
        Service(redis_url=proxy.url) as service,
        ours.client() as source,
        other.client() as client,
    ):
        async with connect(service.address) as stubs:
            await add_users(stubs, ["ada"])
            copy_keys(source, client)
            copy, before, proxy.target = everything(client), proxy.accepted, other.port or 0
            proxy.cut_all()
            await asyncio.to_thread(until, lambda: proxy.accepted > before)
            for _ in range(20):
                assert await outcome(stubs, "bob") == "STORE_UNAVAILABLE"
            assert everything(client) == copy

            proxy.target = ours.port or 0
            assert await seconds_until_a_write_succeeds(stubs, "bob") < RECOVERY
    assert any("allkeys-lru" in line.get("reason", "") for line in log_of_outages(service))


@contextlib.contextmanager
def primary(replicas: int) -> Iterator[Store]:
    """Runs a store with replicas that have its data."""
    with Store(port=free_port(), options=["--repl-diskless-sync-delay", "0"]) as store, contextlib.ExitStack() as kept:
        for _ in range(replicas):
            replica = Store(port=free_port(), options=["--replicaof", "127.0.0.1", str(store.port)])
            kept.enter_context(replica)
            with replica.client() as client:
                until(lambda client=client: client.info("replication")["master_link_status"] == "up")  # type: ignore[misc]
        yield store


@pytest.mark.parametrize("replicas", [0, 1])
async def test_writes_are_rejected_after_a_new_connection_leads_to_another_layout(replicas: int) -> None:
    """The connections are lost, and the address then leads to a copy of the store whose layout was changed.

    Writes that wait for replicas have a connection of their own.
    """
    with (
        primary(replicas) as ours,
        Store(port=free_port()) as other,
        Proxy(ours.port or 0) as proxy,
        Service("--wait-replicas", str(replicas), "--store-timeout", "2", redis_url=proxy.url) as service,
        ours.client() as source,
        other.client() as client,
    ):
        async with connect(service.address) as stubs:
            await add_users(stubs, ["ada"])
            copy_keys(source, client)
            client.hset("userservice:layout", "version", 99)
            copy = everything(client)

            async def write_until_rejected(user_id: str) -> None:
                """Writes until STORE_CHANGED. Some writes wait for the new connection, others find no connection."""
                while (found := await outcome(stubs, user_id)) != "STORE_CHANGED":
                    assert found in ("OK", "USER_ALREADY_EXISTS", "STORE_UNAVAILABLE")

            async with asyncio.TaskGroup() as writers:
                for number in range(20):
                    writers.create_task(write_until_rejected(f"writer{number}"))
                await asyncio.sleep(0.05)
                proxy.target = other.port or 0
                proxy.cut_all()
            for _ in range(20):
                assert await outcome(stubs, "bob") == "STORE_CHANGED"
            assert (await stubs.users.GetUser(GetUserRequest(user_id="ada"))).user.user_id == "ada"
            await health_is(service, "NOT_SERVING")
            assert everything(client) == copy

            proxy.target = ours.port or 0
            assert await seconds_until_a_write_succeeds(stubs, "bob") < RECOVERY
            assert everything(client) == copy
    # If a probe was under way when the connections were lost, the log says this first.
    assert any("layout version 99" in line.get("reason", "") for line in log_of_outages(service))


# Other faults of the server on a live connection, one after the other on one service


@dataclass(frozen=True)
class Fault:
    """Makes the server unfit until the context ends; ``reason`` is the expected reason in the log."""

    reason: str
    begin: Callable[[Store], "contextlib.AbstractContextManager[None]"]
    serves_reads: bool = True


USER, PASSWORD = "app", "canary-of-passwords"
ADMINISTRATOR = "root"


@contextlib.contextmanager
def administrator(store: Store) -> Iterator[Any]:
    with store.client(username=ADMINISTRATOR, password=PASSWORD) as client:
        yield client


@contextlib.contextmanager
def without_replicas(store: Store) -> Iterator[None]:
    with administrator(store) as client:
        client.config_set("min-replicas-to-write", 1)
        yield
        client.config_set("min-replicas-to-write", 0)


@contextlib.contextmanager
def demoted(store: Store) -> Iterator[None]:
    with administrator(store) as client:
        client.execute_command("REPLICAOF", "127.0.0.1", "1")  # does not answer, so the data stay
        yield
        client.execute_command("REPLICAOF", "NO", "ONE")


@contextlib.contextmanager
def demoted_without_stale_reads(store: Store) -> Iterator[None]:
    with administrator(store) as client:
        client.config_set("replica-serve-stale-data", "no")
        with demoted(store):
            yield
        client.config_set("replica-serve-stale-data", "yes")


@contextlib.contextmanager
def without_disk(store: Store) -> Iterator[None]:
    file = store.directory / "dump.rdb"
    file.mkdir()  # in the place of the file that the server is to write
    with administrator(store) as client:
        client.config_set("save", "3600 1")
        client.bgsave()
        until(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err")
        yield
        client.config_set("save", "")
    file.rmdir()


@contextlib.contextmanager
def without_permissions(store: Store) -> Iterator[None]:
    with administrator(store) as client:
        client.execute_command("ACL", "SETUSER", USER, "-evalsha", "-zrange")
        yield
        client.execute_command("ACL", "SETUSER", USER, "+evalsha", "+zrange")


@contextlib.contextmanager
def with_another_password(store: Store) -> Iterator[None]:
    """The server keeps open connections authenticated, so these are closed, as after a restart."""
    with administrator(store) as client:
        client.execute_command("ACL", "SETUSER", USER, "resetpass", ">another")
        client.execute_command("CLIENT", "KILL", "USER", USER)
        yield
        client.execute_command("ACL", "SETUSER", USER, f">{PASSWORD}")


@contextlib.contextmanager
def loading(store: Store) -> Iterator[None]:
    """The server loads its data again and responds with LOADING, while its connections stay open."""
    with administrator(store) as client, administrator(store) as observer:
        for number in range(1000):
            client.set(f"filler{number}", "x" * 2048)
        client.config_set("key-load-delay", 50_000)  # microseconds for each key: longer than the test on a slow machine
        client.config_set("loading-process-events-interval-bytes", 1024)  # it answers others after that many
        client.config_set("rdbcompression", "no")
        reload = Thread(target=client.execute_command, args=("DEBUG", "RELOAD"))
        reload.start()
        until(lambda: is_loading(observer))
        yield
        assert is_loading(observer)
        observer.config_set("key-load-delay", 0)  # it loads the other keys at once
        reload.join()


def is_loading(client: Any) -> bool:
    return bool(client.info("persistence")["loading"])


FAULTS = {
    "noreplicas": Fault("the server has too few replicas and rejects writes", without_replicas),
    "readonly": Fault("the server is a read-only replica", demoted),
    "masterdown": Fault("the server is a read-only replica", demoted_without_stale_reads, serves_reads=False),
    "misconf": Fault("the server cannot write its data to disk and rejects writes", without_disk),
    "noperm": Fault(
        "the server's user lacks permissions; docs/operations.md lists them", without_permissions, serves_reads=False
    ),
    "wrongpass": Fault("the server rejected the user name or password", with_another_password, serves_reads=False),
    "loading": Fault("the server is loading its data", loading, serves_reads=False),
}


@dataclass(frozen=True)
class Guarded:
    """A store with ACL users, and a service that uses it with the permissions of docs/operations.md."""

    store: Store
    service: Service


@pytest.fixture(scope="module", params=sorted(BACKENDS))
def guarded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    documented = re.search(rf"^ACL SETUSER {USER} on >PASSWORD (.*)$", DOCUMENT.read_text(), re.MULTILINE)
    assert documented
    user = f"user {USER} on >{PASSWORD} {documented[1]}"
    users = tmp_path_factory.mktemp("acl") / "users.acl"
    users.write_text(f"user default off\n{user}\nuser {ADMINISTRATOR} on >{PASSWORD} ~* &* +@all\n")
    options = ["--aclfile", str(users), "--enable-debug-command", "yes"]
    with Store(request.param, port=free_port(), options=options) as store:
        url = f"redis://{USER}:{PASSWORD}@127.0.0.1:{store.port}/3"
        with Service(redis_url=url) as service:
            yield Guarded(store, service)
            assert service.stop() == 0


def ended_outage(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the lines if the last one says that the store is available again."""
    return lines if lines and lines[-1]["message"] == "store available" else []


@pytest.mark.parametrize("name", FAULTS)
async def test_a_server_that_is_unfit_for_a_while(name: str, guarded: Guarded) -> None:
    fault, store, service = FAULTS[name], guarded.store, guarded.service
    async with connect(service.address) as stubs:
        await add_users(stubs, [f"ada-{name}"])
        await health_is(service, "SERVING")
        before = len(log_of_outages(service))
        begun = fault.begin(store)
        await asyncio.to_thread(begun.__enter__)
        try:
            assert await outcome(stubs, f"bob-{name}") == "STORE_UNAVAILABLE"
            await health_is(service, "NOT_SERVING")
            assert await outcome(stubs, f"bob-{name}") == "STORE_UNAVAILABLE"
            if fault.serves_reads:
                for _ in range(20):
                    await stubs.users.GetUser(GetUserRequest(user_id=f"ada-{name}"))
                    await stubs.users.BatchGetUsers(BatchGetUsersRequest(user_ids=[f"ada-{name}"]))
            else:
                with pytest.raises(grpc.aio.AioRpcError) as raised:
                    await stubs.users.GetUser(GetUserRequest(user_id=f"ada-{name}"))
                assert failure_of(raised.value).reason == "STORE_UNAVAILABLE"
        finally:
            await asyncio.to_thread(begun.__exit__, None, None, None)
        assert await seconds_until_a_write_succeeds(stubs, f"bob-{name}") < RECOVERY
        await health_is(service, "SERVING")
        assert f"bob-{name}" in names(await read_chunks(stubs))
    lines = await asyncio.to_thread(until, lambda: ended_outage(log_of_outages(service)[before:]))
    assert fault.reason in [line["reason"] for line in lines[:-1]]
    text = "\n".join(map(str, lines))
    assert [secret for secret in (PASSWORD, str(store.port), "127.0.0.1") if secret in text] == []


async def test_reads_from_a_replica_succeed_without_a_flood_of_connections(guarded: Guarded) -> None:
    """On a permanent replica, reads succeed, and the service makes few attempts to find a primary."""
    async with connect(guarded.service.address) as stubs:
        await health_is(guarded.service, "SERVING")
        await add_users(stubs, ["eve"])
        with administrator(guarded.store) as client, demoted(guarded.store):
            await health_is(guarded.service, "NOT_SERVING")
            before, started = client.info("stats")["total_connections_received"], time.monotonic()
            for number in range(100):
                assert await outcome(stubs, f"u{number}") == "STORE_UNAVAILABLE"
                await stubs.users.GetUser(GetUserRequest(user_id="eve"))
                await stubs.users.BatchGetUsers(BatchGetUsersRequest(user_ids=["eve"]))
            seconds = time.monotonic() - started
            made = client.info("stats")["total_connections_received"] - before
            assert made <= 3 + 2 * seconds


# What the probe needs and does


async def test_the_probe_writes_nothing_and_succeeds_on_a_full_store(guarded: Guarded) -> None:
    async with connect(guarded.service.address) as stubs:
        await health_is(guarded.service, "SERVING")
        await add_users(stubs, ["full"])
        with administrator(guarded.store) as client:
            changes = client.info("persistence")["rdb_changes_since_last_save"]
            client.config_set("maxmemory", 1024)
            await asyncio.to_thread(wait_for_probes, client, 4)
            assert health(guarded.service.address) == "SERVING"
            assert await outcome(stubs, "bob") == "STORE_FULL"
            assert client.info("persistence")["rdb_changes_since_last_save"] == changes
            client.config_set("maxmemory", 0)


def wait_for_probes(client: Any, count: int) -> None:
    seen: int = client.info("commandstats")["cmdstat_evalsha"]["calls"]
    until(lambda: client.info("commandstats")["cmdstat_evalsha"]["calls"] >= seen + count)


async def test_the_documented_permissions_suffice(guarded: Guarded) -> None:
    async with connect(guarded.service.address) as stubs:
        await health_is(guarded.service, "SERVING")
        users, sessions = stubs.users, stubs.sessions
        await users.AddUser(AddUserRequest(user_id="acl", request_id=str(uuid4())))
        await users.UpdateUser(UpdateUserRequest(user_id="acl", email="x", request_id=str(uuid4())))
        await sessions.AddSession(AddSessionRequest(user_id="acl", session_id="s"))
        await sessions.UpdateSession(UpdateSessionRequest(user_id="acl", session_id="s"))
        await sessions.GetSession(GetSessionRequest(user_id="acl", session_id="s"))
        await users.GetUserSessions(GetUserSessionsRequest(user_id="acl"))
        await users.GetUser(GetUserRequest(user_id="acl"))
        await users.BatchGetUsers(BatchGetUsersRequest(user_ids=["acl"]))
        assert "acl" in names(await read_chunks(stubs))
        await users.DeleteUser(DeleteUserRequest(user_id="acl", request_id=str(uuid4())))
