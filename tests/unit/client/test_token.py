"""Tokens and TLS settings: what managers reject when they are created, and where secrets are not shown."""

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc.experimental
import pytest
from harness.credentials import authority, issued, private

from userservice import SessionManager, SyncSessionManager, SyncUserManager, UserManager
from userservice._token import Secret, TokenFile, bearer

MANAGERS: list[type[Any]] = [UserManager, SessionManager, SyncUserManager, SyncSessionManager]
REMOTE = [
    "users.example:1",
    "http://users.example:1",
    "http://10.0.0.1:1",
    "0.0.0.0:1",
    "[::]:1",
    "127.1:1",
    "127.0.0.1.nip.io:1",
    "a.localhost:1",
    "localhost.:1",
    "localhost.example:1",
    "dns://10.0.0.1/localhost:1",
    "dns:///users.example:1",
    "ipv4:127.0.0.1:1,10.0.0.1:1",
    "ipv6:[2001:db8::1]:1",
    "[::ffff:10.0.0.1]:1",
    "localhost:1,users.example:1",
]
LOCAL = [
    "localhost:1",
    "http://LOCALHOST:1",
    "127.0.0.1:1",
    "127.255.0.9:1",
    "[::1]:1",
    "[::ffff:127.0.0.1]:1",
    "ipv4:127.0.0.1:1,127.0.0.2:1",
    "ipv6:[::1]:1",
    "dns:///localhost:1",
    "localhost:1,127.0.0.1:2",
    "unix:/tmp/socket",
    "unix-abstract:name",
]
CREDENTIALS: list[dict[str, Any]] = [
    {"token": "secret"},
    {"token": lambda: "secret"},
    {"metadata": [("authorization", "Bearer secret")]},
]


@pytest.mark.parametrize("credential", CREDENTIALS, ids=["string", "callable", "metadata"])
@pytest.mark.parametrize("address", REMOTE)
def test_a_token_is_not_sent_in_plain_text_to_other_machines(address: str, credential: dict[str, Any]) -> None:
    for manager in MANAGERS:
        with pytest.raises(ValueError, match="a token is not sent without TLS to") as raised:
            manager(address, **credential)
        assert "secret" not in str(raised.value)
        manager(address, **credential, allow_insecure_token=True)
        manager(address)
    if "://" not in address:
        UserManager(address, **credential, ca=authority().cert_pem)


@pytest.mark.parametrize("credential", CREDENTIALS, ids=["string", "callable", "metadata"])
@pytest.mark.parametrize("address", [*LOCAL, "https://users.example:1"])
def test_a_token_is_sent_to_this_machine_and_over_tls(address: str, credential: dict[str, Any]) -> None:
    for manager in MANAGERS:
        manager(address, **credential)


@pytest.mark.parametrize("token", ["", "sec ret", "secret\n", "sécret", b"secret", 5, ["secret"]])
def test_an_invalid_token_is_rejected_and_not_shown(token: Any) -> None:
    with pytest.raises((TypeError, ValueError)) as raised:
        UserManager(token=token)
    assert "cret" not in str(raised.value)


def test_a_token_and_a_header_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="exclude each other"):
        UserManager(token="one", metadata=[("authorization", "Bearer other")])


def test_a_token_is_not_shown() -> None:
    header = bearer("secret")
    assert (header, isinstance(header, Secret)) == ("Bearer secret", True)
    for shown in (repr(header), repr([("authorization", header)]), f"{[header]}"):
        assert "secret" not in shown
    for manager in MANAGERS:
        made = manager(token="secret")
        assert "secret" not in repr(made) + repr(vars(made)) + repr(vars(made._connection))


@pytest.mark.parametrize("manager", MANAGERS)
def test_local_variables_of_an_error_do_not_contain_the_token(
    manager: type[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    set_all(monkeypatch, TOKEN="canary" + "7f3a", ADDRESS="users.example:7")
    for make in (lambda: manager("users.example:7", token="canary" + "7f3a"), manager.from_env):
        with pytest.raises(ValueError, match="without TLS") as raised:
            make()
        assert raised.value.__traceback__
        own = raised.value.__traceback__.tb_next  # without this function
        report = traceback.TracebackException(ValueError, raised.value, own, capture_locals=True)
        assert "users.example" in "".join(report.format())
        assert "canary7f3a" not in "".join(report.format())


def test_a_token_is_not_sent_with_credentials_that_do_not_encrypt() -> None:
    insecure: grpc.ChannelCredentials = grpc.experimental.insecure_channel_credentials()  # type: ignore[no-untyped-call]
    with pytest.raises(ValueError, match="without TLS"):
        UserManager("users.example:7", token="secret", credentials=insecure)
    UserManager("localhost:7", token="secret", credentials=insecure)


def test_a_secret_in_the_place_of_a_path_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    for token in ("usk_canary7f3a", "eyJcanary7f3a"):
        set_all(monkeypatch, TOKEN_FILE=token)
        with pytest.raises(ValueError, match="cannot read the token file: No such file") as raised:
            UserManager.from_env()
        assert "canary7f3a" not in str(raised.value)
    for key in ("canary7f3a" * 14, "canary7f3a" * 200):
        with pytest.raises(ValueError, match="its content needs the line -----BEGIN") as raised:
            UserManager(cert=authority().cert_pem, key=key)
        assert "canary7f3a" not in str(raised.value)


def test_tls_settings_that_cannot_work_are_rejected(tmp_path: Path) -> None:
    root = authority()
    one, other = issued(root), issued(root)
    cert = private(tmp_path / "tls.crt", one.cert_pem)
    other_key = private(tmp_path / "other.key", other.key_pem)
    empty = private(tmp_path / "empty", "")
    key_text = one.key_pem.decode()
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"cert": cert}, "cert needs key"),
        ({"key": key_text}, "key needs cert"),
        ({"ca": tmp_path / "absent"}, r"cannot read ca .*absent: No such file"),
        ({"ca": empty}, "contains no certificate in PEM form"),
        ({"ca": b""}, "ca contains no certificate in PEM form"),
        ({"ca": key_text}, "ca contains no certificate in PEM form"),
        ({"cert": cert, "key": cert}, "contains no private key in PEM form"),
        ({"cert": cert, "key": other_key}, "cannot use cert .* with key"),
        ({"ca": 5}, "must be a path or bytes"),
    ]
    for settings, message in wrong:
        with pytest.raises((TypeError, ValueError), match=message) as raised:
            UserManager("https://localhost:1", **settings)
        assert "PRIVATE" not in str(raised.value)
    with pytest.raises(ValueError, match="disables encryption"):
        UserManager("http://localhost:1", ca=root.cert_pem)


def set_all(monkeypatch: pytest.MonkeyPatch, **variables: object) -> None:
    for name in ("ADDRESS", "TOKEN", "TOKEN_FILE", "CA", "CERT", "KEY"):
        monkeypatch.delenv(f"USERSERVICE_{name}", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(f"USERSERVICE_{name}", str(value))


@pytest.mark.parametrize("manager", MANAGERS)
def test_from_env_reads_the_variables(manager: type[Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    set_all(monkeypatch)
    assert "localhost:50051" in repr(manager.from_env())
    set_all(monkeypatch, ADDRESS="users.example:7", TOKEN="secret", CA="")
    with pytest.raises(ValueError, match="without TLS"):
        manager.from_env()
    assert "users.example:7" in repr(manager.from_env(allow_insecure_token=True))
    ca = private(tmp_path / "ca", authority().cert_pem)
    set_all(monkeypatch, ADDRESS="users.example:7", TOKEN="secret", CA=ca)
    made = manager.from_env(connections=2)
    assert isinstance(made, manager)
    assert "secret" not in repr(made)
    set_all(monkeypatch, CERT=ca)
    with pytest.raises(ValueError, match="cert needs key"):
        manager.from_env()


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        (
            {"TOKEN": "secret", "TOKEN_FILE": "/secret"},
            "USERSERVICE_TOKEN and USERSERVICE_TOKEN_FILE exclude each other",
        ),
        ({"TOKEN": "sec ret"}, "USERSERVICE_TOKEN is empty or contains"),
        ({"TOKEN_FILE": "/absent"}, "cannot read the token file /absent: No such file"),
        ({"TOKEN_FILE": "/dev/null"}, "the token in /dev/null is empty"),
    ],
)
def test_from_env_rejects_invalid_variables(
    variables: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_all(monkeypatch, **variables)
    for manager in MANAGERS:
        with pytest.raises(ValueError, match=message):
            manager.from_env()


def test_only_from_env_reads_the_token_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, TOKEN="secret", ADDRESS="users.example:7")
    manager = UserManager()
    assert "localhost:50051" in repr(manager)
    assert manager._connection._metadata == ()


def test_a_token_file_is_read_again_and_survives_its_replacement(tmp_path: Path) -> None:
    path = private(tmp_path / "token", "first\n")
    source: Callable[[], str] = TokenFile(path)
    assert (source(), source()) == ("first", "first")
    private(path, "other")
    assert source() == "other"
    path.write_text("")  # as a program that writes in place does
    assert source() == "other"
    path.unlink()
    assert source() == "other"
    private(path, "third")
    assert source() == "third"
    assert "third" not in repr(source)
