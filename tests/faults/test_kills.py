"""Service and Redis are killed during writes: the data stay consistent and contain all acknowledged writes."""

import asyncio
import random
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Self

import pytest
from harness.connections import connect_blocking
from harness.ports import free_port
from harness.proxies import Proxy
from harness.services import Service
from harness.sizing import FULL, sized
from harness.stores import BACKENDS, Store

from userservice import Session, SessionManager, User, UserManager
from userservice_server.check import check
from userservice_server.store import scripts
from userservice_server.store.scripts import Script

WRITERS = 6  # a lane
USERS_A_WRITER = 3
LANES = sized(2, 4)  # each with a store and a service of its own, for most of the time is spent in waiting
QUIET = ("--log-level", "error")
STORE_OPTIONS = ("--appendfsync", "no", "--auto-aof-rewrite-percentage", "0")
KILLS_A_STORE = 25  # then a fresh one, since what takes time is to load a long log


class Writer:
    """Writes users and sessions as fast as it can, with the manager's retries, and records the acknowledged writes."""

    def __init__(self, users: UserManager, sessions: SessionManager, dice: random.Random, name: str) -> None:
        self.stored: dict[str, tuple[User, dict[str, Session]]] = {}
        self.user_ids = [f"{name}-{number}" for number in range(USERS_A_WRITER)]
        self._users, self._sessions, self._dice = users, sessions, dice
        self._number = 0

    async def write(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            self._number += 1
            user_id = self._dice.choice(self.user_ids)
            if user_id in self.stored:
                await self._change(user_id, *self.stored[user_id])
            else:
                self.stored[user_id] = await self._users.add(user_id=user_id), {}

    async def _change(self, user_id: str, user: User, sessions: dict[str, Session]) -> None:
        content, session_id = {"n": self._number}, f"s{self._dice.randrange(2)}"
        match self._dice.choice(["update", "update", "delete", "session", "session", "session"]):
            case "update":
                self.stored[user_id] = await self._users.update(user_id=user_id, metadata=content), sessions
            case "delete":
                await self._users.delete(user_id, etag=self._dice.choice(["", user.etag]))
                del self.stored[user_id]
            case _ if session_id not in sessions:
                sessions[session_id] = await self._sessions.add(user_id=user_id, session_id=session_id)
            case _ if self._dice.random() < 0.5:
                sessions[session_id] = await self._sessions.update(
                    user_id=user_id, session_id=session_id, metadata=content
                )
            case _:
                await self._sessions.delete(user_id, session_id)
                del sessions[session_id]

    async def assert_kept(self) -> None:
        """Checks that all acknowledged writes and deletes are in the store."""
        found = await self._users.batch_get(self.user_ids)
        assert {user.user_id: user for user in found} == {name: user for name, (user, _) in self.stored.items()}
        for user_id, (_, expected) in self.stored.items():
            sessions = await self._users.get_sessions(user_id)
            assert {session.session_id: session for session in sessions} == expected


def assert_sound(store: Store) -> None:
    assert [finding.what for finding in check(store.url, "userservice", 10).findings] == []


@asynccontextmanager
async def writers_at(address: str, dice: random.Random) -> AsyncIterator[list[Writer]]:
    own = [("grpc.use_local_subchannel_pool", 1), ("grpc.initial_reconnect_backoff_ms", 100)]
    async with (
        UserManager(address, timeout=30, channel_options=own) as users,
        SessionManager(address, timeout=30, channel_options=own) as sessions,
    ):
        yield [Writer(users, sessions, dice, f"w{number}") for number in range(WRITERS)]


async def kill_again_and_again(
    address: str, store: Store, dice: random.Random, numbers: range, kill: Callable[[int], None]
) -> None:
    """Kills a process during writes and checks the remaining data, once for each number."""
    async with writers_at(address, dice) as writers:
        for number in numbers:
            stop = asyncio.Event()
            async with asyncio.TaskGroup() as tasks:
                for writer in writers:
                    tasks.create_task(writer.write(stop))
                await asyncio.to_thread(kill, number)
                stop.set()
            await asyncio.to_thread(assert_sound, store)
            for writer in writers:
                await writer.assert_kept()


class Countdown:
    """A rule of the proxy that matches once, at the n-th piece with the given bytes, and records when it did."""

    def __init__(self, matching: bytes, number: int) -> None:
        self.over = threading.Event()
        self._matching, self._left = matching, number

    def __call__(self, sent: bytes) -> bool:
        self._left -= sent.count(self._matching)
        if self._left > 0 or self.over.is_set():
            return False
        self.over.set()
        return True


def in_lanes(kills: int, seed: int, lane: Callable[[range, random.Random], None]) -> None:
    """Distributes the kills over lanes that run concurrently."""
    shares = [range(number, kills, LANES) for number in range(LANES)]
    dice = [random.Random(seed + number) for number in range(LANES)]  # noqa: S311 - a seeded stream of faults, no secret
    with ThreadPoolExecutor(LANES) as threads:
        for _ in threads.map(lane, shares, dice):
            pass


@pytest.mark.timeout(400)
@pytest.mark.parametrize("backend", ["redis", pytest.param("valkey", marks=pytest.mark.long)])
def test_redis_killed_during_writes(seed: int, backend: str) -> None:
    kills = sized(8, 400)

    def lane(numbers: range, dice: random.Random) -> None:
        for start in range(0, len(numbers), KILLS_A_STORE):
            kill_redis(backend, numbers[start : start + KILLS_A_STORE], dice)

    in_lanes(kills, seed, lane)
    print(f"{kills} kills of {backend}")  # noqa: T201 - the figure


def kill_redis(backend: str, numbers: range, dice: random.Random) -> None:
    """Kills Redis while a script is sent to it."""
    with (
        Store(backend, append_only=True, options=STORE_OPTIONS) as store,
        Proxy(store.socket) as proxy,
        Service(*QUIET, redis_url=proxy.url) as service,
    ):

        def kill(_: int) -> None:
            countdown = Countdown(b"EVALSHA", dice.randrange(1, 60))
            proxy.lose_reply_after = lambda sent: countdown(sent) and False
            assert countdown.over.wait(30)
            threading.Event().wait(dice.uniform(0, 0.004))
            store.restart()

        asyncio.run(kill_again_and_again(service.address, store, dice, numbers, kill))
        assert service.stop() == 0


# Where the service is killed: before the store has got a script, and when its reply has come back but the service has
# not seen it. GET is the first of the two steps of an update, and of a delete with an etag.
STEPS = [
    (script, when)
    for script in (scripts.GET, scripts.ADD, scripts.REPLACE, scripts.DELETE)
    for when in ("before", "after")
]


@pytest.mark.long
@pytest.mark.timeout(400)
def test_the_service_killed_at_every_step_of_its_writes(seed: int) -> None:
    kills = sized(8, 200)

    def lane(numbers: range, dice: random.Random) -> None:
        with Store() as store, Proxy(store.socket) as proxy, Served(proxy) as served:

            def kill(number: int) -> None:
                served.kill(*STEPS[number % len(STEPS)], dice.randrange(1, 12))
                assert_sound(store)  # before anybody has repeated what was cut short
                served.start()

            asyncio.run(kill_again_and_again(served.address, store, dice, numbers, kill))

    in_lanes(kills, seed, lane)
    print(f"{kills} kills of the service")  # noqa: T201 - the figure


class Served:
    """A service that restarts at its address after it was killed."""

    def __init__(self, proxy: Proxy) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        self._proxy = proxy
        self.start()

    def start(self) -> None:
        self._service = Service(*QUIET, listen=self.address, redis_url=self._proxy.url)

    def kill(self, script: Script, when: str, number: int) -> None:
        """Kills the service before or after the n-th call of the script."""
        rule = Countdown(script.sha1, number)
        self._proxy.held.clear()
        setattr(self._proxy, f"hold_{when}", rule)
        assert self._proxy.held.wait(30)
        self._service.__exit__()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._service.__exit__()


@pytest.fixture(scope="module", params=sorted(BACKENDS))
def written(request: pytest.FixtureRequest) -> Iterator[tuple[Store, Path, bytes]]:
    """A stopped store with its append-only file, which contains every kind of write."""
    options = ["--auto-aof-rewrite-percentage", "0"]
    with Store(request.param, append_only=True, options=options) as store:
        with Service(redis_url=store.url) as service, connect_blocking(service.address):
            asyncio.run(every_kind_of_write(service.address))
            service.stop()
        store.kill()
        [log] = (store.directory / "appendonlydir").glob("*.incr.aof")
        yield store, log, log.read_bytes()
        store.start()


async def every_kind_of_write(address: str) -> None:
    async with UserManager(address) as users, SessionManager(address) as sessions:
        for number in range(4):
            user_id = f"u{number}"
            user = await users.add(user_id=user_id, metadata={"a": 1})
            for session_id in ("s", "t"):
                await sessions.add(user_id=user_id, session_id=session_id)
            await users.update(user_id=user_id, metadata={"b": 2}, etag=user.etag)
            await sessions.update(user_id=user_id, session_id="s", metadata={"c": 3})
            await sessions.delete(user_id, "t")
            if number % 2:
                await users.delete(user_id)


def test_an_append_only_file_cut_at_any_byte(written: tuple[Store, Path, bytes], dice: random.Random) -> None:
    """A crash can cut the file anywhere, also between two commands of one script."""
    store, log, content = written
    cuts = (
        range(len(content)) if FULL and len(content) < 400 else sorted(dice.sample(range(len(content)), sized(12, 250)))
    )
    marked = 0
    for cut in cuts:
        log.write_bytes(content[:cut])
        store.start()
        with store.client() as client:
            is_marked = client.hexists("userservice:layout", "partitions")
        if is_marked:
            marked += 1
            assert_sound(store)
        store.kill()
    print(f"{len(cuts)} cuts of {len(content)} bytes")  # noqa: T201 - the figure
    assert marked > 0
