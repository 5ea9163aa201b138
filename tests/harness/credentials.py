"""Certificates, keys and tokens for tests, made as operators and issuers make them."""

import base64
import json
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import grpc
import jwt
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from userservice_server.cli.keys import keys_command

ISSUER, AUDIENCE = "https://issuer.test", "userservice"
DAY = timedelta(days=1)

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


@dataclass(frozen=True)
class Identity:
    """A certificate with its key, and the certificates between it and its root."""

    certificate: x509.Certificate
    key: PrivateKey
    chain: tuple[x509.Certificate, ...] = ()

    @property
    def cert_pem(self) -> bytes:
        return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in (self.certificate, *self.chain))

    @property
    def key_pem(self) -> bytes:
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def private_key(kind: str = "ecdsa") -> PrivateKey:
    return rsa.generate_private_key(65537, 2048) if kind == "rsa" else ec.generate_private_key(ec.SECP256R1())


def authority(name: str = "root", issuer: Identity | None = None) -> Identity:
    return _issued(name, [], issuer, is_authority=True)


def issued(
    issuer: Identity,
    names: Sequence[str] = ("localhost", "127.0.0.1"),
    *,
    kind: str = "ecdsa",
    key: PrivateKey | None = None,
    starts: timedelta = -DAY,
    ends: timedelta = 90 * DAY,
) -> Identity:
    """Issues a certificate for DNS names, IP addresses and URIs."""
    return _issued("leaf", names, issuer, key=key or private_key(kind), starts=starts, ends=ends)


def _general_name(name: str) -> x509.GeneralName:
    if "://" in name:
        return x509.UniformResourceIdentifier(name)
    return x509.IPAddress(ip_address(name)) if name[0].isdigit() else x509.DNSName(name)


def _key_usage(*, is_authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=not is_authority,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=is_authority,
        crl_sign=is_authority,
        encipher_only=False,
        decipher_only=False,
    )


def _issued(
    name: str,
    names: Sequence[str],
    issuer: Identity | None,
    *,
    key: PrivateKey | None = None,
    is_authority: bool = False,
    starts: timedelta = -DAY,
    ends: timedelta = 90 * DAY,
) -> Identity:
    """Issues a certificate with the extensions of RFC 5280 that Python 3.13 and later require (VERIFY_X509_STRICT)."""
    key, now = key or private_key(), datetime.now(UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + starts)
        .not_valid_after(now + ends)
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        .add_extension(_key_usage(is_authority=is_authority), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key((issuer.key if issuer else key).public_key()),
            critical=False,
        )
    )
    if names:
        builder = builder.add_extension(
            x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False
        )
    certificate = builder.sign(issuer.key if issuer else key, hashes.SHA256())
    is_under_root = issuer is not None and issuer.certificate.subject != issuer.certificate.issuer
    chain = (issuer.certificate, *issuer.chain) if issuer and is_under_root else ()
    return Identity(certificate, key, chain)


@dataclass(frozen=True)
class TlsFiles:
    """The files of a server."""

    folder: Path

    @property
    def arguments(self) -> list[str | Path]:
        return ["--tls-cert", self.folder / "tls.crt", "--tls-key", self.folder / "tls.key"]

    def write(self, identity: Identity) -> "TlsFiles":
        private(self.folder / "tls.crt", identity.cert_pem)
        private(self.folder / "tls.key", identity.key_pem)
        return self


def private(path: Path, content: bytes | str, mode: int = 0o600) -> Path:
    """Writes a file in one step, as an operator's tool should."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_bytes(content.encode() if isinstance(content, str) else content)
    temporary.chmod(mode)
    temporary.replace(path)
    return path


def channel_credentials(root: Identity, client: Identity | None = None) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(
        root.certificate.public_bytes(Encoding.PEM),
        client.key_pem if client else None,
        client.cert_pem if client else None,
    )


def new_key(path: Path, scopes: str = "*", *options: str) -> str:
    """Makes a key with the real command, without its process."""
    command = ["new", "--keys-file", str(path), "--name", "test", "--scopes", scopes, *options]
    result = CliRunner().invoke(keys_command, command, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    path.chmod(0o600)
    return result.stdout.strip()


def key_id(key: str) -> str:
    return key.split("_")[1]


def set_field(path: Path, key: str, line: str) -> None:
    """Adds a line to the entry of a key."""
    header = f"[keys.{key_id(key)}]\n"
    text = path.read_text()
    assert header in text
    private(path, text.replace(header, f"{header}{line}\n"))


def revoke(path: Path, key: str) -> None:
    result = CliRunner().invoke(keys_command, ["revoke", "--keys-file", str(path), key_id(key)], catch_exceptions=False)
    assert result.exit_code == 0, result.output


class Issuer:
    """An issuer of tokens with one signing key."""

    def __init__(self, key_id: str = "first", algorithm: str = "ES256") -> None:
        self.key_id = key_id
        self.algorithm = algorithm
        if algorithm == "EdDSA":
            self.key: Any = ed25519.Ed25519PrivateKey.generate()
        else:
            self.key = private_key("ecdsa" if algorithm == "ES256" else "rsa")

    @property
    def jwk(self) -> dict[str, Any]:
        kind = {"ES256": "ec", "EdDSA": "okp"}.get(self.algorithm, "rsa")
        algorithms: dict[str, Any] = {"ec": jwt.algorithms.ECAlgorithm, "okp": jwt.algorithms.OKPAlgorithm}
        found: dict[str, Any] = algorithms.get(kind, jwt.algorithms.RSAAlgorithm).to_jwk(
            self.key.public_key(), as_dict=True
        )
        return {**found, "kid": self.key_id, "use": "sig"}

    def token(self, scope: object = "*", *, headers: dict[str, Any] | None = None, **claims: Any) -> str:
        now = int(time.time())
        payload = {"iss": ISSUER, "aud": AUDIENCE, "sub": "job-7", "iat": now, "exp": now + 600, "scope": scope}
        payload = {name: value for name, value in {**payload, **claims}.items() if value is not None}
        # Not jwt.encode, which refuses some of the wrong claims that tests need.
        content, header = json.dumps(payload).encode(), {"kid": self.key_id, **(headers or {})}
        return jwt.PyJWS().encode(content, self.key, self.algorithm, header)


def jwks(*issuers: Issuer) -> bytes:
    return json.dumps({"keys": [issuer.jwk for issuer in issuers]}).encode()


def jwt_arguments(source: str | Path) -> list[str | Path]:
    return ["--jwt-issuer", ISSUER, "--jwt-audience", AUDIENCE, "--jwt-jwks", source]


def bearer(credential: str | None) -> list[tuple[str, str]]:
    return [] if credential is None else [("authorization", f"Bearer {credential}")]


def segment(value: object) -> str:
    """Encodes a part of a token by hand."""
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(text).decode().rstrip("=")


SECRET = re.compile(r"usk_[0-9A-Za-z]+_[0-9A-Za-z]{10,}|eyJ[\w-]{10,}\.")
