import grpc
import pytest

from userservice import (
    DeadlineExceededError,
    InternalError,
    InvalidArgumentError,
    ManagerClosedError,
    OverloadedError,
    ReaderStalledError,
    ServerShuttingDownError,
    StoreFullError,
    StoreUnavailableError,
    UnavailableError,
    UpdateConflictError,
    UserNotFoundError,
    UserServiceError,
    _retry,
)
from userservice._retry import Attempts, worth_retrying


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (UnavailableError("away"), True),
        (StoreUnavailableError("away"), True),
        (ServerShuttingDownError("ends"), True),
        (ReaderStalledError("sleeps"), True),
        (OverloadedError("busy"), True),
        (UpdateConflictError("races"), True),
        (InternalError("a stream was reset", reason=""), True),
        (UserServiceError("a stream was reset", code=grpc.StatusCode.CANCELLED), True),
        (UserServiceError("Stream removed", code=grpc.StatusCode.UNKNOWN), True),
        (UserServiceError("something else", code=grpc.StatusCode.UNKNOWN), False),
        (InternalError("a bug of the service"), False),
        (StoreFullError("full"), False),
        (UserNotFoundError("no such user"), False),
        (InvalidArgumentError("bad"), False),
        (DeadlineExceededError("late"), False),
        (ManagerClosedError("closed"), False),
        (UserServiceError("no such method", code=grpc.StatusCode.UNIMPLEMENTED), False),
    ],
)
def test_which_errors_are_retried(error: UserServiceError, expected: bool) -> None:  # noqa: FBT001
    assert worth_retrying(error) is expected


class FakeTime:
    """A clock that advances only during sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeTime:
    clock = FakeTime()
    monkeypatch.setattr(_retry, "time", clock)
    monkeypatch.setattr(_retry, "sleep", clock.sleep)
    return clock


async def test_retries_go_on_until_the_deadline_and_end_with_the_error(clock: FakeTime) -> None:
    attempts, error, cause = Attempts(0.3), UnavailableError("away"), ValueError("why")
    count = 0

    async def fail_always() -> None:
        nonlocal count
        while True:
            count += 1
            await attempts.pause(error, cause)

    start = clock.now
    with pytest.raises(UnavailableError) as caught:
        await fail_always()
    assert caught.value is error
    assert error.__cause__ is cause
    assert count >= 3
    assert error.__notes__ == [f"{count} attempts failed within the deadline of 0.3 s"]
    assert 0.25 < clock.now - start <= 0.3


async def test_an_error_that_a_retry_cannot_resolve_is_raised_immediately() -> None:
    with pytest.raises(UserNotFoundError):
        await Attempts(10).pause(UserNotFoundError("no such user"))


async def test_the_client_waits_for_the_suggested_delay(clock: FakeTime) -> None:
    start = clock.now
    await Attempts(10).pause(StoreUnavailableError("away", retry_delay=1))
    assert 1 <= clock.now - start <= 1.05


async def test_the_client_does_not_wait_for_a_delay_beyond_the_deadline(clock: FakeTime) -> None:
    start = clock.now
    with pytest.raises(StoreUnavailableError):
        await Attempts(1).pause(StoreUnavailableError("away", retry_delay=60))
    assert clock.now == start


async def test_a_deadline_in_a_later_attempt_raises_the_earlier_error() -> None:
    attempts = Attempts(10)
    await attempts.pause(UnavailableError("away"))
    with pytest.raises(UnavailableError, match="away"):
        await attempts.pause(DeadlineExceededError("late"))


@pytest.mark.parametrize("timeout", [1e9, 1e10, 1e300, 10**400])
def test_the_longest_timeout_is_a_year(timeout: float) -> None:
    assert _retry.check_timeout(timeout) == 365 * 86400
