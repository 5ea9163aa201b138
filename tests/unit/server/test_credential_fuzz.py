"""Generated keys files, keys, tokens, token headers and key sets: nothing crashes, and nothing invalid is accepted."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from harness.credentials import AUDIENCE, ISSUER, Issuer, jwks, segment
from harness.sizing import sized
from hypothesis import given, settings
from hypothesis import strategies as st

from userservice_server.config import ConfigError
from userservice_server.errors import CredentialsInvalidError
from userservice_server.transport.credentials.caller import UnknownKeyIdError
from userservice_server.transport.credentials.key_format import key_id_in, new_key
from userservice_server.transport.credentials.keys import Keys
from userservice_server.transport.credentials.keys_file import KeysFile, parse_keys_file
from userservice_server.transport.credentials.scopes import SCOPES
from userservice_server.transport.credentials.tokens import InvalidKeySetError, KeySet, Tokens, parse_key_set

TRIES = settings(max_examples=sized(40, 10_000), deadline=None)
ISSUERS = {algorithm: Issuer(algorithm, algorithm) for algorithm in ("ES256", "EdDSA")}
KEY_SET = parse_key_set(jwks(*ISSUERS.values()))
TOKENS = Tokens(ISSUER, AUDIENCE, "scope", lambda: KEY_SET)
VALID_FILE = (
    f'[keys.abcdefghijkl]\nname = "a"\nsha256 = "{"0" * 64}"\nscopes = ["users.read"]\n'
    "expires_at = 2100-01-01T00:00:00Z\ncalls_per_second = 2.5\nmax_streams = 3\n"
    '[certificates."spiffe://a/b"]\nscopes = ["*"]\n'
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=8,
)


@st.composite
def spoiled(draw: st.DrawFn, text: str) -> str:
    """A text in which a part is replaced, removed, repeated or inserted."""
    start, end = sorted((draw(st.integers(0, len(text))), draw(st.integers(0, len(text)))))
    part = draw(
        st.sampled_from(["", text[start:end] * 2, "\x00", "\n", '"', "[", "=", "-1", "é"]) | st.text(max_size=9)
    )
    return text[:start] + part + text[end:]


def check_file(content: bytes) -> None:
    try:
        parsed = parse_keys_file(content, Path("keys.toml"))
    except ConfigError:
        return
    assert isinstance(parsed, KeysFile)
    for entry in (*parsed.keys.values(), *parsed.certificates.values()):
        assert entry.scopes <= SCOPES
        assert entry.calls_per_second is None or 0 < entry.calls_per_second <= 1e6
        assert entry.max_streams is None or 0 <= entry.max_streams <= 1e6
    assert all(len(entry.sha256) == 32 for entry in parsed.keys.values())


@TRIES
@given(st.binary(max_size=300) | spoiled(VALID_FILE).map(lambda text: text.encode(errors="surrogatepass")))
def test_a_keys_file_is_valid_or_rejected(content: bytes) -> None:
    check_file(content)


KEY = new_key()
FILE = parse_keys_file(f'[keys.{KEY.id}]\nsha256 = "{KEY.digest.hex()}"\nscopes = ["*"]\n'.encode(), Path("keys.toml"))
KEYS = Keys(FILE)


@TRIES
@given(st.text() | spoiled(KEY.text) | st.from_regex(r"usk_[0-9A-Za-z]{12}_[0-9A-Za-z]{43}_[0-9A-Za-z]{6}"))
def test_no_text_except_the_key_is_accepted(text: str) -> None:
    if text == KEY.text:
        assert KEYS.verify(text)
        return
    with pytest.raises(CredentialsInvalidError):
        KEYS.verify(text)
    assert key_id_in(text) is None or len(text) == len(KEY.text)


def accepts(token: str) -> bool:
    try:
        caller = TOKENS.verify(token)
    except (CredentialsInvalidError, UnknownKeyIdError):
        return False
    assert caller.scopes <= SCOPES
    return True


@TRIES
@given(st.data(), st.sampled_from(sorted(ISSUERS)))
def test_a_changed_token_is_not_accepted(data: st.DataObject, algorithm: str) -> None:
    token = ISSUERS[algorithm].token()
    changed = data.draw(spoiled(token))
    # The last character of base64 may have unused bits, so that two texts are one signature.
    assert not accepts(changed) or changed[:-1] == token[:-1]
    assert accepts(token)


@TRIES
@given(st.dictionaries(st.sampled_from(["alg", "kid", "typ", "crit", "b64", "jwk", "jku", "x5u", "zip"]), json_values))
def test_a_header_without_a_valid_signature_is_not_accepted(header: dict[str, Any]) -> None:
    payload = ISSUERS["ES256"].token().split(".")[1]
    for signature in ("", segment(b"\x00" * 64), payload):
        assert not accepts(f"{segment(header)}.{payload}.{signature}")


REQUIRED = {"iss": ISSUER, "aud": AUDIENCE}


@TRIES
@given(st.dictionaries(st.sampled_from(["iss", "aud", "exp", "nbf", "iat", "sub", "scope", "jti"]), json_values))
def test_signed_claims_are_accepted_only_if_they_are_correct(claims: dict[str, Any]) -> None:
    issuer = ISSUERS["ES256"]
    for given_claims in (claims, REQUIRED | {"exp": int(time.time()) + 60} | claims):
        token = issuer.token(**{"iss": None, "aud": None, "sub": None, "exp": None, "iat": None, **given_claims})
        if accepts(token):
            assert given_claims.get("iss") == ISSUER
            audience = given_claims.get("aud")
            assert AUDIENCE in (audience if isinstance(audience, list) else [audience])
            assert given_claims["exp"] > time.time() - 31


@TRIES
@given(st.binary(max_size=200) | json_values.map(lambda value: json.dumps(value).encode()) | st.data())
def test_a_key_set_is_valid_or_rejected(content: Any) -> None:
    if not isinstance(content, bytes):
        member = dict(content.draw(st.sampled_from([issuer.jwk for issuer in ISSUERS.values()])))
        member[content.draw(st.sampled_from([*member, "use", "alg", "key_ops"]))] = content.draw(json_values)
        content = json.dumps({"keys": [member, *content.draw(st.lists(json_values, max_size=2))]}).encode()
    try:
        key_set = parse_key_set(content)
    except InvalidKeySetError:
        return
    assert isinstance(key_set, KeySet)
    assert all(key.algorithms <= {"RS256", "PS256", "ES256", "EdDSA"} for key in key_set.keys)
