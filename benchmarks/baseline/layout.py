"""The layout of the baseline: a hash per user, with the metadata as JSON, and a sorted set of all user_ids by id."""

import json
import secrets
import time
import uuid

from google.protobuf.json_format import MessageToDict

from userservice.v1.user_pb2 import User
from userservice.v1.user_service_pb2 import AddUserRequest

USERS = "users"
LAST_ID = "last_id"


def key(user_id: str) -> str:
    """Returns the key of a user's hash."""
    return f"user:{user_id}"


def new_hash(request: AddUserRequest, number: int) -> dict[str, str | int]:
    """Returns the hash of a new user."""
    now = time.time_ns() // 1000
    return {
        "user_id": request.user_id,
        "id": number,
        "uuid": str(uuid.uuid4()),
        "email": request.email,
        "first_name": request.first_name,
        "last_name": request.last_name,
        "metadata": json.dumps(MessageToDict(request.metadata)),
        "created_at": now,
        "updated_at": now,
        "etag": secrets.token_urlsafe(9),
    }


def user_of(fields: dict[str, str]) -> User:
    """Returns the user in a hash."""
    user = User(
        user_id=fields["user_id"],
        id=int(fields["id"]),
        uuid=fields["uuid"],
        email=fields["email"],
        first_name=fields["first_name"],
        last_name=fields["last_name"],
        etag=fields["etag"],
    )
    user.metadata.update(json.loads(fields["metadata"]))
    user.created_at.FromMicroseconds(int(fields["created_at"]))
    user.updated_at.FromMicroseconds(int(fields["updated_at"]))
    return user
