"""The cache of verified credentials."""

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from harness.credentials import AUDIENCE, ISSUER, Issuer, bearer, jwks, new_key

from userservice_server.errors import CredentialsInvalidError
from userservice_server.transport.credentials import authentication
from userservice_server.transport.credentials.authentication import Authentication
from userservice_server.transport.credentials.caller import Caller
from userservice_server.transport.credentials.keys import Keys
from userservice_server.transport.credentials.keys_file import parse_keys_file, read_keys_file
from userservice_server.transport.credentials.tokens import LEEWAY_SECONDS, Tokens, parse_key_set


class Site:
    """Keys and tokens, with a count of the tokens that were verified."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "keys.toml"
        self.key = new_key(self.path)
        self.keys = Keys(parse_keys_file(read_keys_file(self.path), self.path))
        self.issuer = Issuer()
        key_set = parse_key_set(jwks(self.issuer))
        self.tokens = Tokens(ISSUER, AUDIENCE, "scope", lambda: key_set)
        self.gate = Authentication(keys=self.keys, tokens=self.tokens, entries=self.keys)
        self.verified = 0
        verify = self.tokens.verify

        def counted(token: str) -> Caller:
            self.verified += 1
            return verify(token)

        self.tokens.verify = counted  # type: ignore[method-assign]

    async def caller(self, credential: str) -> Caller:
        call: Any = SimpleNamespace(credential=bearer(credential)[0][1], log_fields={})
        return await self.gate.caller_of(call)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


async def test_a_token_is_verified_once_until_the_keys_file_changes(site: Site) -> None:
    token = site.issuer.token()
    callers = [await site.caller(token) for _ in range(5)]
    assert len({id(caller) for caller in callers}) == site.verified == 1
    site.gate.forget()
    await site.caller(token)
    assert site.verified == 2


async def test_a_cached_token_is_rejected_when_it_expires(site: Site) -> None:
    token = site.issuer.token(exp=int(time.time()) - LEEWAY_SECONDS + 2)
    assert await site.caller(token)
    time.sleep(2)  # noqa: ASYNC251 - nothing else runs
    with pytest.raises(CredentialsInvalidError):
        await site.caller(token)


async def test_rejected_credentials_are_not_cached(site: Site) -> None:
    for number in range(5):
        with pytest.raises(CredentialsInvalidError):
            await site.caller(f"usk_{number}")
        with pytest.raises(CredentialsInvalidError):
            await site.caller(site.issuer.token(exp=number))
    assert not site.gate._cache


async def test_the_cache_is_bounded(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(authentication, "_MAX_CACHED", 3)
    for number in range(5):
        await site.caller(site.issuer.token(sub=str(number)))
    assert len(site.gate._cache) == 3
    await site.caller(site.issuer.token(filler="x" * 5000))
    assert len(site.gate._cache) == 3
