"""Finds users by their e-mail addresses."""

import asyncio
import math
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate, compress
from typing import NamedTuple

from userservice_server.domain.ports import FindQuery, FoundUsers, RecordStore, Table
from userservice_server.wire.emails import all_normalized, email_key, emails_in
from userservice_server.wire.projection import Cut
from userservice_server.wire.records import ID_TAG, id_field, record_id
from userservice_server.wire.varint import varint

_SCRIPT_KEYS = 200  # addresses in one script; commands of other callers can run between two scripts
_PAGE_BYTES = 1 << 20
_LEAST_BYTES = 64 << 10  # of users in the reply of a script
_MORE_OF_ONE = 2  # users with one address that a script examines beyond its share of the page
_LEAST_SHARE = 32  # users of a page that one partition may have, if the page has room for them
_DEVIATIONS = 3  # a partition has fewer than mean + 3 deviations of the users of a page in 99.9 % of all pages


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
        return cls(frozenset(all_normalized(emails)), limit, cursor)


async def found_page(store: RecordStore, search: Search, cut: Cut | None) -> bytes:
    """Returns a page of users as an encoded FindUsersResponse."""
    tables, identity = store.tables.all_users(), store.identity
    keys = sorted({email_key(form) for form in search.forms})
    scripts = [keys[start : start + _SCRIPT_KEYS] for start in range(0, len(keys), _SCRIPT_KEYS)]
    most_bytes = max(_LEAST_BYTES, _PAGE_BYTES // (len(tables) * len(scripts)))
    most_of_one = search.limit // len(keys) + _MORE_OF_ONE
    most_users = _share(search.limit, len(tables))

    async def read(table: Table) -> list[FoundUsers]:
        """Reads one partition with one script after another, so that other commands can run between them."""
        return [
            await store.find(table, FindQuery(own, search.cursor, most_users, most_of_one, most_bytes), identity)
            for own in scripts
        ]

    found = [each for replies in await asyncio.gather(*map(read, tables)) for each in replies]
    return _page(search, found, cut)


def _share(limit: int, partitions: int) -> int:
    """Returns how many users one partition may add to a page: a page ends where the users of a partition end.

    If each partition could fill the whole page, most of the users that were read would be read again for later pages.
    """
    if partitions == 1:
        return limit
    mean = limit / partitions
    return min(limit, max(_LEAST_SHARE, math.ceil(mean + _DEVIATIONS * math.sqrt(mean))))


def _page(search: Search, found: Sequence[FoundUsers], cut: Cut | None) -> bytes:
    """Joins the replies: the page ends where the first incomplete reply ends."""
    reached = min((each.reached for each in found if each.reached), default=0)
    records = [record for each in found for record in each.records]
    if len(found) > 1:
        # Two scripts can return one user, if its address is changed from one of the addresses to another between them.
        by_id = {record_id(record): record for record in records}
        records = [by_id[found_id] for found_id in sorted(by_id)]
    if reached:
        records = records[: bisect_right(records, reached, key=record_id)]
    forms = all_normalized(emails_in(records))
    matching = list(compress(records, map(search.forms.__contains__, forms)))
    count = min(search.limit, max(1, bisect_right(list(accumulate(map(len, matching))), _PAGE_BYTES)))
    page = matching[:count]
    if count < len(matching):
        return b"".join((*_views(page, cut), id_field(page[-1])))
    next_cursor = bytes([ID_TAG]) + varint(reached) if reached else b""
    return b"".join((*_views(page, cut), next_cursor))


def _views(page: list[bytes], cut: Cut | None) -> list[bytes]:
    return page if cut is None else cut(page)
