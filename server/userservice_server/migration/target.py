"""The target of a migration: an empty store, or one that an interrupted migration has begun to fill."""

import time
from collections.abc import Sequence
from itertools import chain

from userservice_server.check.layout import partitions_without_layout
from userservice_server.check.reading import Reader
from userservice_server.config import ConfigError
from userservice_server.migration.emails import index_emails
from userservice_server.migration.session_counts import sessions_by_partition
from userservice_server.migration.source import KNOWN_VERSIONS, Source, User
from userservice_server.store.feed import new_epoch
from userservice_server.store.keys import COMPLETE, MAINTAINED_LAYOUT_VERSION, Keys
from userservice_server.wire.changes import Position
from userservice_server.wire.emails import UNICODE_VERSION
from userservice_server.wire.ids import MAX_ID, PARTITIONS, id_at
from userservice_server.wire.records import record_key

_INCOMPLETE = 0  # the version of the layout of a store that is not complete


class Target:
    """A store whose layout has the version 0 until it is complete, so that no server opens it.

    Its progress is in the key ``PREFIX:migration``: the store id of the source, and for each partition of the source
    the last id that was copied.
    """

    def __init__(self, reader: Reader, prefix: str, partitions: int) -> None:
        self.keys = Keys(prefix, partitions)
        self._reader = reader
        self._prefix = prefix
        self._progress = f"{prefix}:migration".encode()

    def begin(self, source: Source) -> dict[bytes, bytes] | None:
        """Returns for each partition of the source the last id that was copied; None if the store is complete.

        Raises:
            ConfigError: the store is not empty, and was not left by a migration of this source.
        """
        progress, version = self._reader.read([("HGETALL", self._progress), ("HGET", self.keys.layout, "version")])
        expected = {b"store_id": source.store_id, b"partitions": b"%d" % self.keys.partitions}
        if version in KNOWN_VERSIONS and expected.items() <= progress.items():
            self._reader.read([("DEL", self._progress)])  # the last step, which an earlier run did not reach
            return None
        is_used = version is not None or bool(partitions_without_layout(self._reader, self._prefix))
        if is_used and (not progress or version != b"%d" % _INCOMPLETE):
            raise ConfigError(f"the store at --to is not empty under the key prefix {self._prefix}")
        if progress and not expected.items() <= progress.items():
            raise ConfigError("the store at --to contains an unfinished migration from another store")
        if not progress:
            self._reader.read([("HSET", self._progress, *chain.from_iterable(expected.items()))])
        numbers = ("version", _INCOMPLETE, "partitions", self.keys.partitions)
        self._reader.read([("HSET", self.keys.layout, *numbers)])
        return {name: value for name, value in progress.items() if name not in expected}

    def add(self, users: Sequence[User], partition: int) -> None:
        """Adds users and their sessions, and then notes the progress in a partition of the source; can be repeated."""
        commands: list[tuple[bytes | str, ...]] = []
        for user in users:
            table, sessions = self.keys.users(user.user_id), self.keys.sessions(user.user_id)
            record, number = user.row
            commands += [("ZADD", table.rows, number, record), ("HSET", table.index, user.user_id, number)]
            for session, session_number in user.sessions:
                commands.append(("ZADD", sessions.rows, session_number, session))
                commands.append(("HSET", sessions.index, record_key(session), session_number))
            commands += [("ZADD", sessions.session_expiry, end, session_number) for session_number, end in user.ends]
            if user.ends:
                commands.append(("ZADD", table.expiry_queue, user.ends[0][1], number))
        self._reader.read(commands)
        index_emails(self._reader, [(self.keys.users(user.user_id), *user.row) for user in users])
        self._reader.read([("HSET", self._progress, str(partition), users[-1].row[1])])

    def add_request(self, request_id: bytes, content: bytes, milliseconds: int) -> None:
        """Adds an idempotency record to every partition, because it does not say to which user it belongs."""
        self._reader.read(
            [("SET", table.request_prefix + request_id, content, "PX", milliseconds) for table in self.keys.all_users()]
        )

    def finish(self, source: Source) -> None:
        """Writes what a server needs to open the store, the layout last."""
        tables, last_id = self.keys.all_users(), source.last_id()
        counts = sessions_by_partition(self._reader, self.keys, self._prefix)
        feed = self._feed(source)
        last_change = source.last_change() if feed else 0
        commands: list[tuple[bytes | str | int, ...]] = []
        for table, sessions in zip(tables, counts, strict=True):
            own_last = last_id // PARTITIONS * PARTITIONS + PARTITIONS + table.partition
            commands += [
                ("SET", table.last_id, own_last),
                ("HSET", table.session_count, "covered", MAX_ID, "added", sessions, "removed", 0),
                ("SET", table.store_id, source.store_id),
            ]
            if table.layout != self.keys.layout:
                commands.append(("HSET", table.layout, *self._layout(source), *feed))
            if feed:
                position = Position(time.time_ns() // 1000, max(last_change + 1, id_at(time.time())))
                commands += [("DEL", table.feed), ("XADD", table.feed, position.encode(), "c", "")]
        self._reader.read(commands)
        lowest = ("lowest_id", source.lowest_id) if source.lowest_id else ()
        self._reader.read([("HSET", self.keys.layout, *self._layout(source), *feed, *lowest)])
        self._reader.read([("DEL", self._progress)])

    def _feed(self, source: Source) -> tuple[bytes | str | int, ...]:
        """Returns the layout fields of a feed of changes with a new epoch and the limits of the source's feed.

        The resume tokens of the source expire, because the changes are not copied.
        """
        if source.feed is None:
            return ()
        entries, seconds = source.feed
        limits = ("feed_entries", max(1, entries // self.keys.partitions), "feed_seconds", seconds)
        return ("feed", new_epoch(), *limits)

    def _layout(self, source: Source) -> tuple[bytes | str | int, ...]:
        return (
            *("version", MAINTAINED_LAYOUT_VERSION),
            *("partitions", self.keys.partitions),
            *("store_id", source.store_id),
            *("email_index", COMPLETE, "email_unicode", UNICODE_VERSION),
        )
