"""Builds the e-mail index of the target of a migration, in the form that scripts/_emails.lua maintains."""

from collections.abc import Iterable

from userservice_server.check.reading import Reader
from userservice_server.store.keys import Table
from userservice_server.wire.emails import SHARED, index_member, key_of_record

Command = tuple[bytes | str | int, ...]


def index_emails(reader: Reader, rows: Iterable[tuple[Table, bytes, bytes]]) -> None:
    """Adds users to the index, given their tables, records and ids. Can be repeated, but not run concurrently."""
    wanted: dict[tuple[Table, int], set[int]] = {}
    for table, record, record_id in rows:
        if (email_key := key_of_record(record)) is not None:
            wanted.setdefault((table, email_key), set()).add(int(record_id))
    present = reader.read([("ZSCORE", table.emails, index_member(email_key)) for table, email_key in wanted])
    commands: list[Command] = []
    for ((table, email_key), ids), score in zip(wanted.items(), present, strict=True):
        known = SHARED if score is None else int(float(score))
        users = ids if known == SHARED else {known, *ids}
        if score is None and len(users) == 1:
            commands.append(("ZADD", table.emails, *users, index_member(email_key)))
        elif users != {known}:
            # The mark is written last. After an interruption, the next run therefore adds these users again.
            commands += [("ZADD", table.shared_emails, email_key, index_member(user)) for user in users]
            commands.append(("ZADD", table.emails, SHARED, index_member(email_key)))
    reader.read(commands)
