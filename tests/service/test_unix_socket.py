"""`--listen unix:PATH`: only the owner can open the socket, and a socket is replaced only if nothing listens on it."""

import os
import signal
import socket
import stat
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest
from harness.connections import OPTIONS, health, raw
from harness.credentials import TlsFiles, authority, channel_credentials, issued, new_key
from harness.services import Service, clean_environment
from harness.stores import Store
from harness.tools import require

from userservice import CredentialsMissingError, SyncUserManager
from userservice.cli.health import main as health_command
from userservice_server.config import Config, ConfigError, Listen
from userservice_server.process import unix_socket
from userservice_server.process.listen import check_exposure
from userservice_server.process.unix_socket import claimed_path

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    with Store() as store:
        yield store


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_calls_and_health_checks_reach_the_service_through_its_socket(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    path, keys = tmp_path / "users.sock", tmp_path / "keys.toml"
    address, key = f"unix:{path}", new_key(keys)
    options: list[str | Path] = ["--auth", "keys", "--keys-file", keys]
    with Service(*options, redis_url=store.url, listen=address) as service:
        assert service.address == address
        assert mode_of(path) == 0o600
        with SyncUserManager(address, token=key) as users:  # without TLS: a Unix socket counts as loopback
            users.add(user_id="ada")
            assert users.get("ada").user_id == "ada"
        with SyncUserManager(address) as users, pytest.raises(CredentialsMissingError):
            users.get("ada")
        monkeypatch.setenv("USERSERVICE_LISTEN", address)
        assert health_command([]) == 0
        assert capfd.readouterr().out == "userservice: SERVING\n"
        assert service.stop() == 0
        assert not service.log_lines_with("unencrypted")
        [line] = service.log_lines_with('"serving"')
        assert line["address"] == address
    assert not path.exists()


@pytest.mark.long
def test_tls_is_possible_over_a_socket(store: Store, tmp_path: Path) -> None:
    root = authority()
    files = TlsFiles(tmp_path).write(issued(root))
    with Service(*files.arguments, redis_url=store.url, listen=f"unix:{tmp_path}/users.sock") as service:
        options = [*OPTIONS, ("grpc.ssl_target_name_override", "localhost")]
        with grpc.secure_channel(service.address, channel_credentials(root), options) as channel:
            assert raw(channel).unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=10)
        assert service.stop() == 0


def test_the_socket_of_a_killed_service_is_replaced_and_that_of_a_running_one_is_not(
    store: Store, tmp_path: Path
) -> None:
    path = tmp_path / "users.sock"
    options = {"redis_url": store.url, "listen": f"unix:{path}"}
    with Service(**options) as killed:  # type: ignore[arg-type]
        killed.stop(signal.SIGKILL)
    assert path.exists()
    with Service("--socket-mode", "660", **options) as service:  # type: ignore[arg-type]
        assert mode_of(path) == 0o660
        with Service(wait=False, **options) as second:  # type: ignore[arg-type]
            assert second.wait(30) == 2
            [line] = second.stderr
        assert f"cannot listen on unix:{path}: another process listens on the socket (--listen)" in line
        assert health(service.address) == "SERVING"
        assert service.stop() == 0


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        ("file", "the path exists and is not a socket"),
        ("link", "the path exists and is not a socket"),
        ("full socket", "another process listens on the socket"),
        ("nothing", "No such file or directory"),
        ("locked directory", "another process has locked the directory"),
    ],
)
def test_a_path_that_cannot_be_used_is_rejected_and_unchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: str, expected: str
) -> None:
    monkeypatch.setattr(unix_socket, "_LOCK_SECONDS", 0.1)
    monkeypatch.setattr(unix_socket, "_CONNECT_SECONDS", 0.1)
    path = tmp_path / "folder" / "users.sock"
    with ExitStack() as kept:
        before = make(made, path, kept)
        with pytest.raises(ConfigError, match=expected):
            kept.enter_context(claimed_path(Listen(f"unix:{path}")))
        assert inode_of(path) == before


def inode_of(path: Path) -> int | None:
    return path.lstat().st_ino if os.path.lexists(path) else None


def make(kind: str, path: Path, kept: ExitStack) -> int | None:
    """Creates what is at the path, or in the place of its directory; returns its inode."""
    if kind == "nothing":
        return None
    path.parent.mkdir()
    server = kept.enter_context(socket.socket(socket.AF_UNIX))
    if kind == "file":
        path.write_text("content")
    elif kind == "link":
        server.bind(str(path.with_name("target.sock")))
        path.symlink_to(path.with_name("target.sock"))
    elif kind == "full socket":
        server.bind(str(path))
        server.listen(0)
        waiting = [kept.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(2)]
        waiting[0].connect(str(path))
        waiting[1].settimeout(0)
        with pytest.raises(BlockingIOError):
            waiting[1].connect(str(path))
    else:
        kept.enter_context(unix_socket._locked(path.parent))
    return inode_of(path)


def test_services_that_start_at_the_same_time_check_the_socket_one_after_the_other(tmp_path: Path) -> None:
    path = tmp_path / "users.sock"
    listen, outcomes, modes = Listen(f"unix:{path}"), list[str](), list[int]()

    def start(server: socket.socket) -> None:
        try:
            with claimed_path(listen):
                time.sleep(0.1)
                path.unlink(missing_ok=True)  # as grpc does
                server.bind(str(path))
                modes.append(mode_of(path))
                server.listen()
            outcomes.append("listens")
        except ConfigError:
            outcomes.append("rejected")

    servers = [socket.socket(socket.AF_UNIX) for _ in range(4)]
    umask = os.umask(0o022)
    os.umask(umask)
    threads = [threading.Thread(target=start, args=(server,)) for server in servers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    for server in servers:
        server.close()
    assert sorted(outcomes) == ["listens", "rejected", "rejected", "rejected"]
    assert modes == [0o600], "the socket has its mode from its creation"
    assert os.umask(umask) == umask, "the umask is restored"


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"listen": "unix:"}, "must contain the path"),
        ({"listen": "unix:///"}, "must contain the path"),
        ({"listen": "unix://run/users.sock"}, "must contain the path"),
        ({"listen": "unix:/run/"}, "must contain the path"),
        ({"listen": "unix:/run/a,b"}, "must not contain"),
        ({"listen": "unix:/run/50%"}, "must not contain"),
        ({"listen": "unix:/run/\udcff"}, "must not contain"),
        ({"listen": f"unix:/{'x' * 107}"}, "at most 107 bytes"),
        ({"listen": "unix:/run/u", "workers": 2}, "requires --workers 1"),
        ({"listen": "unix-abstract:users"}, "must be HOST:PORT or unix:PATH"),
        ({"socket_mode": "660"}, "--socket-mode requires --listen unix:PATH"),
        ({"metrics_listen": "unix:/run/m"}, "--metrics-listen must be HOST:PORT, with"),
    ],
)
def test_bad_settings_are_rejected(flags: dict[str, object], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        Config.from_flags(flags)


@pytest.mark.parametrize("address", ["unix:/run/users.sock", "unix:///run/users.sock", "unix:users.sock"])
def test_a_socket_requires_no_explicit_auth(address: str) -> None:
    config = Config.from_flags({"listen": address})
    check_exposure(config)
    assert config.listen.socket in {Path("/run/users.sock"), Path("users.sock")}


@pytest.mark.long
def test_the_typescript_client_reaches_the_socket(store: Store, tmp_path: Path) -> None:
    module = ROOT / "client" / "typescript" / "dist" / "index.mjs"
    if not module.exists():
        pytest.skip("the TypeScript client is not built (npm run build)")
    keys, program = tmp_path / "keys.toml", tmp_path / "program.mjs"
    key = new_key(keys)
    program.write_text(
        f'import {{ UserManager }} from "{module}";\n'
        "const users = UserManager.fromEnv();\n"
        'console.log((await users.add({ user_id: "grace" })).user_id);\n'
        "await users.close();\n"
    )
    options: list[str | Path] = ["--auth", "keys", "--keys-file", keys]
    with Service(*options, redis_url=store.url, listen=f"unix:{tmp_path}/users.sock") as service:
        environment = clean_environment() | {"USERSERVICE_ADDRESS": service.address, "USERSERVICE_TOKEN": key}
        done = subprocess.run(
            [str(require("node")), program], env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "grace\n", "")
        assert service.stop() == 0
