"""The benchmark of authentication measures calls whose credentials are verified."""

from pathlib import Path

import pytest

from benchmarks import authentication, security
from userservice_server.errors import CredentialsInvalidError


def test_it_measures_only_credentials_that_are_valid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(authentication, "_ROUNDS", 1)
    _, key, token = security.make_credentials(tmp_path)
    verifier = authentication.verifier(tmp_path / "keys.toml", tmp_path / "jwks", security.ISSUER, security.AUDIENCE)
    for credential in (key, token):
        assert isinstance(authentication.added_microseconds(verifier, credential), float)
        with pytest.raises(CredentialsInvalidError):
            authentication.added_microseconds(verifier, credential[:-8])
