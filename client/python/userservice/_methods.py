"""All RPCs of the service, with their paths and message classes."""

from __future__ import annotations

from typing import Generic, NamedTuple, TypeVar

from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import Message

from userservice._messages import lazy_class
from userservice.v1 import session_service_pb2 as sessions
from userservice.v1 import user_import_pb2 as imports
from userservice.v1 import user_service_pb2 as users
from userservice.v1 import user_watch_pb2 as watches

RequestT = TypeVar("RequestT", bound="Message")
ResponseT = TypeVar("ResponseT", bound="Message")


class Method(NamedTuple, Generic[RequestT, ResponseT]):
    """An RPC.

    Attributes:
        path: The path in the HTTP/2 request, such as `/userservice.v1.UserService/GetUser`.
        request: The generated class of the request.
        response: The class that decodes responses, made from the generated class by `lazy_class`.
    """

    path: str
    request: type[RequestT]
    response: type[ResponseT]


def _method(
    service: ServiceDescriptor, name: str, request: type[RequestT], response: type[ResponseT]
) -> Method[RequestT, ResponseT]:
    method = service.methods_by_name[name]
    if (method.input_type, method.output_type) != (request.DESCRIPTOR, response.DESCRIPTOR):
        raise TypeError(f"{service.full_name}/{name} does not take {request.__name__} to {response.__name__}")
    return Method(f"/{service.full_name}/{name}", request, lazy_class(response))


_USERS = users.DESCRIPTOR.services_by_name["UserService"]
_SESSIONS = sessions.DESCRIPTOR.services_by_name["SessionService"]

ADD_USER = _method(_USERS, "AddUser", users.AddUserRequest, users.AddUserResponse)
GET_USER = _method(_USERS, "GetUser", users.GetUserRequest, users.GetUserResponse)
UPDATE_USER = _method(_USERS, "UpdateUser", users.UpdateUserRequest, users.UpdateUserResponse)
DELETE_USER = _method(_USERS, "DeleteUser", users.DeleteUserRequest, users.DeleteUserResponse)
LIST_USERS = _method(_USERS, "ListUsers", users.ListUsersRequest, users.ListUsersResponse)
LIST_USERS_CHUNKED = _method(_USERS, "ListUsersChunked", users.ListUsersChunkedRequest, users.ListUsersChunkedResponse)
PLAN_USER_SCAN = _method(_USERS, "PlanUserScan", users.PlanUserScanRequest, users.PlanUserScanResponse)
COUNT_USERS = _method(_USERS, "CountUsers", users.CountUsersRequest, users.CountUsersResponse)
FIND_USERS = _method(_USERS, "FindUsers", users.FindUsersRequest, users.FindUsersResponse)
BATCH_GET_USERS = _method(_USERS, "BatchGetUsers", users.BatchGetUsersRequest, users.BatchGetUsersResponse)
GET_USER_SESSIONS = _method(_USERS, "GetUserSessions", users.GetUserSessionsRequest, users.GetUserSessionsResponse)
IMPORT_USERS = _method(_USERS, "ImportUsers", imports.ImportUsersRequest, imports.ImportUsersResponse)
GET_IMPORT = _method(_USERS, "GetImport", imports.GetImportRequest, imports.GetImportResponse)
WATCH_USERS = _method(_USERS, "WatchUsers", watches.WatchUsersRequest, watches.WatchUsersResponse)

ADD_SESSION = _method(_SESSIONS, "AddSession", sessions.AddSessionRequest, sessions.AddSessionResponse)
GET_SESSION = _method(_SESSIONS, "GetSession", sessions.GetSessionRequest, sessions.GetSessionResponse)
UPDATE_SESSION = _method(_SESSIONS, "UpdateSession", sessions.UpdateSessionRequest, sessions.UpdateSessionResponse)
DELETE_SESSION = _method(_SESSIONS, "DeleteSession", sessions.DeleteSessionRequest, sessions.DeleteSessionResponse)
TOUCH_SESSION = _method(_SESSIONS, "TouchSession", sessions.TouchSessionRequest, sessions.TouchSessionResponse)
REVOKE_USER_SESSIONS = _method(
    _SESSIONS, "RevokeUserSessions", sessions.RevokeUserSessionsRequest, sessions.RevokeUserSessionsResponse
)
