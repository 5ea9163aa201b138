"""The client of the User service: `UserManager` and `SessionManager`, and their blocking versions.

from userservice import UserManager

async with UserManager("localhost:50051") as user_manager:
    await user_manager.add(user_id="user123", metadata={"foo": "bar"})
    async for users in user_manager.list_chunked(chunk_size=1000):
        print([user.user_id for user in users])
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from userservice.changes import Change, Changes
    from userservice.errors import (
        AuthenticationUnavailableError,
        CredentialsInvalidError,
        CredentialsMissingError,
        DeadlineExceededError,
        EtagMismatchError,
        FieldViolation,
        ImportIdReusedError,
        ImportNotFoundError,
        ImportOffsetGapError,
        IndexNotReadyError,
        InternalError,
        InvalidArgumentError,
        ManagerClosedError,
        ManagerUnusableError,
        OverloadedError,
        RateLimitedError,
        ReaderStalledError,
        RequestIdReusedError,
        ScopeMissingError,
        ServerShuttingDownError,
        SessionAlreadyExistsError,
        SessionLimitError,
        SessionNotFoundError,
        StoreChangedError,
        StoreFullError,
        StoreUnavailableError,
        UnavailableError,
        UpdateConflictError,
        UserAlreadyExistsError,
        UserNotFoundError,
        UserServiceError,
        WatchDisabledError,
        WatchTokenExpiredError,
    )
    from userservice.hooks import CallAttempt
    from userservice.imports import ImportStatus, RowError
    from userservice.models import Session, SessionPage, User, UserBatch, UserPage, UserScanPart
    from userservice.requests import (
        AddSessionFields,
        AddUserFields,
        OrderBy,
        UpdateSessionFields,
        UpdateUserFields,
        View,
    )
    from userservice.session_manager import SessionManager
    from userservice.sync import SyncSessionManager, SyncUserManager
    from userservice.user_manager import UserManager

__all__ = [
    "AddSessionFields",
    "AddUserFields",
    "AuthenticationUnavailableError",
    "CallAttempt",
    "Change",
    "Changes",
    "CredentialsInvalidError",
    "CredentialsMissingError",
    "DeadlineExceededError",
    "EtagMismatchError",
    "FieldViolation",
    "ImportIdReusedError",
    "ImportNotFoundError",
    "ImportOffsetGapError",
    "ImportStatus",
    "IndexNotReadyError",
    "InternalError",
    "InvalidArgumentError",
    "ManagerClosedError",
    "ManagerUnusableError",
    "OrderBy",
    "OverloadedError",
    "RateLimitedError",
    "ReaderStalledError",
    "RequestIdReusedError",
    "RowError",
    "ScopeMissingError",
    "ServerShuttingDownError",
    "Session",
    "SessionAlreadyExistsError",
    "SessionLimitError",
    "SessionManager",
    "SessionNotFoundError",
    "SessionPage",
    "StoreChangedError",
    "StoreFullError",
    "StoreUnavailableError",
    "SyncSessionManager",
    "SyncUserManager",
    "UnavailableError",
    "UpdateConflictError",
    "UpdateSessionFields",
    "UpdateUserFields",
    "User",
    "UserAlreadyExistsError",
    "UserBatch",
    "UserManager",
    "UserNotFoundError",
    "UserPage",
    "UserScanPart",
    "UserServiceError",
    "View",
    "WatchDisabledError",
    "WatchTokenExpiredError",
]

# Imported at the first use. The server imports the generated code in `userservice.v1` and therefore this module, but
# needs neither managers nor channels.
_MODULES = {
    "requests": (
        "AddSessionFields",
        "AddUserFields",
        "OrderBy",
        "UpdateSessionFields",
        "UpdateUserFields",
        "View",
    ),
    "errors": (
        "AuthenticationUnavailableError",
        "CredentialsInvalidError",
        "CredentialsMissingError",
        "DeadlineExceededError",
        "EtagMismatchError",
        "FieldViolation",
        "ImportIdReusedError",
        "ImportNotFoundError",
        "ImportOffsetGapError",
        "IndexNotReadyError",
        "InternalError",
        "InvalidArgumentError",
        "ManagerClosedError",
        "ManagerUnusableError",
        "OverloadedError",
        "RateLimitedError",
        "ReaderStalledError",
        "RequestIdReusedError",
        "ScopeMissingError",
        "ServerShuttingDownError",
        "SessionAlreadyExistsError",
        "SessionLimitError",
        "SessionNotFoundError",
        "StoreChangedError",
        "StoreFullError",
        "StoreUnavailableError",
        "UnavailableError",
        "UpdateConflictError",
        "UserAlreadyExistsError",
        "UserNotFoundError",
        "UserServiceError",
        "WatchDisabledError",
        "WatchTokenExpiredError",
    ),
    "changes": ("Change", "Changes"),
    "hooks": ("CallAttempt",),
    "imports": ("ImportStatus", "RowError"),
    "models": ("Session", "SessionPage", "User", "UserBatch", "UserPage", "UserScanPart"),
    "session_manager": ("SessionManager",),
    "sync": ("SyncSessionManager", "SyncUserManager"),
    "user_manager": ("UserManager",),
    "metadata": (),
    "opentelemetry": (),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Imports a public name, or a public module, at its first use (PEP 562)."""
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value  # so that later uses do not call this function
    return value


def __dir__() -> list[str]:
    """Lists all names, including the public names that are not imported yet."""
    return sorted({*globals(), *__all__, *_MODULES})
