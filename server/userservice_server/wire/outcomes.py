"""Outcomes of scripts: one letter and a payload. The scripts use these letters (see store/scripts/__init__.py)."""

from enum import Enum
from typing import NamedTuple, Self


class Code(Enum):
    """How a script ended."""

    DONE = b"K"
    EXISTS = b"E"
    NOT_FOUND = b"N"
    OWNER_NOT_FOUND = b"P"
    ETAG_MISMATCH = b"M"
    REFUSED = b"V"
    REQUEST_ID_REUSED = b"R"
    CONFLICT = b"C"
    STORE_CHANGED = b"S"
    WRONG_CLOCK = b"T"
    SESSION_LIMIT = b"L"
    TIME_PASSED = b"X"
    WATCH_DISABLED = b"D"
    WATCH_TOKEN_EXPIRED = b"G"


_CODES = {code.value: code for code in Code}
_WITH_PAYLOAD = frozenset({Code.DONE, Code.REFUSED, Code.CONFLICT})
_NOT_RECORDED = frozenset(
    {Code.CONFLICT, Code.STORE_CHANGED, Code.WRONG_CLOCK, Code.WATCH_DISABLED, Code.WATCH_TOKEN_EXPIRED}
)

RECORDED_LETTERS = frozenset(code.value for code in Code) - {code.value for code in _NOT_RECORDED}
"""The letters of outcomes that idempotency records contain. After other outcomes, the server repeats the script."""


class Outcome(NamedTuple):
    """The result of a script.

    The payload of DONE is a record or a response, of REFUSED the violations. The payload of CONFLICT is the present
    record, or empty if the script does not return it.
    """

    code: Code
    payload: bytes = b""

    @classmethod
    def parse(cls, reply: bytes) -> Self:
        """Reads an outcome as the scripts write it.

        Raises:
            ValueError: the reply is not an outcome.
        """
        code, payload = _CODES.get(reply[:1]), reply[1:]
        if code is None or (payload and code not in _WITH_PAYLOAD):
            raise ValueError("not an outcome")
        return cls(code, payload)

    def encode(self) -> bytes:
        """Writes an outcome as the scripts read it."""
        return self.code.value + self.payload
