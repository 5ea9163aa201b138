"""Reads the store that is checked."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, TypeVar

from redis import Redis

from userservice_server.check.connecting import Servers
from userservice_server.wire.ids import MAX_ID

PAGE = 256  # records per read, at most 16 MiB
NO_NUMBER = -1  # stands for a damaged number; no key, id or score has this value
_MOST_DIGITS = 20  # more than the service writes; int() rejects thousands of digits

T = TypeVar("T")


class Reader:
    """Sends commands to the servers of the store."""

    def __init__(self, servers: Servers) -> None:
        self._servers = servers

    def read(self, commands: Iterable[Sequence[bytes | str | float]], *, at_once: bool = False) -> list[Any]:
        """Returns the replies to commands that are sent together; the first argument of each command is its key.

        ``at_once`` reads them in one transaction; in a cluster, in one transaction for each partition.
        """
        sent = list(commands)
        if len(self._servers.clients) == 1:
            return _replies(self._servers.clients[0], sent, at_once=at_once)
        places: dict[tuple[Redis, int], list[int]] = {}
        for place, command in enumerate(sent):
            key = command[1]
            if isinstance(key, float):
                raise TypeError("the first argument of a command must be a key")
            client, slot = self._servers.of(key)
            places.setdefault((client, slot if at_once else 0), []).append(place)
        replies: list[Any] = [None] * len(sent)
        for (client, _), own in places.items():
            found = _replies(client, [sent[place] for place in own], at_once=at_once)
            for place, reply in zip(own, found, strict=True):
                replies[place] = reply
        return replies

    def scan(self, pattern: str) -> Iterator[bytes]:
        """Yields the keys that match a pattern, on all servers."""
        for client in self._servers.clients:
            yield from client.scan_iter(match=pattern, count=PAGE)

    def entries(self, key: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Yields the fields of a hash and their values."""
        return self._servers.of(key)[0].hscan_iter(key.decode(), count=PAGE)

    def members(self, key: bytes) -> Iterator[tuple[bytes, float]]:
        """Yields the members of a sorted set and their scores, in any order; a member can be repeated."""
        return self._servers.of(key)[0].zscan_iter(key.decode(), count=PAGE)

    def pages(self, key: bytes, after: bytes = b"-inf") -> Iterator[list[tuple[bytes, bytes]]]:
        """Yields pages of the members of a sorted set and their scores, from ``after`` on: a lower limit of ZRANGE."""
        while True:
            [found] = self.read([("ZRANGE", key, after, "+inf", "BYSCORE", "LIMIT", 0, PAGE, "WITHSCORES")])
            if not found:
                return
            yield list(zip(found[::2], found[1::2], strict=True))
            after = b"(" + found[-1]

    def has_types(self, expected: dict[bytes, bytes]) -> bool:
        """Returns whether each key has its expected type or does not exist. ``Scan`` reports keys of other types."""
        types = self.read([("TYPE", key) for key in expected])
        return all(kind in (b"none", wanted) for kind, wanted in zip(types, expected.values(), strict=True))


def _replies(client: Redis, commands: list[Sequence[bytes | str | float]], *, at_once: bool) -> list[Any]:
    with client.pipeline(transaction=at_once) as pipeline:
        for command in commands:
            pipeline.execute_command(*command)  # type: ignore[no-untyped-call]
        return pipeline.execute()


def number(text: bytes) -> int | None:
    """Returns the whole number in ``text``, or None if ``text`` is not a number that the service writes."""
    return int(text) if text.isdigit() and len(text) <= _MOST_DIGITS else None


def number_in_score(score: bytes | float) -> int:
    """Returns the id or key that is a score, or ``NO_NUMBER`` if the score is not a whole number from 0 to MAX_ID.

    The service never writes a score that is infinite or has a fraction, but other programs may.
    """
    value = float(score)
    return int(value) if 0 <= value <= MAX_ID and value.is_integer() else NO_NUMBER


def batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yields lists of up to ``size`` items."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
