"""A blocking call runs in the calling thread, so code of the program that the call needs cannot block it."""

import itertools
import threading
from collections.abc import Iterator

import pytest

from userservice import DeadlineExceededError, InvalidArgumentError, SyncUserManager, UnavailableError

NOWHERE = "127.0.0.1:1"
NO_SERVICE = (
    UnavailableError,
    DeadlineExceededError,
)  # the connection is refused, on a busy machine after the deadline


def test_user_ids_are_read_in_the_calling_thread() -> None:
    threads: list[threading.Thread] = []

    def user_ids() -> Iterator[str]:
        threads.append(threading.current_thread())
        yield "ada"

    with SyncUserManager(NOWHERE, timeout=0.1) as users, pytest.raises(NO_SERVICE):
        users.batch_get(user_ids())
    assert threads == [threading.current_thread()]


def test_user_ids_can_be_read_from_the_same_manager() -> None:
    with SyncUserManager(NOWHERE, timeout=0.1) as users, pytest.raises(NO_SERVICE):
        users.batch_get(user.user_id for page in users.list_chunked() for user in page)


def test_an_endless_iterable_of_user_ids_is_rejected() -> None:
    with SyncUserManager(NOWHERE, timeout=0.1) as users, pytest.raises(InvalidArgumentError, match="at most 100000"):
        users.batch_get(map(str, itertools.count()))


@pytest.mark.parametrize("user_ids", ["ada", b"ada", None, 5, {"ada": 1}])
def test_values_that_are_not_lists_of_user_ids_are_rejected(user_ids: object) -> None:
    with SyncUserManager(NOWHERE, timeout=0.1) as users, pytest.raises((InvalidArgumentError, *NO_SERVICE)):
        users.batch_get(user_ids)  # type: ignore[arg-type]
