"""Generates users: the same seed and number give the same user, in any process and in any order."""

import random
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from uuid import UUID

MAX_SEED = 2**32
MAX_USERS = 2**32

_PLANS = ("free", "plus", "team", "enterprise")
_TAGS = ("beta", "vip", "newsletter", "überprüft", "заблокирован", "要確認", "🚀", "with space", "trial/2026", "")
_DEVICES = ("iOS 19.2", "Android 17", "Windows 11", "macOS 26", "Linux")
_FLAGS = ("dark-mode", "new-inbox", "fast-search", "exports")
_DEEPEST = 14  # nested objects; the service allows 16 levels


@dataclass(frozen=True)
class People:
    """Names of one language."""

    locale: str
    given: list[str]
    family: list[str]
    city: list[str]


@cache
def people() -> tuple[People, ...]:
    """Returns the languages from which users are generated."""
    data = tomllib.loads((Path(__file__).parent / "names.toml").read_text(encoding="utf-8"))
    return tuple(People(**entry) for entry in data["people"])


def user(number: int, seed: int = 0) -> dict[str, Any]:
    """Returns the fields of a user for `UserManager.add`. The user_id is unique among the users of a seed."""
    if not (0 <= number < MAX_USERS and 0 <= seed < MAX_SEED):
        raise ValueError("number and seed must be from 0 to 2^32 - 1")
    dice = random.Random(seed << 32 | number)  # noqa: S311 - repeatable, and no secret
    group = dice.choice(people())
    given, family = dice.choice(group.given), dice.choice(group.family)
    fields: dict[str, Any] = {"user_id": _user_id(dice, number, given)}
    if dice.random() < 0.95:
        fields |= {"first_name": given, "last_name": family}
    if dice.random() < 0.9:
        fields["email"] = f"user.{number}+{dice.choice(_PLANS)}@{dice.choice(('example.org', 'bücher.example'))}"
    if dice.random() < 0.95:
        fields["metadata"] = _metadata(dice, group)
    return fields


def _user_id(dice: random.Random, number: int, given: str) -> str:
    # Each form contains the number in a different place, so that two users never have the same user_id.
    match dice.randrange(4):
        case 0:
            return f"user-{number}"
        case 1:
            return str(UUID(int=dice.getrandbits(96) << 32 | number))
        case 2:
            return f"auth|{number}|{dice.choice(('google', 'github', 'saml'))}"
        case _:
            return f"{given}.{number}"


def _metadata(dice: random.Random, group: People) -> dict[str, Any]:
    metadata: dict[str, Any] = {
        "plan": dice.choice(_PLANS),
        "locale": group.locale,
        "verified": dice.random() < 0.7,
        "logins": dice.randrange(10_000),
    }
    for likelihood, part in _PARTS:
        if dice.random() < likelihood:
            metadata |= part(dice, group)
    return metadata


def _address(dice: random.Random, group: People) -> dict[str, Any]:
    place = {"lat": round(dice.uniform(-90, 90), 5), "lon": round(dice.uniform(-180, 180), 5)}
    return {"address": {"city": dice.choice(group.city), "zip": f"{dice.randrange(100_000):05d}", "place": place}}


def _settings(dice: random.Random, _: People) -> dict[str, Any]:
    notify = {"email": dice.random() < 0.5, "push": dice.random() < 0.5, "quiet": None}
    return {"settings": {"notify": notify, "flags": {flag: dice.random() < 0.5 for flag in _FLAGS}}}


def _tags(dice: random.Random, _: People) -> dict[str, Any]:
    return {"tags": dice.sample(_TAGS, dice.randrange(len(_TAGS)))}


def _devices(dice: random.Random, _: People) -> dict[str, Any]:
    return {"devices": [{"os": dice.choice(_DEVICES), "seen": dice.uniform(1.7e9, 1.8e9)} for _ in range(3)]}


def _own_words(dice: random.Random, group: People) -> dict[str, Any]:
    """Returns keys that are not ASCII, and empty values."""
    return {dice.choice(group.city): dice.choice(group.given), "": "", "empty": {}, "none": [], "missing": None}


def _numbers(dice: random.Random, _: People) -> dict[str, Any]:
    """Returns numbers at the limits of a double and of the clients."""
    edge = dice.choice((2**53, -(2**53), 5e-324, 0.1, -0.0, 1e15 + 0.3))
    return {"numbers": [edge, dice.random(), -dice.randrange(2**53)]}


def _deep(dice: random.Random, _: People) -> dict[str, Any]:
    value: Any = "bottom"
    for level in range(dice.randrange(1, _DEEPEST)):
        value = {f"level {level}": value}
    return {"deep": value}


def _long(dice: random.Random, group: People) -> dict[str, Any]:
    """Returns a text of some thousand bytes."""
    return {"biography": " ".join(dice.choices(group.given + group.family + group.city, k=dice.randrange(100, 400)))}


_PARTS = (
    (0.5, _address),
    (0.4, _settings),
    (0.3, _tags),
    (0.15, _devices),
    (0.1, _own_words),
    (0.1, _numbers),
    (0.05, _deep),
    (0.005, _long),
)
