"""Converts the times and durations of messages without rounding microseconds."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from userservice.errors import InternalError

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
"""The default of `created_at` for models that are created without a time."""

_MICROSECOND = timedelta(microseconds=1)


def from_timestamp(timestamp: Timestamp, field: str) -> datetime:
    """Returns the time in a Timestamp.

    Raises:
        InternalError: If the time is outside the years 1 to 9999.
    """
    try:
        # Computed with integers, because ToDatetime and fromtimestamp of a float can lose microseconds by rounding.
        return EPOCH + timedelta(seconds=timestamp.seconds, microseconds=timestamp.nanos // 1000)
    except OverflowError:
        raise InternalError(f"the service returned a {field} outside the years 1 to 9999") from None


def from_duration(duration: Duration) -> timedelta:
    """Returns the duration in a Duration message.

    Raises:
        InternalError: If a timedelta cannot represent the duration.
    """
    try:
        return timedelta(seconds=duration.seconds, microseconds=duration.nanos // 1000)
    except OverflowError:
        raise InternalError("the service returned a duration that a timedelta cannot represent") from None


def fill_timestamp(timestamp: Timestamp, time: datetime) -> None:
    """Writes a time, which must have a time zone, into a Timestamp."""
    seconds, microseconds = divmod((time - EPOCH) // _MICROSECOND, 1_000_000)
    timestamp.seconds, timestamp.nanos = seconds, microseconds * 1000
