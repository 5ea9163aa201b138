"""The demo runs and detects missing, duplicated and changed users."""

import re
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from google.protobuf.json_format import ParseDict

from demo import population
from demo.__main__ import check
from demo.running import DemoFailedError
from userservice import User
from userservice.v1.user_pb2 import User as UserMessage

COUNT = 300


def as_users(count: int) -> list[User]:
    """Returns the population as users of a stream."""
    made = [population.user(number) | {"id": number + 1} for number in range(count)]
    return [User.from_bytes(ParseDict(fields, UserMessage()).SerializeToString()) for fields in made]


def test_it_runs() -> None:
    command = [sys.executable, "-m", "demo", "--users", str(COUNT)]
    root = Path(__file__).parent.parent
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, cwd=root)
    assert done.returncode == 0, done.stderr
    assert re.search(rf"^checked +{COUNT} of {COUNT} users received exactly once", done.stdout, re.MULTILINE)


def test_the_demo_accepts_the_loaded_users() -> None:
    check(as_users(COUNT), COUNT, 0)


def test_the_demo_detects_a_missing_user() -> None:
    users = as_users(COUNT)
    with pytest.raises(DemoFailedError, match=f"received {COUNT - 1}"):
        check(users[1:], COUNT, 0)


def test_the_demo_detects_a_duplicated_user() -> None:
    users = as_users(COUNT)
    with pytest.raises(DemoFailedError, match="order"):
        check([users[0], *users[:-1]], COUNT, 0)


def test_the_demo_detects_a_changed_user() -> None:
    users = as_users(COUNT)
    changed = UserMessage.FromString(bytes(users[7]))
    changed.metadata["locale"] = "xx"
    users[7] = User.from_bytes(changed.SerializeToString())
    with pytest.raises(DemoFailedError, match=r"loaded .*\nbut received .*'xx'"):
        check(users, COUNT, 0)


def test_the_same_seed_and_number_make_the_same_user() -> None:
    forwards = [population.user(number, 7) for number in range(COUNT)]
    backwards = [population.user(number, 7) for number in reversed(range(COUNT))]
    assert forwards == backwards[::-1]
    assert forwards != [population.user(number, 8) for number in range(COUNT)]


def test_no_two_users_have_one_name() -> None:
    assert len({population.user(number)["user_id"] for number in range(20_000)}) == 20_000


def test_the_generated_names_use_many_scripts() -> None:
    letters = {letter for people in population.people() for name in people.given + people.family for letter in name}
    scripts = {unicodedata.name(letter, "?").split()[0] for letter in letters}
    wanted = "LATIN CYRILLIC GREEK ARABIC HEBREW DEVANAGARI BENGALI TAMIL THAI CJK HIRAGANA KATAKANA HANGUL GEORGIAN"
    assert set(wanted.split()) < scripts
