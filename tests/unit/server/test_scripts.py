"""Scripts are whole and declare what they touch."""

from importlib import resources

import pytest

from userservice_server.store import scripts


@pytest.mark.parametrize("script", scripts.ALL, ids=lambda script: script.sha1.decode()[:8])
def test_a_script_has_its_header_and_its_includes(script: scripts.Script) -> None:
    assert script.text.startswith(b"#!lua")
    assert b"--@include" not in script.text


def test_every_script_file_is_loaded() -> None:
    files = [file.name for file in resources.files(scripts).iterdir() if file.name.endswith(".lua")]
    assert len([name for name in files if not name.startswith("_")]) == len(scripts.ALL)
