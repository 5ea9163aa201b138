"""Checks that the times of expiry in the records of sessions, in session_expiry and in the expiry queue agree."""

from itertools import chain

from google.protobuf.message import DecodeError

from userservice.v1.session_pb2 import Session
from userservice_server.check.reading import Reader, number, number_in_score
from userservice_server.check.report import Report
from userservice_server.store.keys import Table
from userservice_server.wire.records import decode


def check_expiry(reader: Reader, report: Report, table: Table) -> None:
    """Compares the times in the records of a user's sessions with session_expiry and the expiry queue."""
    differences = _differences(reader, table)
    if differences:
        # Read again, because a session may have been added, touched or removed between the reads.
        for text in sorted(set(differences) & set(_differences(reader, table))):
            report.find(text, table.session_expiry)


def _differences(reader: Reader, table: Table) -> list[str]:
    found = []
    [scores, owner] = reader.read(
        [("ZRANGE", table.session_expiry, 0, -1, "WITHSCORES"), ("HGET", table.owner_index, table.owner)]
    )
    ends = {number(session): float(score) for session, score in zip(scores[::2], scores[1::2], strict=True)}
    for row, score in chain.from_iterable(reader.pages(table.rows)):
        session = number_in_score(score)
        if _end(row) != ends.pop(session, None):
            found.append(f"session {session}: its record and session_expiry have different times of expiry")
    found += [f"session {session}: session_expiry has an entry without session" for session in ends]
    if scores and owner is not None:
        [due] = reader.read([("ZSCORE", table.expiry_queue, owner)])
        if due is None or float(due) > float(scores[1]):
            found.append("the expiry queue has no entry, or an entry that is too late, for the user of these sessions")
    return found


def _end(row: bytes) -> float | None:
    """Returns the time at which a session expires; None if it does not expire, or if its record is damaged."""
    try:
        session = decode(Session, row)
    except (DecodeError, IndexError):
        return None
    return float(session.expire_time.ToMicroseconds()) if session.HasField("expire_time") else None
