"""The RPCs of SessionService: each checks its request and calls the domain."""

from userservice.v1 import session_service_pb2 as pb
from userservice.v1.session_pb2 import Session
from userservice_server.domain.idempotency import idempotency_key_of
from userservice_server.domain.patch import patch_of, values_of
from userservice_server.domain.sessions import MUTABLE_FIELDS, Sessions
from userservice_server.domain.validation import Checker
from userservice_server.transport.call import Call


class SessionServicer:
    """Implements the RPCs of SessionService; protos/userservice/v1/session_service.proto describes them."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    async def AddSession(self, request: pb.AddSessionRequest, _call: Call) -> bytes:
        with Checker() as check:
            user_id = check.key("user_id", request.user_id)
            session_id = check.key("session_id", request.session_id)
            check.metadata(request.metadata)
            expiry = check.expiry(request)
            idempotency_key = idempotency_key_of(check, request, request.request_id)
        session = values_of(Session, request, MUTABLE_FIELDS)
        session.user_id = user_id
        return await self._sessions.add(session_id, session, idempotency_key, expiry)

    async def GetSession(self, request: pb.GetSessionRequest, _call: Call) -> bytes:
        with Checker() as check:
            user_id = check.key("user_id", request.user_id)
            session_id = check.key("session_id", request.session_id)
            view = check.view(request.view)
        return await self._sessions.get(user_id, session_id, view)

    async def UpdateSession(self, request: pb.UpdateSessionRequest, _call: Call) -> bytes:
        with Checker() as check:
            user_id = check.key("user_id", request.user_id)
            session_id = check.key("session_id", request.session_id)
            check.metadata(request.metadata)
            mask = check.mask(request.update_mask, MUTABLE_FIELDS)
            idempotency_key = idempotency_key_of(check, request, request.request_id)
        patch = patch_of(Session, request, MUTABLE_FIELDS, mask)
        return await self._sessions.update(user_id, session_id, patch, request.etag, idempotency_key)

    async def DeleteSession(self, request: pb.DeleteSessionRequest, _call: Call) -> bytes:
        with Checker() as check:
            user_id = check.key("user_id", request.user_id)
            session_id = check.key("session_id", request.session_id)
            idempotency_key = idempotency_key_of(check, request, request.request_id)
        await self._sessions.delete(user_id, session_id, request.etag, idempotency_key)
        return pb.DeleteSessionResponse().SerializeToString()

    async def TouchSession(self, request: pb.TouchSessionRequest, _call: Call) -> bytes:
        with Checker() as check:
            user_id = check.key("user_id", request.user_id)
            session_id = check.key("session_id", request.session_id)
            idempotency_key = idempotency_key_of(check, request, request.request_id)
        return await self._sessions.touch(user_id, session_id, idempotency_key)

    async def RevokeUserSessions(self, request: pb.RevokeUserSessionsRequest, _call: Call) -> bytes:
        with Checker() as check:
            user_id = check.key("user_id", request.user_id)
            kept = check.key("except_session_id", request.except_session_id) if request.except_session_id else ""
            idempotency_key = idempotency_key_of(check, request, request.request_id)
        return await self._sessions.revoke(user_id, kept, idempotency_key)
