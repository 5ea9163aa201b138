"""`userservice feed`, `users watch`, and what the feed changes for permissions, migrations and the check."""

import asyncio
import json
import signal
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
from harness.commands import command
from harness.connections import connect, connect_blocking
from harness.failures import failure_of
from harness.feeds import feed_on, start, watching
from harness.population import add_users
from harness.services import Service, clean_environment
from harness.stores import Store
from harness.waiting import until

from userservice import UserAlreadyExistsError, UserManager
from userservice.v1.session_service_pb2 import AddSessionRequest, RevokeUserSessionsRequest
from userservice.v1.user_service_pb2 import AddUserRequest
from userservice_server.check import check
from userservice_server.migration import Endpoint, migrate
from userservice_server.store.keys import Keys

DOCUMENT = Path(__file__).parents[2] / "docs" / "operations.md"
FEED = Keys("userservice", 1).all_users()[0].feed
pytestmark = pytest.mark.long


def test_the_commands_turn_the_feed_on_and_off(store: Store) -> None:
    def feed(*arguments: str) -> str:
        done = command("feed", *arguments, "--redis-url", store.url)
        assert (done.code, done.err) == (0, "")
        return done.out.strip()

    assert feed("status") == "the feed is off"
    assert feed("on", "--watch-retention", "3600") == "the feed is on"
    assert feed("on", "--watch-max-entries", "5000") == "the feed was on already; its limits were set"
    assert feed("status") == "the feed is on: 86400 seconds, at most 5000 entries"
    with store.client() as client:
        assert client.hget("userservice:layout", "version") == b"2"  # servers of an earlier version reject the store
    assert feed("off") == "the feed is off"
    assert feed("off") == "the feed was off already"
    with store.client() as client:
        assert client.hget("userservice:layout", "version") == b"2"  # because of the e-mail index
        client.hdel("userservice:layout", "email_index")
    assert feed("off") == "the feed was off already"
    with store.client() as client:
        assert client.hget("userservice:layout", "version") == b"1"
        assert not client.exists(FEED)


def test_the_feed_of_an_embedded_store_is_turned_on_while_it_runs_and_while_it_does_not(tmp_path: Path) -> None:
    with Service(data_dir=tmp_path) as service:
        assert command("feed", "on", "--data-dir", tmp_path).out == "the feed is on\n"
        assert service.stop() == 0
    assert command("feed", "status", "--data-dir", tmp_path).out.startswith("the feed is on: 86400 seconds")
    done = command("feed", "on", "--data-dir", tmp_path / "nothing")
    assert (done.code, done.out) == (2, "")
    assert "there is no store in --data-dir" in done.err


async def test_the_command_watch_prints_changes_and_continues(store: Store, service: Service, tmp_path: Path) -> None:
    await feed_on(store.url)
    resume = tmp_path / "users.resume"
    arguments = ("users", "watch", "--start", "snapshot", "--resume-file", str(resume), "--heartbeat", "1")
    found: list[tuple[str, str]] = []
    async with connect(service.address) as stubs:
        for number in range(2):
            await add_users(stubs, [f"u{number}"])
            before = resume.read_text() if resume.exists() else ""
            with subprocess.Popen(  # noqa: ASYNC220 - starting it takes no time
                [sys.executable, "-m", "userservice", *arguments, "--address", service.address],
                env=clean_environment(),
                stdout=subprocess.PIPE,
                text=True,
            ) as process:
                try:
                    assert process.stdout
                    line = json.loads(await asyncio.to_thread(process.stdout.readline))
                    found.append((line["kind"], line["user_id"]))
                    await asyncio.to_thread(until, lambda: resume.exists() and resume.read_text() != before)  # noqa: B023
                    process.send_signal(signal.SIGINT)
                    assert await asyncio.to_thread(process.wait, 20) == 130
                finally:
                    process.kill()
    assert found == [("USER_EXISTS", "u0"), ("USER_ADDED", "u1")]
    resume.write_text("é")
    done = await asyncio.to_thread(command, *arguments, "--address", service.address)
    assert (done.code, done.err) == (
        1,
        f"userservice: error: cannot read --resume-file {resume}: it contains no token\n",
    )


def acl_rules() -> list[str]:
    lines = [line for line in DOCUMENT.read_text().splitlines() if line.startswith("ACL SETUSER app ")]
    first, second = lines[:2]
    return [*first.replace("PASSWORD", "pw").split()[3:], *second.split()[3:]]


async def test_the_feed_needs_only_the_documented_permissions(store: Store) -> None:
    with store.client() as client:
        client.execute_command("ACL", "SETUSER", "app", "reset", *acl_rules())
    url = store.url.replace("unix://", "unix://app:pw@")
    with Service(redis_url=url) as service:
        assert service.stop() == 0  # the store exists now
    with store.client() as client:
        client.execute_command("ACL", "SETUSER", "app", "-hgetall")
    done = await asyncio.to_thread(command, "feed", "on", "--redis-url", url)
    assert (done.code, done.out) == (2, "")
    assert "lacks permissions, such as HGETALL" in done.err
    with store.client() as client:
        assert not client.hexists("userservice:layout", "feed")
        client.execute_command("ACL", "SETUSER", "app", "+hgetall")
    await feed_on(url)
    with Service(redis_url=url) as service:
        async with connect(service.address) as stubs, watching(stubs, now=True) as watch:
            await add_users(stubs, ["ada"])
            await watch.has(1)
            with store.client() as client:
                assert client.pubsub_shardnumsub(FEED) == [(FEED, 1)]  # one connection gets the announcements
            await stubs.sessions.AddSession(AddSessionRequest(user_id="ada", session_id="s"))
            await stubs.sessions.RevokeUserSessions(RevokeUserSessionsRequest(user_id="ada"))
        assert service.stop() == 0
    with store.client() as client:
        client.execute_command("ACL", "SETUSER", "app", "-xadd")
    with Service(redis_url=url, wait=False) as service:
        assert service.wait() == 2
        assert "lacks permissions, such as XADD" in service.stderr[0]
    with store.client() as client:
        client.execute_command("ACL", "DELUSER", "app")


@pytest.mark.parametrize("partitions", [1, 16])
async def test_a_migration_starts_a_new_epoch(store: Store, service: Service, partitions: int) -> None:
    await feed_on(store.url, max_entries=3200, retention=500)
    async with connect(service.address) as stubs, watching(stubs, now=True) as watch:
        await add_users(stubs, ["ada"])
        [change] = await watch.has(1)
        token = watch.token
    with Store() as target:
        ends = Endpoint(store.url, "userservice"), Endpoint(target.url, "userservice")
        await asyncio.to_thread(migrate, *ends, partitions, 5, lambda *_: None)
        with Service(redis_url=target.url) as moved:
            with connect_blocking(moved.address) as stubs_of_target:
                with pytest.raises(grpc.RpcError) as expired:
                    list(stubs_of_target.users.WatchUsers(start(resume_token=token), timeout=20))
                assert failure_of(expired.value).reason == "WATCH_TOKEN_EXPIRED"
            async with connect(moved.address) as stubs, watching(stubs, now=True) as watch:
                await stubs.users.AddUser(AddUserRequest(user_id="bob"))
                assert (await watch.has(1))[0].revision > change.revision
        with target.client() as client:
            limits = client.hmget("userservice:layout", "feed_entries", "feed_seconds")
        assert limits == [b"%d" % (3200 // partitions), b"500"]
        assert check(target.url, "userservice", 5).findings == []


async def test_check_finds_damage_in_the_feed(store: Store, service: Service) -> None:
    await feed_on(store.url)
    async with connect(service.address) as stubs:
        await add_users(stubs, ["a", "b", "c"])
    with store.client() as client:
        entries = client.xrange(FEED)
        client.xdel(FEED, entries[1][0])
        client.xadd(FEED, {"c": b"\x63damaged"}, id=b"%d-%d" % (2**52, int(entries[-1][0].partition(b"-")[2]) + 1))
        client.hset("userservice:layout", "version", 1)
    found = {finding.what for finding in check(store.url, "userservice", 5).findings}
    assert found == {
        "the feed of changes has 1 gaps",
        "the feed of changes has 1 damaged entries",
        "the feed of changes is on, but the layout version is not 2",
        "there is an e-mail index, but the layout version is not 2",
    }
    with store.client() as client:
        client.delete(FEED)
    found = {finding.what for finding in check(store.url, "userservice", 5).findings}
    assert "the feed of changes of partition 0 is missing" in found


async def test_an_add_of_a_user_who_exists_is_rejected_while_the_feed_is_on(store: Store, service: Service) -> None:
    await feed_on(store.url)
    async with UserManager(service.address) as manager:
        await manager.add(user_id="ada")
        with pytest.raises(UserAlreadyExistsError):
            await manager.add(user_id="ada")
