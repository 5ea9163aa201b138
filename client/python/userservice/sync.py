"""`SyncUserManager` and `SyncSessionManager`: the managers for blocking code.

They run the asyncio managers on an event loop in a thread of their own, and have no logic besides: what is said of a
method there holds here.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Generic, Self, TypeVar, Unpack, overload

import grpc

from userservice._chunks import ChunkReader
from userservice._connection import DEFAULT_ADDRESS, DEFAULT_TIMEOUT
from userservice._manager import Manager
from userservice._portal import Portal
from userservice.models import Session, SessionPage, User, UserBatch, UserPage
from userservice.requests import (
    AddSessionFields,
    AddSessionOptions,
    AddUserFields,
    AddUserOptions,
    UncheckedFields,
    UpdateSessionFields,
    UpdateSessionOptions,
    UpdateUserFields,
    UpdateUserOptions,
    read_once,
)
from userservice.session_manager import SessionManager
from userservice.user_manager import UserManager

ManagerT = TypeVar("ManagerT", bound=Manager)


class SyncManager(Generic[ManagerT]):
    """A blocking client of one service. Connects at its first call; `close`, or leaving `with`, ends it.

    Any number of threads may share it. It may be made before a fork if its first call comes after. gRPC does not
    survive a fork while any manager is in use: then every call of every manager in the child raises
    ManagerUnusableError. Close managers, once their calls have ended, before forking, or start processes by spawn.
    """

    _manager_class: type[ManagerT]

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        *,
        connections: int = 1,
        timeout: float = DEFAULT_TIMEOUT,
        credentials: grpc.ChannelCredentials | None = None,
        channel_options: Sequence[tuple[str, Any]] = (),
        metadata: Sequence[tuple[str, str | bytes]] = (),
    ) -> None:
        """Prepares a manager; see `Manager` for the arguments."""
        self._manager = self._manager_class(
            address,
            connections=connections,
            timeout=timeout,
            credentials=credentials,
            channel_options=channel_options,
            metadata=metadata,
        )
        self._portal = Portal()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection and ends the thread. Calls in other threads end with ManagerClosedError."""
        self._portal.close(self._manager.close)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._manager!r}>"


class SyncUserManager(SyncManager[UserManager]):
    """Blocking `UserManager`.

    with SyncUserManager("localhost:50051") as user_manager:
        user = user_manager.get("user123")
    """

    _manager_class = UserManager

    @overload
    def add(
        self,
        user: AddUserFields | UncheckedFields,
        /,
        *,
        timeout: float | None = None,
        **fields: Unpack[AddUserOptions],
    ) -> User: ...
    @overload
    def add(
        self,
        user: UncheckedFields | None = None,
        /,
        *,
        timeout: float | None = None,
        **fields: Unpack[AddUserFields],
    ) -> User: ...
    def add(self, user: Mapping[str, Any] | None = None, /, *, timeout: float | None = None, **fields: Any) -> User:
        """Blocking `UserManager.add`."""
        return self._portal.run(lambda: self._manager.add(user, timeout=timeout, **fields))

    def get(self, user_id: str, *, timeout: float | None = None) -> User:
        """Blocking `UserManager.get`."""
        return self._portal.run(lambda: self._manager.get(user_id, timeout=timeout))

    @overload
    def update(
        self,
        user: UpdateUserFields | UncheckedFields,
        /,
        *,
        timeout: float | None = None,
        **fields: Unpack[UpdateUserOptions],
    ) -> User: ...
    @overload
    def update(
        self,
        user: UncheckedFields | None = None,
        /,
        *,
        timeout: float | None = None,
        **fields: Unpack[UpdateUserFields],
    ) -> User: ...
    def update(self, user: Mapping[str, Any] | None = None, /, *, timeout: float | None = None, **fields: Any) -> User:
        """Blocking `UserManager.update`."""
        return self._portal.run(lambda: self._manager.update(user, timeout=timeout, **fields))

    def delete(
        self, user_id: str, *, etag: str | None = None, request_id: str | None = None, timeout: float | None = None
    ) -> None:
        """Blocking `UserManager.delete`."""
        self._portal.run(lambda: self._manager.delete(user_id, etag=etag, request_id=request_id, timeout=timeout))

    def list(self, limit: int = 100, cursor: int = 0, *, timeout: float | None = None) -> UserPage:
        """Blocking `UserManager.list`."""
        return self._portal.run(lambda: self._manager.list(limit, cursor, timeout=timeout))

    def list_chunked(
        self, chunk_size: int = 100, cursor: int = 0, *, timeout: float | None = None
    ) -> Generator[UserPage, None, None]:
        """Blocking `UserManager.list_chunked`: fetches a chunk when it is asked for one."""
        reader = ChunkReader(self._manager._connection, chunk_size, cursor, timeout)  # noqa: SLF001 - its other half
        try:
            while (chunk := self._portal.run(reader.next_chunk)) is not None:
                yield chunk
        finally:
            self._portal.post(reader.cancel)

    def batch_get(self, user_ids: Iterable[str], *, timeout: float | None = None) -> UserBatch:
        """Blocking `UserManager.batch_get`. The names are read in the calling thread."""
        names = read_once(user_ids)
        return self._portal.run(lambda: self._manager.batch_get(names, timeout=timeout))

    def get_sessions(self, user_id: str, *, timeout: float | None = None) -> SessionPage:
        """Blocking `UserManager.get_sessions`."""
        return self._portal.run(lambda: self._manager.get_sessions(user_id, timeout=timeout))

    # The names of the API's documentation.

    def listChunked(  # noqa: N802
        self,
        chunkSize: int = 100,  # noqa: N803
        cursor: int = 0,
        *,
        timeout: float | None = None,
    ) -> Generator[UserPage, None, None]:
        """The same as `list_chunked`."""
        return self.list_chunked(chunkSize, cursor, timeout=timeout)

    batchGet = batch_get  # noqa: N815
    getSessions = get_sessions  # noqa: N815


class SyncSessionManager(SyncManager[SessionManager]):
    """Blocking `SessionManager`."""

    _manager_class = SessionManager

    @overload
    def add(
        self,
        session: AddSessionFields | UncheckedFields,
        /,
        *,
        timeout: float | None = None,
        **fields: Unpack[AddSessionOptions],
    ) -> Session: ...
    @overload
    def add(
        self,
        session: UncheckedFields | None = None,
        /,
        *,
        timeout: float | None = None,
        **fields: Unpack[AddSessionFields],
    ) -> Session: ...
    def add(
        self, session: Mapping[str, Any] | None = None, /, *, timeout: float | None = None, **fields: Any
    ) -> Session:
        """Blocking `SessionManager.add`."""
        return self._portal.run(lambda: self._manager.add(session, timeout=timeout, **fields))

    def get(self, user_id: str, session_id: str, *, timeout: float | None = None) -> Session:
        """Blocking `SessionManager.get`."""
        return self._portal.run(lambda: self._manager.get(user_id, session_id, timeout=timeout))

    @overload
    def update(
        self,
        session: UpdateSessionFields | UncheckedFields,
        /,
        *,
        timeout: float | None = None,
        **fields: Unpack[UpdateSessionOptions],
    ) -> Session: ...
    @overload
    def update(
        self,
        session: UncheckedFields | None = None,
        /,
        *,
        timeout: float | None = None,
        **fields: Unpack[UpdateSessionFields],
    ) -> Session: ...
    def update(
        self, session: Mapping[str, Any] | None = None, /, *, timeout: float | None = None, **fields: Any
    ) -> Session:
        """Blocking `SessionManager.update`."""
        return self._portal.run(lambda: self._manager.update(session, timeout=timeout, **fields))

    def delete(
        self,
        user_id: str,
        session_id: str,
        *,
        etag: str | None = None,
        request_id: str | None = None,
        timeout: float | None = None,
    ) -> None:
        """Blocking `SessionManager.delete`."""
        self._portal.run(
            lambda: self._manager.delete(user_id, session_id, etag=etag, request_id=request_id, timeout=timeout)
        )

    def list(self, user_id: str, limit: int = 100, cursor: int = 0, *, timeout: float | None = None) -> SessionPage:
        """Blocking `SessionManager.list`."""
        return self._portal.run(lambda: self._manager.list(user_id, limit, cursor, timeout=timeout))
