"""The merge of several tables: order, completeness, and records that a list did not keep."""

import asyncio
import math
import random
from collections.abc import Sequence
from typing import cast

from hypothesis import given, settings
from hypothesis import strategies as st

from userservice_server.domain.merging import MergedTables
from userservice_server.domain.ports import RecordStore, StoreIdentity, Table, TableRead

IDENTITY = StoreIdentity()


def score(number: int) -> bytes:
    """Returns a score as stores write it."""
    return b"%d" % number if number % 100 else b"%.17e" % number


class Tables:
    """A store with tables of ids; a record is its id in decimal digits.

    Counts the ranges that it was asked for, and the rounds: ranges that were requested together.
    """

    identity = IDENTITY
    is_joint = False

    def __init__(self, tables: list[list[int]]) -> None:
        self.tables = tables
        self.range_count = 0
        self.round_count = 0
        self.read = 0

    async def ranges(
        self, reads: Sequence[TableRead], identity: StoreIdentity, *, is_resumed: bool, descending: bool, end: int
    ) -> list[list[bytes]]:
        assert reads
        assert identity is IDENTITY
        assert not end
        assert isinstance(is_resumed, bool)
        replies = []
        for table, after, most in reads:
            numbers = self.tables[cast("int", table)]
            if descending:
                found = [number for number in reversed(numbers) if not after or number < after][:most]
            else:
                found = [number for number in numbers if number > after][:most]
            self.read += len(found)
            replies.append([part for number in found for part in (b"%d" % number, score(number))])
        self.range_count += len(reads)
        self.round_count += 1
        return replies


def merged(store: Tables, *, descending: bool = False) -> MergedTables:
    numbers = cast("list[Table]", list(range(len(store.tables))))
    return MergedTables(cast("RecordStore", store), numbers, fences=False, descending=descending)


@st.composite
def distributions(draw: st.DrawFn) -> list[list[int]]:
    """Increasing ids in some of the tables, evenly or in long runs of one table."""
    dice = draw(st.randoms(use_true_random=False))
    tables: list[list[int]] = [[] for _ in range(draw(st.integers(2, 9)))]
    longest = draw(st.sampled_from([1, 40]))
    number = draw(st.sampled_from([1 << 52, 10**14 - 40, 153_000_000_000_000, 10**15 - 40]))  # the digits can increase
    for _ in range(draw(st.integers(0, 60))):
        table = dice.choice(tables)
        for _ in range(dice.randint(1, longest)):
            number += dice.randint(1, 3)
            table.append(number)
    return tables


@given(distributions(), st.integers(1, 50), st.booleans(), st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=60)
def test_every_record_is_returned_once_and_in_order(
    tables: list[list[int]],
    count: int,
    descending: bool,  # noqa: FBT001 - hypothesis draws it
    dice: random.Random,
) -> None:
    """Also if the list keeps only the first records of a range and continues after them, as with large records."""

    async def read() -> list[int]:
        source, found, cursor = merged(Tables(tables), descending=descending), [], 0
        while True:
            records = await source.range(cursor, count, IDENTITY, is_resumed=False)
            is_last = len(records) < count
            if len(records) > 1 and dice.random() < 0.3:
                del records[dice.randint(1, len(records) - 1) :]
                is_last = False
            found += list(map(int, records))
            assert len(found) == len(set(found)), "a record was returned twice"
            if is_last:
                return found
            cursor = found[-1]

    assert asyncio.run(read()) == sorted((number for table in tables for number in table), reverse=descending)


def read_half(tables: list[list[int]], count: int) -> Tables:
    """Reads the first 16 000 of 32 000 records, ``count`` at a time."""

    async def read() -> Tables:
        store = Tables(tables)
        source = merged(store)
        for start in range(0, 16_000, count):
            assert len(await source.range(start, count, IDENTITY, is_resumed=False)) == count
        return store

    return asyncio.run(read())


def test_a_range_reads_few_more_records_than_it_returns() -> None:
    dice, parts, count = random.Random(7), 16, 1600  # noqa: S311 - no secret
    tables: list[list[int]] = [[] for _ in range(parts)]
    for number in range(1, 32_001):
        dice.choice(tables).append(number)

    store = read_half(tables, count)
    assert store.range_count <= 12 * parts, "rounds that return too little"
    assert store.read <= 16_000 + parts * (4 * math.sqrt(count / parts) + 4)


def test_a_range_of_dense_runs_takes_few_rounds() -> None:
    """An import gives the rows of a partition ids that follow each other."""
    dice, parts, count = random.Random(7), 16, 1600  # noqa: S311 - no secret
    tables: list[list[int]] = [[] for _ in range(parts)]
    for start in range(1, 32_001, 400):
        tables[dice.randrange(parts)].extend(range(start, start + 400))

    store = read_half(tables, count)
    assert store.round_count <= 10 * 3
    assert store.read <= 2.5 * 16_000


def test_ids_with_different_numbers_of_digits_are_in_their_order() -> None:
    """The merge compares ids as they are in the replies, without a conversion into numbers."""
    for start in (10**14 - 50, 10**15 - 50):
        tables = [list(range(start + table, start + 100, 4)) for table in range(4)]
        records = asyncio.run(_range_of(tables, 100))
        assert list(map(int, records)) == list(range(start, start + 100))


async def _range_of(tables: list[list[int]], count: int) -> list[bytes]:
    return await merged(Tables(tables)).range(0, count, IDENTITY, is_resumed=False)
