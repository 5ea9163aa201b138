import grpc
import pytest

from userservice import SyncUserManager, UserManager
from userservice._address import parse_address


@pytest.mark.parametrize(
    ("address", "target", "tls"),
    [
        ("localhost:50051", "localhost:50051", None),
        ("localhost:50051/", "localhost:50051", None),
        ("127.0.0.1:1", "127.0.0.1:1", None),
        ("[::1]:65535", "[::1]:65535", None),
        ("http://users.internal:80", "users.internal:80", False),
        ("http://localhost:50051/", "localhost:50051", False),
        ("https://users.example.org:443", "users.example.org:443", True),
        ("unix:/run/users.sock", "unix:/run/users.sock", None),
        ("unix:///run/users.sock", "unix:/run/users.sock", None),
        ("unix:users.sock", "unix:users.sock", None),
    ],
)
def test_good_addresses(address: str, target: str, tls: bool | None) -> None:  # noqa: FBT001
    assert parse_address(address) == (target, tls)


@pytest.mark.parametrize(
    "address",
    [
        "",
        "localhost",
        "localhost:",
        ":50051",
        "localhost:0",
        "localhost:65536",
        "localhost:123456",
        "localhost:grpc",
        "::1:50051",
        "http://localhost",
        "https://",
        "ftp://localhost:21",
        "dns:///localhost:50051",
        "://localhost:50051",
        "http://user:password@localhost:50051",
        "http://localhost:50051/path",
        "http://localhost:50051?x=1",
        "local host:50051",
        "unix:",
        "unix://",
        "unix://host/path",
    ],
)
def test_bad_addresses_are_refused_by_name(address: str) -> None:
    with pytest.raises(ValueError, match=r"expected host:port, http://host:port, https://host:port or unix:/path"):
        parse_address(address)


@pytest.mark.parametrize("timeout", [0, -1, float("inf"), float("nan"), True, "10", None])
@pytest.mark.parametrize("manager", [UserManager, SyncUserManager])
def test_bad_timeouts_are_refused(manager: type[UserManager | SyncUserManager], timeout: float) -> None:
    with pytest.raises(ValueError, match="timeout"):
        manager(timeout=timeout)


def test_credentials_are_not_sent_in_the_clear() -> None:
    with pytest.raises(ValueError, match="encrypted"):
        UserManager("http://localhost:50051", credentials=grpc.ssl_channel_credentials())
