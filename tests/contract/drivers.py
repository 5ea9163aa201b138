"""Drivers that make the calls of the cases, and convert responses and errors to one common form."""

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol
from uuid import uuid4

import grpc
from case_language import to_text
from google.protobuf import json_format
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.struct_pb2 import Struct
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo
from harness.connections import connect_blocking
from harness.failures import failure_of

from userservice import (
    Changes,
    ImportStatus,
    Session,
    SessionManager,
    SyncSessionManager,
    SyncUserManager,
    User,
    UserManager,
    UserServiceError,
)
from userservice.errors import ERROR_BY_REASON
from userservice.v1 import session_service_pb2 as session_messages
from userservice.v1 import user_import_pb2 as import_messages
from userservice.v1 import user_service_pb2 as user_messages
from userservice.v1 import user_watch_pb2 as watch_messages
from userservice.v1.session_pb2 import Session as SessionMessage
from userservice.v1.user_pb2 import User as UserMessage

SESSION_FIELDS = (
    "session_id",
    "uuid",
    "id",
    "user_id",
    "metadata",
    "created_at",
    "updated_at",
    "etag",
    "idle_ttl",
    "max_expire_time",
    "expire_time",
    "last_seen_at",
)
OPTIONAL_FIELDS = SESSION_FIELDS[-4:]
USER_FIELDS = (
    "user_id",
    "uuid",
    "id",
    "email",
    "first_name",
    "last_name",
    "metadata",
    "created_at",
    "updated_at",
    "etag",
)
TIMEOUT = 30


class Refused(Exception):  # noqa: N818 - a refusal is what many cases expect
    """Raised when a call fails."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(str(error))
        self.error = error


class Driver(Protocol):
    """A client that makes the calls of the cases."""

    def call(self, name: str, arguments: Mapping[str, Any]) -> Any: ...

    def close(self) -> None: ...


class StubDriver:
    """Makes calls with the generated stubs."""

    _METHODS: Mapping[str, tuple[str, type[Any]]] = {
        "users.add": ("AddUser", user_messages.AddUserRequest),
        "users.get": ("GetUser", user_messages.GetUserRequest),
        "users.update": ("UpdateUser", user_messages.UpdateUserRequest),
        "users.delete": ("DeleteUser", user_messages.DeleteUserRequest),
        "users.list": ("ListUsers", user_messages.ListUsersRequest),
        "users.list_chunked": ("ListUsersChunked", user_messages.ListUsersChunkedRequest),
        "users.plan_user_scan": ("PlanUserScan", user_messages.PlanUserScanRequest),
        "users.count": ("CountUsers", user_messages.CountUsersRequest),
        "users.find": ("FindUsers", user_messages.FindUsersRequest),
        "users.batch_get": ("BatchGetUsers", user_messages.BatchGetUsersRequest),
        "users.get_sessions": ("GetUserSessions", user_messages.GetUserSessionsRequest),
        "users.list_sessions": ("GetUserSessions", user_messages.GetUserSessionsRequest),
        "users.get_import": ("GetImport", import_messages.GetImportRequest),
        "sessions.add": ("AddSession", session_messages.AddSessionRequest),
        "sessions.get": ("GetSession", session_messages.GetSessionRequest),
        "sessions.update": ("UpdateSession", session_messages.UpdateSessionRequest),
        "sessions.delete": ("DeleteSession", session_messages.DeleteSessionRequest),
        "sessions.touch": ("TouchSession", session_messages.TouchSessionRequest),
        "sessions.revoke": ("RevokeUserSessions", session_messages.RevokeUserSessionsRequest),
    }

    def __init__(self, address: str) -> None:
        self._connection = connect_blocking(address)
        self._stubs = self._connection.__enter__()

    def call(self, name: str, arguments: Mapping[str, Any]) -> Any:
        if name == "users.import":
            return self._import(**arguments)
        if name == "users.list_chunked" and "parts" in arguments:
            return self._list_parts(**arguments)
        if name == "users.watch":
            return self._watch(**arguments)
        rpc, request_class = self._METHODS[name]
        service = self._stubs.users if name.startswith("users.") else self._stubs.sessions
        request = request_class(**{key: _wire_value(key, value) for key, value in arguments.items()})
        try:
            answer = getattr(service, rpc)(request, timeout=TIMEOUT)
            if name == "users.list_chunked":
                chunks = [_from_message(chunk) for chunk in answer]
                return {"chunks": chunks, "users": [user for chunk in chunks for user in chunk["users"]]}
        except grpc.RpcError as error:
            raise _rejected(error) from error
        if name == "users.get_import":
            return _from_import([answer])
        read = _from_message(answer)
        return read.get("user", read.get("session", read))

    def _list_parts(self, parts: Sequence[Mapping[str, int]], **others: Any) -> dict[str, Any]:
        """Reads parts one after the other; a part has the fields of the request with the same names."""
        read = [self.call("users.list_chunked", {**others, **part}) for part in parts]
        return {name: [item for answer in read for item in answer[name]] for name in ("chunks", "users")}

    def _watch(self, start: str = "now", resume_token: str | None = None, heartbeat: int = 1) -> dict[str, Any]:
        """Returns the kinds of the changes in the first message."""
        request = watch_messages.WatchUsersRequest(heartbeat_seconds=heartbeat)
        if resume_token is not None:
            request.resume_token = resume_token
        else:
            setattr(request, start, True)
        call = self._stubs.users.WatchUsers(request, timeout=TIMEOUT)
        try:
            first = next(call)
        except grpc.RpcError as error:
            raise _rejected(error) from error
        finally:
            call.cancel()
        return {"kinds": [watch_messages.ChangeKind.Name(change.kind) for change in first.changes]}

    def _import(
        self, rows: Sequence[Mapping[str, Any]], import_id: str = "", on_duplicate: str = "UNSPECIFIED", **others: Any
    ) -> dict[str, Any]:
        """Sends all rows as one batch."""
        choice = import_messages.OnDuplicate.Value(f"ON_DUPLICATE_{on_duplicate}")
        options = import_messages.ImportOptions(import_id=import_id or str(uuid4()), on_duplicate=choice, **others)
        requests = [import_messages.ImportUsersRequest(options=options)]
        users = [UserMessage(**{key: _wire_value(key, value) for key, value in row.items()}) for row in rows]
        try:
            # The offset 0 is correct for every import: rows that are applied are skipped.
            if users:
                batch = import_messages.ImportBatch(users=users)
                requests.append(import_messages.ImportUsersRequest(batch=batch))
            responses = list(self._stubs.users.ImportUsers(iter(requests), timeout=TIMEOUT))
            request = import_messages.GetImportRequest(import_id=options.import_id)
            found = self._stubs.users.GetImport(request, timeout=TIMEOUT)
        except grpc.RpcError as error:
            raise _rejected(error) from error
        assert len(responses) == len(requests)
        last = responses[-1]
        assert (found.acked_offset, found.added, found.failed) == (last.acked_offset, last.added, last.failed)
        return _from_import([found])

    def close(self) -> None:
        self._connection.__exit__(None, None, None)


def _rejected(error: grpc.RpcError) -> Refused:
    failure = failure_of(error)
    assert failure.domain == "userservice", failure
    assert failure.request_id, failure
    return Refused({"code": failure.code, "reason": failure.reason, "violations": failure.violations})


def _from_import(responses: Sequence[Any]) -> dict[str, Any]:
    """Returns the state in the last response, and the row errors of all responses."""
    last = responses[-1]
    counts = {name: getattr(last, name) for name in ("added", "merged", "replaced", "skipped", "failed")}
    errors = [_from_row_error(error) for response in responses for error in response.row_errors]
    return {"offset": last.acked_offset, **counts, "row_errors": errors}


def _from_row_error(error: Any) -> dict[str, Any]:
    info, bad, fields = ErrorInfo(), BadRequest(), list[str]()
    for detail in error.status.details:
        if detail.Unpack(bad):
            fields = [violation.field for violation in bad.field_violations]
        else:
            assert detail.Unpack(info)
    code = next(code.name for code in grpc.StatusCode if code.value[0] == error.status.code)
    # The class is that of the clients, which the generated stubs do not have.
    return {
        "index": error.index,
        "class": ERROR_BY_REASON[info.reason].__name__,
        "code": code,
        "reason": info.reason,
        "fields": fields,
    }


def _wire_value(key: str, value: Any) -> Any:
    if key == "metadata":
        metadata = Struct()
        metadata.update(value)
        return metadata
    if key == "update_mask":
        return FieldMask(paths=value)
    if key in ("ttl", "idle_ttl"):
        return timedelta(seconds=value)
    if key == "view":
        return f"VIEW_{value}"
    return value


def _from_message(message: Any) -> Any:
    if isinstance(message, Struct):
        return json_format.MessageToDict(message)
    if isinstance(message, UserMessage | SessionMessage):
        fields = USER_FIELDS if isinstance(message, UserMessage) else SESSION_FIELDS
        present = {field.name for field, _ in message.ListFields()}
        shown = [field for field in fields if field in present or field not in OPTIONAL_FIELDS]
        return dict.fromkeys(fields) | {field: _from_message(getattr(message, field)) for field in shown}
    if hasattr(message, "ToDatetime") or hasattr(message, "ToTimedelta"):
        return _to_json(message.ToDatetime(UTC) if hasattr(message, "ToDatetime") else message.ToTimedelta())
    if hasattr(message, "DESCRIPTOR"):
        return {field.name: _from_message(getattr(message, field.name)) for field in message.DESCRIPTOR.fields}
    if isinstance(message, str | int):
        return message
    return [_from_message(item) for item in message]


def _from_record(record: User | Session) -> dict[str, Any]:
    fields = USER_FIELDS if isinstance(record, User) else SESSION_FIELDS
    values = {field: getattr(record, field) for field in fields}
    return {field: _to_json(value) for field, value in values.items()}


def _to_json(value: Any) -> Any:
    if isinstance(value, timedelta):
        return value.total_seconds()
    return to_text(value) if isinstance(value, datetime) else value


class ManagerDriver:
    """Base class of the drivers for both kinds of managers, which have the same names, arguments and results."""

    def __init__(self) -> None:
        self._users: Any = None
        self._sessions: Any = None

    def _method(self, name: str) -> Callable[..., Any]:
        manager, method = name.split(".")
        return getattr(self._users if manager == "users" else self._sessions, method)  # type: ignore[no-any-return]

    def _invoke(self, name: str, arguments: Mapping[str, Any]) -> Any:
        if name == "users.watch":
            return self._users.watch(**arguments)
        if name == "users.import":
            options = {key: value for key, value in arguments.items() if key != "rows"}
            return self._users.import_users(arguments["rows"], **options)
        if "parts" in arguments and name == "users.list_chunked":
            parts = [part.values() if isinstance(part, dict) else part for part in arguments["parts"]]
            return self._users.list_chunked(**{**arguments, "parts": parts})
        return self._method(name)(**arguments)

    @staticmethod
    def _read(name: str, answer: Any) -> Any:
        if name == "users.list_chunked":
            chunks = [
                {"users": [_from_record(user) for user in chunk], "next_cursor": chunk.next_cursor} for chunk in answer
            ]
            return {"chunks": chunks, "users": [user for chunk in chunks for user in chunk["users"]]}
        if name in ("users.list", "users.find"):
            users = [_from_record(user) for user in answer]
            return {"users": users, "next_cursor": answer.next_cursor, "total_size": answer.total_size}
        if name == "users.batch_get":
            return {"users": [_from_record(user) for user in answer], "missing_user_ids": answer.missing_user_ids}
        if name == "users.get_sessions":
            return {"sessions": [_from_record(session) for session in answer]}
        if name == "sessions.revoke":
            return {"revoked_count": answer}
        if name == "users.plan_user_scan":
            answer = {"parts": [part._asdict() for part in answer]}
        if name == "users.count":
            answer = {"count": answer}
        assert (answer is None) == name.endswith(".delete")
        convert: Callable[[Any], Any] = _from_status if isinstance(answer, ImportStatus) else _from_record
        return answer or {} if answer is None or isinstance(answer, dict) else convert(answer)


def _from_changes(changes: Changes) -> dict[str, Any]:
    return {"kinds": [change.kind for change in changes]}


def _from_status(status: ImportStatus) -> dict[str, Any]:
    names = ("offset", "added", "merged", "replaced", "skipped", "failed")
    errors = [
        {
            "index": row.index,
            "class": type(row.error).__name__,
            "code": row.error.code.name,
            "reason": row.error.reason,
            "fields": [field.partition(".")[0] for field, _ in getattr(row.error, "violations", ())],
        }
        for row in status.row_errors
    ]
    return {**{name: getattr(status, name) for name in names}, "row_errors": errors}


def _refused(error: UserServiceError) -> Refused:
    violations: Sequence[tuple[str, str]] = getattr(error, "violations", ())
    return Refused(
        {
            "class": type(error).__name__,
            "code": error.code.name,
            "reason": error.reason,
            "violations": [tuple(violation) for violation in violations],
        }
    )


class AsyncDriver(ManagerDriver):
    """Makes calls with UserManager and SessionManager, in its own event loop."""

    def __init__(self, address: str) -> None:
        super().__init__()
        self._runner = asyncio.Runner()
        self._users = UserManager(address)
        self._sessions = SessionManager(address)

    def call(self, name: str, arguments: Mapping[str, Any]) -> Any:
        return self._runner.run(self._call(name, arguments))

    async def _call(self, name: str, arguments: Mapping[str, Any]) -> Any:
        try:
            pending = self._invoke(name, arguments)
            if name == "users.list_chunked":
                return self._read(name, [chunk async for chunk in pending])
            if name == "users.watch":
                async with contextlib.aclosing(pending) as watch:
                    return _from_changes(await anext(watch))
            return self._read(name, await pending)
        except UserServiceError as error:
            raise _refused(error) from error

    def close(self) -> None:
        self._runner.run(self._users.close())
        self._runner.run(self._sessions.close())
        self._runner.close()


class SyncDriver(ManagerDriver):
    """Makes calls with SyncUserManager and SyncSessionManager."""

    def __init__(self, address: str) -> None:
        super().__init__()
        self._users = SyncUserManager(address)
        self._sessions = SyncSessionManager(address)

    def call(self, name: str, arguments: Mapping[str, Any]) -> Any:
        try:
            if name == "users.watch":
                with contextlib.closing(self._invoke(name, arguments)) as watch:
                    return _from_changes(next(watch))
            return self._read(name, self._invoke(name, arguments))
        except UserServiceError as error:
            raise _refused(error) from error

    def close(self) -> None:
        self._users.close()
        self._sessions.close()


DRIVERS: Mapping[str, type[AsyncDriver | SyncDriver | StubDriver]] = {
    "async": AsyncDriver,
    "sync": SyncDriver,
    "stubs": StubDriver,
}
