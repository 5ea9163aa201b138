"""UserService on the wire: checks what comes in, and hands it to the domain."""

from contextlib import aclosing

from userservice.v1 import user_service_pb2 as pb
from userservice.v1.user_pb2 import User
from userservice_server.domain.idempotency import idempotency_key_of
from userservice_server.domain.patch import patch_of, values_of
from userservice_server.domain.sessions import Sessions
from userservice_server.domain.users import MUTABLE_FIELDS, Users
from userservice_server.domain.validation import Checker
from userservice_server.errors import ReaderStalledError, ServerShuttingDownError
from userservice_server.transport.call import Call
from userservice_server.transport.drain import Drain
from userservice_server.transport.limits import Limit, Limits, TimeIsUpError
from userservice_server.transport.started import Started
from userservice_server.wire.records import cursor_of


class UserServicer:
    """Methods by the names of the RPCs; protos/userservice/v1/user_service.proto says what each does."""

    def __init__(self, users: Users, sessions: Sessions, drain: Drain, limits: Limits, stall_timeout: float) -> None:
        self._users = users
        self._sessions = sessions
        self._drain = drain
        self._limits = limits
        self._stall_timeout = stall_timeout

    async def AddUser(self, request: pb.AddUserRequest, _call: Call) -> bytes:
        with Checker() as check:
            user_id = check.key("user_id", request.user_id)
            check.profile(request.email, request.first_name, request.last_name)
            check.metadata(request.metadata)
            idempotency_key = idempotency_key_of(check, request, request.request_id)
        return await self._users.add(user_id, values_of(User, request, MUTABLE_FIELDS), idempotency_key)

    async def GetUser(self, request: pb.GetUserRequest, _call: Call) -> bytes:
        with Checker() as check:
            user_id = check.key("user_id", request.user_id)
        return await self._users.get(user_id)

    async def UpdateUser(self, request: pb.UpdateUserRequest, _call: Call) -> bytes:
        with Checker() as check:
            user_id = check.key("user_id", request.user_id)
            check.profile(request.email, request.first_name, request.last_name)
            check.metadata(request.metadata)
            mask = check.mask(request.update_mask, MUTABLE_FIELDS)
            idempotency_key = idempotency_key_of(check, request, request.request_id)
        patch = patch_of(User, request, MUTABLE_FIELDS, mask)
        return await self._users.update(user_id, patch, request.etag, idempotency_key)

    async def DeleteUser(self, request: pb.DeleteUserRequest, _call: Call) -> bytes:
        with Checker() as check:
            user_id = check.key("user_id", request.user_id)
            idempotency_key = idempotency_key_of(check, request, request.request_id)
        await self._users.delete(user_id, request.etag, idempotency_key)
        return pb.DeleteUserResponse().SerializeToString()

    async def ListUsers(self, request: pb.ListUsersRequest, _call: Call) -> bytes:
        with Checker() as check:
            limit = check.limit(request.limit)
            cursor = check.cursor(request.cursor)
        return await self._users.list(limit, cursor)

    async def ListUsersChunked(self, request: pb.ListUsersChunkedRequest, call: Call) -> bytes:
        with Checker() as check:
            chunk_size = check.chunk_size(request.chunk_size)
            cursor = check.cursor(request.cursor)
        # Apart, because grpc forgets whether it was sent when a first write is given up.
        await call.context.send_initial_metadata(())
        sent, cursor_field = 0, b""
        try:
            # Waits for the reader as long as it takes chunks (HTTP/2 flow control), but not for ever for one of them.
            with Limit(self._limits, self._stall_timeout) as patience:
                patience.rest()
                async with aclosing(self._users.stream(chunk_size, cursor)) as ranges:
                    async for chunks in ranges:
                        upcoming = next(chunks, None)
                        while upcoming is not None:
                            chunk, cursor_field = upcoming
                            patience.put_off()
                            writing = Started(call.context.write(chunk))
                            # Joined while grpc writes the one before it: 14 % more of chunks of 100.
                            upcoming = next(chunks, None)
                            await writing
                            patience.rest()
                            sent += 1
                            if self._drain.started and cursor_field:
                                next_cursor = cursor_of(cursor_field)
                                raise ServerShuttingDownError(
                                    "the server shuts down; resume elsewhere", next_cursor=next_cursor
                                )
        except TimeIsUpError:
            next_cursor = cursor_of(cursor_field)
            raise ReaderStalledError("the stream was not read for too long", next_cursor=next_cursor) from None
        finally:
            call.log_fields["chunks"] = sent
        return b""

    async def BatchGetUsers(self, request: pb.BatchGetUsersRequest, _call: Call) -> bytes:
        with Checker() as check:
            user_ids = check.keys("user_ids", request.user_ids)
        return await self._users.get_many(user_ids)

    async def GetUserSessions(self, request: pb.GetUserSessionsRequest, _call: Call) -> bytes:
        with Checker() as check:
            user_id = check.key("user_id", request.user_id)
            limit = check.limit(request.limit)
            cursor = check.cursor(request.cursor)
        return await self._sessions.list(user_id, limit, cursor)
