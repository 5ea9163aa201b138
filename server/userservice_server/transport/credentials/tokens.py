"""Verifies JWTs of one issuer. PyJWT decodes the tokens; this module defines the accepted algorithms and keys."""

import hashlib
import json
import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from userservice_server.errors import AuthenticationUnavailableError, CredentialsInvalidError
from userservice_server.transport.credentials.caller import Caller, UnknownKeyIdError
from userservice_server.transport.credentials.scopes import granted

ALGORITHMS = ("RS256", "PS256", "ES256", "EdDSA")
LEEWAY_SECONDS = 30
_MIN_RSA_BITS = 2048
_MAX_KEYS = 1000
_MAX_SUBJECT_LENGTH = 256
_COMPACT = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+", re.ASCII)
_SURROGATES = re.compile("[\ud800-\udfff]")
_PRIVATE = frozenset(("d", "p", "q", "k"))

PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey


class InvalidKeySetError(Exception):
    """The content is not a JWKS, or has no usable key. The error text contains nothing of the content."""


@dataclass(frozen=True, slots=True)
class VerificationKey:
    """A public key of the issuer.

    Attributes:
        key_id: the ``kid`` of the key; empty if there is none.
        algorithms: the algorithms for which the key may be used.
        key: the public key.
        thumbprint: digest that identifies the key by its content.
    """

    key_id: str
    algorithms: frozenset[str]
    key: PublicKey
    thumbprint: str


@dataclass(frozen=True, slots=True)
class KeySet:
    """The usable keys of a JWKS (RFC 7517)."""

    keys: tuple[VerificationKey, ...]

    def key_for(self, key_id: str | None, algorithm: str) -> VerificationKey | None:
        """Returns the key with an id that supports an algorithm; None if there is no such key.

        For a token without a key id, returns the key that supports the algorithm if there is exactly one.
        """
        usable = [key for key in self.keys if algorithm in key.algorithms]
        if key_id is None:
            return usable[0] if len(usable) == 1 else None
        return next((key for key in usable if key.key_id == key_id), None)

    @property
    def thumbprints(self) -> frozenset[str]:
        """The thumbprints of all keys."""
        return frozenset(key.thumbprint for key in self.keys)


def parse_key_set(content: bytes) -> KeySet:
    """Parses a JWKS; skips keys that cannot verify signatures with an accepted algorithm.

    Raises:
        InvalidKeySetError: the content is not a JWKS, or contains no usable key.
    """
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        raise InvalidKeySetError("is not JSON") from None
    members = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(members, list) or len(members) > _MAX_KEYS:
        raise InvalidKeySetError(f"is not a JWKS with a list of at most {_MAX_KEYS} keys")
    keys = tuple(key for member in members if (key := _verification_key(member)) is not None)
    if not keys:
        raise InvalidKeySetError(f"has no public key for {', '.join(ALGORITHMS)}")
    return KeySet(keys)


def _verification_key(member: Any) -> VerificationKey | None:
    if not isinstance(member, dict) or member.keys() & _PRIVATE:  # a symmetric or private key
        return None
    operations = member.get("key_ops", ["verify"])
    if member.get("use", "sig") != "sig" or not isinstance(operations, list) or "verify" not in operations:
        return None
    key_id = member.get("kid", "")
    try:
        # An algorithm of the key's type. Without this argument, PyJWT guesses one, or fails at an unsupported "alg".
        key: Any = jwt.PyJWK(member, algorithm=_ALGORITHM_OF_TYPE.get(member.get("kty", ""))).key
        algorithms = _algorithms_of(key)
        if (named := member.get("alg")) is not None:
            algorithms = algorithms & {named}
        if not algorithms or not isinstance(key_id, str):
            return None
        encoded = json.dumps([member.get(name) for name in ("kty", "crv", "n", "e", "x", "y")]).encode()
    except Exception:  # noqa: BLE001 - every exception means that the key is not usable
        return None
    return VerificationKey(key_id, algorithms, key, hashlib.sha256(encoded).hexdigest())


_ALGORITHM_OF_TYPE = {"RSA": "RS256", "EC": "ES256", "OKP": "EdDSA"}


def _algorithms_of(key: Any) -> frozenset[str]:
    match key:
        case rsa.RSAPublicKey() if key.key_size >= _MIN_RSA_BITS:
            return frozenset(("RS256", "PS256"))
        case ec.EllipticCurvePublicKey() if isinstance(key.curve, ec.SECP256R1):
            return frozenset(("ES256",))
        case ed25519.Ed25519PublicKey():
            return frozenset(("EdDSA",))
        case _:
            return frozenset()


class Tokens:
    """Verifies the tokens of an issuer.

    Args:
        issuer: required value of ``iss``.
        audience: required value of ``aud``, or of one of its members.
        scope_claim: name of the claim with the scopes: a string with spaces, or a list.
        key_set: returns the key set in use; None before the first fetch succeeds.
    """

    def __init__(self, issuer: str, audience: str, scope_claim: str, key_set: Callable[[], KeySet | None]) -> None:
        self._issuer = issuer
        self._audience = audience
        self._scope_claim = scope_claim
        self._key_set = key_set

    def verify(self, token: str) -> Caller:
        """Returns the caller that a token identifies.

        Raises:
            CredentialsInvalidError: the token is not valid.
            UnknownKeyIdError: the key set does not contain the signing key of the token.
            AuthenticationUnavailableError: there is no key set yet.
        """
        key_set = self._key_set()
        if key_set is None:
            raise AuthenticationUnavailableError("the keys of the token issuer are not available yet; retry later")
        algorithm, key_id = _header(token)
        key = key_set.key_for(key_id, algorithm)
        if key is None:
            raise UnknownKeyIdError
        claims = self._claims(token, key, algorithm)
        expires_at, subject = claims["exp"], claims.get("sub", "")
        return Caller(
            kind="jwt",
            name=subject[:_MAX_SUBJECT_LENGTH],
            scopes=self._scopes(claims),
            expires_at=expires_at + LEEWAY_SECONDS,
            verified_by=key.thumbprint,
        )

    def _claims(self, token: str, key: VerificationKey, algorithm: str) -> dict[str, Any]:
        try:
            claims = jwt.decode(
                token,
                key.key,
                algorithms=[algorithm],
                audience=self._audience,
                issuer=self._issuer,
                leeway=LEEWAY_SECONDS,
                options={"require": ["exp", "iss", "aud"]},
            )
        except Exception as error:  # noqa: BLE001 - every exception means that the token is not valid
            raise CredentialsInvalidError(_CAUSES.get(type(error), "malformed token")) from None
        if not _is_time(claims["exp"]) or not _is_text(claims.get("sub", "")):
            raise CredentialsInvalidError("malformed token")
        return claims

    def _scopes(self, claims: dict[str, Any]) -> frozenset[str]:
        value = claims.get(self._scope_claim, "")
        names = value.split() if isinstance(value, str) else value
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise CredentialsInvalidError("malformed token")
        return granted(names)

    def fault_of(self, caller: Caller) -> str:
        """Returns why a token that was verified earlier is no longer valid; empty if the token is valid."""
        if time.time() >= caller.expires_at:
            return "expired token"
        key_set = self._key_set()
        return "" if key_set and caller.verified_by in key_set.thumbprints else "signing key removed"


_CAUSES = {
    jwt.ExpiredSignatureError: "expired token",
    jwt.ImmatureSignatureError: "token not yet valid",
    jwt.InvalidIssuedAtError: "token not yet valid",
    jwt.InvalidIssuerError: "wrong issuer",
    jwt.InvalidAudienceError: "wrong audience",
    jwt.InvalidSignatureError: "bad signature",
    jwt.MissingRequiredClaimError: "missing claim",
}


def _header(token: str) -> tuple[str, str | None]:
    """Returns the algorithm and key id of a token, before its signature is verified."""
    if not _COMPACT.fullmatch(token):  # older versions of PyJWT ignore other characters
        raise CredentialsInvalidError("malformed token")
    try:
        header = jwt.get_unverified_header(token)
    except Exception:  # noqa: BLE001 - every exception means that the token is not valid
        raise CredentialsInvalidError("malformed token") from None
    algorithm, key_id = header.get("alg"), header.get("kid")
    if algorithm not in ALGORITHMS:
        raise CredentialsInvalidError("algorithm not accepted")
    if "crit" in header or "b64" in header:  # extensions that this service does not support (RFC 7515)
        raise CredentialsInvalidError("unknown extension")
    return algorithm, key_id


def _is_time(value: Any) -> bool:
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # an integer beyond the range of a float
        return False


def _is_text(value: Any) -> bool:
    """Returns whether a value is a string that can be encoded: JSON can contain half of a surrogate pair."""
    return isinstance(value, str) and not _SURROGATES.search(value)
