"""Collects the contestants and figures that cannot be measured on this machine. All others are measured."""

import sys
from collections.abc import Iterator, Mapping


class Missing(Mapping[str, str]):
    """The reasons, by the name of a contestant or a figure. Each reason is printed once, in one line."""

    def __init__(self) -> None:
        self._reasons: dict[str, str] = {}

    def add(self, name: str, reason: str) -> None:
        """Records and prints why a contestant or a figure is not measured."""
        self._reasons[name] = reason
        sys.stderr.write(f"bench: not measured: {name}: {reason}\n")

    def __getitem__(self, name: str) -> str:
        return self._reasons[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._reasons)

    def __len__(self) -> int:
        return len(self._reasons)
