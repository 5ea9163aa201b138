"""Filters select the same users as a separately written evaluator. cases/filters.json has a table of results."""

import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from random import Random
from typing import Any

import pytest
from harness.filter_evaluator import Nanoseconds, is_true
from hypothesis import given, settings
from hypothesis import strategies as st

from userservice.v1.user_pb2 import User
from userservice_server.domain.filters import FilterError, selecting
from userservice_server.wire.records import frame

TEXTS = ["", "a", "ab", "abc", "B", "b", "é", "e\u0301", "😀", "\ufffd", "a*", "*", "\"'\\", "1", "AND", "12\n", "a b"]
KEYS = ["a", "b", "é", "a.b", "AND", "", "x-1"]
NUMBERS = [0.0, -0.0, 1.0, -1.5, 36.0, 2.0**53, 1e-300, 1e300, 0.1]
SECOND = 1_000_000_000
_NAME = re.compile("[a-zA-Z][a-zA-Z0-9-]*")
TIMES = [0, 1, SECOND - 1, SECOND, 1_767_225_600 * SECOND, 1_767_225_600 * SECOND + 123_456_000]

texts = st.sampled_from(TEXTS)
scalars = st.none() | st.booleans() | st.sampled_from(NUMBERS) | texts


def some_value(choice: Random, levels: int) -> Any:
    """Makes a value in metadata; by a generator of random numbers, which is faster than Hypothesis."""
    kind = choice.randrange(8 if levels else 6)
    if kind < 4:
        return [None, choice.random() < 1 / 2, choice.choice(NUMBERS), choice.choice(TEXTS)][kind]
    if kind < 6:
        return choice.choice(TEXTS) if kind == 4 else [choice.choice(TEXTS)]
    return {choice.choice(KEYS): some_value(choice, levels - 1) for _ in range(choice.randrange(3))}


def some_user(choice: Random) -> dict[str, Any]:
    return {
        **{field: choice.choice(TEXTS) for field in ("email", "first_name", "last_name")},
        **{field: Nanoseconds(choice.choice(TIMES)) for field in ("created_at", "updated_at")},
        "metadata": {choice.choice(KEYS): some_value(choice, 2) for _ in range(choice.randrange(5))},
    }


@st.composite
def terms(draw: st.DrawFn) -> tuple[Any, ...]:
    field = draw(st.sampled_from(["email", "first_name", "last_name", "created_at", "updated_at", *["metadata"] * 4]))
    operator = draw(st.sampled_from(["=", "!=", "<", "<=", ">", ">=", ":"]))
    if field.endswith("_at"):
        value = draw(st.sampled_from(TIMES).map(Nanoseconds) | scalars.filter(lambda value: not isinstance(value, str)))
        return ("term", field, (), operator.replace(":", "="), value, False)
    path = tuple(draw(st.lists(st.sampled_from(KEYS), max_size=3))) if field == "metadata" else ()
    value = draw(texts | scalars)
    is_prefix = isinstance(value, str) and operator in ("=", "!=") and draw(st.booleans())
    return ("term", field, path, operator, value, is_prefix)


def combined(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    several = st.lists(inner, min_size=2, max_size=3)
    return st.tuples(st.just("NOT"), inner) | st.tuples(st.just("AND"), several) | st.tuples(st.just("OR"), several)


filters = st.recursive(terms(), combined, max_leaves=6)


def written(tree: Any, choice: Random, outer: str = "") -> str:
    """Writes a tree as a filter, with parentheses where they are necessary and sometimes where they are not."""
    kind, *rest = tree
    space = choice.choice([" ", "  ", "\n"])
    if kind == "term":
        field, path, operator, value, is_prefix = rest
        text = _written_term(field, path, operator, value, is_prefix, choice)
    elif kind == "NOT":
        text = f"NOT{space}{written(rest[0], choice, 'NOT')}"
    else:
        text = f"{space}{kind}{space}".join(written(operand, choice, kind) for operand in rest[0])
    needs_parentheses = kind in ("AND", "OR") and outer not in ("", kind)
    return f"({text})" if needs_parentheses or choice.random() < 1 / 6 else text


def _written_term(field: str, path: Sequence[str], operator: str, value: Any, is_prefix: bool, choice: Random) -> str:  # noqa: FBT001
    keys = [key if _NAME.fullmatch(key) and choice.random() < 1 / 2 else _quoted(key, choice) for key in path]
    space = choice.choice(["", " "])
    return f"{'.'.join([field, *keys])}{space}{operator}{space}{_written_value(value, choice, is_prefix=is_prefix)}"


def _quoted(text: str, choice: Random, end: str = "") -> str:
    quote = choice.choice("\"'")
    escaped = re.sub(r"[\\" + quote + "]", r"\\\g<0>", text)
    if text.endswith("*"):
        escaped = f"{escaped[:-1]}\\*"
    return f"{quote}{escaped}{end}{quote}"


def _written_value(value: Any, choice: Random, *, is_prefix: bool) -> str:
    if isinstance(value, Nanoseconds):
        seconds, fraction = divmod(value, SECOND)
        return f'"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{fraction:09}Z"'
    if isinstance(value, str):
        return _quoted(value, choice, "*" if is_prefix else "")
    return repr(value) if isinstance(value, float) else json.dumps(value)


def record(user: dict[str, Any]) -> bytes:
    message = User(user_id="u", id=64, **{name: user[name] for name in ("email", "first_name", "last_name")})
    message.metadata.update(user["metadata"])
    message.created_at.FromNanoseconds(user["created_at"])
    message.updated_at.FromNanoseconds(user["updated_at"])
    return frame(message)


@given(filters, st.integers(0, 2**32))
@settings(max_examples=150)
def test_a_filter_selects_the_users_that_match(tree: Any, seed: int) -> None:
    check(tree, seed)


@pytest.mark.long
@given(filters, st.integers(0, 2**32))
@settings(max_examples=1250)
def test_a_filter_selects_the_users_that_match_in_10_000_cases(tree: Any, seed: int) -> None:
    check(tree, seed)


def check(tree: Any, seed: int) -> None:
    """Checks a filter on 8 users."""
    choice = Random(seed)  # noqa: S311
    matching = selecting(written(tree, choice))
    assert matching is not None
    found = [some_user(choice) for _ in range(8)]
    records = [record(user) for user in found]
    expected = [encoded for user, encoded in zip(found, records, strict=True) if is_true(tree, user)]
    assert matching(records) == expected


def test_zero_equals_negative_zero() -> None:
    records = [record({**some_user(Random(1)), "metadata": {"a": zero}}) for zero in (0.0, -0.0, 1.0)]  # noqa: S311
    for text in ("metadata.a = 0", "metadata.a = -0.0"):
        matching = selecting(text)
        assert matching is not None
        assert matching(records) == records[:2]


PIECES = [
    *("email", "metadata", "created_at", "mail", ".", "a", "AND", "OR", "NOT", "(", ")", "=", "!=", ":", "<", "*"),
    *(
        '"secret"',
        "'secret*'",
        '"',
        "1",
        "-1e9",
        "1e999",
        "true",
        "null",
        " ",
        "\\",
        "\x00",
        "é",
        '"2026-13-01T00:00:00Z"',
    ),
]


@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join) | st.text(max_size=20))
@settings(max_examples=200)
def test_any_text_is_a_filter_or_an_error_with_a_position_and_without_its_content(text: str) -> None:
    try:
        selecting(text)
    except FilterError as error:
        message = str(error)
    else:
        return
    assert re.match(r"position \d+: ", message)
    assert "secret" not in message
