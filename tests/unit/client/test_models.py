import copy
import pickle
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import FieldDescriptorProto
from google.protobuf.message import DecodeError
from google.protobuf.struct_pb2 import Struct

import userservice.models
from userservice import Session, SessionPage, User, UserBatch, UserPage
from userservice._messages import _keep_encoded, lazy_class
from userservice.metadata import metadata_from_bytes
from userservice.v1 import session_pb2, user_pb2, user_service_pb2

CREATED = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


def user_message(**changes: str) -> user_pb2.User:
    message = user_pb2.User(
        user_id="user1", id=7, uuid="u-u", email="ann@example.org", first_name="Ann", last_name="Lee", etag="e1"
    )
    message.metadata.update({"plan": "pro", "n": 3, "deep": {"list": [1.5, None, True]}})
    message.created_at.FromDatetime(CREATED)
    message.updated_at.FromDatetime(CREATED + timedelta(microseconds=1))
    for field, value in changes.items():
        setattr(message, field, value)
    return message


def user(**changes: str) -> User:
    return User.from_bytes(user_message(**changes).SerializeToString())


def session() -> Session:
    message = session_pb2.Session(session_id="s1", user_id="user1", id=8, uuid="u-s", etag="e2")
    message.metadata.update({"device": "phone"})
    message.created_at.FromDatetime(CREATED)
    return Session.from_bytes(message.SerializeToString())


def test_a_user_has_all_fields() -> None:
    assert user().to_dict() == {
        "user_id": "user1",
        "id": 7,
        "uuid": "u-u",
        "email": "ann@example.org",
        "first_name": "Ann",
        "last_name": "Lee",
        "metadata": {"plan": "pro", "n": 3, "deep": {"list": [1.5, None, True]}},
        "created_at": CREATED,
        "updated_at": CREATED + timedelta(microseconds=1),
        "etag": "e1",
    }


def test_the_fields_are_those_of_the_messages() -> None:
    assert set(user().to_dict()) == set(user_pb2.User.DESCRIPTOR.fields_by_name)
    assert set(session().to_dict()) == set(session_pb2.Session.DESCRIPTOR.fields_by_name)


def test_times_are_aware_and_exact() -> None:
    assert user().created_at.tzinfo is UTC
    assert user().created_at.microsecond == 678901


def test_metadata_is_not_decoded_before_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[bytes] = []

    def spy(encoded: bytes) -> dict[str, Any]:
        decoded.append(encoded)
        return metadata_from_bytes(encoded)

    monkeypatch.setattr(userservice.models, "metadata_from_bytes", spy)
    response = user_service_pb2.ListUsersResponse(users=[user_message(), user_message()])
    twin = lazy_class(user_service_pb2.ListUsersResponse).FromString(response.SerializeToString())
    users = [User(message) for message in twin.users]
    assert [user.user_id for user in users] == ["user1", "user1"]
    assert decoded == []
    assert users[0].metadata is users[0].metadata
    assert len(decoded) == 1


def test_metadata_that_is_no_struct_shows_when_it_is_read() -> None:
    broken = User.from_bytes(b"\x0a\x01u\x3a\x02\xff\xff")
    assert broken.user_id == "u"
    with pytest.raises(DecodeError):
        _ = broken.metadata


def test_absent_metadata_is_an_empty_dict_of_each_user() -> None:
    first, second = User.from_bytes(b""), User.from_bytes(b"")
    assert first.metadata == {}
    assert first.metadata is not second.metadata


def test_the_twin_keeps_every_byte() -> None:
    encoded = user_message().SerializeToString()
    assert bytes(User.from_bytes(encoded)) == encoded


def test_the_twin_refuses_a_field_that_is_no_struct() -> None:
    with pytest.raises(TypeError, match="metadata"):
        _keep_encoded(FieldDescriptorProto(name="metadata", type_name=".google.protobuf.Value"))


def test_generated_messages_are_left_alone() -> None:
    assert user_pb2.User.DESCRIPTOR.fields_by_name["metadata"].message_type is Struct.DESCRIPTOR


@pytest.mark.parametrize("record", [user(), session()])
def test_records_can_be_pickled_and_copied(record: User | Session) -> None:
    record.metadata["mine"] = 1
    for twin in (pickle.loads(pickle.dumps(record)), copy.copy(record), copy.deepcopy(record)):  # noqa: S301
        assert twin == record
        assert hash(twin) == hash(record)
        assert "mine" not in twin.metadata


def test_records_differ_by_content_and_kind() -> None:
    assert user() == user()
    assert user() != user(etag="e2")
    assert user() != session()
    assert len({user(), user(), user(etag="e2")}) == 2


def test_records_are_read_only() -> None:
    with pytest.raises(AttributeError):
        user().email = "x"  # type: ignore[misc]
    with pytest.raises(AttributeError):
        user().nickname = "x"  # type: ignore[attr-defined]


def test_repr_shows_no_personal_data() -> None:
    assert repr(user()) == "<User user_id='user1' id=7>"
    assert repr(session()) == "<Session session_id='s1' user_id='user1' id=8>"


@pytest.mark.parametrize(
    "page",
    [
        UserPage([user()], next_cursor=7, total_size=9),
        SessionPage([session()], next_cursor=8, total_size=9),
        UserBatch([user()], missing_user_ids=["x"]),
    ],
)
def test_lists_can_be_pickled_with_what_they_carry(page: UserPage | SessionPage | UserBatch) -> None:
    twin = pickle.loads(pickle.dumps(page))  # noqa: S301
    assert twin == page
    assert vars(twin) == vars(page)
