"""Service and Redis killed in the midst of writes: what is left agrees with itself, and has what was acknowledged."""

import asyncio
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.connections import connect_blocking
from harness.proxies import Proxy
from harness.services import Service
from harness.sizing import FULL, sized
from harness.stores import BACKENDS, Store

from userservice import SessionManager, UserManager, UserNotFoundError, UserServiceError
from userservice_server.check import check

WRITERS = 8


class Writer:
    """Writes users and sessions as fast as it can, and knows what was acknowledged."""

    def __init__(self, address: str, dice: random.Random, name: str) -> None:
        self.acknowledged: dict[str, bool | None] = {}  # whether the user is there; None where that is not known
        self._address, self._dice, self._name = address, dice, name
        self._number = 0

    async def write(self, stop: asyncio.Event) -> None:
        async with (
            UserManager(self._address, timeout=30) as users,
            SessionManager(self._address, timeout=30) as sessions,
        ):
            while not stop.is_set():
                user_id = f"{self._name}-{self._number % 20}"
                self._number += 1
                there = self.acknowledged.get(user_id)
                self.acknowledged[user_id] = None
                if there is None:
                    there = await self._is_there(users, user_id)
                if there and self._dice.random() < 0.4:
                    await users.delete(user_id)
                    self.acknowledged[user_id] = False
                    continue
                if there:
                    await users.update(user_id=user_id, metadata={"n": self._number})
                    await sessions.add(user_id=user_id, session_id=f"s{self._number}")
                else:
                    await users.add(user_id=user_id)
                self.acknowledged[user_id] = True

    @staticmethod
    async def _is_there(users: UserManager, user_id: str) -> bool:
        try:
            await users.get(user_id)
        except UserNotFoundError:
            return False
        return True


def assert_kept(writers: list[Writer], address: str) -> None:
    """What was acknowledged as written or deleted is."""

    async def differing() -> list[str]:
        async with UserManager(address, timeout=30) as users:
            expected = {u: there for writer in writers for u, there in writer.acknowledged.items() if there is not None}
            found = await users.batch_get(list(expected)) if expected else []
            present = {user.user_id for user in found}
            return [user_id for user_id, there in expected.items() if there != (user_id in present)]

    assert asyncio.run(differing()) == []


def kill_during_writes(dice: random.Random, kills: int, backend: str) -> int:
    """Kills Redis while one of its scripts is on its way, again and again; returns how often."""
    killed = 0
    options = ["--appendfsync", "no", "--auto-aof-rewrite-percentage", "0"]
    with (
        Store(backend, append_only=True, options=options) as store,
        Proxy(store.socket) as proxy,
        Service("--log-level", "error", redis_url=proxy.url) as service,
    ):
        for round_ in range(kills):
            countdown = Countdown(dice.randrange(1, 60))
            proxy.lose_reply_after = countdown
            writers = [Writer(service.address, dice, f"w{round_}-{number}") for number in range(WRITERS)]
            asyncio.run(write_until_killed(writers, store, countdown.over, dice.uniform(0, 0.004)))
            killed += 1
            assert [finding.what for finding in check(store.url, "userservice", 10).findings] == []
            assert_kept(writers, service.address)
        assert service.stop() == 0
    return killed


class Countdown:
    """A rule for the proxy that lets everything pass, and tells when so many scripts have been sent."""

    def __init__(self, scripts: int) -> None:
        self.over = threading.Event()
        self._left = scripts

    def __call__(self, sent: bytes) -> bool:
        self._left -= sent.count(b"EVALSHA")
        if self._left <= 0:
            self.over.set()
        return False


async def write_until_killed(writers: list[Writer], store: Store, due: threading.Event, delay: float) -> None:
    stop = asyncio.Event()
    writing = [asyncio.create_task(writer.write(stop)) for writer in writers]

    def kill() -> None:
        assert due.wait(30)
        threading.Event().wait(delay)
        store.restart()

    await asyncio.to_thread(kill)
    stop.set()
    await asyncio.gather(*writing)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("backend", sorted(BACKENDS))
def test_redis_killed_in_the_midst_of_writes(seed: int, backend: str) -> None:
    kills, lanes = sized(6, 240), sized(2, 4)
    with_errors: list[BaseException] = []
    counts: list[int] = []

    def lane(number: int) -> None:
        try:
            dice = random.Random(seed + number)  # noqa: S311 - a seeded stream of faults, no secret
            counts.append(kill_during_writes(dice, kills // lanes, backend))
        except BaseException as error:  # noqa: BLE001 - raised below, in the test's own thread
            with_errors.append(error)

    threads = [threading.Thread(target=lane, args=(number,)) for number in range(lanes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(f"{sum(counts)} kills of {backend}")  # noqa: T201 - the figure
    if with_errors:
        raise with_errors[0]


@pytest.mark.timeout(300)
def test_the_service_killed_in_the_midst_of_writes(dice: random.Random) -> None:
    kills = sized(2, 25)
    with Store() as store:
        for round_ in range(kills):
            with Service("--log-level", "error", redis_url=store.url) as service:
                writers = [Writer(service.address, dice, f"w{round_}-{number}") for number in range(WRITERS)]
                asyncio.run(write_until_service_killed(writers, service, dice.uniform(0.02, 0.3)))
            assert [finding.what for finding in check(store.url, "userservice", 10).findings] == []
            with Service("--log-level", "error", redis_url=store.url) as service:
                assert_kept(writers, service.address)


async def write_until_service_killed(writers: list[Writer], service: Service, delay: float) -> None:
    writing = [asyncio.create_task(writer.write(asyncio.Event())) for writer in writers]
    await asyncio.sleep(delay)
    await asyncio.to_thread(service.kill)
    for task in writing:
        task.cancel()
    for ended in await asyncio.gather(*writing, return_exceptions=True):
        assert isinstance(ended, asyncio.CancelledError | UserServiceError), ended


@pytest.fixture(scope="module", params=sorted(BACKENDS))
def written(request: pytest.FixtureRequest) -> Iterator[tuple[Store, Path, bytes]]:
    """A store at rest and its append-only file, made of every kind of write."""
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


def test_a_log_that_ends_anywhere(written: tuple[Store, Path, bytes], dice: random.Random) -> None:
    """Every place at which a crash can have cut Redis's log, be it between two commands of one script."""
    store, log, content = written
    cuts = (
        range(len(content)) if FULL and len(content) < 400 else sorted(dice.sample(range(len(content)), sized(12, 250)))
    )
    for cut in cuts:
        log.write_bytes(content[:cut])
        store.start()
        with store.client() as client:
            is_marked = client.hexists("userservice:layout", "partitions")
        if is_marked:
            assert [finding.what for finding in check(store.url, "userservice", 10).findings] == [], cut
        store.kill()
    print(f"{len(cuts)} cuts of {len(content)} bytes")  # noqa: T201 - the figure
