"""JWTs and key sets: valid ones are accepted, all others are rejected."""

import base64
import hashlib
import hmac
import json
import time
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from harness.credentials import AUDIENCE, ISSUER, Issuer, jwks, segment

from userservice_server.errors import AuthenticationUnavailableError, CredentialsInvalidError
from userservice_server.transport.credentials.caller import UnknownKeyIdError
from userservice_server.transport.credentials.scopes import SCOPES
from userservice_server.transport.credentials.tokens import InvalidKeySetError, Tokens, parse_key_set

ALGORITHMS = ["RS256", "PS256", "ES256", "EdDSA"]


def tokens_of(*issuers: Issuer, claim: str = "scope") -> Tokens:
    key_set = parse_key_set(jwks(*issuers))
    return Tokens(ISSUER, AUDIENCE, claim, lambda: key_set)


def fault(tokens: Tokens, token: str) -> str:
    with pytest.raises(CredentialsInvalidError) as raised:
        tokens.verify(token)
    return raised.value.cause


@pytest.fixture(scope="module")
def issuer() -> Issuer:
    return Issuer()


@pytest.fixture(scope="module")
def tokens(issuer: Issuer) -> Tokens:
    return tokens_of(issuer)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_token_with_each_accepted_algorithm_is_accepted(algorithm: str) -> None:
    issuer = Issuer(algorithm=algorithm)
    caller = tokens_of(issuer).verify(issuer.token("users.read openid"))
    assert (caller.kind, caller.name, [*caller.scopes]) == ("jwt", "job-7", ["users.read"])


@pytest.mark.parametrize(
    ("scope", "expected"),
    [
        ("users.read  users.list", {"users.read", "users.list"}),
        (["users.read", "profile"], {"users.read"}),
        ("*", SCOPES),
        ("", set()),
        (None, set()),
        ([], set()),
    ],
)
def test_the_scope_claim_is_a_string_or_a_list(
    tokens: Tokens, issuer: Issuer, scope: object, expected: set[str]
) -> None:
    assert tokens.verify(issuer.token(scope)).scopes == expected


def test_the_scope_claim_can_have_another_name(issuer: Issuer) -> None:
    tokens = tokens_of(issuer, claim="https://example.org/scopes")
    claims: dict[str, Any] = {"https://example.org/scopes": ["users.read"]}
    assert tokens.verify(issuer.token("admin", **claims)).scopes == {"users.read"}


NOW = int(time.time())


@pytest.mark.parametrize(
    ("claims", "expected"),
    [
        ({"exp": NOW - 60}, "expired token"),
        ({"exp": None}, "missing claim"),
        ({"exp": "soon"}, "malformed token"),
        ({"exp": True}, "expired token"),
        ({"exp": float("inf")}, "malformed token"),
        ({"exp": str(NOW + 600)}, "malformed token"),
        ({"exp": 10**400}, "malformed token"),
        ({"nbf": NOW + 600}, "token not yet valid"),
        ({"iat": NOW + 600}, "token not yet valid"),
        ({"iss": None}, "missing claim"),
        ({"iss": "https://issuer.tes"}, "wrong issuer"),
        ({"iss": ISSUER + "/"}, "wrong issuer"),
        ({"iss": [ISSUER]}, "wrong issuer"),
        ({"aud": None}, "missing claim"),
        ({"aud": "user"}, "wrong audience"),
        ({"aud": []}, "missing claim"),
        ({"aud": ["billing", "userservic"]}, "wrong audience"),
        ({"sub": 7}, "malformed token"),
        ({"sub": "\ud800"}, "malformed token"),
        ({"scope": 7}, "malformed token"),
        ({"scope": {"users.read": True}}, "malformed token"),
        ({"scope": ["users.read", 7]}, "malformed token"),
    ],
)
def test_wrong_claims_are_rejected(tokens: Tokens, issuer: Issuer, claims: dict[str, Any], expected: str) -> None:
    assert fault(tokens, issuer.token(**{"scope": "*", **claims})) == expected


def test_clocks_may_differ_by_30_seconds(tokens: Tokens, issuer: Issuer) -> None:
    now = int(time.time())
    assert tokens.verify(issuer.token(exp=now - 20))
    assert tokens.verify(issuer.token(nbf=now + 20))
    assert fault(tokens, issuer.token(exp=now - 31)) == "expired token"
    assert tokens.verify(issuer.token(exp=now + 100)).expires_at == now + 130


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ({"alg": "none"}, "algorithm not accepted"),
        ({"alg": "None"}, "algorithm not accepted"),
        ({"alg": "HS256"}, "algorithm not accepted"),
        ({"alg": "ES384"}, "algorithm not accepted"),
        ({"alg": "ES256K"}, "algorithm not accepted"),
        ({"alg": ["ES256"]}, "algorithm not accepted"),
        ({"alg": None}, "algorithm not accepted"),
        ({}, "algorithm not accepted"),
        ({"alg": "ES256", "crit": ["exp"]}, "unknown extension"),
        ({"alg": "ES256", "crit": []}, "unknown extension"),
        ({"alg": "ES256", "b64": False, "crit": ["b64"]}, "unknown extension"),
        ({"alg": "ES256", "b64": True, "crit": ["b64"]}, "unknown extension"),
        ({"alg": "ES256", "b64": True}, "unknown extension"),
        ({"alg": "ES256", "kid": 7}, "malformed token"),
    ],
)
def test_wrong_headers_are_rejected(tokens: Tokens, issuer: Issuer, header: dict[str, Any], expected: str) -> None:
    body = f"{segment({'kid': issuer.key_id, **header})}.{issuer.token().split('.')[1]}"
    signed = f"{body}.{segment(signature_of(issuer, body))}"
    assert fault(tokens, signed) in {expected, "malformed token"}  # PyJWT rejects some of them itself
    assert fault(tokens, f"{body}.") in {expected, "malformed token"}


def signature_of(issuer: Issuer, body: str) -> bytes:
    r, s = decode_dss_signature(issuer.key.sign(body.encode(), ec.ECDSA(SHA256())))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


@pytest.mark.parametrize("more", [":", "=", " ", "\n", ".", "+/", "é"])
def test_a_token_with_characters_outside_base64url_is_rejected(tokens: Tokens, issuer: Issuer, more: str) -> None:
    token = issuer.token()
    for changed in (token + more, more + token, token.replace(".", f".{more}", 1)):
        assert fault(tokens, changed) == "malformed token"


def test_a_token_that_the_test_signs_itself_is_accepted(tokens: Tokens, issuer: Issuer) -> None:
    body = f"{segment({'alg': 'ES256', 'kid': issuer.key_id})}.{issuer.token().split('.')[1]}"
    assert tokens.verify(f"{body}.{segment(signature_of(issuer, body))}")


def test_a_public_key_is_not_used_as_a_shared_secret() -> None:
    issuer = Issuer(algorithm="RS256")
    tokens = tokens_of(issuer)
    public = issuer.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    body = f"{segment({'alg': 'HS256', 'kid': issuer.key_id})}.{issuer.token().split('.')[1]}"
    forged = f"{body}.{segment(hmac.new(public, body.encode(), hashlib.sha256).digest())}"
    assert fault(tokens, forged) == "algorithm not accepted"


def test_a_token_must_be_signed_by_the_key_that_it_names(issuer: Issuer) -> None:
    other = Issuer("second")
    tokens = tokens_of(issuer, other)
    assert tokens.verify(other.token())
    assert fault(tokens, other.token(headers={"kid": issuer.key_id})) == "bad signature"
    with pytest.raises(UnknownKeyIdError):
        tokens.verify(issuer.token(headers={"kid": "third"}))


def test_a_key_in_the_header_of_a_token_is_not_used(tokens: Tokens, issuer: Issuer) -> None:
    stranger = Issuer(issuer.key_id)
    forged = stranger.token(headers={"jwk": stranger.jwk, "jku": "https://evil.test/jwks", "x5c": ["AA"]})
    assert fault(tokens, forged) == "bad signature"


def test_a_token_without_a_key_id_requires_a_single_key_for_its_algorithm(issuer: Issuer) -> None:
    def token() -> str:
        payload = jwt.decode(issuer.token(), options={"verify_signature": False})
        return jwt.encode(payload, issuer.key, "ES256")

    assert tokens_of(issuer, Issuer("rsa", "RS256")).verify(token())
    with pytest.raises(UnknownKeyIdError):
        tokens_of(issuer, Issuer("second")).verify(token())


def test_an_rsa_token_cannot_use_an_algorithm_that_its_key_excludes() -> None:
    issuer = Issuer(algorithm="RS256")
    key_set = parse_key_set(json.dumps({"keys": [{**issuer.jwk, "alg": "PS256"}]}).encode())
    tokens = Tokens(ISSUER, AUDIENCE, "scope", lambda: key_set)
    with pytest.raises(UnknownKeyIdError):
        tokens.verify(issuer.token())


def test_without_a_key_set_tokens_cannot_be_verified(issuer: Issuer) -> None:
    with pytest.raises(AuthenticationUnavailableError):
        Tokens(ISSUER, AUDIENCE, "scope", lambda: None).verify(issuer.token())


def weak_rsa() -> dict[str, Any]:
    key = rsa.generate_private_key(65537, 1024)  # noqa: S505 - a weak key is what the test needs
    return dict(jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key(), as_dict=True))


def p384() -> dict[str, Any]:
    return dict(jwt.algorithms.ECAlgorithm.to_jwk(ec.generate_private_key(ec.SECP384R1()).public_key(), as_dict=True))


def private_jwk(issuer: Issuer) -> dict[str, Any]:
    return dict(jwt.algorithms.ECAlgorithm.to_jwk(issuer.key, as_dict=True))


@pytest.mark.parametrize(
    "unusable",
    [
        lambda _: {"kty": "oct", "k": base64.urlsafe_b64encode(b"x" * 32).decode(), "alg": "HS256", "kid": "a"},
        lambda _: weak_rsa(),
        lambda _: p384(),
        private_jwk,
        lambda issuer: {**issuer.jwk, "use": "enc"},
        lambda issuer: {**issuer.jwk, "key_ops": ["sign"]},
        lambda issuer: {**issuer.jwk, "key_ops": "verify"},
        lambda issuer: {**issuer.jwk, "alg": "ES384"},
        lambda issuer: {**issuer.jwk, "alg": ["ES256"]},
        lambda issuer: {**issuer.jwk, "kid": 7},
        lambda issuer: {**issuer.jwk, "x": "AAAA"},
        lambda issuer: {**issuer.jwk, "kty": "XX"},
        lambda issuer: {**issuer.jwk, "kty": ["EC"]},
        lambda _: 7,
        lambda _: None,
    ],
)
def test_an_unusable_key_is_skipped_and_the_others_are_used(issuer: Issuer, unusable: Any) -> None:
    member = unusable(issuer)
    with pytest.raises(InvalidKeySetError):
        parse_key_set(json.dumps({"keys": [member]}).encode())
    other = Issuer("other")
    assert [key.key_id for key in parse_key_set(json.dumps({"keys": [member, other.jwk]}).encode()).keys] == ["other"]


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"7", b'{"keys": {}}', b'{"keys": []}', b"\xff", b"[" * 100_000, b'{"keys": [{}]}']
)
def test_content_that_is_not_a_key_set_is_rejected(content: bytes) -> None:
    with pytest.raises(InvalidKeySetError):
        parse_key_set(content)
