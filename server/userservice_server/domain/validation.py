"""Checks requests: collects all violations of a request and reports them in one error."""

import re
import unicodedata
from collections.abc import Collection, Sequence
from types import TracebackType
from typing import Self

from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp

from userservice.v1.session_service_pb2 import AddSessionRequest
from userservice.v1.view_pb2 import View
from userservice_server.domain import metadata as metadata_rules
from userservice_server.domain.expiry import LEAST_TTL, MOST_TTL, MOST_TTL_DAYS, Expiry, microseconds
from userservice_server.domain.filters import FilterError, selecting
from userservice_server.errors import InvalidFieldsError, Violation
from userservice_server.wire.projection import Cut

MAX_KEY_BYTES = 256  # user_id and session_id
MAX_EMAIL_BYTES = 320
MAX_PERSON_NAME_BYTES = 256  # first_name and last_name
DEFAULT_LIMIT = 100
MAX_LIMIT = 1000
DEFAULT_CHUNK_SIZE = 100
MAX_CHUNK_SIZE = 10_000
DEFAULT_PARTS = 16
MAX_PARTS = 64
MAX_BATCH = 1000
REQUEST_ID_BYTES = 36  # of a UUID in text form
_MOST_UTF8 = 4  # bytes of a character

_NANOS = 1_000_000_000
_LATEST_SECOND = 7_258_118_400  # 2200-01-01; in microseconds, all times fit into 53 bits
_DESCENDING = "id desc"
_ORDERS = ("", "id", _DESCENDING)
_VIEWS = frozenset(View.values())
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE | re.ASCII)
PLAIN_KEY = re.compile(r"[!-~]{1,256}", re.ASCII)  # most keys match this and need no further check


def _are_plain(keys: Sequence[str]) -> bool:
    """Returns whether all keys match ``PLAIN_KEY``; takes half the time of matching each, and builds no field path."""
    text = "".join(keys)
    is_visible_ascii = text.isascii() and text.isprintable() and " " not in text
    return is_visible_ascii and all(keys) and max(map(len, keys)) <= MAX_KEY_BYTES


class Checker:
    """Collects the violations of one request, and raises them all at the end of its ``with`` block.

    Each method checks one field and returns its effective value.
    """

    def __init__(self) -> None:
        self.violations: list[Violation] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Raises InvalidFieldsError if violations were found."""
        if self.violations and exc is None:
            raise InvalidFieldsError(self.violations)

    def refuse(self, field: str, description: str) -> None:
        """Records a violation."""
        self.violations.append(Violation(field, description))

    def key(self, field: str, value: str) -> str:
        """Checks a user_id or session_id."""
        if PLAIN_KEY.fullmatch(value):
            return value
        size = len(value.encode())
        if size == 0:
            self.refuse(field, f"is required: 1 to {MAX_KEY_BYTES} bytes of UTF-8")
        elif size > MAX_KEY_BYTES:
            self.refuse(field, f"must be at most {MAX_KEY_BYTES} bytes of UTF-8, is {size}")
            return value  # no further checks, because the value can be very long
        if any(unicodedata.category(character) == "Cc" for character in value):
            self.refuse(field, "must not contain control characters")
        elif value != value.strip():
            self.refuse(field, "must not start or end with white space")
        return value

    def keys(self, field: str, values: Collection[str]) -> list[str]:
        """Checks the user_ids of a batch."""
        if not 1 <= len(values) <= MAX_BATCH:
            self.refuse(field, f"must have 1 to {MAX_BATCH} entries, has {len(values)}")
            return []
        user_ids = list(values)
        if not _are_plain(user_ids):
            for index, user_id in enumerate(user_ids):
                self.key(f"{field}[{index}]", user_id)
        return user_ids

    def emails(self, field: str, values: Collection[str]) -> list[str]:
        """Checks the e-mail addresses of a search."""
        if not 1 <= len(values) <= MAX_BATCH:
            self.refuse(field, f"must have 1 to {MAX_BATCH} entries, has {len(values)}")
            return []
        emails = list(values)
        if all(emails) and max(map(len, emails)) * _MOST_UTF8 <= MAX_EMAIL_BYTES:  # almost always, and faster
            return emails
        for index, email in enumerate(emails):
            if not email:
                self.refuse(
                    f"{field}[{index}]", "must not be empty: users without an e-mail address cannot be found by it"
                )
            else:
                self.text(f"{field}[{index}]", email, MAX_EMAIL_BYTES)
        return emails

    def text(self, field: str, value: str, max_bytes: int) -> str:
        """Checks a free text field."""
        # A character has at most four bytes of UTF-8, so most values need not be encoded for this check.
        if len(value) * _MOST_UTF8 > max_bytes and (size := len(value.encode())) > max_bytes:
            self.refuse(field, f"must be at most {max_bytes} bytes of UTF-8, is {size}")
        return value

    def profile(self, email: str, first_name: str, last_name: str) -> None:
        """Checks the text fields of a user."""
        self.text("email", email, MAX_EMAIL_BYTES)
        self.text("first_name", first_name, MAX_PERSON_NAME_BYTES)
        self.text("last_name", last_name, MAX_PERSON_NAME_BYTES)

    def metadata(self, value: Struct) -> Struct:
        """Checks metadata, or a patch of it."""
        # A rule that the metadata breaks in several places is reported once.
        self.violations.extend(dict.fromkeys(metadata_rules.violations(value, "metadata")))
        return value

    def mask(self, mask: FieldMask, paths: Collection[str]) -> frozenset[str]:
        """Checks an update_mask; returns the fields in it, or all of ``paths`` for ``*``."""
        unknown = [path for path in mask.paths if path != "*" and path not in paths]
        if unknown:
            self.refuse("update_mask", f"may contain only {', '.join(sorted(paths))} and *")
        return frozenset(paths) if "*" in mask.paths else frozenset(mask.paths)

    def request_id(self, value: str) -> str:
        """Checks a request_id; returns it in the canonical form, or an empty string if there is none."""
        return self.uuid("request_id", value) if value else ""

    def uuid(self, field: str, value: str) -> str:
        """Checks a UUID; returns it in the canonical form."""
        if not _UUID.fullmatch(value):
            self.refuse(field, "must be a UUID in text form, 36 characters (RFC 9562)")
        return value.lower()

    def view(self, value: "View.ValueType") -> "View.ValueType":
        """Checks the view of a read."""
        if value not in _VIEWS:
            self.refuse("view", f"must be one of {', '.join(View.keys())}, is {value}")
        return value

    def filter(self, text: str) -> Cut | None:
        """Checks a filter; returns the function that selects the records that match, None for an empty filter."""
        try:
            return selecting(text)
        except FilterError as error:
            self.refuse("filter", str(error))
            return None

    def is_descending(self, order_by: str) -> bool:
        """Checks the order of a list; returns whether it is descending."""
        order = " ".join(order_by.split())
        if order not in _ORDERS:
            self.refuse("order_by", "must be id or id desc")
        return order == _DESCENDING

    def expiry(self, request: AddSessionRequest) -> Expiry:
        """Checks the expiry of a new session."""
        if request.HasField("expire_time") and request.HasField("ttl"):
            self.refuse("ttl", "must be absent if expire_time is given; set only one of the two")
        time = self._time("expire_time", request.expire_time) if request.HasField("expire_time") else None
        ttl, idle_ttl = (
            self._ttl(field, getattr(request, field)) if request.HasField(field) else None
            for field in ("ttl", "idle_ttl")
        )
        return Expiry(time, ttl, idle_ttl)

    def _time(self, field: str, value: Timestamp) -> int:
        if not 0 <= value.nanos < _NANOS or not 0 <= value.seconds <= _LATEST_SECOND:
            self.refuse(field, "must be in the future and before the year 2200")
        return microseconds(value)

    def _ttl(self, field: str, value: Duration) -> int:
        found = microseconds(value)
        if not 0 <= value.nanos < _NANOS or not LEAST_TTL <= found <= MOST_TTL:
            self.refuse(field, f"must be from 1 ms to {MOST_TTL_DAYS} days")
        return found

    def limit(self, value: int) -> int:
        """Checks the limit of a page."""
        return self._count("limit", value, DEFAULT_LIMIT, MAX_LIMIT)

    def chunk_size(self, value: int) -> int:
        """Checks the chunk_size of a stream."""
        return self._count("chunk_size", value, DEFAULT_CHUNK_SIZE, MAX_CHUNK_SIZE)

    def cursor(self, value: int) -> int:
        """Checks a cursor."""
        if value < 0:
            self.refuse("cursor", "must not be negative: 0, or the id of the last record received")
        return value

    def parts(self, value: int) -> int:
        """Checks the number of parts of a plan."""
        if not 0 <= value <= MAX_PARTS:
            self.refuse("parts", f"must be 1 to {MAX_PARTS}, or 0 for {DEFAULT_PARTS}; is {value}")
        return value or DEFAULT_PARTS

    def partition(self, value: int, known: range) -> int:
        """Checks which partition a stream reads; ``known`` are the numbers of the partitions, and 0 means all."""
        if value and value not in known:
            expected = f"{known[0]}" if len(known) == 1 else f"from {known[0]} to {known[-1]}"
            self.refuse("partition", f"must be {expected} (see PlanUserScan), or 0 for all users; is {value}")
        return value

    def end_cursor(self, value: int) -> int:
        """Checks the id at which a stream ends."""
        if value < 0:
            self.refuse("end_cursor", "must not be negative: 0, or the end_cursor of a part")
        return value

    def _count(self, field: str, value: int, default: int, maximum: int) -> int:
        if value < 0:
            self.refuse(field, f"must not be negative: 0 means {default}, the maximum is {maximum}")
        return min(value, maximum) or default
