"""Keys: their format, the keys file, the command that edits the keys file, and limits."""

import math
import os
import re
import stat
import threading
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from harness.credentials import key_id, new_key, private, revoke

from userservice_server.cli.keys import keys_command
from userservice_server.config import ConfigError
from userservice_server.errors import CredentialsInvalidError, RateLimitedError
from userservice_server.transport.credentials.caller import Caller, Usage
from userservice_server.transport.credentials.key_format import digest_of, key_id_in
from userservice_server.transport.credentials.key_format import new_key as made
from userservice_server.transport.credentials.keys import Keys
from userservice_server.transport.credentials.keys_file import parse_keys_file, read_keys_file
from userservice_server.transport.status import encoded_status

ENTRY = f'[keys.abcdefghijkl]\nsha256 = "{"0" * 64}"\nscopes = ["users.read"]\n'


def test_a_key_is_well_formed_random_and_has_a_checksum() -> None:
    keys = [made() for _ in range(200)]
    assert len({key.text for key in keys}) == len({key.id for key in keys}) == 200
    for key in keys:
        assert key_id_in(key.text) == key.id
        assert digest_of(key.text) == key.digest
        assert len(key.text) == len("usk_") + 12 + 1 + 43 + 1 + 6


def test_every_changed_character_of_a_key_is_detected_by_the_checksum() -> None:
    text = made().text
    for position in range(len(text)):
        changed = text[:position] + ("0" if text[position] != "0" else "1") + text[position + 1 :]
        assert key_id_in(changed) is None
    assert key_id_in(text + "\n") is None


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("keys = 1", "keys must be tables"),
        ("[keys.short]\nsha256 = 'x'", "key number 1: the id"),
        ("[key.abcdefghijkl]", "the file has 1 unknown field"),
        ("[keys]\nabcdefghijkl = 7", "must be a table"),
        (ENTRY + "expire_at = 2027-01-01T00:00:00Z", "key abcdefghijkl has 1 unknown field"),
        (ENTRY + "expires_at = 2027-01-01T00:00:00", "expires_at must be a date and time with a time zone"),
        (ENTRY + "expires_at = 2027-01-01", "expires_at must be"),
        (ENTRY + "expires_at = '2027-01-01T00:00:00Z'", "expires_at must be"),
        (ENTRY + "calls_per_second = 0", "calls_per_second must be a number from 0.000001 to 1000000"),
        (ENTRY + "calls_per_second = 1e-310", "calls_per_second must be"),
        (ENTRY + "calls_per_second = nan", "calls_per_second must be"),
        (ENTRY + "calls_per_second = true", "calls_per_second must be"),
        (ENTRY + "max_streams = -1", "max_streams must be a whole number"),
        (ENTRY + "max_streams = 1.5", "max_streams must be"),
        (ENTRY + "name = 7", "name must be a string"),
        (ENTRY.replace("users.read", "users.reed"), "scopes has an unknown scope at position 1"),
        (ENTRY.replace('["users.read"]', '"users.read"'), "scopes must be a list"),
        (ENTRY.replace("0" * 64, "0" * 63), "sha256 must be 64 hexadecimal digits"),
        (ENTRY.replace("0" * 64, "A" * 64), "sha256 must be"),
        (ENTRY + ENTRY, "is not valid TOML (at line 4"),
        ("[certificates.'']\nscopes = []", "certificate number 1: the name"),
        ("[certificates.'spiffe://a/b']\nscopes = []\nsha256 = 'x'", "certificate number 1 has 1 unknown field"),
        ("a = " + "[" * 5000, "is not valid TOML"),
        ("\ufeffkeys", "is not valid TOML"),
    ],
)
def test_an_invalid_keys_file_is_rejected_as_a_whole_with_one_line(content: str, expected: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse_keys_file(content.encode(), Path("keys.toml"))
    assert expected in str(raised.value)
    assert str(raised.value).startswith("--keys-file keys.toml")
    assert "\n" not in str(raised.value)


def test_no_error_contains_a_key_that_was_pasted_into_the_file() -> None:
    secret = made().text
    pasted = [
        f"{secret}\n",
        f"[keys.{secret}]\n",
        f'[{secret}]\nname = "a"\n',
        ENTRY.replace("0" * 64, secret),
        ENTRY + f'name = "a"\n{secret} = 1\n',
        ENTRY + f'scopes = ["{secret}"]\n',
        ENTRY.replace('"users.read"', f'"{secret}"'),
        f"[keys.abcdefghijkl]\n{secret}\n",
        f"[keys.abcdefghijkl.{secret}]\nname = 1\n",
    ]
    for content in pasted:
        with pytest.raises(ConfigError) as raised:
            parse_keys_file(content.encode(), Path("keys.toml"))
        assert secret not in str(raised.value)
        assert secret.split("_")[2] not in str(raised.value)


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o660, 0o666])
def test_a_keys_file_that_others_can_change_is_rejected(tmp_path: Path, mode: int) -> None:
    path = private(tmp_path / "keys.toml", ENTRY, mode)
    with pytest.raises(ConfigError, match=f"can be changed by its group or by others .mode {mode:04o}"):
        read_keys_file(path)


def test_a_keys_file_that_others_can_read_is_accepted(tmp_path: Path) -> None:
    # The file contains no secret, and Kubernetes mounts secrets with this mode by default.
    assert read_keys_file(private(tmp_path / "keys.toml", ENTRY, 0o644))


def keys_of(path: Path) -> Keys:
    return Keys(parse_keys_file(read_keys_file(path), path))


def test_a_key_is_verified_until_it_is_revoked(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    key = new_key(path, "users.read,users.list", "--calls-per-second", "2.5", "--max-streams", "3")
    caller = keys_of(path).verify(key)
    assert (caller.kind, caller.name, sorted(caller.scopes)) == ("key", key_id(key), ["users.list", "users.read"])
    assert (caller.calls_per_second, caller.max_streams, caller.expires_at) == (2.5, 3, math.inf)
    revoke(path, key)
    with pytest.raises(CredentialsInvalidError) as raised:
        keys_of(path).verify(key)
    assert raised.value.cause == "revoked key"


def test_the_command_keeps_comments_mode_and_links(tmp_path: Path) -> None:
    real, link = tmp_path / "real.toml", tmp_path / "keys.toml"
    private(real, f"# the team's keys\n{ENTRY}# the last line", 0o640)
    link.symlink_to(real)
    first, second = new_key(link), new_key(link, "admin")
    assert link.is_symlink()
    real.chmod(0o640)
    revoke(link, first)
    text = real.read_text()
    assert text.startswith("# the team's keys\n[keys.abcdefghijkl]")
    assert "# the last line" in text
    assert stat.S_IMODE(real.stat().st_mode) == 0o640
    assert list(keys_of(link).content.keys) == ["abcdefghijkl", key_id(first), key_id(second)]
    assert not [file for file in tmp_path.iterdir() if file not in {real, link}]
    assert first not in text
    assert first.split("_")[2] not in text


def test_concurrent_commands_lose_no_key(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    new_key(path)
    threads = [threading.Thread(target=new_key, args=(path,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(keys_of(path).content.keys) == 9


def run(*arguments: str | Path, text: str = "") -> tuple[int, str]:
    result = CliRunner().invoke(keys_command, [str(argument) for argument in arguments], input=text)
    if isinstance(result.exception, ConfigError):
        return 2, str(result.exception)
    return result.exit_code, result.output


def test_list_and_check_print_the_state_of_each_key(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    key = new_key(path, "users.read", "--expires", "90d")
    early = new_key(path, "admin", "--not-before", "2100-01-01T00:00:00Z")
    code, output = run("list", "--keys-file", path)
    assert code == 0
    states = [line.split("\t")[1:3] for line in output.splitlines()]
    assert states == [[key_id(key), "valid"], [key_id(early), "not yet valid"]]
    assert run("check", "--keys-file", path) == (0, "valid: 2 keys, 0 certificates\n")
    assert run("check", "--keys-file", path, "--stdin", text=f"{key}\n")[0] == 0
    assert run("check", "--keys-file", path, "--stdin", text=early) == (1, "not valid: not yet valid key\n")
    assert run("check", "--keys-file", path, "--stdin", text=made().text) == (1, "not valid: unknown key\n")
    assert run("check", "--keys-file", path, "--stdin", text="usk_x") == (1, "not valid: malformed key\n")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["new", "--name", "n", "--scopes", "users.reed"], "unknown scope"),
        (["new", "--name", "n", "--scopes", "admin", "--expires", "soon"], "--expires must be a duration"),
        (["new", "--name", "n", "--scopes", "admin", "--expires", "2027-01-01T00:00:00"], "--expires must be"),
        (["new", "--name", "n", "--scopes", "admin", "--expires", "0001-01-01T00:00:00+14:00"], "--expires must be"),
        (["new", "--name", "n", "--scopes", "admin", "--not-before", "9999-12-31T23:00:00-14:00"], "--not-before must"),
        (["new", "--name", "n\udcff", "--scopes", "admin"], "must be UTF-8"),
        (["new", "--name", "n\x7f", "--scopes", "admin"], "not valid TOML"),
        (["new", "--name", "n", "--scopes", "admin", "--calls-per-second", "0"], "calls_per_second must be"),
        (["revoke", "abcdefghijkx"], "no key with this id"),
    ],
)
def test_an_invalid_change_leaves_the_file_unchanged(tmp_path: Path, arguments: list[str], expected: str) -> None:
    path = private(tmp_path / "keys.toml", ENTRY)
    code, output = run(arguments[0], "--keys-file", path, *arguments[1:])
    assert code == 2
    assert expected in output
    assert path.read_text() == ENTRY


def test_a_loop_of_symbolic_links_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "one").symlink_to("other")
    (tmp_path / "other").symlink_to("one")
    code, output = run("new", "--keys-file", tmp_path / "one", "--name", "n", "--scopes", "admin")
    assert (code, "Too many levels of symbolic links" in output) == (2, True)
    assert (tmp_path / "one").is_symlink()


def test_another_secret_with_the_same_id_ends_the_streams_of_the_first(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    key = new_key(path)
    keys = Keys(parse_keys_file(read_keys_file(path), path))
    caller = keys.verify(key)
    assert keys.fault_of(caller, "") == ""
    private(
        path,
        re.sub('sha256 = ".', lambda found: found[0][:-1] + ("1" if found[0][-1] == "0" else "0"), path.read_text()),
    )
    keys.replace(parse_keys_file(read_keys_file(path), path))
    assert keys.fault_of(caller, "") == "revoked key"


def test_revoking_a_key_in_an_inline_table_is_rejected(tmp_path: Path) -> None:
    path = private(tmp_path / "keys.toml", f'[keys]\nabcdefghijkl = {{sha256 = "{"0" * 64}", scopes = []}}\n')
    code, output = run("revoke", "--keys-file", path, "abcdefghijkl")
    assert code == 2
    assert "add revoked_at by hand" in output


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to other users")
def test_a_keys_file_of_another_user_is_rejected(tmp_path: Path) -> None:
    path = private(tmp_path / "keys.toml", ENTRY)
    os.chown(path, 65534, 65534)
    with pytest.raises(ConfigError, match="owned by"):
        read_keys_file(path)


def test_a_rate_allows_a_burst_of_one_second_and_then_evenly_spaced_calls() -> None:
    usage, now = Usage(), 1000.0
    allowed = sum(usage.wait(10, now) == 0 for _ in range(50))
    assert allowed in {10, 11}
    wait = usage.wait(10, now)
    assert 0 < wait <= 0.1
    assert usage.wait(10, now + wait + 0.001) == 0
    slow = Usage()
    assert slow.wait(0.1, now) == 0
    assert 8 < slow.wait(0.1, now) <= 10


def test_the_error_above_the_limits_contains_the_time_to_wait() -> None:
    caller = Caller("key", "abc", frozenset(), math.inf, calls_per_second=1, max_streams=0)
    for _ in range(2):
        caller.take_call()
    with pytest.raises(RateLimitedError) as raised:
        caller.take_call()
    assert (raised.value.subject, raised.value.limit) == ("key:abc", "calls_per_second")
    assert 0 < raised.value.retry_after <= 1
    with pytest.raises(RateLimitedError, match="streams"):
        caller.take_stream()


def test_the_time_to_wait_at_the_lowest_rate_fits_into_the_error() -> None:
    path = Path("keys.toml")
    entry = parse_keys_file(f"{ENTRY}calls_per_second = 0.000001".encode(), path).keys["abcdefghijkl"]
    caller = Caller("key", "id", frozenset(), math.inf, calls_per_second=entry.calls_per_second)
    caller.take_call()
    with pytest.raises(RateLimitedError) as raised:
        caller.take_call()
    assert encoded_status(raised.value, "call")[0].name == "RESOURCE_EXHAUSTED"


def test_a_reload_of_the_file_keeps_the_use_of_the_limits(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    key = new_key(path, "admin", "--calls-per-second", "1")
    keys = keys_of(path)
    caller = keys.verify(key)
    while not caller.usage.wait(1, time.monotonic()):
        pass
    new_key(path)
    keys.replace(keys_of(path).content)
    assert keys.verify(key).usage is caller.usage
