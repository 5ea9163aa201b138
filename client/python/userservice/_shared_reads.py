"""The option `share_reads`: concurrent gets of a manager share calls."""

from __future__ import annotations

import copy
import re
import weakref
from collections.abc import Mapping, Sequence
from enum import Enum, auto
from typing import TypeAlias

from userservice import _methods as rpc
from userservice._answers import check_batch, check_user
from userservice._connection import Connection
from userservice._gathering import Gathering
from userservice._retry import Attempts
from userservice._status import with_proxy
from userservice.errors import (
    DeadlineExceededError,
    InvalidArgumentError,
    ManagerClosedError,
    ManagerUnusableError,
    UserNotFoundError,
    UserServiceError,
)
from userservice.v1.user_pb2 import User as UserMessage
from userservice.v1.user_service_pb2 import GetUserRequest
from userservice.v1.view_pb2 import View

_INVALID_NAME = re.compile(r"user_ids\[(\d+)\]")


class _Verdict(Enum):
    """The outcome of a shared call for a user_id for which the call returned neither a user nor an error."""

    MISSING = auto()
    """No user has this user_id."""

    ALONE = auto()
    """The get must make a call of its own, which returns its result or error."""

    AGAIN = auto()
    """The get can share another call, because this call failed for another user_id."""


_Outcome: TypeAlias = UserMessage | UserServiceError | _Verdict


class _Sender:
    """Makes the calls of a gathering.

    This class is separate from `SharedReads`, so that the gathering does not refer to `SharedReads`. Such a reference
    would be a reference cycle, and a manager in a reference cycle does not close its connection immediately when the
    program drops the manager.

    Args:
        connection: The connection of the manager.
        view: The view of all requests of the gathering.
    """

    def __init__(self, connection: Connection, view: View.ValueType) -> None:
        self._connection = connection
        self._view = view

    async def send(self, user_ids: Sequence[str], timeout: float) -> Mapping[str, _Outcome]:  # noqa: ASYNC109
        """Makes one call without retries; returns the outcome of each user_id."""
        try:
            if len(user_ids) == 1:
                return {user_ids[0]: await self._get(user_ids[0], timeout)}
            return await self._get_batch(user_ids, timeout)
        except UserServiceError as error:
            return _outcomes_of_failure(error, user_ids)

    async def _get(self, user_id: str, timeout: float) -> UserMessage:  # noqa: ASYNC109
        request = rpc.GET_USER.request(user_id=user_id, view=self._view)
        user = (await self._connection.call_once(rpc.GET_USER, request, timeout)).user
        check_user(user, user_id)
        return user

    async def _get_batch(self, user_ids: Sequence[str], timeout: float) -> Mapping[str, _Outcome]:  # noqa: ASYNC109
        request = rpc.BATCH_GET_USERS.request(user_ids=user_ids, view=self._view)
        found = await self._connection.call_once(rpc.BATCH_GET_USERS, request, timeout)
        check_batch(found.users, found.missing_user_ids, user_ids)
        outcomes: dict[str, _Outcome] = dict.fromkeys(found.missing_user_ids, _Verdict.MISSING)
        for user in found.users:
            outcomes[user.user_id] = user
        return outcomes


class _Gatherings:
    """The gatherings of gets with the same token and metadata, by view.

    Args:
        connection: A connection with this token and metadata.
    """

    def __init__(self, connection: Connection) -> None:
        self._by_view: Mapping[int, Gathering[_Outcome]] = {
            view: Gathering(_Sender(connection, view).send)
            for view in (View.VIEW_UNSPECIFIED, View.VIEW_BASIC, View.VIEW_ID)
        }

    def of(self, view: View.ValueType) -> Gathering[_Outcome]:
        """Returns the gathering of the gets with this view."""
        return self._by_view[View.VIEW_UNSPECIFIED if view == View.VIEW_FULL else view]


class SharedReads:
    """Sends concurrent gets as one BatchGetUsers. If there is only one get, it is sent as a GetUser.

    Each get has its own result, error, deadline and retries. If a shared call fails with an error that is not retried,
    each of its gets makes a call of its own. Therefore a get cannot fail because of another get.

    Gets of managers that share channels (see `with_options`) share calls if the managers send the same token and
    metadata. Timeouts and retries may differ, because each get has its own.

    Args:
        connection: The connection of the manager.
        relative: The shared reads of a manager that shares its channels with this manager; None without such a manager.
    """

    def __init__(self, connection: Connection, relative: SharedReads | None = None) -> None:
        self._connection = connection
        # Weak references, so that a program can use any number of tokens one after the other.
        self._all: weakref.WeakValueDictionary[object, _Gatherings] = (
            weakref.WeakValueDictionary() if relative is None else relative._all  # noqa: SLF001 - the same class
        )
        self._gets = self._find(connection)

    def _find(self, connection: Connection) -> _Gatherings:
        """Returns the gatherings of the gets with the same token and metadata. Creates them if no manager has them."""
        found = self._all.get(connection.caller)
        return self._all.setdefault(connection.caller, _Gatherings(connection)) if found is None else found

    async def get(self, request: GetUserRequest, attempts: Attempts) -> UserMessage:
        """Returns a user.

        Raises:
            UserServiceError: If the get failed.
        """
        while True:
            self._connection.check_usable()
            try:
                outcome = await self._gets.of(request.view).outcome(request.user_id, attempts.deadline)
            except TimeoutError:
                await attempts.pause(self._out_of_time())
                continue
            if isinstance(outcome, UserServiceError):
                # Each get raises a separate exception, because an exception contains the traceback of its caller.
                await attempts.pause(copy.copy(outcome), outcome.__cause__)
            elif outcome is _Verdict.MISSING:
                raise UserNotFoundError("the user does not exist")
            elif outcome is _Verdict.ALONE:
                return (await self._connection.call(rpc.GET_USER, request, attempts)).user
            elif not isinstance(outcome, _Verdict):
                return outcome

    def _out_of_time(self) -> DeadlineExceededError:
        return DeadlineExceededError(with_proxy("Deadline Exceeded", self._connection.connect().proxy))


def _outcomes_of_failure(error: UserServiceError, user_ids: Sequence[str]) -> Mapping[str, _Outcome]:
    """Returns the outcome of each user_id of a call that failed."""
    if len(user_ids) == 1 or error.retried or isinstance(error, (ManagerClosedError, ManagerUnusableError)):
        return dict.fromkeys(user_ids, error)
    fields = [violation.field for violation in error.violations] if isinstance(error, InvalidArgumentError) else []
    invalid = {int(found[1]) for found in map(_INVALID_NAME.fullmatch, fields) if found}
    return {
        user_id: _Verdict.AGAIN if invalid and position not in invalid else _Verdict.ALONE
        for position, user_id in enumerate(user_ids)
    }
