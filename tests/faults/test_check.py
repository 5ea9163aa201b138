"""`userservice check` reports nothing on a valid store, and reports each kind of damage."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from harness.connections import connect
from harness.population import add_users, names, read_chunks
from harness.services import Service, clean_environment
from harness.stores import Store

from userservice.v1.session_service_pb2 import AddSessionRequest
from userservice.v1.user_pb2 import User
from userservice_server.check import check
from userservice_server.config import ConfigError
from userservice_server.wire.emails import email_key, index_member

P = "userservice:{0}:"
IMPORT, STATE = P + "import:12345678-1234-1234-1234-123456789abc", "0 0 0 0 0 0\n" + "a" * 32
Damage = Callable[[Any, dict[str, User]], object]


@dataclass(frozen=True)
class Sound:
    """A valid store, with a copy of its data to restore after each damage."""

    store: Store
    users: dict[str, User]
    copy: dict[bytes, tuple[int, bytes]]


@pytest.fixture(scope="module")
def sound() -> Iterator[Sound]:
    """A store with more users than one page of the check, two users with sessions, and an idempotency record."""
    with Store() as store:
        with Service(redis_url=store.url) as service:
            users = asyncio.run(populate(service.address))
            service.stop()
        with store.client() as client:
            copy = {key: (max(client.pttl(key), 0), client.dump(key)) for key in client.scan_iter()}
        yield Sound(store, users, copy)


async def populate(address: str) -> dict[str, User]:
    async with connect(address) as stubs:
        users = await add_users(stubs, ["u7"])  # before the others, so that the next id belongs to no user
        users |= await add_users(stubs, [f"u{number}" for number in range(600) if number != 7])
        users |= await add_users(stubs, ["last"], email="Ada@x", request_id="12345678-1234-1234-1234-123456789abc")
        for user_id in ("u0", "u1"):
            for session_id in ("a", "b"):
                await stubs.sessions.AddSession(AddSessionRequest(user_id=user_id, session_id=session_id))
    return users


@pytest.fixture
def store(sound: Sound) -> Store:
    sound.store.empty()
    with sound.store.client() as client:
        for key, (ttl, dumped) in sound.copy.items():
            client.restore(key, ttl, dumped)
    return sound.store


@pytest.fixture
def users(sound: Sound) -> dict[str, User]:
    return sound.users


def run(*arguments: str | Path) -> tuple[int, str, str]:
    command = [sys.executable, "-m", "userservice", "check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=clean_environment())
    return done.returncode, done.stdout, done.stderr


def row_of(client: Any, user: User) -> bytes:
    [row] = client.zrange(P + "users", user.id, user.id, byscore=True)
    return bytes(row)


def put_instead(client: Any, user: User, row: bytes) -> None:
    client.zremrangebyscore(P + "users", user.id, user.id)
    client.zadd(P + "users", {row: user.id})


def swapped(row: bytes) -> bytes:
    """Returns the record with name and id in reverse order, which protobuf also accepts."""
    name, rest = row[2:6], row[6:]
    varint_end = next(at for at in range(1, 11) if rest[at] < 0x80) + 1
    return row[:2] + rest[:varint_end] + name + rest[varint_end:]


# What is done to a sound store, and what the check must say of it: exactly that and nothing else.
DAMAGES: dict[str, tuple[Damage, list[str]]] = {
    "a row is gone": (
        lambda client, users: client.zrem(P + "users", row_of(client, users["u7"])),
        ["index entry {u7}: there is no row with this id"],
    ),
    "an index entry is gone": (
        lambda client, _: client.hdel(P + "user_ids", "u7"),
        ["row {u7}: the index has no entry for its key"],
    ),
    "an index entry too many": (
        lambda client, users: client.hset(P + "user_ids", "ghost", users["u7"].id),
        ["index entry {u7}: the row with this id has another key"],
    ),
    "an index entry that is not a number": (
        lambda client, _: client.hset(P + "user_ids", "u7", "seven"),
        [
            "row {u7}: the index has another id for its key: (not a number)",
            "index entry (not a number): there is no row with this id",
        ],
    ),
    "an index entry of very many digits": (
        lambda client, _: client.hset(P + "user_ids", "u7", "9" * 5000),
        [
            "row {u7}: the index has another id for its key: (not a number)",
            "index entry (not a number): there is no row with this id",
        ],
    ),
    "a row twice": (
        lambda client, users: client.zadd(P + "users", {row_of(client, users["u7"]) + b"": users["u7"].id + 64}),
        [
            "row {u7+64}: the record contains another id: {u7}",
            "row {u7+64}: the index has another id for its key: {u7}",
            "index entry {u7}: there is no row with this id",
        ],
    ),
    "two rows of one id": (
        lambda client, users: client.zadd(P + "users", {row_of(client, users["u8"]): users["u7"].id}),
        [
            "row {u7}: 2 rows have this id",
            "row {u7}: 2 rows have this id",
            "row {u7}: the record contains another id: {u8}",
            "row {u7}: the index has another id for its key: {u8}",
            "index entry {u8}: there is no row with this id",
        ],
    ),
    "a row that is no record": (
        lambda client, users: put_instead(client, users["u7"], b"\x0a\x03\xff\xff\xff"),
        [
            "row {u7}: the record cannot be decoded as a User",
            "row {u7}: the index has no entry for its key",
            "index entry {u7}: the row with this id has another key",
        ],
    ),
    "a row that is cut short": (
        lambda client, users: put_instead(client, users["u7"], row_of(client, users["u7"])[:-1]),
        ["row {u7}: the record is not framed as an element of field 1"],
    ),
    "key and id in the wrong order": (
        lambda client, users: put_instead(client, users["u7"], swapped(row_of(client, users["u7"]))),
        [
            "row {u7}: the record does not begin with its key and id",
            "row {u7}: the index has no entry for its key",
            "index entry {u7}: the row with this id has another key",
        ],
    ),
    "a last id that lags": (
        lambda client, users: client.set(P + "last_id", users["u7"].id),
        [
            "row {newest}: its id is above the last id of the partition",
            *["its id is above the last id of the partition"] * 2,
        ],
    ),
    "no last id": (
        lambda client, _: client.delete(P + "last_id"),
        ["its id is above the last id of the partition"] * 3,
    ),
    "sessions of nobody": (
        lambda client, _: [
            client.rename(P + f"{kind}:u0", P + f"{kind}:nobody") for kind in ("sessions", "session_ids")
        ],
        ["sessions of a user that does not exist, the newest with id", *["the record belongs to another user"] * 2],
    ),
    "sessions of another user": (
        lambda client, _: [client.copy(P + f"{kind}:u0", P + f"{kind}:u5") for kind in ("sessions", "session_ids")],
        ["the record belongs to another user", "the record belongs to another user"],
    ),
    "an index of sessions alone": (
        lambda client, _: client.delete(P + "sessions:u0"),
        ["there is no row with this id", "there is no row with this id"],
    ),
    "sessions without their index": (
        lambda client, _: client.delete(P + "session_ids:u0"),
        ["the index has no entry for its key", "the index has no entry for its key"],
    ),
    "an idempotency record that never expires": (
        lambda client, _: client.persist(P + "request:12345678-1234-1234-1234-123456789abc"),
        ["an idempotency record does not expire"],
    ),
    "an import that never expires": (
        lambda client, _: client.set(IMPORT, STATE),
        ["the state or the row errors of an import do not expire"],
    ),
    "row errors that never expire": (
        lambda client, _: client.zadd(P + "import_errors:12345678-1234-1234-1234-123456789abc", {"x": 1}),
        ["the state or the row errors of an import do not expire"],
    ),
    "an import without its counts": (
        lambda client, _: client.set(IMPORT, STATE.replace("0 ", "", 1), ex=60),
        ["the state of an import is damaged"],
    ),
    "an idempotency record without an outcome": (
        lambda client, _: client.set(P + "request:12345678-1234-1234-1234-123456789abd", "x" * 16, ex=60),
        ["an idempotency record contains no valid outcome"],
    ),
    "a wrong number of sessions": (
        lambda client, _: client.hincrby(P + "session_count", "added", 1),
        ["the session count is 5, but there are 4 sessions"],
    ),
    "no number of sessions": (lambda client, _: client.delete(P + "session_count"), []),
    "no store id in the partition": (
        lambda client, _: client.delete(P + "store_id"),
        ["partition 0 has no store id"],
    ),
    "another store id in the partition": (
        lambda client, _: client.set(P + "store_id", "0" * 32),
        ["partition 0 has the store id of another store"],
    ),
    "no store id in the layout": (
        lambda client, _: client.hdel("userservice:layout", "store_id"),
        ["the layout has no store id"],
    ),
    "no layout": (
        lambda client, _: client.delete("userservice:layout"),
        ["the layout is missing"],
    ),
    "no layout and no id, as after an old server's writes into an emptied store": (
        lambda client, _: client.delete("userservice:layout", P + "store_id"),
        ["the layout is missing"],
    ),
    "no key of an empty store but its id": (
        lambda client, _: client.delete(*set(client.scan_iter()) - {b"userservice:layout", P.encode() + b"store_id"}),
        ["partition 0 has no last id"],
    ),
    "a key that nobody knows": (
        lambda client, _: client.set(P + "cache", "x"),
        ["unknown key of type string"],
    ),
    "a key of a partition that is not there": (
        lambda client, _: client.set("userservice:{1}:last_id", "65"),
        ["unknown key of type string"],
    ),
    "a key of the wrong type": (
        lambda client, _: (client.delete(P + "last_id"), client.sadd(P + "last_id", "1")),
        ["a key last_id has the type set instead of string"],
    ),
    "another id than in the record": (
        lambda client, users: (
            client.zadd(P + "users", {row_of(client, users["u7"]): users["u7"].id + 1}),
            client.hset(P + "user_ids", "u7", users["u7"].id + 1),
        ),
        ["row {u7+1}: the record contains another id: {u7}"],
    ),
    "an e-mail index of a store without one": (
        lambda client, _: client.hdel("userservice:layout", "email_index"),
        ["there is an e-mail index, but the layout says that there is none"],
    ),
    "no user in the e-mail index": (
        lambda client, users: client.zremrangebyscore(P + "emails", users["last"].id, users["last"].id),
        ["row {newest}: the e-mail index has no entry for this user"],
    ),
    "a user under another address in the e-mail index": (
        lambda client, users: (
            client.zremrangebyscore(P + "emails", users["last"].id, users["last"].id),
            client.zadd(P + "emails", {(1).to_bytes(7): users["last"].id}),
        ),
        ["row {newest}: the e-mail index has a wrong entry"],
    ),
    "the e-mail index has an entry too many": (
        lambda client, users: (
            client.zadd(P + "emails", {(1).to_bytes(7): users["last"].id + 1, (2).to_bytes(7): 0}),
            client.zadd(P + "shared_emails", {(users["last"].id + 2).to_bytes(7): 2, b"x": 2}),
        ),
        [
            "e-mail index entry {newest+1}: there is no user with this id",
            "e-mail index entry {newest+2}: there is no user with this id",
            "e-mail index entry (not an id): there is no user with this id",
        ],
    ),
    "a shared key of one user in the e-mail index": (
        lambda client, users: (
            client.zremrangebyscore(P + "emails", users["last"].id, users["last"].id),
            client.zadd(P + "emails", {index_member(email_key("ada@x")): 0}),
            client.zadd(P + "shared_emails", {users["last"].id.to_bytes(7): email_key("ada@x")}),
        ),
        ["a key of the e-mail index is marked as shared, but has fewer than two users"],
    ),
    "a shared key in the e-mail index without its mark": (
        lambda client, users: (
            client.zremrangebyscore(P + "emails", users["last"].id, users["last"].id),
            client.zadd(P + "shared_emails", {users["last"].id.to_bytes(7): email_key("ada@x")}),
        ),
        ["e-mail index entry {newest}: its key is not marked as shared"],
    ),
    "a row whose score is not a whole number": (
        lambda client, users: client.zincrby(P + "users", 0.5, row_of(client, users["u7"])),
        [
            "row {u7}: the id is not a whole number",
            "row {u7}: the record contains another id: {u7}",
            "row {u7}: the index has another id for its key: {u7}",
            "index entry {u7}: there is no row with this id",
        ],
    ),
    "scores in the e-mail index that are not ids": (
        lambda client, users: (
            client.zremrangebyscore(P + "emails", users["last"].id, users["last"].id),
            client.zadd(P + "emails", {(1).to_bytes(7): "+inf", (2).to_bytes(7): "-inf", (3).to_bytes(7): 0.5}),
            client.zadd(P + "shared_emails", {users["last"].id.to_bytes(7): "+inf"}),
        ),
        [
            "row {newest}: the e-mail index has a wrong entry",
            "e-mail index entry inf: there is no user with this id",
            "e-mail index entry -inf: there is no user with this id",
            "e-mail index entry 0: there is no user with this id",
            "e-mail index entry {newest}: its key is not marked as shared",
        ],
    ),
    "a layout with more to it": (
        lambda client, _: client.hset("userservice:layout", "shards", 2),
        ["the layout has 1 unknown fields"],
    ),
}


def as_written(finding: str, users: dict[str, User]) -> str:
    places = {
        "{u7}": users["u7"].id,
        "{u8}": users["u8"].id,
        "{u7+1}": users["u7"].id + 1,
        "{u7+64}": users["u7"].id + 64,
        "{newest}": users["last"].id,
        "{newest+1}": users["last"].id + 1,
        "{newest+2}": users["last"].id + 2,
    }
    for place, value in places.items():
        finding = finding.replace(place, str(value))
    return finding


@pytest.mark.parametrize("name", DAMAGES)
def test_check_finds_exactly_each_damage(store: Store, users: dict[str, User], name: str) -> None:
    damage, expected = DAMAGES[name]
    assert check(store.url, "userservice", 5).findings == []
    with store.client() as client:
        damage(client, users)
    found = sorted(finding.what for finding in check(store.url, "userservice", 5).findings)
    wanted = [as_written(one, users) for one in expected]
    assert len(found) == len(wanted), found
    for one in wanted:
        matches = [what for what in found if one in what]
        assert matches, (one, found)
        found.remove(matches[0])


def test_states_that_the_service_can_cause_are_no_findings(store: Store) -> None:
    with store.client() as client:
        # The store's clock was set back by an hour.
        assert client.expire(P + "request:12345678-1234-1234-1234-123456789abc", 600 + 3600)
        assert check(store.url, "userservice", 5).findings == []
        client.set(IMPORT, STATE, ex=60)
        assert check(store.url, "userservice", 5).findings == []
        # A store of the first release has no ids.
        client.delete(P + "store_id")
        client.hdel("userservice:layout", "store_id", "lowest_id")
    assert check(store.url, "userservice", 5).findings == []


def test_exit_codes_and_what_is_printed(store: Store, users: dict[str, User]) -> None:
    code, out, err = run("--redis-url", store.url)
    assert (code, err) == (0, "")
    assert out == "checked 601 users, 4 sessions, 1 idempotency records: 0 findings\n"
    with store.client() as client:
        client.hset(P + "user_ids", "ghost@example.com", users["u7"].id)
        client.rename(P + "sessions:u0", P + "sessions:ghost@example.com")
    code, out, err = run("--redis-url", store.url)
    assert (code, err) == (1, "")
    assert "ghost" not in out, "an operator's terminal is no place for personal data"
    assert out.endswith(f"{len(out.splitlines()) - 1} findings\n")
    assert "[userservice:{0}:sessions:ghost@example.com]" in run("--redis-url", store.url, "--keys")[1]


def test_check_rejects_a_redis_without_a_store(store: Store) -> None:
    with store.client() as client:
        client.hset("future:layout", mapping={"version": 3, "partitions": 1})
        client.hset("crowd:layout", mapping={"version": 1, "partitions": 65})
        client.set("string:layout", "1")
    for url, prefix, said in (
        ("redis://127.0.0.1:1/0", "userservice", "Connection refused"),
        ("http://x", "userservice", "--redis-url must be a URL"),
        (store.url, "other", "no store under the key prefix other"),
        (store.url, "future", "the store has an unknown layout version"),
        (store.url, "string", "the store has an unknown layout version"),
        (store.url, "crowd", "number of partitions must be 1, 16 or 64"),
    ):
        with pytest.raises(ConfigError, match=said):
            check(url, prefix, 5)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--redis-url", "redis://:secret@127.0.0.1:1/0"], "Connection refused"),
        (["--data-dir", "{nowhere}"], "there is no store in --data-dir"),
        (["--redis-url", "redis://:secret@127.0.0.1:1/0?retry=3"], "has an unknown option"),
        (["--redis-url", "redis://:secret@127.0.0.1:1/0?protocol=3"], "has an unknown option"),
        (["--redis-url", "rediss://:secret@127.0.0.1:1/0?ssl_cert_reqs=bogus"], "must be a URL"),
        (["--redis-url", "redis://:secret@127.0.0.1:1/0?db=x"], "must be a URL"),
        (["--redis-url", "redis://:secret@a..b:1/0"], "must be a URL"),
        (["--redis-url", "redis://:secret@[::1/0"], "must be a URL"),
        (["--redis-url", "redis://:secret@127.0.0.1:1/users"], "a database number"),
    ],
)
def test_a_store_that_cannot_be_checked_is_an_error_of_one_line(
    tmp_path: Path, arguments: list[str], said: str
) -> None:
    code, out, err = run(*(argument.replace("{nowhere}", str(tmp_path / "nowhere")) for argument in arguments))
    assert (code, out) == (2, "")
    assert err.startswith("userservice: error: ")
    assert said in err
    assert "secret" not in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "nowhere").exists()


def test_a_service_with_a_longer_prefix_has_its_own_data(store: Store) -> None:
    with store.client() as client:
        client.hset("userservice:test:layout", mapping={"version": 1, "partitions": 1})
        client.set("userservice:test:{0}:last_id", 1)
    assert check(store.url, "userservice", 5).findings == []
    assert check(store.url, "userservice:test", 5).findings == []


@pytest.mark.long
async def test_check_of_a_stopped_and_a_running_embedded_store(tmp_path: Path) -> None:
    with Service(data_dir=tmp_path) as service:
        async with connect(service.address) as stubs:
            await add_users(stubs, ["ada"])
        assert run("--redis-url", f"unix://{tmp_path}/store.sock")[0] == 0
        code, _, err = run("--data-dir", tmp_path)
        assert (code, "in use" in err) == (2, True)
        service.stop()
    assert run("--data-dir", tmp_path)[:2] == (0, "checked 1 users, 0 sessions, 0 idempotency records: 0 findings\n")


@pytest.mark.long
async def test_check_reports_a_truncated_append_only_file_and_does_not_change_it(tmp_path: Path) -> None:
    with Service(data_dir=tmp_path) as service:
        async with connect(service.address) as stubs:
            await add_users(stubs, ["ada"])
            await add_users(stubs, ["bob"])
        service.stop()
        assert not any(line["level"] == "WARNING" for line in service.log)
    [written] = (tmp_path / "appendonlydir").glob("*.incr.aof")
    os.truncate(written, written.stat().st_size - 3)
    before = written.read_bytes()
    code, out, err = run("--data-dir", tmp_path)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert "unfinished command" in err
    assert written.read_bytes() == before

    with Service(data_dir=tmp_path) as service:
        async with connect(service.address) as stubs:
            assert names(await read_chunks(stubs)) == ["ada"]
        service.stop()
        assert ["unfinished command" in line["message"] for line in service.log if line["level"] == "WARNING"] == [True]
    assert run("--data-dir", tmp_path)[:2] == (0, "checked 1 users, 0 sessions, 0 idempotency records: 0 findings\n")


@pytest.mark.long
@pytest.mark.parametrize("arguments", [[], pytest.param(["--workers", "2"], marks=pytest.mark.long)])
def test_check_reports_an_embedded_store_that_cannot_be_read(tmp_path: Path, arguments: list[str]) -> None:
    with Service(data_dir=tmp_path) as service:
        service.stop()
    [written] = (tmp_path / "appendonlydir").glob("*.incr.aof")
    written.write_bytes(written.read_bytes() + b"no command")
    expected = f"userservice: error: the embedded store exited unexpectedly (exit code 1); see {tmp_path}/store.log"
    assert run("--data-dir", tmp_path) == (2, "", f"{expected}\n")
    with Service(*arguments, data_dir=tmp_path, wait=False) as service:
        assert service.wait(30) == 2
        assert service.stderr == [expected]
