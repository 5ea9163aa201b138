"""Each error of a call ends a command with the exit code that docs/cli.md lists."""

from userservice import errors
from userservice.cli.exit_codes import exit_code_of

# All other errors: the service rejected the operation, or a bug.
EXPECTED = {
    2: {"InvalidArgumentError"},
    3: {"UserNotFoundError", "SessionNotFoundError", "ImportNotFoundError"},
    4: {"CredentialsMissingError", "CredentialsInvalidError", "ScopeMissingError"},
    5: {
        "UnavailableError",
        "StoreUnavailableError",
        "ServerShuttingDownError",
        "ReaderStalledError",
        "AuthenticationUnavailableError",
        "DeadlineExceededError",
        "OverloadedError",
        "RateLimitedError",
    },
}


def test_every_error_has_its_exit_code() -> None:
    found: dict[int, set[str]] = {}
    for kind in vars(errors).values():
        if isinstance(kind, type) and issubclass(kind, errors.UserServiceError):
            found.setdefault(exit_code_of(kind("text")), set()).add(kind.__name__)
    assert "StoreFullError" in found.pop(1)
    assert found == EXPECTED
