"""The exit codes of the client's commands, and the errors that end a command."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from userservice.errors import UserServiceError

SUCCESS, PARTIAL, USAGE, NOT_FOUND, CREDENTIALS, UNAVAILABLE, INTERRUPTED = 0, 1, 2, 3, 4, 5, 130

_BY_STATUS = {
    "INVALID_ARGUMENT": USAGE,
    "NOT_FOUND": NOT_FOUND,
    "UNAUTHENTICATED": CREDENTIALS,
    "PERMISSION_DENIED": CREDENTIALS,
    "UNAVAILABLE": UNAVAILABLE,
    "DEADLINE_EXCEEDED": UNAVAILABLE,
}
_OF_BUSY_SERVICES = frozenset({"OVERLOADED", "RATE_LIMITED"})


class CommandError(Exception):
    """Ends a command with one line on standard error, and an exit code.

    Args:
        message: What happened, and what to do.
        exit_code: The exit code of the command.
    """

    def __init__(self, message: str, exit_code: int = PARTIAL) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def exit_code_of(error: UserServiceError) -> int:
    """Returns the exit code for a failed call."""
    if error.reason in _OF_BUSY_SERVICES:
        return UNAVAILABLE
    return _BY_STATUS.get(error.code.name, PARTIAL)
