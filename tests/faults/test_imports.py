"""Connections are cut, and server and store are killed during an import: each row is applied exactly once."""

import asyncio
import contextlib
import random
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import uuid4

import pytest
from harness.ports import free_port
from harness.proxies import Proxy
from harness.services import Service
from harness.sizing import sized
from harness.stores import Store

from userservice import ImportStatus, SyncUserManager, UserManager
from userservice_server.check import check

QUIET = ("--log-level", "error")


def rows(count: int) -> Iterator[dict[str, Any]]:
    """Rows of which 1 % are invalid, and 5 % have the user_id of an earlier row."""
    for number in range(count):
        user_id = f"u{number - 707 if is_repeated(number) else number}"
        yield {"user_id": " " if number % 100 == 50 else user_id, "metadata": {"row": number}}


def is_repeated(number: int) -> bool:
    return number % 20 == 13 and number > 707


def counts(status: ImportStatus) -> tuple[object, ...]:
    errors = [(row.index, row.error.reason) for row in status.row_errors]
    return status.offset, status.added, status.merged, status.skipped, status.failed, errors


def contents(address: str) -> dict[str, str]:
    with SyncUserManager(address) as users:
        return {user.user_id: repr(user.metadata) for chunk in users.list_chunked(1000) for user in chunk}


class Progress:
    """The number of acknowledged rows."""

    offset = 0

    def note(self, status: ImportStatus) -> None:
        self.offset = status.offset


class Faults:
    """Cuts connections and kills processes at random places of an import, until it is stopped."""

    def __init__(self, proxy: Proxy, service: Service, store: Store, dice: random.Random) -> None:
        self.cuts = self.kills = 0
        self.service = service
        self._proxy, self._store, self._dice = proxy, store, dice

    def close(self) -> None:
        self.service.__exit__()

    def cut(self) -> None:
        self._proxy.cut_all()
        self.cuts += 1

    def kill_service(self) -> None:
        listen, url = self.service.address, self._store.url
        self.service.kill()
        self.service.__exit__()
        self.service = Service(*QUIET, redis_url=url, listen=listen)
        self.kills += 1

    def kill_store(self) -> None:
        self._store.restart()
        self.kills += 1

    def run(self, cuts: int, kills: int, count: int, progress: Progress, stop: threading.Event) -> None:
        faults = [self.cut] * cuts + [self.kill_service, self.kill_store] * kills
        self._dice.shuffle(faults)
        for place, fault in enumerate(faults):
            start = 0.8 * count * place / len(faults)
            while progress.offset < start:
                if stop.wait(0.005):
                    return
            if stop.wait(self._dice.uniform(0, 0.05)):
                return
            fault()


@pytest.mark.timeout(sized(300, 1800))
@pytest.mark.parametrize("mode", ["FAIL", pytest.param("MERGE", marks=pytest.mark.long)])
@pytest.mark.long
def test_each_row_is_applied_once(mode: Any, dice: random.Random) -> None:
    count, cuts, kills = sized(8000, 1_000_000), sized(4, 50), sized(1, 5)
    with Store() as store, Service(*QUIET, redis_url=store.url) as service:
        with SyncUserManager(service.address) as users:
            expected = counts(users.import_users(rows(count), on_duplicate=mode))
        wanted = contents(service.address)
    options = ["--appendfsync", "always"]
    with contextlib.ExitStack() as stack:
        store = stack.enter_context(Store(append_only=True, port=free_port(), options=options))
        service = Service(*QUIET, redis_url=store.url, listen=f"127.0.0.1:{free_port()}")
        proxy = stack.enter_context(Proxy(service.port))
        faults = Faults(proxy, service, store, dice)
        stack.callback(faults.close)
        stop, progress = threading.Event(), Progress()
        thread = threading.Thread(target=faults.run, args=(cuts, kills, count, progress, stop))
        thread.start()
        try:
            status = asyncio.run(imported(proxy.address, count, mode, progress, thread))
        finally:
            stop.set()
            thread.join()
        assert counts(status) == expected
        assert contents(faults.service.address) == wanted
        assert [finding.what for finding in check(store.url, "userservice", 10).findings] == []
        print(f"{count} rows, {faults.cuts} cuts, {faults.kills} kills")  # noqa: T201
        assert (faults.cuts, faults.kills) == (cuts, 2 * kills)


async def imported(address: str, count: int, mode: Any, progress: Progress, faults: threading.Thread) -> ImportStatus:
    async def source() -> AsyncIterator[dict[str, Any]]:
        for number, row in enumerate(rows(count)):
            if number == count - 500:
                await asyncio.to_thread(faults.join)  # so that all faults happen during the import
            yield row

    async with UserManager(address, timeout=60) as users:
        return await users.import_users(source(), on_duplicate=mode, on_progress=progress.note)


def test_the_blocking_manager_and_another_process_resume(dice: random.Random) -> None:
    count, import_id = 4000, str(uuid4())
    with Store() as store, Service(*QUIET, redis_url=store.url) as service, Proxy(service.port) as proxy:

        class Interrupted(Exception):  # noqa: N818 - not a failure
            pass

        def interrupt(status: ImportStatus) -> None:
            if status.offset >= 1500:
                raise Interrupted

        def cut(_status: ImportStatus) -> None:
            if dice.random() < 0.5:
                proxy.cut_all()

        with SyncUserManager(proxy.address) as users:
            with pytest.raises(Interrupted):
                users.import_users(rows(count), import_id=import_id, on_progress=interrupt)
            offset = users.get_import(import_id).offset
            assert 1500 <= offset <= 1500 + 4 * 500
            status = users.import_users(rows(count), import_id=import_id, on_progress=cut)
        failed = [number for number in range(count) if number % 100 == 50 or is_repeated(number)]
        assert (status.offset, status.added) == (count, count - len(failed))
        assert [error.index for error in status.row_errors] == failed
        assert len(contents(service.address)) == status.added
