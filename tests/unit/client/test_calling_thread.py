"""The code of a program that a blocking call needs runs in the calling thread, or at least never blocks the call."""

import gc
import itertools
import threading
from collections.abc import Iterator

import pytest

from userservice import InvalidArgumentError, ManagerUnusableError, SyncUserManager, UnavailableError
from userservice._portal import Portal

NOWHERE = "127.0.0.1:1"


async def nothing() -> None:
    pass


class Owner:
    """An object in a reference cycle that closes its portal when it is collected, in whatever thread that is."""

    def __init__(self, portal: Portal, closed: threading.Event) -> None:
        self.portal, self.closed, self.cycle = portal, closed, self

    def __del__(self) -> None:
        self.portal.close(nothing)
        self.closed.set()


def test_names_are_read_in_the_calling_thread() -> None:
    threads: list[threading.Thread] = []

    def names() -> Iterator[str]:
        threads.append(threading.current_thread())
        yield "ada"

    with SyncUserManager(NOWHERE, timeout=0.1) as users, pytest.raises(UnavailableError):
        users.batch_get(names())
    assert threads == [threading.current_thread()]


def test_names_may_come_from_the_same_manager() -> None:
    with SyncUserManager(NOWHERE, timeout=0.1) as users, pytest.raises(UnavailableError):
        users.batch_get(user.user_id for page in users.list_chunked() for user in page)


def test_names_without_an_end_are_rejected() -> None:
    with SyncUserManager(NOWHERE, timeout=0.1) as users, pytest.raises(InvalidArgumentError, match="at most 100000"):
        users.batch_get(map(str, itertools.count()))


@pytest.mark.parametrize("names", ["ada", b"ada", None, 5, {"ada": 1}])
def test_what_is_no_list_of_names_is_rejected_as_before(names: object) -> None:
    with SyncUserManager(NOWHERE, timeout=0.1) as users, pytest.raises((InvalidArgumentError, UnavailableError)):
        users.batch_get(names)  # type: ignore[arg-type]


def test_a_call_inside_a_call_is_rejected_instead_of_waiting_for_itself() -> None:
    portal = Portal()
    refused: list[ManagerUnusableError] = []

    async def call_again() -> None:
        try:
            portal.run(nothing)
        except ManagerUnusableError as error:
            refused.append(error)

    caller = threading.Thread(target=portal.run, args=[call_again], daemon=True)
    caller.start()
    caller.join(10)
    assert not caller.is_alive()
    assert len(refused) == 1
    portal.close(nothing)


def test_a_finaliser_may_close_in_the_thread_of_the_loop() -> None:
    portal, closed = Portal(), threading.Event()
    before = set(threading.enumerate())
    portal.run(nothing)
    (thread,) = set(threading.enumerate()) - before
    Owner(portal, closed)
    portal.post(gc.collect)
    assert closed.wait(10)
    thread.join(10)
    assert not thread.is_alive()
