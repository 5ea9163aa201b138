import copy
import json
import pickle
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import FieldDescriptorProto
from google.protobuf.struct_pb2 import Struct

import userservice.models
from userservice import InternalError, Session, SessionPage, User, UserBatch, UserPage
from userservice._messages import _keep_encoded, lazy_class
from userservice._times import EPOCH
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


def test_the_model_fields_match_the_messages() -> None:
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
    users = User.wrap_all(twin.users)
    assert [user.user_id for user in users] == ["user1", "user1"]
    assert decoded == []
    assert users[0].metadata is users[0].metadata
    assert len(decoded) == 1


def test_invalid_metadata_raises_an_error_when_it_is_read() -> None:
    broken = User.from_bytes(b"\x0a\x01u\x3a\x02\xff\xff")
    assert broken.user_id == "u"
    with pytest.raises(InternalError, match="metadata"):
        _ = broken.metadata


def test_absent_metadata_is_an_empty_dict_of_each_user() -> None:
    first, second = User.from_bytes(b""), User.from_bytes(b"")
    assert first.metadata == {}
    assert first.metadata is not second.metadata


def test_the_lazy_class_keeps_every_byte() -> None:
    encoded = user_message().SerializeToString()
    assert bytes(User.from_bytes(encoded)) == encoded


def test_the_lazy_class_requires_a_struct() -> None:
    with pytest.raises(TypeError, match="metadata"):
        _keep_encoded(FieldDescriptorProto(name="metadata", type_name=".google.protobuf.Value"))


def test_generated_messages_are_not_changed() -> None:
    assert user_pb2.User.DESCRIPTOR.fields_by_name["metadata"].message_type is Struct.DESCRIPTOR


@pytest.mark.parametrize("make", [user, session])
def test_copies_and_pickles_equal_their_original_after_changes_of_metadata(
    make: Callable[[], User | Session],
) -> None:
    untouched, read, changed = make(), make(), make()
    assert read.metadata
    changed.metadata["mine"] = {"b": 1}
    assert untouched == read != changed
    for record in (untouched, read, changed):
        twins = [pickle.loads(pickle.dumps(record)), copy.copy(record), copy.deepcopy(record), record.copy()]  # noqa: S301
        twins.append(type(record).from_bytes(bytes(record)))
        for twin in twins:
            assert twin == record
            assert hash(twin) == hash(record)
            assert twin.to_dict() == record.to_dict()


def test_a_deep_copy_shares_no_metadata() -> None:
    original = user()
    original.metadata["mine"] = []
    for twin in (copy.deepcopy(original), original.copy()):
        twin.metadata["mine"].append(1)
        assert original.metadata["mine"] == []
        assert twin != original


def test_metadata_that_was_changed_and_changed_back_is_equal() -> None:
    changed = user()
    changed.metadata["mine"] = 1
    del changed.metadata["mine"]
    assert changed == user()
    assert bytes(changed) == bytes(user())


def test_records_can_be_built_from_fields() -> None:
    built = User(
        user_id="user1",
        id=7,
        uuid="u-u",
        email="ann@example.org",
        first_name="Ann",
        last_name="Lee",
        metadata={"deep": {"list": [1.5, None, True]}, "n": 3, "plan": "pro"},
        created_at=CREATED,
        updated_at=CREATED + timedelta(microseconds=1),
        etag="e1",
    )
    assert built == user()
    assert hash(built) == hash(user())
    assert User.from_bytes(bytes(built)) == built
    assert Session(session_id="s").to_dict() == {
        "session_id": "s",
        "id": 0,
        "uuid": "",
        "user_id": "",
        "metadata": {},
        "created_at": EPOCH,
        "updated_at": EPOCH,
        "etag": "",
        "idle_ttl": None,
        "max_expire_time": None,
        "expire_time": None,
        "last_seen_at": None,
    }


def test_a_record_of_defaults_is_equal_to_one_from_the_wire() -> None:
    assert User(created_at=CREATED).updated_at == CREATED
    assert User(user_id="a").metadata == {}
    assert User.from_bytes(bytes(User(user_id="a"))) == User(user_id="a")


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"user_id": 7}, TypeError),
        ({"userid": "a"}, TypeError),
        ({"created_at": datetime(2026, 1, 1)}, ValueError),  # noqa: DTZ001 - that is the point
        ({"metadata": {"n": 2**60}}, ValueError),
    ],
)
def test_records_with_invalid_fields_are_rejected(fields: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        User(**fields)
    with pytest.raises(error):
        user().copy(**fields)


def test_a_copy_can_change_fields() -> None:
    changed = user().copy(email="", metadata={"a": 1}, created_at=CREATED + timedelta(days=1))
    assert changed == User(
        **{**user().to_dict(), "email": "", "metadata": {"a": 1}, "created_at": CREATED + timedelta(days=1)}
    )
    assert user().copy(metadata={}).metadata == {}
    assert user().__replace__(etag="e2") == user(etag="e2")


@pytest.mark.skipif(sys.version_info < (3, 13), reason="copy.replace is new in Python 3.13")
def test_copy_replace() -> None:
    replace = copy.replace  # type: ignore[attr-defined, unused-ignore]
    assert replace(user(), etag="e2") == user(etag="e2")


def test_json_has_every_field_and_times_as_text() -> None:
    expected = {
        **user().to_dict(),
        "created_at": "2026-01-02T03:04:05.678901Z",
        "updated_at": "2026-01-02T03:04:05.678902Z",
    }
    assert user().to_dict(mode="json") == expected
    assert json.loads(user().to_json()) == expected
    assert json.loads(json.dumps(user().to_dict(mode="json"))) == expected
    assert datetime.fromisoformat(expected["created_at"]) == CREATED
    assert dict(user()) == user().to_dict()
    with pytest.raises(ValueError, match="mode"):
        user().to_dict(mode="yaml")  # type: ignore[arg-type]


def test_metadata_keys_are_sorted_by_code_point_at_every_level() -> None:
    # By UTF-16 unit, as JavaScript sorts, the last two would change places.
    keys = ["", "10", "9", "B", "a", "\u00e9", "\uffff", "\U0001f600"]
    shuffled = keys[::2] + keys[1::2]
    metadata: dict[str, Any] = {key: [{inner: {} for inner in shuffled}] for key in shuffled}
    read = User.from_bytes(bytes(User(metadata=metadata))).metadata
    assert list(read) == keys
    assert all(list(value[0]) == keys for value in read.values())
    assert bytes(User(metadata=metadata)) == bytes(User(metadata=read))


@pytest.mark.parametrize("seconds", [-62_135_596_801, 253_402_300_800, 2**62, -(2**62)])
def test_times_that_datetime_cannot_represent_are_an_internal_error(seconds: int) -> None:
    message = user_message()
    message.created_at.seconds = seconds
    broken = User.from_bytes(message.SerializeToString())
    assert broken.user_id == "user1"
    with pytest.raises(InternalError, match="created_at"):
        _ = broken.created_at


def test_metadata_that_is_nested_too_deeply_is_an_internal_error() -> None:
    encoded = b""
    for _ in range(500):
        value = b"\x2a" + _length(encoded) + encoded  # Value.struct_value
        entry = b"\x0a\x01a\x12" + _length(value) + value
        encoded = b"\x0a" + _length(entry) + entry
    broken = User.from_bytes(b"\x0a\x01u\x3a" + _length(encoded) + encoded)
    assert broken.user_id == "u"
    with pytest.raises(InternalError, match="metadata"):
        _ = broken.metadata


def _length(encoded: bytes) -> bytes:
    number, out = len(encoded), bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


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
def test_lists_can_be_pickled_with_their_attributes(page: UserPage | SessionPage | UserBatch) -> None:
    twin = pickle.loads(pickle.dumps(page))  # noqa: S301
    assert twin == page
    assert vars(twin) == vars(page)


def test_lists_as_dict_and_json_hold_their_records_and_what_they_carry() -> None:
    page = UserPage([user()], next_cursor=7, total_size=9)
    assert page.to_dict() == {"users": [user().to_dict()], "next_cursor": 7, "total_size": 9}
    assert json.loads(page.to_json()) == {"users": [user().to_dict(mode="json")], "next_cursor": 7, "total_size": 9}
    assert SessionPage([session()], next_cursor=8, total_size=9).to_dict() == {
        "sessions": [session().to_dict()],
        "next_cursor": 8,
        "total_size": 9,
    }
    assert UserBatch(missing_user_ids=["x"]).to_dict(mode="json") == {"users": [], "missing_user_ids": ["x"]}
    with pytest.raises(ValueError, match="mode"):
        UserBatch().to_dict(mode="yaml")  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [True, 1.5, "1", [1]])
def test_bytes_follow_a_change_between_equal_values(value: object) -> None:
    changed = User(user_id="a", metadata={"flag": 1, "deep": [{"flag": 0}]})
    changed.metadata["flag"] = value
    changed.metadata["deep"][0]["flag"] = False
    restored = User.from_bytes(bytes(changed)).metadata
    assert restored == {"flag": value, "deep": [{"flag": False}]}
    assert (restored["flag"] is True) is (value is True)
    assert restored["deep"][0]["flag"] is False
