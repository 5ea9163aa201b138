"""The language of cases/*.json: converts written values to real values, and compares responses with them.

README.md beside this file describes it for whoever writes cases or a runner in another language.
"""

import json
import re
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

CASES = Path(__file__).parent / "cases"
UUID7 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


@dataclass(frozen=True)
class Case:
    file: str
    name: str
    steps: list[dict[str, Any]]
    drivers: list[str] | None  # None stands for all
    because: str

    def __str__(self) -> str:
        return f"{self.file}: {self.name}"


@cache
def load_cases() -> list[Case]:
    cases = []
    for path in sorted(CASES.glob("*.json")):
        for case in json.loads(path.read_text(encoding="utf-8"))["cases"]:
            only = case.get("only", {})
            assert set(case) <= {"name", "only", "steps"}, case
            assert set(only) in (set(), {"drivers", "because"}), case
            for step in case["steps"]:
                assert set(step) <= {"call", "args", "each", "result", "error", "save"}, step
            cases.append(Case(path.stem, case["name"], case["steps"], only.get("drivers"), only.get("because", "")))
    return cases


class Scope:
    """The names that a case has saved so far. `$uuid.NAME` is a new UUID for each name and case."""

    def __init__(self) -> None:
        self.saved: dict[str, Any] = {}
        self._uuids: dict[str, str] = {}

    def evaluate(self, written: Any) -> Any:
        if isinstance(written, str):
            return self._text(written)
        if isinstance(written, list):
            return [self.evaluate(item) for item in written]
        if isinstance(written, dict):
            if operator := _operator(written):
                return _make(operator, self.evaluate(written[operator]))
            return {key: self.evaluate(value) for key, value in written.items()}
        return written

    def _text(self, written: str) -> Any:
        if written.startswith("$$"):
            return written[1:]
        if not written.startswith("$"):
            return written
        name, *path = written[1:].split(".")
        if name == "uuid":
            return self._uuids.setdefault(path[0], str(uuid.uuid4()))
        value = self.saved[name]
        for part in path:
            value = value[int(part) if isinstance(value, list) else part]
        return value


def _nest(kind: str, levels: int) -> Any:
    value: Any = {} if kind == "object" else []
    for _ in range(levels - 1):
        value = {"k": value} if kind == "object" else [value]
    return value


MAKERS: Mapping[str, Callable[[Any], Any]] = {
    "$repeat": lambda operand: operand[0] * operand[1],
    "$concat": "".join,
    "$series": lambda operand: [f"{operand[0]}{number}" for number in range(operand[1])],
    "$nest": lambda operand: _nest(*operand),
    "$number": float,
    "$integer": int,
    "$in": lambda seconds: datetime.now(UTC) + timedelta(seconds=seconds),
}


def _make(operator: str, operand: Any) -> Any:
    """Returns the value of an operator; a matcher is returned unchanged, because match() evaluates it."""
    return MAKERS[operator](operand) if operator in MAKERS else {operator: operand}


def _operator(written: Mapping[str, Any]) -> str:
    if len(written) == 1:
        [key] = written
        if key.startswith("$"):
            return key
    return ""


def match(expected: Any, actual: Any, where: str = "answer") -> None:
    """Compares a response with the expected response.

    Of an object, the expected keys are compared and the others ignored; of a list, every element. What stands under
    `metadata` is compared whole.
    """
    if isinstance(expected, dict):
        if operator := _operator(expected):
            _judge(operator, expected[operator], actual, where)
            return
        if not isinstance(actual, dict):
            _fail(where, f"an object {expected}", actual)
        for key, value in expected.items():
            if key not in actual:
                _fail(f"{where}.{key}", repr(value), "nothing")
            if key == "metadata" and not _operator(value):
                _same(value, actual[key], f"{where}.metadata")
            else:
                match(value, actual[key], f"{where}.{key}")
    elif isinstance(expected, list):
        if not isinstance(actual, list) or len(actual) != len(expected):
            _fail(where, f"{len(expected)} elements {expected}", actual)
        for index, (one, other) in enumerate(zip(expected, actual, strict=True)):
            match(one, other, f"{where}[{index}]")
    else:
        _same(expected, actual, where)


def _judge(operator: str, operand: Any, actual: Any, where: str) -> None:
    match operator:
        case "$regex":
            good = isinstance(actual, str) and re.search(operand, actual) is not None
        case "$uuid7":
            good = isinstance(actual, str) and UUID7.fullmatch(actual) is not None
        case "$not":
            good = not _equal(operand, actual)
        case "$above":
            good = actual > operand
        case "$most":
            good = actual <= operand
        case "$now":  # a time of at most that many seconds ago; clocks of one machine, so nothing lies ahead
            good = -1 <= time.time() - datetime.fromisoformat(actual).timestamp() <= operand
        case "$ahead":  # the time in that many seconds, or up to 30 seconds earlier
            good = -30 <= datetime.fromisoformat(actual).timestamp() - time.time() - operand <= 1
        case "$count":
            good = len(actual) == operand
        case _:
            raise AssertionError(f"the case uses {operator}, which nobody knows")
    if not good:
        _fail(where, f"{operator} {operand!r}", actual)


def _same(expected: Any, actual: Any, where: str) -> None:
    if not _equal(expected, actual):
        _fail(where, repr(expected), actual)


def _equal(expected: Any, actual: Any) -> bool:
    """JSON equality: true is not 1, and 1 is 1.0."""
    if isinstance(expected, dict) and isinstance(actual, dict):
        return expected.keys() == actual.keys() and all(_equal(value, actual[key]) for key, value in expected.items())
    if isinstance(expected, list) and isinstance(actual, list):
        return len(expected) == len(actual) and all(map(_equal, expected, actual))
    if isinstance(expected, bool) or isinstance(actual, bool):
        return expected is actual
    return bool(expected == actual)


def _fail(where: str, expected: str, actual: Any) -> NoReturn:
    raise AssertionError(f"{where}: expected {_short(expected)}, got {_short(repr(actual))}")


def _short(text: str) -> str:
    return text if len(text) <= 400 else f"{text[:200]} … {text[-200:]}"


def match_error(expected: Mapping[str, Any], actual: Mapping[str, Any]) -> None:
    """Compares an error with {class, code, reason, violations}; the class is absent if the driver has no classes."""
    assert set(expected) <= {"class", "code", "reason", "violations"}, expected
    for key in ("class", "code", "reason"):
        if key in actual and key in expected:
            match(expected[key], actual[key], f"error.{key}")
    if "violations" in expected:
        wanted = {violation["field"]: violation.get("mentions", "") for violation in expected["violations"]}
        found: dict[str, str] = {}
        for field, description in actual["violations"]:
            place = _place(field)
            found[place] = f"{found.get(place, '')} {description}"
        match(sorted(wanted), sorted(found), "the fields of error.violations")
        for field, mention in wanted.items():
            if mention not in found[field]:
                _fail(f"the description of {field}", f"a text with {mention!r}", found[field])


def _place(field: str) -> str:
    """Returns the field, or `metadata` for a path inside metadata, because a client may report the path."""
    return "metadata" if re.match(r"metadata[.\[]", field) else field


def each_binding(step: Mapping[str, Any], scope: Scope) -> Iterator[None]:
    """Binds `$each` to one value after another; yields once if the step has no `each`."""
    if "each" not in step:
        yield
        return
    for value in scope.evaluate(step["each"]):
        scope.saved["each"] = value
        yield


def to_text(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="microseconds")
