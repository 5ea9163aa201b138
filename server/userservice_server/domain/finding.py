"""Finds users by their e-mail addresses."""

import asyncio
from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple

from userservice_server.domain.ports import FindQuery, FoundUsers, RecordStore, Table
from userservice_server.wire.emails import email_key, emails_in, normalized
from userservice_server.wire.projection import Cut
from userservice_server.wire.records import ID_TAG, id_field, record_id
from userservice_server.wire.varint import varint

_SCRIPT_KEYS = 200  # addresses in one script; commands of other callers can run between two scripts
_PAGE_BYTES = 1 << 20
_LEAST_BYTES = 64 << 10  # of users in the reply of a script
_MORE_OF_ONE = 2  # users with one address that a script examines beyond its share of the page


class Search(NamedTuple):
    """A search for a page of users.

    Attributes:
        forms: the normalized addresses.
        limit: maximum number of users in the page.
        cursor: only users with larger ids.
    """

    forms: frozenset[str]
    limit: int
    cursor: int

    @classmethod
    def of(cls, emails: Sequence[str], limit: int, cursor: int) -> "Search":
        """Returns the search for users who have one of the addresses."""
        return cls(frozenset(map(normalized, emails)), limit, cursor)


async def found_page(store: RecordStore, search: Search, cut: Cut | None) -> bytes:
    """Returns a page of users as an encoded FindUsersResponse."""
    tables, identity = store.tables.all_users(), store.identity
    keys = sorted({email_key(form) for form in search.forms})
    scripts = [keys[start : start + _SCRIPT_KEYS] for start in range(0, len(keys), _SCRIPT_KEYS)]
    most_bytes = max(_LEAST_BYTES, _PAGE_BYTES // (len(tables) * len(scripts)))
    most_of_one = search.limit // len(keys) + _MORE_OF_ONE

    async def read(table: Table) -> list[FoundUsers]:
        """Reads one partition; one script after the other, so that others can run between them."""
        return [
            await store.find(table, FindQuery(own, search.cursor, search.limit, most_of_one, most_bytes), identity)
            for own in scripts
        ]

    found = [each for replies in await asyncio.gather(*map(read, tables)) for each in replies]
    return _page(search, found, cut)


def _page(search: Search, found: Sequence[FoundUsers], cut: Cut | None) -> bytes:
    """Joins the replies: the page ends where the first incomplete reply ends."""
    reached = min((each.reached for each in found if each.reached), default=0)
    records = [record for each in found for record in each.records]
    if len(found) > 1:
        records.sort(key=record_id)
    if reached:
        records = records[: bisect_right(records, reached, key=record_id)]
    page: list[bytes] = []
    size = 0
    for record, email in zip(records, emails_in(records), strict=True):
        if normalized(email) not in search.forms:
            continue
        if len(page) == search.limit or (page and size + len(record) > _PAGE_BYTES):
            return b"".join((*_views(page, cut), id_field(page[-1])))
        page.append(record)
        size += len(record)
    next_cursor = bytes([ID_TAG]) + varint(reached) if reached else b""
    return b"".join((*_views(page, cut), next_cursor))


def _views(page: list[bytes], cut: Cut | None) -> list[bytes]:
    return page if cut is None else cut(page)
