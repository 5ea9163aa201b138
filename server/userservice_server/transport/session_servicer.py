"""The RPCs of SessionService: each checks its request and calls the domain."""

from userservice.v1 import session_service_pb2 as pb
from userservice.v1.session_pb2 import Session
from userservice_server.domain.attempts import attempt_of
from userservice_server.domain.patch import Patch, patched_fields
from userservice_server.domain.sessions import MUTABLE_FIELDS, Sessions
from userservice_server.domain.validation import Checker
from userservice_server.transport.call import Call


class SessionServicer:
    """Has one method for each RPC; protos/userservice/v1/session_service.proto describes them."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    async def AddSession(self, request: pb.AddSessionRequest, _call: Call) -> bytes:
        with Checker() as check:
            user_id = check.name("user_id", request.user_id)
            session_id = check.name("session_id", request.session_id)
            check.metadata(request.metadata)
            attempt = attempt_of(check, request, request.request_id)
        session = Session(user_id=user_id)
        if request.HasField("metadata"):
            session.metadata.CopyFrom(request.metadata)
        return await self._sessions.add(session_id, session, attempt)

    async def GetSession(self, request: pb.GetSessionRequest, _call: Call) -> bytes:
        with Checker() as check:
            user_id = check.name("user_id", request.user_id)
            session_id = check.name("session_id", request.session_id)
        return await self._sessions.get(user_id, session_id)

    async def UpdateSession(self, request: pb.UpdateSessionRequest, _call: Call) -> bytes:
        with Checker() as check:
            user_id = check.name("user_id", request.user_id)
            session_id = check.name("session_id", request.session_id)
            check.metadata(request.metadata)
            mask = check.mask(request.update_mask, MUTABLE_FIELDS)
            attempt = attempt_of(check, request, request.request_id)
        values = Session()
        if request.HasField("metadata"):
            values.metadata.CopyFrom(request.metadata)
        patch = Patch(values, mask or patched_fields(request, MUTABLE_FIELDS), whole=bool(mask))
        return await self._sessions.update(user_id, session_id, patch, request.etag, attempt)

    async def DeleteSession(self, request: pb.DeleteSessionRequest, _call: Call) -> bytes:
        with Checker() as check:
            user_id = check.name("user_id", request.user_id)
            session_id = check.name("session_id", request.session_id)
            attempt = attempt_of(check, request, request.request_id)
        await self._sessions.delete(user_id, session_id, request.etag, attempt)
        return pb.DeleteSessionResponse().SerializeToString()
