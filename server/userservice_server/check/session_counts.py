"""Checks the session count, which the scripts keep for metrics, against the sessions in the store."""

from userservice_server.check.reading import Reader, number
from userservice_server.check.report import Report
from userservice_server.store.keys import Keys
from userservice_server.wire.ids import MAX_ID

_FIELDS = (b"covered", b"added", b"removed")


class SessionCounts:
    """The session counts at the start of a check.

    Args:
        reader: reads the store.
        keys: the keys of the store.
    """

    def __init__(self, reader: Reader, keys: Keys) -> None:
        self._reader = reader
        self._tables = keys.all_users()
        self._at_start = self._read()

    def check(self, report: Report) -> None:
        """Compares the counts with the sessions that were found, if no session was added or removed meanwhile.

        A difference is reported only if nothing else was found: other faults, such as sessions without their user, can
        cause it.
        """
        counts = self._read()
        if counts != self._at_start or report.findings:
            return
        total = 0
        for count in counts:
            covered, added, removed = (number(count.get(name, b"")) for name in _FIELDS)
            if covered != MAX_ID or added is None or removed is None:
                return  # an older store, whose sessions are not all counted
            total += added - removed
        if total != report.sessions:
            key = self._tables[0].session_count
            report.find(f"the session count is {total}, but there are {report.sessions} sessions", key)

    def _read(self) -> list[dict[bytes, bytes]]:
        """Returns the fields of the count of each partition; none if the key has another type, which Scan reports."""
        return [
            self._reader.read([("HGETALL", table.session_count)])[0]
            if self._reader.has_types({table.session_count: b"hash"})
            else {}
            for table in self._tables
        ]
