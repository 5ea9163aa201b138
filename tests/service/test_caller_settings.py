"""Invalid settings and files of TLS and authentication: each is rejected with one clear line."""

import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat
from harness.credentials import Issuer, authority, issued, jwks, jwt_arguments, new_key, private
from harness.programs import descendants
from harness.services import Service, clean_environment
from harness.waiting import until

from userservice_server.cli import command
from userservice_server.config import Config, ConfigError, Listen
from userservice_server.process.callers import check_files
from userservice_server.process.listen import check_exposure, is_loopback

ROOT = authority()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with files that are valid, and some that are not."""
    path = tmp_path_factory.mktemp("files")
    identity = issued(ROOT)
    private(path / "cert", identity.cert_pem)
    private(path / "key", identity.key_pem)
    private(path / "other-key", issued(ROOT).key_pem)
    private(path / "old-cert", issued(ROOT, starts=timedelta(-9), ends=timedelta(-1)).cert_pem)
    old = issued(ROOT, starts=timedelta(-9), ends=timedelta(-1))
    private(path / "old-cert", old.cert_pem)
    private(path / "old-key", old.key_pem)
    early = issued(ROOT, starts=timedelta(1), ends=timedelta(9))
    private(path / "early-cert", early.cert_pem)
    private(path / "early-key", early.key_pem)
    private(path / "readable-key", identity.key_pem, 0o644)
    private(path / "writable-cert", identity.cert_pem, 0o666)
    for name, curve in (("p224", ec.SECP224R1()), ("k256", ec.SECP256K1())):
        unfit = issued(ROOT, key=ec.generate_private_key(curve))
        private(path / f"{name}-cert", unfit.cert_pem)
        private(path / f"{name}-key", unfit.key_pem)
    weak = issued(ROOT, key=rsa.generate_private_key(65537, 1024))  # noqa: S505 - rejected
    private(path / "weak-cert", weak.cert_pem)
    private(path / "weak-key", weak.key_pem)
    private(
        path / "locked-key",
        identity.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"canary7f3a")),
    )
    private(path / "ca", ROOT.certificate.public_bytes(Encoding.PEM))
    private(path / "old-ca", old.cert_pem)
    private(path / "text", "canary7f3a\n")
    new_key(path / "keys")
    private(path / "writable-keys", "", 0o666)
    private(path / "bad-keys", "[keys.abcdefghijkl]\nscopes = []\n")
    private(path / "jwks", jwks(Issuer()))
    private(path / "bad-jwks", "{}")
    return path


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("auth=keys", "--auth keys requires --keys-file"),
        ("auth=mtls", "--auth mtls requires --keys-file"),
        ("auth=jwt", "--auth jwt requires --jwt-issuer and --jwt-audience and --jwt-jwks"),
        ("auth=jwt jwt_issuer=i jwt_audience=a", "--auth jwt requires --jwt-jwks"),
        ("auth=none,keys keys_file=@keys", "--auth none excludes"),
        ("auth=keys,keys keys_file=@keys", "--auth must name"),
        ("auth=password", "--auth must name"),
        ("auth=", "--auth must name"),
        ("keys_file=@keys", "--keys-file requires --auth keys or mtls"),
        ("auth=none keys_file=@keys", "--keys-file requires --auth keys or mtls"),
        ("jwt_issuer=i", "--jwt-issuer requires --auth jwt"),
        ("auth=jwt jwt_issuer=i jwt_audience=a jwt_jwks=http://h/jwks", "an https URL"),
        ("auth=jwt jwt_issuer=i jwt_audience=a jwt_jwks=HTTP://h/jwks", "an https URL"),
        ("auth=jwt jwt_issuer=i jwt_audience=a jwt_jwks=file:///x", "an https URL"),
        ("auth=jwt jwt_issuer=i jwt_audience=a jwt_jwks=https://", "an https URL"),
        ("auth=jwt jwt_issuer=i jwt_audience=a jwt_jwks=https://u:canary7f3a@h/", "a user or a password"),
        ("auth=jwt jwt_issuer=i jwt_audience=a jwt_jwks=@nowhere", "--jwt-jwks"),
        ("auth=jwt jwt_issuer=i jwt_audience=a jwt_jwks=@bad-jwks", "is not a JWKS"),
        ("auth=jwt jwt_issuer=i jwt_audience=a jwt_jwks=@text", "is not JSON"),
        ("tls_cert=@cert", "--tls-cert and --tls-key must be set together"),
        ("tls_key=@key", "--tls-cert and --tls-key must be set together"),
        ("tls_client_auth=require", "require --tls-cert and --tls-key"),
        ("tls_cert=@cert tls_key=@key tls_client_auth=require", "--tls-client-auth=require must be set together"),
        ("tls_cert=@cert tls_key=@key tls_client_ca=@ca", "--tls-client-auth=require must be set together"),
        ("auth=mtls keys_file=@keys tls_cert=@cert tls_key=@key", "--auth mtls requires --tls-client-auth require"),
        ("tls_cert=@cert tls_key=@other-key", "is not the key of the first certificate"),
        ("tls_cert=@old-cert tls_key=@old-key", "expired on"),
        ("tls_cert=@early-cert tls_key=@early-key", "is not valid before"),
        ("tls_cert=@p224-cert tls_key=@p224-key", "or ECDSA P-256, P-384 or P-521"),
        ("tls_cert=@k256-cert tls_key=@k256-key", "or ECDSA P-256, P-384 or P-521"),
        ("tls_cert=@weak-cert tls_key=@weak-key", "an RSA key of at least 2048 bits"),
        ("tls_cert=@nowhere tls_key=@key", "cannot be read: No such file"),
        ("tls_cert=@cert tls_key=@readable-key", "other users can read or write it (mode 0644)"),
        ("tls_cert=@writable-cert tls_key=@key", "can be changed by its group or by others"),
        ("tls_cert=@cert tls_key=@locked-key", "is encrypted"),
        ("tls_cert=@cert tls_key=@text", "must contain one private key in PEM form"),
        ("tls_cert=@cert tls_key=@cert", "must contain one private key in PEM form"),
        ("tls_cert=@text tls_key=@key", "must contain certificates in PEM form"),
        ("tls_cert=@cert tls_key=@key tls_client_ca=@text tls_client_auth=require", "must contain certificates"),
        ("tls_cert=@cert tls_key=@key tls_client_ca=@old-ca tls_client_auth=require", "only expired certificates"),
        ("auth=keys keys_file=@writable-keys", "can be changed by its group or by others"),
        ("auth=keys keys_file=@bad-keys", "key abcdefghijkl: sha256 is required"),
        ("auth=keys keys_file=@nowhere", "cannot be read"),
    ],
)
def test_bad_settings_are_rejected_with_one_line(folder: Path, flags: str, expected: str) -> None:
    values: dict[str, str | Path] = {}
    for flag in flags.split():
        name, _, value = flag.partition("=")
        is_path = value.startswith("@")
        values[name] = (str if name == "jwt_jwks" else Path)(folder / value[1:]) if is_path else value
    with pytest.raises(ConfigError) as raised:
        check_files(Config.from_flags(values))
    assert expected in str(raised.value)
    assert "\n" not in str(raised.value)
    assert "canary7f3a" not in str(raised.value)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("127.0.0.1:0", True),
        ("127.9.9.9:1", True),
        ("127.1:1", True),
        ("localhost:1", True),
        ("[::1]:1", True),
        ("[::ffff:127.0.0.1]:1", True),
        ("0.0.0.0:1", False),
        ("0:1", False),
        ("[::]:1", False),
        ("10.0.0.1:1", False),
        ("[::ffff:10.0.0.1]:1", False),
        ("no-such-host.invalid:1", False),
    ],
)
def test_only_a_loopback_address_requires_no_explicit_auth(address: str, expected: bool) -> None:  # noqa: FBT001
    assert is_loopback(Listen(address)) is expected
    check_exposure(Config.from_flags({"listen": address, "auth": "none"}))
    if not expected:
        with pytest.raises(ConfigError, match="--auth keys, jwt or mtls, or --auth none"):
            check_exposure(Config.from_flags({"listen": address}))


@pytest.mark.parametrize(
    "mistake",
    [
        ["keys", "check", "--keys-file", "x", "usk_canary7f3a_canary7f3a"],
        ["keys", "eyJcanary7f3a.canary7f3a.canary7f3a"],
        ["serve", "redis://:canary7f3a@canary7f3a@h/0"],
        ["serve", "--workers=rediss://u:canary7f3a@h/0"],
        ["serve", "--redis-url-file", "redis://:canary7f3a@h/0"],
        ["serve", "--redis-url-file", "unix:///x?password=canary7f3a&db=1"],
    ],
)
def test_a_secret_in_a_wrong_argument_is_not_printed(mistake: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    printed: list[str] = []
    monkeypatch.setattr(command, "print_error", printed.append)
    monkeypatch.setattr(sys, "argv", ["userservice", *mistake])
    assert command._exit_code() == 2
    assert "***" in printed[0]
    assert "canary7f3a" not in printed[0]


def failed_start(*arguments: str | Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "userservice", "serve", *arguments],
        capture_output=True,
        text=True,
        env=clean_environment(),
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done
    return done.stderr


def test_the_command_rejects_an_exposed_address_and_bad_files_with_exit_code_2(tmp_path: Path, folder: Path) -> None:
    data: list[str | Path] = ["--data-dir", tmp_path / "data"]
    assert "--listen 0.0.0.0:0 can be reached" in failed_start("--listen", "0.0.0.0:0", *data)
    tls: list[str | Path] = ["--tls-cert", folder / "old-cert", "--tls-key", folder / "old-key"]
    assert "expired on" in failed_start("--listen", "127.0.0.1:0", *data, *tls, "--workers", "2")
    assert not (tmp_path / "data").exists(), "nothing is started before the files are checked"


@pytest.mark.long
def test_core_dumps_are_off_in_every_process(tmp_path: Path, folder: Path) -> None:
    options = ["--workers", "2", "--auth", "keys,jwt", "--keys-file", folder / "keys", *jwt_arguments(folder / "jwks")]
    with Service(*options, data_dir=tmp_path / "data", listen="0.0.0.0:0") as service:
        processes = [service.pid, *descendants(service.pid)]
        assert len(processes) >= 4, "the supervisor, two workers and the store"
        for pid in processes:
            limits = Path(f"/proc/{pid}/limits").read_text()
            [line] = [line for line in limits.splitlines() if line.startswith("Max core file size")]
            assert line.split()[4:6] == ["0", "0"]
        until(lambda: service.log_lines_with("credentials are sent unencrypted"))
        assert service.stop() == 0
