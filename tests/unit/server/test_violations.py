"""Violations pass through the store as bytes."""

import pytest

from userservice_server.domain.violations import bad_request, decode_violations
from userservice_server.errors import Violation

TOO_LONG = Violation("metadata", "must be at most 65536 bytes encoded, is 65537")
TEXTS = Violation("metadata.\x1c\n", "tabs\tand\nlines")


@pytest.mark.parametrize("violations", [[TOO_LONG], [TOO_LONG, TEXTS]])
def test_violations_survive_encoding_and_decoding(violations: list[Violation]) -> None:
    assert decode_violations(bad_request(violations).SerializeToString()) == violations


def test_violations_in_records_of_the_first_release_are_read() -> None:
    recorded = b"metadata\tmust be at most 16 levels deep\nmetadata\tmust be at most 65536 bytes encoded, is 65537"
    assert decode_violations(recorded) == [Violation("metadata", "must be at most 16 levels deep"), TOO_LONG]
