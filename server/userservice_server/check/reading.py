"""Reads the store that is checked."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, TypeVar

from redis import Redis

PAGE = 256  # records per read, at most 16 MiB
_MOST_DIGITS = 20  # more than the service writes; int() rejects thousands of digits

T = TypeVar("T")


class Reader:
    """Sends commands over a connection to the store."""

    def __init__(self, client: Redis) -> None:
        self.client = client

    def read(self, commands: Iterable[Sequence[bytes | str | float]], *, at_once: bool = False) -> list[Any]:
        """Returns the replies to commands that are sent together; ``at_once`` reads them in one transaction."""
        with self.client.pipeline(transaction=at_once) as pipeline:
            for command in commands:
                pipeline.execute_command(*command)  # type: ignore[no-untyped-call]
            return pipeline.execute()

    def has_types(self, expected: dict[bytes, bytes]) -> bool:
        """Returns whether each key has its expected type or does not exist. ``Scan`` reports keys of other types."""
        types = self.read([("TYPE", key) for key in expected])
        return all(kind in (b"none", wanted) for kind, wanted in zip(types, expected.values(), strict=True))


def number(text: bytes) -> int | None:
    """Returns the whole number in ``text``, or None if ``text`` is not a number that the service writes."""
    return int(text) if text.isdigit() and len(text) <= _MOST_DIGITS else None


def batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yields lists of up to ``size`` items."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
