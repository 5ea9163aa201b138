"""Scripts are complete and declare their keys."""

import re
from importlib import resources
from pathlib import Path

import pytest
from harness.stores import Store

from userservice_server.store import scripts

DOCUMENT = Path(__file__).parents[3] / "docs" / "operations.md"


@pytest.mark.parametrize("script", scripts.ALL, ids=lambda script: script.sha1.decode()[:8])
def test_a_script_has_its_header_and_its_includes(script: scripts.Script) -> None:
    assert script.text.startswith(b"#!lua")
    assert b"--@include" not in script.text


def test_every_script_file_is_loaded() -> None:
    files = [file.name for file in resources.files(scripts).iterdir() if file.name.endswith(".lua")]
    assert len([name for name in files if not name.startswith("_")]) == len(scripts.ALL)


@pytest.mark.parametrize("script", scripts.ALL, ids=lambda script: script.sha1.decode()[:8])
def test_scripts_define_no_constants_of_the_wire_format(script: scripts.Script) -> None:
    """Scripts get their constants from wire/, so that scripts and server cannot differ."""
    lines = [line.partition(b" --")[0] for line in script.text.splitlines() if not line.startswith((b"--", b"#!"))]
    code = b"\n".join(line for line in lines if not re.fullmatch(rb"local [A-Z_ ,]+ = [0-9'\\, ]+", line))
    assert b"--@" not in script.text
    assert not re.search(rb"'[A-Z]'|'\\\d|\b\d{4,}\b", code)


@pytest.mark.parametrize("name", scripts.CONSTANTS)
def test_the_constants_of_scripts_equal_those_of_the_server(name: str, store: Store) -> None:
    value = scripts.CONSTANTS[name]
    with store.client() as redis:
        for script in scripts.ALL:
            for names, values in re.findall(rb"^local ([A-Z_ ,]+) = ([0-9'\\, ]+)$", script.text, re.MULTILINE):
                if name.encode() not in names.split(b", "):
                    continue
                text = b"local %b = %b\nreturn type(%b) == 'number' and string.format('%%.0f', %b) or %b"
                found = redis.eval(text % (names, values, *[name.encode()] * 3), 0)
                assert found == (value if isinstance(value, bytes) else str(value).encode())


def test_every_constant_of_a_script_is_known_to_the_wire() -> None:
    files = [file.read_text() for file in resources.files(scripts).iterdir() if file.name.endswith(".lua")]
    named = {
        name
        for text in files
        for line in re.findall(r"^--@constants (.+)$", text, re.MULTILINE)
        for name in line.split()
    }
    assert named == set(scripts.CONSTANTS) - {"ETAG_MISMATCH", "REFUSED"}  # these two are verdicts of the server


def test_every_command_of_a_script_is_checked_before_it_is_needed_and_is_documented() -> None:
    """A script that is denied a command has already done its earlier writes; see permissions.lua."""
    checked = set(re.findall(rb"\{ '([A-Z]+)'", scripts.PERMISSIONS.text))
    called = {name for script in scripts.ALL for name in re.findall(rb"call\('([A-Z]+)'", script.text)}
    assert called == checked
    rules = [line.split() for line in DOCUMENT.read_text().splitlines() if line.startswith("ACL SETUSER app ")]
    allowed = {rule[1:].upper().encode() for line in rules for rule in line if rule.startswith("+")}
    assert not called - allowed
