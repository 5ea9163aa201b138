"""Checks the metadata that a manager sends with every call."""

from __future__ import annotations

import re
from collections.abc import Sequence

Headers = tuple[tuple[str, str | bytes], ...]
"""Pairs of key and value."""

_KEY = re.compile(r"[0-9a-z_.-]+")
_TEXT = re.compile(r"[\x20-\x7e]*")


def check_headers(metadata: Sequence[tuple[str, str | bytes]]) -> Headers:
    """Returns the metadata as a tuple.

    Without this check, invalid metadata would cause an error only at the first call, and gRPC would report it as
    another error, such as a failed connection.

    Raises:
        ValueError: If a key or a value is not valid in a header. The message contains no value, because a value can be
            a token.
    """
    pairs = tuple(metadata)
    for index, pair in enumerate(pairs):
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:  # noqa: PLR2004 - key and value
            raise ValueError(f"metadata[{index}] must be a pair of key and value")
        key, value = pair
        if not isinstance(key, str) or _KEY.fullmatch(key) is None:
            raise ValueError(f"the key of metadata[{index}] must consist of a-z, 0-9, '_', '-' and '.'")
        if not _is_value(key, value):
            kind = "bytes" if key.endswith("-bin") else "printable ASCII, without line breaks"
            raise ValueError(f"the value of {key!r} in metadata must be {kind}")
    return pairs


def _is_value(key: str, value: object) -> bool:
    if key.endswith("-bin"):
        return isinstance(value, bytes)
    text = value.decode("latin-1") if isinstance(value, bytes) else value
    return isinstance(text, str) and _TEXT.fullmatch(text) is not None
