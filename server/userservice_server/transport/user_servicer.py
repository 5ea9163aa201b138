"""The RPCs of UserService: each checks its request and calls the domain."""

from collections.abc import AsyncIterator

from google.protobuf.message import Message

from userservice.v1 import user_import_pb2 as pb_import
from userservice.v1 import user_service_pb2 as pb
from userservice.v1 import user_watch_pb2 as pb_watch
from userservice.v1.user_pb2 import User
from userservice_server.domain.idempotency import idempotency_key_of
from userservice_server.domain.imports import Imports
from userservice_server.domain.patch import patch_of, values_of
from userservice_server.domain.sessions import Sessions
from userservice_server.domain.users import MUTABLE_FIELDS, Users
from userservice_server.domain.validation import Checker
from userservice_server.domain.watches import Watches
from userservice_server.transport import watching
from userservice_server.transport.call import Call, Load
from userservice_server.transport.importing import responses
from userservice_server.transport.streaming import Streaming
from userservice_server.wire.imports import EncodedUsersRequest

REQUEST_CLASSES = {"ImportUsers": EncodedUsersRequest}
LOADS = {"ImportUsers": Load.IMPORT}


class UserServicer:
    """Implements the RPCs of UserService; protos/userservice/v1/user_service.proto describes them."""

    def __init__(
        self, users: Users, sessions: Sessions, imports: Imports, watches: Watches, streaming: Streaming
    ) -> None:
        self._users = users
        self._sessions = sessions
        self._imports = imports
        self._watches = watches
        self._streaming = streaming

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
            view = check.view(request.view)
        return await self._users.get(user_id, view)

    async def UpdateUser(self, request: pb.UpdateUserRequest, _call: Call) -> bytes:
        with Checker() as check:
            user_id = check.key("user_id", request.user_id)
            check.profile(request.email, request.first_name, request.last_name)
            check.metadata(request.metadata)
            mask = check.mask(request.update_mask, MUTABLE_FIELDS)
            idempotency_key = idempotency_key_of(check, request, request.request_id)
        patch = patch_of(User, request, MUTABLE_FIELDS, mask)
        return await self._users.update(
            user_id, patch, request.etag, idempotency_key, allow_missing=request.allow_missing
        )

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
            view = check.view(request.view)
            descending = check.is_descending(request.order_by)
            matching = check.filter(request.filter)
        return await self._users.list(limit, cursor, view, matching=matching, descending=descending)

    async def ListUsersChunked(self, request: pb.ListUsersChunkedRequest, call: Call) -> bytes:
        with Checker() as check:
            chunk_size = check.chunk_size(request.chunk_size)
            cursor = check.cursor(request.cursor)
            view = check.view(request.view)
            partition = check.partition(request.partition, self._users.partitions)
            end_cursor = check.end_cursor(request.end_cursor)
            matching = check.filter(request.filter)
        ranges = self._users.stream(chunk_size, cursor, view, matching, partition=partition, end_cursor=end_cursor)
        await self._streaming.send(call, ranges)
        return b""

    async def PlanUserScan(self, request: pb.PlanUserScanRequest, _call: Call) -> bytes:
        with Checker() as check:
            parts = check.parts(request.parts)
        return await self._users.plan(parts)

    async def CountUsers(self, request: pb.CountUsersRequest, _call: Call) -> bytes:
        with Checker() as check:
            matching = check.filter(request.filter)
            cursor = check.cursor(request.cursor)
        return await self._users.count(matching, cursor)

    async def BatchGetUsers(self, request: pb.BatchGetUsersRequest, _call: Call) -> bytes:
        with Checker() as check:
            user_ids = check.keys("user_ids", request.user_ids)
            view = check.view(request.view)
        return await self._users.get_many(user_ids, view)

    async def FindUsers(self, request: pb.FindUsersRequest, _call: Call) -> bytes:
        with Checker() as check:
            emails = check.emails("emails", request.emails)
            view = check.view(request.view)
            limit = check.limit(request.limit)
            cursor = check.cursor(request.cursor)
        return await self._users.find(emails, limit, cursor, view)

    async def GetUserSessions(self, request: pb.GetUserSessionsRequest, _call: Call) -> bytes:
        with Checker() as check:
            user_id = check.key("user_id", request.user_id)
            limit = check.limit(request.limit)
            cursor = check.cursor(request.cursor)
            view = check.view(request.view)
        return await self._sessions.list(user_id, limit, cursor, view, include_expired=request.include_expired)

    async def ImportUsers(self, requests: AsyncIterator[Message], call: Call) -> bytes:
        await self._streaming.send(call, responses(self._imports, self._streaming.drain, requests, call))
        return b""

    async def WatchUsers(self, request: pb_watch.WatchUsersRequest, call: Call) -> bytes:
        await self._streaming.send(call, watching.responses(self._watches, self._streaming.drain, request, call))
        return b""

    async def GetImport(self, request: pb_import.GetImportRequest, _call: Call) -> bytes:
        with Checker() as check:
            import_id = check.uuid("import_id", request.import_id)
            limit = check.limit(request.limit)
            cursor = check.cursor(request.cursor)
        return await self._imports.get(import_id, limit, cursor)
