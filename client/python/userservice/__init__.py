"""The client of the User service: `UserManager` and `SessionManager`, and their blocking twins.

from userservice import UserManager

async with UserManager("localhost:50051") as user_manager:
    await user_manager.add(user_id="user123", metadata={"foo": "bar"})
    async for users in user_manager.list_chunked(chunk_size=1000):
        print([user.user_id for user in users])
"""

from userservice.errors import (
    DeadlineExceededError,
    EtagMismatchError,
    FieldViolation,
    InternalError,
    InvalidArgumentError,
    ManagerClosedError,
    ManagerUnusableError,
    OverloadedError,
    ReaderStalledError,
    RequestIdReusedError,
    ServerShuttingDownError,
    SessionAlreadyExistsError,
    SessionNotFoundError,
    StoreChangedError,
    StoreFullError,
    StoreUnavailableError,
    UnavailableError,
    UpdateConflictError,
    UserAlreadyExistsError,
    UserNotFoundError,
    UserServiceError,
)
from userservice.models import Session, SessionPage, User, UserBatch, UserPage
from userservice.requests import (
    AddSessionFields,
    AddUserFields,
    UpdateSessionFields,
    UpdateUserFields,
)
from userservice.session_manager import SessionManager
from userservice.sync import SyncSessionManager, SyncUserManager
from userservice.user_manager import UserManager

__all__ = [
    "AddSessionFields",
    "AddUserFields",
    "DeadlineExceededError",
    "EtagMismatchError",
    "FieldViolation",
    "InternalError",
    "InvalidArgumentError",
    "ManagerClosedError",
    "ManagerUnusableError",
    "OverloadedError",
    "ReaderStalledError",
    "RequestIdReusedError",
    "ServerShuttingDownError",
    "Session",
    "SessionAlreadyExistsError",
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
    "UserServiceError",
]
