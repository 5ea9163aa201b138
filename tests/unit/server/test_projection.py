"""Views are cut from the bytes of records; protobuf, which decodes and encodes, must give the same views."""

import subprocess
import sys
from typing import Any, cast

import pytest
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp
from harness.population import struct
from hypothesis import given
from hypothesis import strategies as st

from userservice.v1.session_pb2 import Session
from userservice.v1.user_pb2 import User
from userservice.v1.view_pb2 import View
from userservice_server.wire.projection import cut_of
from userservice_server.wire.records import CorruptRecordError, frame, framed, record_id

UUID = "01a209c4-7c7f-7378-a9ab-a1b07df0dd89"
VIEWS = [View.VIEW_BASIC, View.VIEW_ID]

keys = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=256) | st.sampled_from(
    ["$" + "x" * 25, "$" * 36, "k" * 127, "k" * 128, "k" * 256, UUID, ":" * 36]
)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=320) | st.sampled_from(
    ["", ":", "B", "x" * 127, "x" * 128]
)
ids = st.integers(1, 2**53 - 1) | st.sampled_from([26, 26 << 7, (26 << 42) + 2**41, 127, 128, 2**49 - 1, 2**49])
times = st.builds(Timestamp, seconds=st.integers(0, 2**34), nanos=st.integers(0, 999_999).map(lambda n: n * 1000))
metadata = st.none() | st.sampled_from(
    [Struct(), struct({"k": 1}), *(struct({"k": "x" * n}) for n in (110, 111, 112, 113, 16_400))]
)
etags = st.text("abc", min_size=12, max_size=12)
users = st.builds(
    User,
    user_id=keys,
    id=ids,
    uuid=st.just(UUID),
    email=texts,
    first_name=texts,
    last_name=texts,
    metadata=metadata,
    created_at=times,
    updated_at=times,
    etag=etags,
)
sessions = st.builds(
    Session,
    session_id=keys,
    id=ids,
    user_id=keys,
    uuid=st.just(UUID),
    metadata=metadata,
    created_at=times,
    updated_at=times,
    etag=etags,
)


def decoded_view(entity: Any, view: "View.ValueType") -> Any:
    """Makes the view in the obvious way."""
    if view == View.VIEW_BASIC:
        cut = type(entity).FromString(entity.SerializeToString())
        cut.ClearField("metadata")
        return cut
    if isinstance(entity, User):
        return User(user_id=entity.user_id, id=entity.id)
    return Session(session_id=entity.session_id, id=entity.id, user_id=entity.user_id)


@pytest.mark.parametrize("view", VIEWS)
@given(st.lists(users, max_size=4) | st.lists(sessions, max_size=4))
def test_a_view_equals_the_record_without_the_other_fields(view: "View.ValueType", stored: list[Any]) -> None:
    entity: type[Any] = type(stored[0]) if stored else User
    cut = cut_of(entity, view)
    assert cut is not None
    views = cut([frame(entity) for entity in stored])
    assert views == [frame(decoded_view(entity, view)) for entity in stored]
    assert [record_id(each) for each in views] == [entity.id for entity in stored]


@given(st.lists(users, min_size=1, max_size=4) | st.lists(sessions, min_size=1, max_size=4))
def test_the_view_basic_keeps_fields_of_newer_versions(stored: list[Any]) -> None:
    newer = b"\xa2\x06\x03new\xa8\x06\x07"  # the fields 100 and 101
    cut = cut_of(type(stored[0]), View.VIEW_BASIC)
    assert cut is not None
    views = cut(framed([entity.SerializeToString() + newer for entity in stored]))
    assert views == framed([decoded_view(entity, View.VIEW_BASIC).SerializeToString() + newer for entity in stored])


@pytest.mark.parametrize("view", [View.VIEW_FULL, View.VIEW_UNSPECIFIED])
def test_the_full_view_is_the_record_itself(view: "View.ValueType") -> None:
    assert cut_of(User, view) is None
    assert cut_of(Session, view) is None


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("record", [frame(User(user_id="ada", id=7)), frame(Session(session_id="s", id=7))])
def test_a_record_that_no_service_writes_is_corrupt(view: "View.ValueType", record: bytes) -> None:
    entity: type[Any] = User if b"ada" in record else Session
    cut = cut_of(entity, view)
    assert cut is not None
    with pytest.raises(CorruptRecordError):
        cut([record])


@pytest.mark.parametrize("missing", ["id", "uuid", "updated_at"])
def test_the_view_basic_of_a_record_without_a_field_that_every_record_has_is_corrupt(missing: str) -> None:
    user = whole_user()
    user.ClearField(cast(Any, missing))
    with pytest.raises(CorruptRecordError):
        basic([frame(user)])


@given(st.data())
def test_a_record_that_is_cut_off_is_corrupt(data: st.DataObject) -> None:
    record, other = frame(whole_user()), frame(whole_user())
    length = data.draw(st.integers(0, len(record) - 1))
    for records in ([record[:length]], [record[:length], other], [other, record[:length]]):
        with pytest.raises(CorruptRecordError):
            basic(records)


def test_a_record_whose_frame_contains_the_next_record_is_corrupt() -> None:
    user, other = whole_user().SerializeToString(), frame(whole_user())
    record = framed([user + other])[0].removesuffix(other)
    with pytest.raises(CorruptRecordError):
        basic([record, other])


def test_the_view_basic_of_many_large_records_needs_little_memory() -> None:
    program = """
import resource
from userservice.v1.user_pb2 import User
from userservice.v1.view_pb2 import View
from userservice_server.wire.projection import cut_of
from userservice_server.wire.records import frame

user = User(user_id="ada", id=7, uuid="-" * 36)
user.metadata["k"] = "x" * 60_000
user.created_at.seconds = user.updated_at.seconds = 1
records = [frame(user)] * 1500
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert len(cut_of(User, View.VIEW_BASIC)(records)) == 1500
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.PIPE, timeout=60)
    assert int(done.stdout) < 32 << 10  # KiB; the records take 88 MiB


def whole_user() -> User:
    user = User(user_id="ada", id=26 << 42, uuid=UUID, email="ada@mail.example", metadata=struct({"k": 1}), etag="abc")
    user.created_at.seconds = user.updated_at.seconds = 1
    return user


def basic(records: list[bytes]) -> list[bytes]:
    cut = cut_of(User, View.VIEW_BASIC)
    assert cut is not None
    return cut(records)
