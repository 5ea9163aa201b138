"""The commands of the client: users, sessions, profile and completion, with a real service."""

import csv
import io
import json
import re
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete
from harness.commands import CommandLine, without_settings
from harness.credentials import new_key
from harness.population import fill
from harness.ports import free_port
from harness.services import Service
from harness.stores import Store

from userservice.cli.root import root

NAMES = [f"u{number:04}" for number in range(1500)]


@pytest.fixture(scope="module")
def a_store() -> Iterator[Store]:
    with Store() as store:
        yield store


@pytest.fixture(scope="module")
def keys_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "keys.toml"
    path.with_name("reader.key").write_text(new_key(path, "users.read,users.list"))
    path.with_name("writer.key").write_text(new_key(path))
    return path


@pytest.fixture(scope="module")
def a_service(a_store: Store, keys_file: Path) -> Iterator[Service]:
    """A service that requires a key, so that no command works without its settings."""
    with Service("--auth", "keys", "--keys-file", keys_file, redis_url=a_store.url) as service:
        yield service


@pytest.fixture
def cli(
    a_store: Store,
    a_service: Service,
    keys_file: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> CommandLine:
    a_store.empty()
    without_settings(monkeypatch, tmp_path)
    monkeypatch.setenv("USERSERVICE_TOKEN_FILE", str(keys_file.with_name("writer.key")))
    return CommandLine(capfd, a_service.address)


def test_users_are_added_shown_changed_and_deleted(cli: CommandLine, tmp_path: Path) -> None:
    added = cli("users", "add", "ada", "--email", "ada@example.com", "--metadata", '{"plan": "free"}', "-o", "json")
    assert (added.code, added.err) == (0, "")
    assert added.json()["metadata"] == {"plan": "free"}
    fields = tmp_path / "fields.json"
    fields.write_text('\ufeff{"user_id": "bob", "first_name": "Bob", "metadata": {"n": 1}}')
    assert cli("users", "add", "--input", fields, "--first-name", "Robert", "-o", "jsonl").lines()[0]["first_name"] == (
        "Robert"
    ), "an option takes precedence over the file"
    (tmp_path / "metadata.json").write_text('{"plan": null, "seats": 3}')
    changed = cli("users", "update", "ada", "--metadata", f"@{tmp_path}/metadata.json", "-o", "json").json()
    assert (changed["metadata"], changed["email"]) == ({"seats": 3}, "ada@example.com")
    replaced = cli("users", "update", "ada", "--metadata", "{}", "--replace", "metadata", "-o", "json").json()
    assert replaced["metadata"] == {}
    assert cli("users", "count").out == "2\n"
    assert cli("users", "count", "--filter", "email = 'ada@example.com'").out == "1\n"
    assert cli("users", "list", "--filter", "first_name = 'R*'", "-o", "jsonl").lines()[0]["user_id"] == "bob"
    assert cli("users", "list", "--all", "--filter", "metadata : 'n'", "-o", "jsonl").lines()[0]["user_id"] == "bob"
    assert cli("users", "find", "ADA@example.com", "x", "-o", "jsonl").lines()[0]["user_id"] == "ada"
    nobody = cli("users", "find", "nobody@example.com", "-o", "json")
    assert (nobody.code, nobody.json()) == (3, {"users": []})
    assert "or use --stdin" in cli.error(2, "users", "find")
    assert "emails[0]: must not be empty" in cli.error(2, "users", "find", "")
    assert "position 1: unknown field" in cli.error(2, "users", "count", "--filter", "mail = 'x'")
    shown = cli("users", "get", "ada").out.splitlines()
    assert shown[0].split() == ["user_id", "ada"]
    both = cli("users", "get", "bob", "ada", "-o", "json").json()
    assert [user["user_id"] for user in both["users"]] == ["bob", "ada"]

    partial = cli("users", "get", "ada", "eve", "-o", "jsonl")
    assert (partial.code, len(partial.lines())) == (1, 1)
    assert partial.err == "userservice: error: the user 'eve' does not exist\n"
    assert cli.error(3, "users", "get", "eve").startswith("the user does not exist (USER_NOT_FOUND, request ")
    assert cli.error(1, "users", "delete", "ada", "--etag", "outdated").startswith("the etag")
    deleted = cli("users", "delete", "ada", "eve")
    assert (deleted.code, deleted.out) == (1, "ada\n")
    assert cli("users", "delete", "eve").code == 3
    assert cli("users", "count").out == "1\n"


def test_user_ids_are_read_from_standard_input(
    cli: CommandLine, monkeypatch: pytest.MonkeyPatch, a_store: Store
) -> None:
    fill(a_store, NAMES)
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join([*NAMES, "", "eve"])))
    result = cli("users", "get", "--stdin", "-o", "json")
    assert result.code == 1
    assert [user["user_id"] for user in result.json()["users"]] == NAMES
    assert result.json()["missing_user_ids"] == ["eve"]


def test_lists_have_four_formats(cli: CommandLine, a_store: Store) -> None:
    fill(a_store, NAMES)
    first = cli("users", "list", "--limit", "1200", "-o", "json").json()
    rest = cli("users", "list", "--cursor", str(first["next_cursor"]), "--limit", "1200", "-o", "json").json()
    assert [user["user_id"] for page in (first, rest) for user in page["users"]] == NAMES
    assert (rest["next_cursor"], rest["total_size"]) == (0, len(NAMES))
    everything = cli("users", "list", "--all", "-o", "jsonl").lines()
    assert everything == first["users"] + rest["users"]
    assert cli("users", "list", "--all", "-o", "json").json() == {
        "users": everything,
        "next_cursor": 0,
        "total_size": len(NAMES),
    }
    rows = list(csv.DictReader(io.StringIO(cli("users", "list", "--all", "-o", "csv").out)))
    assert [row["user_id"] for row in rows] == NAMES
    assert [int(row["id"]) for row in rows] == [user["id"] for user in everything]
    table = cli("users", "list").out.splitlines()
    assert table[0].split() == ["USER_ID", "EMAIL", "FIRST_NAME", "LAST_NAME", "CREATED_AT"]
    assert [line.split()[0] for line in table[1:]] == NAMES[:100]
    a_store.empty()
    assert cli("users", "list", "-o", "json").json() == {"users": [], "next_cursor": 0, "total_size": 0}
    assert cli("users", "list").out == cli("users", "list", "--all", "-o", "csv").out == ""


def test_stored_text_cannot_change_the_lines_of_a_table(cli: CommandLine) -> None:
    name = "\x1b[2Jé\n漢,\"'\u202e"
    cli("users", "add", "ada", "--first-name", name, "--metadata", '{"k": "\u0085\\n"}')
    cli("users", "add", "bob", "--first-name", "漢")
    header, *lines = cli("users", "list").out.splitlines()
    assert lines[0].split()[1] == "\\u001b[2Jé\\u000a漢,\"'\\u202e"
    for line in lines:
        before = re.split(r"20\d\d-\d\d-\d\d ", line)[0]
        assert len(before) + before.count("漢") == header.index("CREATED_AT"), "the character needs two columns"
    shown = cli("users", "get", "ada").out
    assert "\x1b" not in shown
    assert len(shown.splitlines()) == 10
    assert cli("users", "get", "ada", "-o", "json").json()["first_name"] == name
    assert next(csv.DictReader(io.StringIO(cli("users", "get", "ada", "-o", "csv").out)))["first_name"] == name


def test_sessions_are_added_listed_and_deleted(cli: CommandLine) -> None:
    cli("users", "add", "ada")
    for session_id in ("laptop", "phone"):
        added = cli("sessions", "add", "ada", session_id, "--metadata", '{"os": "x"}', "-o", "json").json()
        assert (added["session_id"], added["metadata"]) == (session_id, {"os": "x"})
    assert [session["session_id"] for session in cli("sessions", "list", "ada", "-o", "jsonl").lines()] == [
        "laptop",
        "phone",
    ]
    assert cli("sessions", "get", "ada", "phone", "-o", "csv").out.startswith("session_id,id,")
    assert cli("sessions", "delete", "ada", "phone").out == "phone\n"
    assert "SESSION_NOT_FOUND" in cli.error(3, "sessions", "get", "ada", "phone")
    assert "SESSION_ALREADY_EXISTS" in cli.error(1, "sessions", "add", "ada", "laptop")
    assert cli("sessions", "list", "ada", "-o", "json").json()["total_size"] == 1


def test_sessions_that_expire_are_added_touched_and_revoked(cli: CommandLine) -> None:
    cli("users", "add", "ada")
    cli("sessions", "add", "ada", "endless")
    phone = cli("sessions", "add", "ada", "phone", "--ttl", "900.5", "--idle-ttl", "60", "-o", "json").json()
    assert phone["idle_ttl"] == 60
    assert phone["expire_time"] < phone["max_expire_time"]
    end = "2150-01-01T00:00:00.000000Z"
    laptop = cli("sessions", "add", "ada", "laptop", "--expire-time", end, "-o", "json").json()
    assert (laptop["expire_time"], laptop["max_expire_time"], laptop["idle_ttl"]) == (end, end, None)
    assert cli("sessions", "touch", "ada", "phone", "-o", "json").json() == phone
    assert "SESSION_NOT_FOUND" in cli.error(3, "sessions", "touch", "ada", "none")
    shown = cli("sessions", "get", "ada", "endless").out
    assert "None" not in shown
    assert "\nexpire_time\n" in shown
    listed = cli("sessions", "list", "ada").out.splitlines()
    assert (listed[0].split()[-1], listed[3].split()[-2:]) == ("EXPIRE_TIME", ["2150-01-01", "00:00:00"])
    cli("sessions", "add", "ada", "short", "--ttl", "0.001")
    assert cli("sessions", "list", "ada", "-o", "json").json()["total_size"] == 3
    assert cli("sessions", "revoke", "ada", "--except", "phone").out == "2\n"
    assert cli("sessions", "list", "ada", "-o", "jsonl").lines() == [phone]
    assert cli("sessions", "revoke", "ada").out == "1\n"
    assert "USER_NOT_FOUND" in cli.error(3, "sessions", "revoke", "eve")


@pytest.mark.parametrize(
    ("arguments", "mentioned"),
    [
        (["users"], "Missing command"),
        (["users", "nothing"], "No such command"),
        (["users", "get"], "--stdin"),
        (["users", "list", "--limit", "0"], "--limit"),
        (["users", "list", "-o", "xml"], "--output"),
        (["users", "list", "--token", "usk_canary_canary"], "--token"),
        (["users", "list", "usk_canary_canary"], "***"),
        (["users", "list", "eyJcanary.canary.canary"], "***"),
        (["users", "list", "rediss://name:canary@host:6379/0"], "***"),
        (["users", "list", "redis://host/0?password=canary"], "***"),
        (["users", "list", "\x1b[2J\u202e"], "\\u001b[2J\\u202e"),
        (["users", "list", "--token-file", "usk_canary_canary"], "the token file:"),
        (["users", "list", "--token-file", "/nowhere/key"], "/nowhere/key"),
        (["users", "list", "--tls-ca", "/nowhere/ca"], "/nowhere/ca"),
        (["users", "list", "--timeout", "0"], "--timeout"),
        (["users", "list", "--profile", "prod"], "there is no profile 'prod'"),
        (["users", "add", "ada", "--metadata", "{"], "--metadata: the value is not valid JSON (line 1, column 2)"),
        (["users", "add", "ada", "--metadata", "[]"], "--metadata: the value is not a JSON object"),
        (["users", "add", "ada", "--metadata", '{"n": NaN}'], "metadata.n"),
        (["users", "add", "ada", "--input", "/nowhere"], "--input: cannot read /nowhere"),
        (["users", "add"], "user_id"),
        (["users", "add", "ada", "--email", "x" * 321], "email"),
        (["users", "delete", "ada", "bob", "--etag", "x"], "--etag"),
        (["users", "update", "ada", "--replace", "nothing"], "update_mask"),
        (["sessions", "get", "ada"], "SESSION_ID"),
        (["sessions", "add", "ada", "s", "--expire-time", "tomorrow"], "expire_time: must be a time such as"),
        (["sessions", "add", "ada", "s", "--expire-time", "2150-01-01T00:00:00"], "expire_time"),
        (["sessions", "add", "ada", "s", "--ttl", "0"], "ttl: must be from 1 ms"),
        (["sessions", "add", "ada", "s", "--ttl", "5", "--expire-time", "2150-01-01T00:00:00Z"], "ttl: must be absent"),
        (["profile", "use"], "--none"),
        (["profile", "set", "a b"], "letters"),
        (["completion", "tcsh"], "tcsh"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(cli: CommandLine, arguments: list[str], mentioned: str) -> None:
    connect = arguments[0] in {"users", "sessions"} and len(arguments) > 1
    connect = connect and "nothing" not in arguments[1] and "--timeout" not in arguments
    line = cli.error(2, *arguments, connect=connect)
    assert mentioned in line
    assert "canary" not in line


def test_failures_of_the_service_and_of_credentials_have_their_exit_codes(
    cli: CommandLine, keys_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["--address", f"127.0.0.1:{free_port()}", "--timeout", "0.2"]
    assert "Connection refused" in cli.error(5, "users", "count", *options, connect=False)
    monkeypatch.delenv("USERSERVICE_TOKEN_FILE")
    assert "CREDENTIALS_MISSING" in cli.error(4, "users", "count")
    reader = keys_file.with_name("reader.key")
    assert "users.write" in cli.error(4, "users", "add", "ada", "--token-file", reader)
    monkeypatch.setenv("USERSERVICE_TOKEN", reader.read_text())
    assert cli("users", "count").code == 0
    monkeypatch.setenv("USERSERVICE_TOKEN_FILE", str(reader))
    assert "exclude each other" in cli.error(2, "users", "count")
    assert cli("users", "count", "--token-file", reader).code == 0, "the option takes precedence over the variables"
    refused = cli.error(2, "users", "count", "--address", "users.example:1", "--token-file", reader, connect=False)
    assert "without TLS" in refused or "plain" in refused


def test_options_take_precedence_over_variables_and_variables_over_the_profile(
    cli: CommandLine, a_service: Service, keys_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("USERSERVICE_TOKEN_FILE")
    monkeypatch.chdir(keys_file.parent)
    dead = f"127.0.0.1:{free_port()}"
    made = cli("profile", "set", "test-1", "--address", a_service.address, "--token-file", "reader.key", connect=False)
    assert (made.code, made.out, made.err) == (0, "", "")
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "profiles.toml"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert str(keys_file.parent / "reader.key") in file.read_text()
    assert cli("users", "count", "--profile", "test-1", connect=False).code == 0
    assert cli("users", "count", "--timeout", "0.2", connect=False).code == 5, "no profile is selected"
    assert cli("profile", "use", "test-1", connect=False).code == 0
    assert cli("profile", "list", connect=False).out == f"* test-1\t{a_service.address}\n"
    assert cli("users", "count", connect=False).code == 0
    assert "users.write" in cli.error(4, "users", "add", "ada", connect=False)
    monkeypatch.setenv("USERSERVICE_TOKEN", keys_file.with_name("writer.key").read_text())
    assert cli("users", "add", "ada", connect=False).code == 0, "the variable takes precedence over the profile"
    monkeypatch.setenv("USERSERVICE_ADDRESS", dead)
    assert cli("users", "count", "--timeout", "0.2", connect=False).code == 5
    assert cli("users", "count").code == 0, "the option takes precedence over the variable"
    cli("profile", "set", "dead", "--address", dead, "--timeout", "0.2", connect=False)
    monkeypatch.delenv("USERSERVICE_ADDRESS")
    monkeypatch.setenv("USERSERVICE_PROFILE", "dead")
    assert cli("users", "count", connect=False).code == 5
    assert json.loads(cli("profile", "show", "dead", connect=False).out) == {"address": dead, "timeout": 0.2}
    cli("profile", "set", "dead", "--unset", "timeout", connect=False)
    assert cli("profile", "show", "dead", connect=False).json() == {"address": dead}
    monkeypatch.delenv("USERSERVICE_PROFILE")
    assert cli("profile", "delete", "test-1", connect=False).code == 0
    assert cli("profile", "list", connect=False).out == f"  dead\t{dead}\n"
    cli("profile", "set", "odd", "--address", 'unix:/tmp/"\\\x7f', connect=False)
    assert cli("profile", "show", "odd", connect=False).json() == {"address": 'unix:/tmp/"\\\x7f'}


@pytest.mark.parametrize(
    ("content", "mentioned"),
    [
        ("= 1", "not valid TOML"),
        ('[profiles.a]\ntoken = "usk_canary_canary"', "unknown setting"),
        ("[profiles.a]\ntimeout = true", "timeout must be of type float"),
        ('default = "b"\n[profiles.a]', "'b' is not in the profile file"),
        ("[other]", "may only contain"),
    ],
)
def test_a_wrong_profile_file_is_one_line(cli: CommandLine, tmp_path: Path, content: str, mentioned: str) -> None:
    (tmp_path / "profiles.toml").write_text(content)
    line = cli.error(2, "users", "count")
    assert mentioned in line
    assert "canary" not in line


@pytest.mark.parametrize("mode", [0o620, 0o602])
def test_a_profile_file_that_other_users_can_change_is_rejected(cli: CommandLine, tmp_path: Path, mode: int) -> None:
    file = tmp_path / "profiles.toml"
    file.touch()
    file.chmod(mode)
    assert "chmod go-w" in cli.error(2, "users", "count")
    file.chmod(0o644)
    assert cli("users", "count").code == 0


def test_a_profile_file_that_is_a_link_stays_a_link(cli: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "profiles.toml").symlink_to(tmp_path / "real.toml")
    assert cli("profile", "set", "prod", "--address", "users.example:1", connect=False).code == 0
    assert (tmp_path / "profiles.toml").is_symlink()
    assert "users.example:1" in (tmp_path / "real.toml").read_text()


def completions(words: list[str], incomplete: str) -> set[str]:
    shell = ShellComplete(root, {}, "userservice", "_USERSERVICE_COMPLETE")
    return {item.value for item in shell.get_completions(words, incomplete)}


def test_a_shell_completes_commands_of_client_and_server_and_options(cli: CommandLine) -> None:
    assert completions([], "") >= {"users", "sessions", "profile", "health", "serve", "check", "keys"}
    assert completions(["users"], "de") == {"delete"}
    assert "--tls-ca" in completions(["users", "list"], "--t")
    assert completions(["keys"], "n") == {"new"}
    assert completions(["users", "list", "-o"], "json") == {"json", "jsonl"}
    for shell in ("bash", "zsh", "fish"):
        assert "_USERSERVICE_COMPLETE" in cli("completion", shell, connect=False).out
