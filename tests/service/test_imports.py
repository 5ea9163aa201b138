"""ImportUsers on a real service: offsets, limits, errors, restored users, and what is logged."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
import pytest
from harness.connections import Stubs, connect
from harness.credentials import new_key
from harness.failures import Failure, failure_of
from harness.services import Service
from harness.stores import Store
from harness.waiting import until

from userservice import (
    ImportOffsetGapError,
    ImportStatus,
    InvalidArgumentError,
    ScopeMissingError,
    SyncUserManager,
    User,
    UserManager,
)
from userservice.imports import ImportRow
from userservice.v1.user_import_pb2 import (
    GetImportRequest,
    ImportBatch,
    ImportOptions,
    ImportUsersRequest,
    ImportUsersResponse,
)
from userservice.v1.user_pb2 import User as UserMessage
from userservice_server.check import check
from userservice_server.wire.ids import PARTITIONS, TICKS_A_SECOND


@pytest.fixture(scope="module")
def running() -> Iterator[tuple[Store, Service]]:
    with Store() as store, Service(redis_url=store.url) as service:
        yield store, service


@pytest.fixture
def store(running: tuple[Store, Service]) -> Store:
    running[0].empty()
    return running[0]


@pytest.fixture
def service(running: tuple[Store, Service], store: Store) -> Service:  # noqa: ARG001 - the store is to be empty
    return running[1]


@pytest.fixture(scope="module")
def partitioned() -> Iterator[tuple[Store, Service]]:
    options = ("--partitions", "16", "--stall-timeout", "1")
    with Store() as store, Service(*options, redis_url=store.url) as service:
        yield store, service


def findings(store: Store) -> list[str]:
    return [finding.what for finding in check(store.url, "userservice", 10).findings]


def batch(offset: int, *user_ids: str) -> ImportUsersRequest:
    return ImportUsersRequest(
        batch=ImportBatch(offset=offset, users=[UserMessage(user_id=user_id) for user_id in user_ids])
    )


class Import:
    """An import over the generated stubs."""

    def __init__(self, call: Any) -> None:
        self._call = call

    async def send(self, request: ImportUsersRequest) -> ImportUsersResponse:
        await self._call.write(request)
        return await self.read()

    async def read(self) -> ImportUsersResponse:
        response = await self._call.read()
        assert isinstance(response, ImportUsersResponse), response
        return response

    async def failure(self, request: ImportUsersRequest | None = None) -> Failure:
        if request is not None:
            await self._call.write(request)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await self._call.read()
        return failure_of(error.value)


@asynccontextmanager
async def opened(stubs: Stubs, import_id: str = "", **options: Any) -> AsyncIterator[Import]:
    call = stubs.users.ImportUsers(timeout=20)
    running = Import(call)
    first = ImportUsersRequest(options=ImportOptions(import_id=import_id or str(uuid4()), **options))
    assert (await running.send(first)).acked_offset >= 0
    try:
        yield running
    finally:
        call.cancel()


async def test_batches_may_overlap_applied_rows_but_not_leave_a_gap(service: Service, store: Store) -> None:
    async with connect(service.address) as stubs, opened(stubs) as running:
        assert (await running.send(batch(0, "a", "b", "c"))).acked_offset == 3
        again = await running.send(batch(1, "b", "c", "d"))
        assert (again.acked_offset, again.added, again.failed) == (4, 4, 0)
        whole = await running.send(batch(0, "a", "b"))
        assert (whole.acked_offset, whole.added, whole.failed) == (4, 4, 0)
        failure = await running.failure(batch(5, "f"))
        assert (failure.code, failure.reason) == ("OUT_OF_RANGE", "IMPORT_OFFSET_GAP")
        assert failure.metadata == {"next_offset": "4"}
    with store.client() as client:
        assert set(client.hkeys("userservice:{0}:user_ids")) == {b"a", b"b", b"c", b"d"}


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (ImportUsersRequest(batch=ImportBatch(offset=0)), "batch.users"),
        (batch(0, *(f"u{number}" for number in range(501))), "batch.users"),
        (batch(-1, "a"), "batch.offset"),
        (ImportUsersRequest(options=ImportOptions()), "batch"),
        (batch(0, "x" * (1 << 20)), "request"),
    ],
)
async def test_an_invalid_batch_ends_the_import(service: Service, request_: ImportUsersRequest, field: str) -> None:
    async with connect(service.address) as stubs, opened(stubs) as running:
        failure = await running.failure(request_)
        assert (failure.reason, failure.fields) == ("INVALID_FIELD", [field])


async def test_rows_that_cannot_be_decoded_fail_alone(service: Service) -> None:
    async with connect(service.address) as stubs:
        call: Any = stubs.channel.stream_stream("/userservice.v1.UserService/ImportUsers")(timeout=20)
        await call.write(ImportUsersRequest(options=ImportOptions(import_id=str(uuid4()))).SerializeToString())
        await call.read()
        rows = [UserMessage(user_id="a").SerializeToString(), b"\x0a\x01\xff", b"\x0a\x7f", b"\x9a\x06\x01x\x0a\x01b"]
        content = b"".join(b"\x12" + bytes([len(row)]) + row for row in rows)
        await call.write(b"\x12" + bytes([len(content)]) + content)
        response = ImportUsersResponse.FromString(await call.read())
        call.cancel()
    assert (response.acked_offset, response.added, response.failed) == (4, 2, 2)
    assert [error.index for error in response.row_errors] == [1, 2]


def cancelled_imports(service: Service) -> int:
    return sum(line["code"] == "CANCELLED" for line in service.log_lines_with('"ImportUsers"'))


async def test_at_most_eight_imports_run(service: Service) -> None:
    async with connect(service.address) as stubs:
        first = opened(stubs)
        await first.__aenter__()
        others = [opened(stubs) for _ in range(7)]
        for other in others:
            await other.__aenter__()
        call = stubs.users.ImportUsers(timeout=10)
        assert (await Import(call).failure()).reason == "OVERLOADED"
        earlier = cancelled_imports(service)
        await first.__aexit__(None, None, None)
        # Waits in a thread, because gRPC needs the event loop to cancel the call.
        await asyncio.to_thread(until, lambda: cancelled_imports(service) > earlier)
        async with opened(stubs):
            pass
        for other in others:
            await other.__aexit__(None, None, None)
    assert until(lambda: service.log_lines_with('"limit"'))[0]["limit"] == "imports"


async def test_an_import_that_sends_nothing_ends(partitioned: tuple[Store, Service]) -> None:
    _, service = partitioned
    async with connect(service.address) as stubs, opened(stubs) as running:
        failure = await running.failure()
        assert (failure.code, failure.reason) == ("UNAVAILABLE", "READER_STALLED")


def rows(count: int) -> Iterator[dict[str, Any]]:
    """Rows of which 1 % are invalid, and 5 % have the user_id of an earlier row."""
    for number in range(count):
        user_id = f"u{number - 7 if number % 20 == 13 else number}"
        yield {"user_id": "" if number % 100 == 50 else user_id, "metadata": {"row": number}}


def test_two_calls_with_one_import_id_apply_each_row_once(service: Service, store: Store) -> None:
    count = 3000

    async def run() -> list[ImportStatus]:
        async with UserManager(service.address) as one, UserManager(service.address) as other:
            both = (users.import_users(rows(count), import_id=import_id) for users in (one, other))
            return list(await asyncio.gather(*both))

    import_id = str(uuid4())
    for status in asyncio.run(run()):
        assert (status.offset, status.added, status.failed) == (count, 2820, 180)
        assert [error.index for error in status.row_errors] == [
            number for number in range(count) if number % 20 == 13 or number % 100 == 50
        ]
    assert findings(store) == []


def test_a_merge_loses_no_concurrent_update(service: Service) -> None:
    names = [f"n{number}" for number in range(60)]

    async def run() -> dict[str, Any]:
        async with UserManager(service.address, timeout=30) as users:
            await users.add(user_id="a")
            updates = [users.update(user_id="a", metadata={f"update-{name}": True}) for name in names]
            imports = [
                users.import_users([{"user_id": "a", "metadata": {f"import-{name}": True}}], on_duplicate="MERGE")
                for name in names
            ]
            await asyncio.gather(*updates, *imports)
            return (await users.get("a")).metadata

    assert asyncio.run(run()).keys() == {f"{kind}-{name}" for name in names for kind in ("update", "import")}


def test_a_script_has_at_most_200_rows_and_an_import_expires_after_7_days(service: Service, store: Store) -> None:
    week = 7 * 24 * 3600
    source = [{"user_id": f"u{number}"} for number in range(499)] + [{"user_id": ""}]
    with store.client() as client, SyncUserManager(service.address) as users:
        client.slowlog_reset()
        client.config_set("slowlog-max-len", 10_000)  # also contains the commands that scripts run
        client.config_set("slowlog-log-slower-than", 0)
        imports = [users.import_users(source, on_duplicate="FAIL"), users.import_users(source, on_duplicate="MERGE")]
        client.config_set("slowlog-log-slower-than", -1)
        logged = [entry["command"] for entry in client.slowlog_get(10_000)]
        for status in imports:
            for kind in ("import", "import_errors"):
                assert week - 60 < client.ttl(f"userservice:{{0}}:{kind}:{status.import_id}") <= week
    # The slow log shows the first 31 arguments of a command, and the number of the others.
    hidden = [re.search(rb":import_errors:.*\((\d+) more arguments\)$", command, re.DOTALL) for command in logged]
    sizes = [31 + int(found[1]) for found in hidden if found]
    assert len(sizes) == 6
    assert max(sizes) < 201 * 4 + 30  # four arguments for each row


@pytest.mark.long
def test_the_first_row_errors_are_kept(service: Service) -> None:
    count = 10_500
    with SyncUserManager(service.address) as users:
        status = users.import_users({"user_id": ""} for _ in range(count))
        assert (status.offset, status.failed, len(status.row_errors)) == (count, count, 10_000)
        found = users.get_import(status.import_id)
        assert (found.offset, found.failed) == (count, count)
        assert [error.index for error in found.row_errors] == list(range(10_000))


async def test_row_errors_are_returned_in_pages(service: Service) -> None:
    async with connect(service.address) as stubs:
        import_id = str(uuid4())
        async with opened(stubs, import_id) as running:
            await running.send(batch(0, "a", "", "b", "", ""))
        pages, cursor = [], 0
        while True:
            page = await stubs.users.GetImport(GetImportRequest(import_id=import_id, limit=2, cursor=cursor))
            pages.append([error.index for error in page.row_errors])
            cursor = page.next_cursor
            if not cursor:
                break
        assert pages == [[1, 3], [4]]


def test_progress_and_rows_that_the_caller_could_not_read(service: Service) -> None:
    reported: list[ImportStatus] = []
    unread = InvalidArgumentError("line 3 is not JSON")
    source: list[ImportRow] = [
        {"user_id": "a"},
        {"user_id": "b", "metadata": {"n": float("nan")}},
        unread,
        {"user_id": "c"},
    ]
    with SyncUserManager(service.address) as users:
        status = users.import_users(source, on_progress=reported.append)
        assert [each.offset for each in reported] == [0, 4]
        assert (status.added, status.failed) == (2, 2)
        assert [error.index for error in status.row_errors] == [1, 2]
        assert status.row_errors == reported[1].row_errors
        assert status.row_errors[1].error is unread
        assert "metadata.n" in str(status.row_errors[0].error)
        with pytest.raises(TypeError, match="a row must be a mapping"):
            users.import_users(["a"])  # type: ignore[list-item]


def test_an_import_can_start_at_its_offset(service: Service) -> None:
    with SyncUserManager(service.address) as users:
        first = users.import_users([{"user_id": "a"}, {"user_id": "b"}])
        status = users.import_users([{"user_id": "c"}], import_id=first.import_id, offset=2)
        assert (status.offset, status.added) == (3, 3)
        with pytest.raises(ImportOffsetGapError):
            users.import_users([{"user_id": "e"}], import_id=first.import_id, offset=4)


def test_restore_keeps_all_fields(service: Service, store: Store) -> None:
    with Store() as source, Service(redis_url=source.url) as old, SyncUserManager(old.address) as users:
        for number in range(5):
            users.add(user_id=f"u{number}", email=f"e{number}", metadata={"n": number})
        users.update(user_id="u3", first_name="changed")
        exported = [user for chunk in users.list_chunked() for user in chunk]
    store.empty()  # the service creates a store whose ids are above the exported ids
    moved = exported[0].copy(user_id="other", id=exported[0].id + 1)  # an id of another partition
    with SyncUserManager(service.address) as users:
        status = users.import_users([*exported, moved, exported[1], exported[2].copy(user_id="x")], restore=True)
        assert (status.added, status.failed) == (6, 2)
        assert [error.error.reason for error in status.row_errors] == ["USER_ALREADY_EXISTS", "INVALID_FIELD"]
        restored = [user for chunk in users.list_chunked() for user in chunk]
        assert restored == sorted([*exported, moved], key=lambda user: user.id)
        assert users.add(user_id="new").id > restored[-1].id
        until(lambda: [user.user_id for user in page_after(users, restored[2])] == ["u2", "u3", "u4", "new"])
        with pytest.raises(InvalidArgumentError) as error:
            users.import_users([], restore=True)
        assert [violation.field for violation in error.value.violations] == ["restore"]
    assert findings(store) == []


def page_after(users: SyncUserManager, user: User) -> list[User]:
    """Returns the users after this one; none while the service still takes the cursor for one of another store."""
    try:
        return users.list(cursor=user.id)
    except Exception:  # noqa: BLE001 - the caller repeats the call
        return []


def test_restored_rows_need_the_fields_of_the_service(service: Service) -> None:
    with SyncUserManager(service.address) as users:
        bare = users.import_users([{"user_id": "a"}], restore=True)
        error = bare.row_errors[0].error
        assert isinstance(error, InvalidArgumentError)
        assert {violation.field for violation in error.violations} == {"id", "uuid", "etag"}
        with pytest.raises(InvalidArgumentError):
            users.import_users([], restore=True, on_duplicate="MERGE")


def test_scopes_and_logs(tmp_path: Path) -> None:
    keys, audit = tmp_path / "keys.toml", tmp_path / "audit.jsonl"
    writer, importer, admin = (
        new_key(keys, scopes) for scopes in ("users.write", "users.import", "users.import,admin")
    )
    arguments: Sequence[str | Path] = ["--auth", "keys", "--keys-file", keys, "--audit-log", audit]
    with Store() as store, Service(*arguments, redis_url=store.url) as service:
        with SyncUserManager(service.address, token=writer) as users, pytest.raises(ScopeMissingError) as error:
            users.import_users([])
        assert "users.import" in str(error.value)
        with SyncUserManager(service.address, token=importer) as users:
            with pytest.raises(ScopeMissingError) as error:
                users.import_users([], restore=True)
            assert "admin" in str(error.value)
            users.import_users([{"user_id": "grace"}, {"user_id": ""}])
        with SyncUserManager(service.address, token=admin) as users, pytest.raises(InvalidArgumentError):
            users.import_users([], restore=True)  # not the scope, but the users in the store
        line = until(lambda: [json.loads(line) for line in audit.read_text().splitlines()] if audit.exists() else [])[0]
        assert (line["method"], line["outcome"], line["added"], line["failed"]) == ("ImportUsers", "applied", 1, 1)
        [call] = until(lambda: [each for each in service.log_lines_with('"offset"') if each["code"] == "OK"])
        assert (call["offset"], call["added"], call["chunks"]) == (2, 1, 2)
        assert call["import_id"] == line["import_id"]
        assert "grace" not in "".join(service.stderr)  # no UUID contains it


def test_an_idle_import_does_not_delay_the_shutdown() -> None:
    async def run(service: Service) -> Failure:
        async with connect(service.address) as stubs, opened(stubs) as running:
            await running.send(batch(0, "a"))
            stopping = asyncio.create_task(asyncio.to_thread(service.stop))
            failure = await running.failure()
            assert await stopping == 0
            return failure

    with Store() as store, Service("--grace", "60", redis_url=store.url) as service:
        failure = asyncio.run(asyncio.wait_for(run(service), 20))
    assert (failure.reason, failure.metadata) == ("SERVER_SHUTTING_DOWN", {"next_cursor": "1"})


def test_a_store_with_several_partitions(partitioned: tuple[Store, Service]) -> None:
    source = list(rows(1500))
    one, service = partitioned
    one.empty()
    with (
        Store() as other,
        Service("--partitions", "16", redis_url=other.url) as target,
        SyncUserManager(service.address) as users,
        SyncUserManager(target.address) as copies,
    ):
        first = users.import_users(source)
        assert (first.offset, first.added, first.failed) == (1500, 1410, 90)
        failed = [number for number in range(1500) if number % 20 == 13 or number % 100 == 50]
        assert [error.index for error in first.row_errors] == failed
        assert [error.index for error in users.get_import(first.import_id).row_errors] == failed
        merged = users.import_users(source, on_duplicate="MERGE")
        assert (merged.added, merged.merged, merged.failed) == (0, 1485, 15)
        exported = [user for chunk in users.list_chunked(1000) for user in chunk]
        assert copies.import_users(exported, restore=True).added == 1410
        assert [user for chunk in copies.list_chunked(1000) for user in chunk] == exported
        assert findings(one) == findings(other) == []


def test_an_import_continues_where_the_last_partition_has_stopped(partitioned: tuple[Store, Service]) -> None:
    """A server that was killed has applied a batch in some of the partitions only."""
    source = list(rows(600))
    store, service = partitioned
    store.empty()
    with SyncUserManager(service.address) as users, store.client() as client:
        whole = users.import_users(source)
        errors = [(error.index, error.error.reason) for error in whole.row_errors]
        before = {user.user_id: user for chunk in users.list_chunked(1000) for user in chunk}
        state_key = min(client.keys(f"*:import:{whole.import_id}"))
        users_key = state_key.partition(b":import:")[0] + b":user_ids"
        lost = {user_id.decode() for user_id in client.hkeys(users_key)}
        for user_id in lost:
            users.delete(user_id)
        _, mode = client.get(state_key).split(b"\n")
        client.set(state_key, b"0 0 0 0 0 0\n" + mode)
        client.delete(state_key.replace(b":import:", b":import_errors:"))
        assert users.get_import(whole.import_id).offset == 0
        again = users.import_users(source, import_id=whole.import_id)
        assert users.get_import(whole.import_id).added == whole.added
        assert [(error.index, error.error.reason) for error in again.row_errors] == errors
        assert (again.offset, again.added, again.failed) == (whole.offset, whole.added, whole.failed)
        after = {user.user_id: user for chunk in users.list_chunked(1000) for user in chunk}
        assert before.keys() == after.keys()
        assert {user_id for user_id, user in after.items() if user != before[user_id]} == lost
        assert 0 < len(lost) < len(before)


def test_no_new_user_gets_the_id_of_a_restored_user(partitioned: tuple[Store, Service]) -> None:
    """The users come from a store with one partition, whose clock was an hour ahead."""
    store, service = partitioned
    store.empty()
    with SyncUserManager(service.address) as users, store.client() as client:
        model = users.add(user_id="model")
        users.delete("model")
        ahead = (model.id // PARTITIONS + 3600 * TICKS_A_SECOND) * PARTITIONS
        restored = [model.copy(user_id=f"u{number}", id=ahead + number * PARTITIONS) for number in range(64)]
        status = users.import_users(restored, restore=True)
        assert status.added == 64
        last_ids = client.keys("*:last_id")
        assert len({int(last_id) // PARTITIONS for last_id in client.mget(last_ids)}) == 1
        for key in last_ids:  # as if the server was killed after it had applied the rows
            [(_, newest)] = client.zrange(key.replace(b":last_id", b":users"), -1, -1, withscores=True)
            client.set(key, int(newest))
        users.import_users([], import_id=status.import_id, restore=True)
        for number in range(64):
            users.add(user_id=f"new{number}")
        assert len({user.id for chunk in users.list_chunked(1000) for user in chunk}) == 128
    assert findings(store) == []
