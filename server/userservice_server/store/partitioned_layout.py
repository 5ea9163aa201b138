"""The layout of a store with several partitions, which can be on several servers.

No script can create partitions on several servers at once. Therefore the layout is created first, with the store id and
the mark `creating`; then each empty partition; then the mark is removed. All servers that do this at the same time use
the same store id. If there is no mark, an empty partition has lost its keys, and is never created again.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from userservice_server.store import scripts
from userservice_server.store.connection import Send
from userservice_server.store.identity import FAULTS, WHERE_TO_READ, Identity, LayoutError, StoreLayout, is_pair
from userservice_server.store.keys import MAINTAINED_LAYOUT_VERSION, Keys, Table
from userservice_server.store.links import LAYOUT
from userservice_server.store.scripts import Script
from userservice_server.wire.emails import UNICODE_VERSION

Run = Callable[[int, Script, Sequence[bytes], Sequence[bytes | str | int]], Awaitable[Any]]
"""Runs a script with keys and arguments on the server of a partition."""

_ID_BYTES = 16


@dataclass(frozen=True, slots=True)
class _Found:
    """The keys of a partition that exist.

    Attributes:
        ids: the store ids of the layout of the partition and of the partition.
        pair: how many of rows and index exist.
        last_id: whether the last id exists.
    """

    ids: tuple[bytes | None, bytes | None]
    pair: int
    last_id: int

    @property
    def is_empty(self) -> bool:
        """Whether the partition has none of these keys."""
        return self == _NOTHING

    def fault(self, store_id: bytes) -> str:
        """Returns why the partition cannot be used; empty if it can be used."""
        if self.ids != (store_id, store_id):
            return FAULTS["other ids"]
        if not is_pair(self.pair):
            return FAULTS["no rows"]
        return "" if self.last_id else FAULTS["no last id"]


_NOTHING = _Found((None, None), 0, 0)


class PartitionedLayout(StoreLayout):
    """Checks the layout of a store with several partitions; see ``StoreLayout``."""

    def __init__(self, keys: Keys) -> None:
        super().__init__(keys, keys.partitions)

    async def settle_all(self, sends: Sequence[Send], run: Run) -> None:
        """Identifies the store; creates a new store if the layout and every partition are empty.

        Args:
            sends: sends a command to a partition; at ``LAYOUT``, to the layout of the store.
            run: runs a script on the server of a partition, or of the layout.

        Raises:
            LayoutError: the store has another layout, or required keys are missing.
        """
        try:
            found = await self._identified(sends, run)
        except LayoutError as error:
            self.note_fault(error)
            raise
        self.note_success()
        self.expect(*found)

    async def _identified(self, sends: Sequence[Send], run: Run) -> tuple[str, Identity]:
        (version, partitions, store_id, lowest_id, creating, feed), found = await self._read(sends)
        self.has_feed = feed is not None
        if version is not None or partitions is not None:
            self.check_numbers(version, partitions)
        if store_id is None and (version is not None or not all(partition.is_empty for partition in found)):
            raise LayoutError(f"{FAULTS['no layout']}; {WHERE_TO_READ}")
        if store_id is not None and creating is None:
            self._check(found, store_id)
            return "kept", Identity(store_id, int(lowest_id or 0))
        created = await self._create(run, found)
        _, found = await self._read(sends)
        self._check(found, created.store_id)
        await run(LAYOUT, scripts.FOUNDED, (self._keys.layout,), (created.store_id,))
        return "created", created

    async def _read(self, sends: Sequence[Send]) -> tuple[list[bytes | None], list[_Found]]:
        """Reads the layout, and which keys of the partitions exist. Only reads, so that a replica can serve reads."""
        fields = ("version", "partitions", "store_id", "lowest_id", "creating", "feed")
        layout = sends[LAYOUT]("HMGET", self._keys.layout, *fields)
        tables = self._keys.all_users()
        reading = [
            (
                sends[table.partition]("HGET", table.layout, "store_id"),
                sends[table.partition]("GET", table.store_id),
                sends[table.partition]("EXISTS", table.rows, table.index),
                sends[table.partition]("EXISTS", table.last_id),
            )
            for table in tables
        ]
        states = [await asyncio.gather(*replies) for replies in reading]
        return await layout, [_Found((local, store_id), pair, last) for local, store_id, pair, last in states]

    def _check(self, found: Sequence[_Found], store_id: bytes) -> None:
        faults = {number: partition.fault(store_id) for number, partition in enumerate(found)}
        lost = frozenset(number for number, fault in faults.items() if fault)
        if not lost:
            return
        first = min(lost)
        what = "the partition is empty" if found[first].is_empty else faults[first]
        more = f", and {len(lost) - 1} more" if len(lost) > 1 else ""
        raise LayoutError(f"partition {first}{more}: {what}; {WHERE_TO_READ}")

    async def _create(self, run: Run, found: Sequence[_Found]) -> Identity:
        """Creates the layout and all empty partitions, or finishes what another server has begun."""
        new_id = secrets.token_hex(_ID_BYTES)
        numbers = (MAINTAINED_LAYOUT_VERSION, self._keys.partitions)
        layout = await run(LAYOUT, scripts.FOUND, (self._keys.layout,), (*numbers, new_id, UNICODE_VERSION))
        if not layout:
            raise LayoutError(f"{FAULTS['wrong clock']}; {WHERE_TO_READ}")
        store_id, lowest_id, partitions = layout
        self.check_numbers(None, partitions)
        arguments = (*numbers, store_id, lowest_id)
        tables = self._keys.all_users()
        await asyncio.gather(
            *(
                run(
                    table.partition,
                    scripts.FOUND_PARTITION,
                    _keys_of(table),
                    (*arguments, table.partition, UNICODE_VERSION),
                )
                for table, state in zip(tables, found, strict=True)
                if state.is_empty
            )
        )
        return Identity(store_id, int(lowest_id))


def _keys_of(table: Table) -> tuple[bytes, ...]:
    return (table.layout, table.store_id, table.rows, table.index, table.last_id, table.session_count)
