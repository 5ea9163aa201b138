import pytest

from userservice import SyncUserManager
from userservice._headers import check_headers


@pytest.mark.parametrize(
    "metadata",
    [
        [],
        [("authorization", "Bearer abc")],
        [("x-trace_id.2", "")],
        [("x-text", b"ascii")],
        (("x-raw-bin", b"\x00\xff"), ("x-raw-bin", b"")),
    ],
)
def test_metadata_that_is_valid_in_headers(metadata: list[tuple[str, str | bytes]]) -> None:
    assert check_headers(metadata) == tuple(metadata)


@pytest.mark.parametrize(
    "metadata",
    [
        [("Authorization", "secret")],
        [("", "secret")],
        [("a key", "secret")],
        [(":path", "secret")],
        [(5, "secret")],
        [("authorization", "Bearer secret\n")],
        [("authorization", "secret\u00e9")],
        [("authorization", b"secret\xff")],
        [("authorization", None)],
        [("x-raw-bin", "secret")],
        ["secret"],
        [("authorization", "Bearer", "secret")],
        {"authorization": "Bearer secret"},
    ],
)
def test_invalid_headers_are_rejected_when_the_manager_is_created(metadata: object) -> None:
    with pytest.raises(ValueError, match="metadata") as caught:
        SyncUserManager(metadata=metadata)  # type: ignore[arg-type]
    assert "secret" not in str(caught.value)
