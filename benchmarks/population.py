"""Generates the users of the benchmark: the same users in each run, about 250 bytes per record, in several scripts."""

from collections.abc import Iterator, Mapping
from functools import cache
from random import Random
from typing import Any

from google.protobuf.json_format import MessageToDict

from userservice.v1.user_service_pb2 import AddUserRequest

_FIRST_NAMES = ("Ada", "Bjørn", "Chloé", "Đặng", "Елена", "Fatou", "小明", "Γιώργος", "אורי", "María", "प्रिया", "يوسف")
_LAST_NAMES = ("Lovelace", "Åkesson", "Lefèvre", "Nguyễn", "Иванова", "王", "Παππάς", "לוי", "Quispe", "शर्मा", "حداد")
_PLANS = ("free", "team", "pro")
_CITIES = ("Oslo", "Łódź", "Osaka", "Quito", "Kyiv", "Tunis")


def user_id(number: int) -> str:
    """Returns the user_id of the user with this number."""
    return f"user-{number:08d}"


def _metadata(random: Random) -> dict[str, Any]:
    return {
        "plan": random.choice(_PLANS),
        "logins": random.randrange(1000),
        "newsletter": random.random() < 0.5,  # noqa: PLR2004 - one in two
        "address": {"city": random.choice(_CITIES), "zip": f"{random.randrange(100_000):05d}"},
    }


@cache
def _prototypes() -> list[AddUserRequest]:
    random = Random(20250101)
    prototypes = []
    for _ in range(997):
        user = AddUserRequest(first_name=random.choice(_FIRST_NAMES), last_name=random.choice(_LAST_NAMES))
        user.metadata.update(_metadata(random))
        prototypes.append(user)
    return prototypes


def users(count: int, start: int = 0) -> list[AddUserRequest]:
    """Returns the requests that add ``count`` users, starting with number ``start``."""
    made = []
    prototypes = _prototypes()
    for number in range(start, start + count):
        user = AddUserRequest()
        user.CopyFrom(prototypes[number % len(prototypes)])
        user.user_id = user_id(number)
        user.email = f"{user.user_id}@mail.example"
        made.append(user)
    return made


def mappings(count: int) -> Iterator[dict[str, Any]]:
    """Yields the first ``count`` users as rows of an import."""
    for user in users(count):
        yield MessageToDict(user, preserving_proto_field_name=True)


def import_rows(prefix: str, count: int) -> list[dict[str, Any]]:
    """Returns the users of the benchmark under other user_ids and addresses, as mappings."""
    return [named(row, f"{prefix}-{number:08d}") for number, row in enumerate(mappings(count))]


def named(row: Mapping[str, Any], user_id: str) -> dict[str, Any]:
    """Returns a copy of a row with another user_id, and an address that no other user has."""
    return {**row, "user_id": user_id, "email": f"{user_id}@mail.example"}
