"""Evaluates filters of users, written from the text of the contract, without the code of the service.

Filters are trees: `("term", field, path, operator, value, is_prefix)`, `("NOT", tree)`, `("AND", trees)` and
`("OR", trees)`. Users are dicts; times are integers of the type `Nanoseconds`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

MISSING = object()


class Nanoseconds(int):
    """A time since 1970."""


def is_true(tree: Sequence[Any], user: Mapping[str, Any]) -> bool:
    kind, *rest = tree
    if kind == "NOT":
        return not is_true(rest[0], user)
    if kind in ("AND", "OR"):
        results = [is_true(operand, user) for operand in rest[0]]
        return False not in results if kind == "AND" else True in results
    field, path, operator, value, is_prefix = rest
    found = user[field]
    for key in path:
        found = found.get(key, MISSING) if isinstance(found, dict) else MISSING
    return _holds(found, operator, value, is_prefix=is_prefix)


def _holds(found: Any, operator: str, value: Any, *, is_prefix: bool) -> bool:
    if operator == ":":  # 'has key' on metadata, 'contains' on text
        return isinstance(value, str) and isinstance(found, dict | str) and value in found
    if type(found) is not type(value):
        return False
    if is_prefix:
        return (found[: len(value)] == value) is (operator == "=")
    if operator in ("=", "!="):
        return (found == value) is (operator == "=")
    if found is None or isinstance(found, bool):
        return False
    if isinstance(found, str):
        found, value = list(map(ord, found)), list(map(ord, value))
    return bool({"<": found < value, "<=": found <= value, ">": found > value, ">=": found >= value}[operator])
