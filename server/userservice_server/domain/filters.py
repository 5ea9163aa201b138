"""Compiles filters of users, and selects the records that match.

Most records that do not match are recognized by their bytes: if a filter requires an equal text, a record without the
UTF-8 bytes of this text cannot match, and is not decoded.
"""

import operator
import struct
from collections.abc import Callable, Sequence
from functools import partial, reduce
from itertools import chain
from typing import Any, TypeAlias

from google.protobuf.struct_pb2 import Struct, Value

from userservice.v1.user_pb2 import User
from userservice_server.domain.filter_parser import (
    METADATA,
    NANOSECONDS_A_SECOND,
    TEXT_FIELDS,
    All,
    Expression,
    FilterError,
    Not,
    Some,
    Term,
    Time,
    parse,
)
from userservice_server.wire.projection import Cut
from userservice_server.wire.records import decode

Predicate: TypeAlias = Callable[[User], bool]

_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_EQUALITIES = ("=", "!=")

__all__ = ["FilterError", "selecting"]


def selecting(text: str) -> Cut | None:
    """Returns the function that selects the records that match a filter; None for an empty filter.

    Raises:
        FilterError: the filter is malformed.
    """
    expression = parse(text)
    if expression is None:
        return None
    return partial(_select, _compiled(expression), _needles(expression))


def _select(matches: Predicate, needles: Sequence[bytes] | None, records: Sequence[bytes]) -> list[bytes]:
    if needles is None:
        candidates = records
    elif len(needles) == 1:
        [needle] = needles
        candidates = [record for record in records if needle in record]
    else:
        candidates = [record for record in records if any(needle in record for needle in needles)]
    return [record for record in candidates if matches(decode(User, record))]


def _needles(expression: Expression) -> tuple[bytes, ...] | None:
    """Returns byte strings of which every matching record contains at least one; None if there are no such strings."""
    match expression:
        case All(operands):
            known = [found for found in map(_needles, operands) if found is not None]
            return min(known, key=lambda found: (len(found), -min(map(len, found))), default=None)
        case Some(operands):
            alternatives = [_needles(operand) for operand in operands]
            if None in alternatives:
                return None
            return tuple(chain.from_iterable(found for found in alternatives if found is not None))
        case Term():
            found = _value_bytes(expression) or max(map(str.encode, expression.path), key=len, default=b"")
            return (found,) if found else None
        case Not():
            return None


def _value_bytes(term: Term) -> bytes:
    """Returns bytes of the value that every matching record contains; empty if there are none."""
    if isinstance(term.value, str) and term.operator in ("=", ":"):
        return term.value.encode()
    if isinstance(term.value, float) and term.value and term.operator == "=":  # 0 equals -0, which has other bytes
        return struct.pack("<d", term.value)
    return b""


def _compiled(expression: Expression) -> Predicate:
    match expression:
        case All(operands):
            return reduce(_both, map(_compiled, operands))
        case Some(operands):
            return reduce(_either, map(_compiled, operands))
        case Not(operand):
            inverted = _compiled(operand)
            return lambda user: not inverted(user)
        case Term():
            return _term(expression)


def _both(first: Predicate, second: Predicate) -> Predicate:
    return lambda user: first(user) and second(user)


def _either(first: Predicate, second: Predicate) -> Predicate:
    return lambda user: first(user) or second(user)


def _term(term: Term) -> Predicate:
    if term.field == METADATA:
        return _metadata_term(term)
    if term.field in TEXT_FIELDS:
        return _text_term(term)
    return _time_term(term)


def _never(_found: object) -> bool:
    return False


def _text_term(term: Term) -> Predicate:
    if not isinstance(term.value, str):
        return _never
    get, matches = operator.attrgetter(term.field), _text_test(term, term.value)
    return lambda user: matches(get(user))


def _text_test(term: Term, value: str) -> Callable[[str], bool]:
    if term.is_prefix:
        is_wanted = term.operator == "="
        return lambda text: text.startswith(value) is is_wanted
    if term.operator == ":":
        return lambda text: value in text
    compare = _COMPARISONS[term.operator]
    return lambda text: compare(text, value)


def _time_term(term: Term) -> Predicate:
    if not isinstance(term.value, Time):
        return _never
    get, value, compare = operator.attrgetter(term.field), term.value.nanoseconds, _COMPARISONS[term.operator]

    def matches(user: User) -> bool:
        time = get(user)
        return compare(time.seconds * NANOSECONDS_A_SECOND + time.nanos, value)

    return matches


def _metadata_term(term: Term) -> Predicate:
    path = term.path
    if not path:
        return _has_key(term.value) if term.operator == ":" and isinstance(term.value, str) else _never
    test = _value_test(term)

    def matches(user: User) -> bool:
        value = _value_at(user.metadata, path)
        return value is not None and test(value)

    return matches


def _has_key(key: str) -> Predicate:
    return lambda user: key in user.metadata.fields


def _value_at(metadata: Struct, path: tuple[str, ...]) -> Value | None:
    """Returns the value at a path; None if a key is missing. Does not change the metadata."""
    fields = metadata.fields
    *outer, last = path
    for key in outer:
        if key not in fields or not fields[key].HasField("struct_value"):
            return None
        fields = fields[key].struct_value.fields
    return fields.get(last)


def _value_test(term: Term) -> Callable[[Value], bool]:
    """Returns the test of a value in metadata. A value of another type than the one in the filter never passes."""
    value = term.value
    if term.operator == ":":
        return _has_test(term)
    if isinstance(value, str):
        text_test = _text_test(term, value)
        return lambda found: found.HasField("string_value") and text_test(found.string_value)
    compare = _COMPARISONS[term.operator]
    if isinstance(value, float):
        return lambda found: found.HasField("number_value") and compare(found.number_value, value)
    if isinstance(value, bool) and term.operator in _EQUALITIES:
        return lambda found: found.HasField("bool_value") and compare(found.bool_value, value)
    if value is None and term.operator == "=":
        return lambda found: found.HasField("null_value")
    return _never


def _has_test(term: Term) -> Callable[[Value], bool]:
    """Returns the test whether an object has a key, or a text contains a text."""
    if not isinstance(term.value, str):
        return _never
    text = term.value
    return lambda found: (
        text in found.struct_value.fields
        if found.HasField("struct_value")
        else found.HasField("string_value") and text in found.string_value
    )
