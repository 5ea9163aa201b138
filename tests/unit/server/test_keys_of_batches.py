"""The check of all user_ids of a batch finds what the check of each one finds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from userservice_server.domain.validation import Checker

bad_keys = st.sampled_from(
    ["", " ", " a", "a ", "a\n", "\t", "\x00", "a\x7fb", "x" * 257, "é" * 129, "\u2028", "a\u200b "]
)
valid_keys = st.sampled_from(["a", "a b", "user@example.org", "x" * 256, "é" * 128, "用户", "!~"])


def violations_of_each(user_ids: list[str]) -> list[tuple[str, str]]:
    check = Checker()
    for index, user_id in enumerate(user_ids):
        check.key(f"user_ids[{index}]", user_id)
    return [(violation.field, violation.description) for violation in check.violations]


@given(st.lists(valid_keys | bad_keys | st.text(max_size=4), min_size=1, max_size=6))
def test_a_batch_has_the_violations_of_its_keys(user_ids: list[str]) -> None:
    check = Checker()
    assert check.keys("user_ids", user_ids) == user_ids
    assert [(each.field, each.description) for each in check.violations] == violations_of_each(user_ids)


@pytest.mark.parametrize("bad", ["", " a", "a\n", "a\x7f", "x" * 257, "é" * 129])
def test_one_bad_key_among_plain_ones_is_found(bad: str) -> None:
    check = Checker()
    check.keys("user_ids", ["ada", bad, "bob"])
    assert [violation.field for violation in check.violations] == ["user_ids[1]"]
