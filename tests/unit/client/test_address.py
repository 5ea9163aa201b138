import grpc
import pytest

from userservice import SyncUserManager, UserManager
from userservice._address import Target, is_loopback, parse_address


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
        ("unix:/run/a b:1", "unix:/run/a b:1", None),
        ("unix:/run/50%?#1", "unix:/run/50%25%3F%231", None),
        ("unix-abstract:users", "unix-abstract:users", None),
        ("dns:///users.internal:80", "dns:///users.internal:80", None),
        ("dns:users.internal:80", "dns:///users.internal:80", None),
        ("dns://10.0.0.1/users.internal:80", "dns://10.0.0.1/users.internal:80", None),
        ("ipv4:127.0.0.1:1", "ipv4:127.0.0.1:1", None),
        ("ipv6:[::1]:1", "ipv6:[::1]:1", None),
        ("a:1,b:2", "a:1 b:2", None),
        ("a:1, b:2", "a:1 b:2", None),
        ("https://a:1,https://b:2", "a:1 b:2", True),
        ("http://a:1,http://[::1]:2", "a:1 [::1]:2", False),
        ("dns:///a:1,b:2", "dns:///a:1 b:2", None),
        ("ipv4:10.0.0.1:1,10.0.0.2:2", "ipv4:10.0.0.1:1 ipv4:10.0.0.2:2", None),
        ("ipv4:10.0.0.1:1, 10.0.0.2:2", "ipv4:10.0.0.1:1 ipv4:10.0.0.2:2", None),
        ("ipv6:[::1]:1,[fe80::1%1]:2", "ipv6:[::1]:1 ipv6:[fe80::1%1]:2", None),
    ],
)
def test_valid_addresses(address: str, target: str, tls: bool | None) -> None:  # noqa: FBT001
    targets, encrypted = parse_address(address)
    assert " ".join(each.name for each in targets) == target
    assert encrypted is tls


def test_only_dns_addresses_use_every_address_of_a_name() -> None:
    [named, plain] = parse_address("dns:///a:1,b:2").targets
    assert named == Target("dns:///a:1", "a", every_address=True)
    assert plain == Target("b:2", "b", every_address=False)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("localhost:1", True),
        ("LOCALHOST.:1", True),
        ("users.localhost:1", True),
        ("127.0.0.1:1", True),
        ("127.8.9.10:1", True),
        ("127.1:1", True),
        ("0.0.0.0:1", True),
        ("[::1]:1", True),
        ("[::]:1", True),
        ("[::ffff:127.0.0.1]:1", True),
        ("ipv4:127.0.0.1:1", True),
        ("ipv6:[::1]:1", True),
        ("dns:///localhost:1", True),
        ("https://localhost:1", True),
        ("unix:/run/users.sock", True),
        ("unix-abstract:users", True),
        ("users.internal:1", False),
        ("notlocalhost:1", False),
        ("127.example.org:1", False),
        ("10.0.0.1:1", False),
        ("[::ffff:10.0.0.1]:1", False),
        ("[fe80::1%1]:1", False),
    ],
)
def test_loopback_addresses(address: str, expected: bool) -> None:  # noqa: FBT001
    [target] = parse_address(address).targets
    assert is_loopback(target) is expected


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
        "dns:///localhost",
        "dns:localhost:50051/path",
        "ipv4:localhost:50051",
        "ipv4:[::1]:50051",
        "ipv4:127.0.0.1",
        "ipv6:127.0.0.1:50051",
        "ipv6:::1:50051",
        "a:1,",
        "a:1,,b:2",
        "http://a:1,https://b:2",
        "http://a:1,b:2",
        "unix-abstract:",
        "a:1,unix:/run/users.sock",
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
def test_an_invalid_address_is_rejected_with_an_error_that_names_it(address: str) -> None:
    with pytest.raises(ValueError, match=r"expected host:port, http://host:port|all addresses must begin"):
        parse_address(address)


@pytest.mark.parametrize("connections", [0, -1, 101, True, 1.5, "2", None])
@pytest.mark.parametrize("manager", [UserManager, SyncUserManager])
def test_invalid_numbers_of_connections_are_rejected(
    manager: type[UserManager | SyncUserManager], connections: int
) -> None:
    with pytest.raises(ValueError, match="connections must be an integer from 1 to 100"):
        manager(connections=connections)


@pytest.mark.parametrize("timeout", [0, -1, float("inf"), float("nan"), True, "10", None])
@pytest.mark.parametrize("manager", [UserManager, SyncUserManager])
def test_invalid_timeouts_are_rejected(manager: type[UserManager | SyncUserManager], timeout: float) -> None:
    with pytest.raises(ValueError, match="timeout"):
        manager(timeout=timeout)


def test_credentials_are_not_sent_in_the_clear() -> None:
    with pytest.raises(ValueError, match="encrypted"):
        UserManager("http://localhost:50051", credentials=grpc.ssl_channel_credentials())


@pytest.mark.parametrize(
    "address",
    ["http://ada:secret@h:1", "ada:secret@h:1", "http://ada:se/cret@h:1", "HTTPS://a:secret,b@h:1", "a:1,b:secret@h:1"],
)
def test_an_error_never_shows_a_password(address: str) -> None:
    with pytest.raises(ValueError, match=r"\*\*\*@h:1") as caught:
        parse_address(address)
    assert "cret" not in str(caught.value)


@pytest.mark.parametrize("address", [None, b"localhost:1", 50051])
def test_an_address_is_a_string(address: object) -> None:
    with pytest.raises(ValueError, match="an address is a string"):
        UserManager(address)  # type: ignore[arg-type]


@pytest.mark.parametrize("address", ["unix:/run/a,b", "unix-abstract:a,b"])
def test_a_comma_in_the_path_of_a_socket_is_rejected(address: str) -> None:
    with pytest.raises(ValueError, match="comma"):
        parse_address(address)
