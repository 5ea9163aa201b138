"""Computes when sessions expire. All times are by the store's clock, in microseconds since 1970."""

from dataclasses import dataclass

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from userservice.v1.session_pb2 import Session
from userservice_server.wire.expiry import MICROSECONDS_A_SECOND

LEAST_TTL = 1000  # microseconds
MOST_TTL_DAYS = 36_500
MOST_TTL = MOST_TTL_DAYS * 86_400 * MICROSECONDS_A_SECOND
_LONGEST_TOUCH_INTERVAL = 60 * MICROSECONDS_A_SECOND
_TOUCHES_PER_IDLE_TTL = 10


@dataclass(frozen=True, slots=True)
class Expiry:
    """The expiry of a new session in the request that adds the session.

    Attributes:
        expire_time: the time at which the session expires; None: not given.
        ttl: microseconds until the session expires; None: not given.
        idle_ttl: microseconds without a touch until the session expires; None: not given.
    """

    expire_time: int | None = None
    ttl: int | None = None
    idle_ttl: int | None = None

    @property
    def is_set(self) -> bool:
        """Whether the session expires."""
        return (self.expire_time, self.ttl, self.idle_ttl) != (None, None, None)

    def start(self, session: Session, now: int) -> int:
        """Fills the fields of a new session; returns the time at which the session expires."""
        end = now + self.ttl if self.ttl is not None else self.expire_time
        if end is not None:
            session.max_expire_time.FromMicroseconds(end)
        if self.idle_ttl is not None:
            session.idle_ttl.FromMicroseconds(self.idle_ttl)
        return _extend(session, now)


ENDLESS = Expiry()


def touch(session: Session, now: int) -> int | None:
    """Changes the fields of a session that is in use; returns the time at which the session expires.

    Returns:
        0 if the session does not expire; None if the last touch is so recent that nothing must be written.
    """
    interval = _LONGEST_TOUCH_INTERVAL
    if session.HasField("idle_ttl"):
        interval = min(interval, session.idle_ttl.ToMicroseconds() // _TOUCHES_PER_IDLE_TTL)
    if session.HasField("last_seen_at") and now < session.last_seen_at.ToMicroseconds() + interval:
        return None
    if not session.HasField("expire_time"):
        session.last_seen_at.FromMicroseconds(now)
        return 0
    return _extend(session, now)


def _extend(session: Session, now: int) -> int:
    session.last_seen_at.FromMicroseconds(now)
    ends = []
    if session.HasField("max_expire_time"):
        ends.append(session.max_expire_time.ToMicroseconds())
    if session.HasField("idle_ttl"):
        ends.append(now + session.idle_ttl.ToMicroseconds())
    end = min(ends)
    session.expire_time.FromMicroseconds(end)
    return end


def microseconds(value: "Timestamp | Duration") -> int:
    """Returns a time or a duration in microseconds, without the nanoseconds below."""
    return value.seconds * MICROSECONDS_A_SECOND + value.nanos // 1000
