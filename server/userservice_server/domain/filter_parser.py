"""Parses filters of users: a subset of AIP-160, described in docs/filters.md.

    filter      = [expression]
    expression  = unit {"AND" unit} | unit {"OR" unit}
    unit        = {"NOT"} ("(" expression ")" | field operator value)
    field       = name {"." (name | string)}
    operator    = "=" | "!=" | "<" | "<=" | ">" | ">=" | ":"
    value       = string | number | "true" | "false" | "null"

Errors contain the position and what was expected, and no part of the filter, which may contain personal data.
"""

import math
import re
from dataclasses import dataclass
from datetime import datetime
from typing import NoReturn, TypeAlias

MAX_BYTES = 2048
MAX_TERMS = 32
MAX_DEPTH = 32  # of parentheses

TEXT_FIELDS = ("email", "first_name", "last_name")
TIME_FIELDS = ("created_at", "updated_at")
METADATA = "metadata"
_FIELDS = (*TEXT_FIELDS, f"{METADATA}.KEY", *TIME_FIELDS)
_OPERATORS = ("=", "!=", "<", "<=", ">", ">=", ":")
_HAS = ":"
_WORDS = {"AND", "OR", "NOT"}
_LITERALS = {"true": True, "false": False, "null": None}
NANOSECONDS_A_SECOND = 1_000_000_000

_TOKEN = re.compile(
    r"""(?P<space>\s+)
      | (?P<string>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
      | (?P<number>-?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?(?![\w.]))
      | (?P<operator><=|>=|!=|=|<|>|:)
      | (?P<mark>[().])
      | (?P<word>[^\W\d][\w-]*)""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_TIME = re.compile(
    r"\d{4}-\d\d-\d\d[Tt](?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.(?P<fraction>\d{1,9}))?(?:[Zz]|[+-]\d\d:\d\d)", re.ASCII
)


class FilterError(Exception):
    """A filter cannot be parsed. The text says where and what was expected."""


@dataclass(frozen=True, slots=True)
class Time:
    """A time in nanoseconds since 1970."""

    nanoseconds: int


Value: TypeAlias = str | float | bool | Time | None


@dataclass(frozen=True, slots=True)
class Term:
    """A comparison of a field with a value.

    Attributes:
        field: name of the field.
        path: keys below metadata.
        operator: one of = != < <= > >= and : (has).
        value: the value.
        is_prefix: whether only the start of the text must be equal to the value.
    """

    field: str
    path: tuple[str, ...]
    operator: str
    value: Value
    is_prefix: bool = False


@dataclass(frozen=True, slots=True)
class Not:
    """Inverts an expression."""

    operand: "Expression"


@dataclass(frozen=True, slots=True)
class All:
    """True if all operands are true."""

    operands: "tuple[Expression, ...]"


@dataclass(frozen=True, slots=True)
class Some:
    """True if at least one operand is true."""

    operands: "tuple[Expression, ...]"


Expression: TypeAlias = Term | Not | All | Some


def parse(text: str) -> Expression | None:
    """Parses a filter; returns None for an empty filter, which all users match.

    Raises:
        FilterError: the filter is too long or malformed.
    """
    if len(text.encode()) > MAX_BYTES:
        raise FilterError(f"must be at most {MAX_BYTES} bytes of UTF-8, is {len(text.encode())}")
    tokens = _tokens(text)
    return _Parser(tokens).filter() if len(tokens) > 1 else None


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str  # string, number, operator, mark, word or end
    text: str
    position: int  # of its first character, from 1

    @property
    def shown(self) -> str:
        """Describes the token without the content that the caller chose."""
        if self.kind in ("operator", "mark") or self.text in _WORDS:
            return self.text
        return {"end": "the end of the filter", "word": "another word"}.get(self.kind, f"a {self.kind}")


def _tokens(text: str) -> list[_Token]:
    found, position = [], 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            is_string = text[position] in "\"'"
            what = "the string has no closing quote" if is_string else "expected a field, an operator or a value"
            raise FilterError(f"position {position + 1}: {what}")
        kind = str(match.lastgroup)
        if kind != "space":
            found.append(_Token(kind, match[0], position + 1))
        position = match.end()
    found.append(_Token("end", "", len(text) + 1))
    return found


class _Parser:
    def __init__(self, tokens: list[_Token]) -> None:
        self._tokens = tokens
        self._next = 0
        self._terms = 0
        self._depth = 0

    def filter(self) -> Expression:
        found = self._expression()
        if self._peek().kind != "end":
            self._fail("AND, OR or the end of the filter")
        return found

    def _peek(self) -> _Token:
        return self._tokens[self._next]

    def _take(self) -> _Token:
        token = self._tokens[self._next]
        self._next += 1
        return token

    def _takes(self, text: str) -> bool:
        """Takes the next token if it is this word or mark."""
        token = self._peek()
        if token.kind in ("word", "mark") and token.text == text:
            self._next += 1
            return True
        return False

    def _fail(self, expected: str) -> NoReturn:
        token = self._peek()
        raise FilterError(f"position {token.position}: expected {expected}, found {token.shown}")

    def _expression(self) -> Expression:
        operands = [self._unit()]
        word = self._peek().text if self._peek().kind == "word" else ""
        if word not in ("AND", "OR"):
            return operands[0]
        while self._takes(word):
            operands.append(self._unit())
        if self._peek().kind == "word" and self._peek().text in ("AND", "OR"):
            position = self._peek().position
            raise FilterError(f"position {position}: AND and OR may be mixed only with parentheses")
        return All(tuple(operands)) if word == "AND" else Some(tuple(operands))

    def _unit(self) -> Expression:
        is_inverted = False
        while self._takes("NOT"):
            is_inverted = not is_inverted
        found = self._nested() if self._takes("(") else self._term()
        return Not(found) if is_inverted else found

    def _nested(self) -> Expression:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            position = self._tokens[self._next - 1].position
            raise FilterError(f"position {position}: parentheses may be nested at most {MAX_DEPTH} levels deep")
        found = self._expression()
        if not self._takes(")"):
            self._fail("AND, OR or )")
        self._depth -= 1
        return found

    def _term(self) -> Term:
        field, path = self._field()
        self._terms += 1
        if self._terms > MAX_TERMS:
            raise FilterError(f"must have at most {MAX_TERMS} comparisons")
        if self._peek().kind != "operator":
            self._fail(f"one of {' '.join(_OPERATORS)}")
        operator = self._take()
        if field in TIME_FIELDS and operator.text == _HAS:
            raise FilterError(f"position {operator.position}: {field} cannot be compared with the operator {_HAS}")
        value, is_prefix = self._value(field, operator.text)
        return Term(field, path, operator.text, value, is_prefix)

    def _field(self) -> tuple[str, tuple[str, ...]]:
        token = self._peek()
        if token.kind != "word" or token.text in _WORDS:
            self._fail(f"a field: {', '.join(_FIELDS)}")
        self._take()
        if token.text not in (*TEXT_FIELDS, *TIME_FIELDS, METADATA):
            raise FilterError(f"position {token.position}: unknown field; the fields are {', '.join(_FIELDS)}")
        path = []
        while self._takes("."):
            if token.text != METADATA:
                raise FilterError(f"position {token.position}: {token.text} has no keys; only {METADATA} has keys")
            key = self._peek()
            if key.kind not in ("word", "string"):
                self._fail("a key: a name, or a string in quotes")
            path.append(_unquoted(self._take())[0] if key.kind == "string" else self._take().text)
        return token.text, tuple(path)

    def _value(self, field: str, operator: str) -> tuple[Value, bool]:
        token = self._peek()
        if token.kind == "number":
            number = float(self._take().text)
            if not math.isfinite(number):
                raise FilterError(f"position {token.position}: the number is too large")
            return number, False
        if token.kind == "word" and token.text in _LITERALS:
            return _LITERALS[self._take().text], False
        if token.kind != "string":
            self._fail("a value: a string in quotes, a number, true, false or null")
        text, is_prefix = _unquoted(self._take())
        if field in TIME_FIELDS:
            return _time(text, token.position), False
        if is_prefix and operator not in ("=", "!="):
            raise FilterError(
                f"position {token.position}: * at the end of a string needs = or !=; write \\* for the character"
            )
        return (text[:-1], True) if is_prefix else (text, False)


def _unquoted(token: _Token) -> tuple[str, bool]:
    """Returns the text of a string, and whether it ends with an asterisk that is not escaped."""
    inner = token.text[1:-1]
    ends_with_asterisk = inner.endswith("*") and not _is_escaped_at_end(inner)
    return _ESCAPE.sub(r"\1", inner), ends_with_asterisk


def _is_escaped_at_end(inner: str) -> bool:
    before = inner[:-1]
    return (len(before) - len(before.rstrip("\\"))) % 2 == 1


def _time(text: str, position: int) -> Time:
    match = _TIME.fullmatch(text)
    if match is None:
        raise FilterError(f'position {position}: expected a time like "2026-01-31T12:00:00Z" (RFC 3339)')
    fraction = match["fraction"] or ""
    whole = text if match["fraction"] is None else text.replace(f".{fraction}", "", 1)
    try:
        seconds = datetime.fromisoformat(whole.upper())
        total = (seconds - datetime.fromisoformat("1970-01-01T00:00:00+00:00")).total_seconds()
    except (ValueError, OverflowError):
        raise FilterError(f"position {position}: the time does not exist") from None
    return Time(int(total) * NANOSECONDS_A_SECOND + int(fraction.ljust(9, "0") or 0))
