"""Checks the certificate files of the service and provides the certificates to grpc at each handshake."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from userservice_server.config import ConfigError, Tls
from userservice_server.config.secret_files import read_file
from userservice_server.config.watched_files import Contents

_DAY_SECONDS = 86400
_WARN_DAYS = 14
_MIN_RSA_BITS = 2048
# With a key on another curve, grpc continues to use the previous certificate, or all handshakes fail.
_CURVES = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)

logger = logging.getLogger("userservice.tls")


@dataclass(frozen=True, slots=True)
class Certificates:
    """A checked certificate with its chain, private key and client authorities.

    Attributes:
        configuration: the contents of the files, in the form that grpc requires.
        not_after: Unix time at which the certificate of the service expires.
    """

    configuration: Any
    not_after: float

    @property
    def days_left(self) -> float:
        """Days until the certificate of the service expires."""
        return (self.not_after - time.time()) / _DAY_SECONDS


def read_certificates(tls: Tls) -> Contents:
    """Reads the files of certificates, private key and client authorities.

    Raises:
        ConfigError: a file cannot be read, or its owner or mode is not safe.
    """
    if tls.cert is None or tls.key is None:
        raise AssertionError("the service has no certificate")
    contents = [
        read_file(tls.cert, "--tls-cert", is_secret=False),
        read_file(tls.key, "--tls-key", is_secret=True),
    ]
    if tls.client_ca is not None:
        contents.append(read_file(tls.client_ca, "--tls-client-ca", is_secret=False))
    return tuple(contents)


def parse_certificates(contents: Contents, tls: Tls) -> Certificates:
    """Checks the contents of the files.

    Raises:
        ConfigError: a file is not valid, the key does not belong to the certificate, the certificate is not valid now,
            or all authorities are expired.
    """
    chain, key, *authorities = contents
    leaf = _certificates_in(chain, f"--tls-cert {tls.cert}")[0]
    if _public(_key_in(key, f"--tls-key {tls.key}").public_key()) != _public(leaf.public_key()):
        raise ConfigError(f"--tls-key {tls.key} is not the key of the first certificate in --tls-cert {tls.cert}")
    _check_dates(leaf, f"--tls-cert {tls.cert}")
    for content in authorities:
        _check_authorities(content, f"--tls-client-ca {tls.client_ca}")
    return Certificates(
        configuration=grpc.ssl_server_certificate_configuration(
            [(key, chain)], root_certificates=authorities[0] if authorities else None
        ),
        not_after=leaf.not_valid_after_utc.timestamp(),
    )


def _certificates_in(content: bytes, name: str) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(content)
    except ValueError:
        raise ConfigError(f"{name} must contain certificates in PEM form") from None


def _key_in(content: bytes, name: str) -> rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey:
    try:
        key = load_pem_private_key(content, password=None)
    except TypeError:
        raise ConfigError(f"{name} is encrypted; use a private key without a password") from None
    except Exception:  # noqa: BLE001 - the library raises several types; their texts may contain parts of the key
        raise ConfigError(f"{name} must contain one private key in PEM form") from None
    if isinstance(key, rsa.RSAPrivateKey) and key.key_size >= _MIN_RSA_BITS:
        return key
    if isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, _CURVES):
        return key
    raise ConfigError(f"{name} must be an RSA key of at least {_MIN_RSA_BITS} bits, or ECDSA P-256, P-384 or P-521")


def _public(key: Any) -> bytes:
    encoded: bytes = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return encoded


def _check_dates(certificate: x509.Certificate, name: str) -> None:
    now = datetime.now(UTC)
    if now >= certificate.not_valid_after_utc:
        raise ConfigError(f"{name} expired on {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC")
    if now < certificate.not_valid_before_utc:
        raise ConfigError(f"{name} is not valid before {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC")


def _check_authorities(content: bytes, name: str) -> None:
    now = datetime.now(UTC)
    if all(now >= certificate.not_valid_after_utc for certificate in _certificates_in(content, name)):
        raise ConfigError(f"{name} contains only expired certificates")


class ServerTls:
    """The TLS certificates of new connections.

    Attributes:
        current: replaced when the files change. A connection keeps the certificates of its handshake.
    """

    def __init__(self, current: Certificates, *, requires_client_certificates: bool) -> None:
        self.current = current
        self._requires_clients = requires_client_certificates
        _log(current)

    def replace(self, certificates: Certificates) -> None:
        """Sets the certificates of new connections."""
        self.current = certificates
        _log(certificates)

    def credentials(self) -> grpc.ServerCredentials:
        """Returns the credentials of a port. grpc asks for changed certificates at each handshake."""
        return grpc.dynamic_ssl_server_credentials(
            self.current.configuration,
            self._fetcher(),
            require_client_authentication=self._requires_clients,
        )

    def _fetcher(self) -> Callable[[], Any]:
        handed_out = self.current

        def fetch() -> Any:
            """Returns changed certificates, else None. Threads of grpc call this function, so it must not block."""
            nonlocal handed_out
            if handed_out is self.current:
                return None
            handed_out = self.current
            return handed_out.configuration

        return fetch


def _log(certificates: Certificates) -> None:
    days = round(certificates.days_left, 1)
    expires = datetime.fromtimestamp(certificates.not_after, UTC).isoformat()
    logger.log(
        logging.WARNING if days < _WARN_DAYS else logging.INFO,
        "TLS certificate in use",
        extra={"expires": expires, "days_left": days},
    )
