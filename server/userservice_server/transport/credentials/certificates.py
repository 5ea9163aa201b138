"""Identifies callers by their client certificates. grpc verifies the certificate chain during the TLS handshake."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cryptography import x509

from userservice_server.errors import CredentialsInvalidError, CredentialsMissingError
from userservice_server.transport.credentials.caller import Caller
from userservice_server.transport.credentials.keys import Keys

_PEM = "x509_pem_cert"
_MAX_KNOWN = 1000  # parsed certificates; each connection has one


@dataclass(frozen=True, slots=True)
class _Names:
    names: frozenset[str]
    not_before: float
    not_after: float


class Certificates:
    """Maps client certificates to callers, by the entries of the keys file."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._known: dict[bytes, _Names] = {}

    def verify(self, auth_context: Mapping[str, Iterable[bytes]], now: float) -> Caller:
        """Returns the caller that the client certificate of a connection identifies.

        Raises:
            CredentialsMissingError: the connection has no certificate.
            CredentialsInvalidError: the certificate cannot be parsed, is not valid now, or is not mapped to exactly one
                entry that is valid now.
        """
        pem = next(iter(auth_context.get(_PEM, ())), None)
        if pem is None:
            raise CredentialsMissingError("no credential: send a bearer token, or use a client certificate")
        names = self._known.get(pem) or self._parsed(pem)
        if not names.not_before <= now < names.not_after:
            raise CredentialsInvalidError("expired certificate")
        caller = self._keys.verify_names(names.names)
        caller.expires_at = min(caller.expires_at, names.not_after)
        return caller

    def _parsed(self, pem: bytes) -> _Names:
        try:
            certificate = x509.load_pem_x509_certificate(pem)
            names = _Names(
                names=_names_in(certificate),
                not_before=certificate.not_valid_before_utc.timestamp(),
                not_after=certificate.not_valid_after_utc.timestamp(),
            )
        except Exception as error:
            raise CredentialsInvalidError("unreadable certificate") from error
        while len(self._known) >= _MAX_KNOWN:
            del self._known[next(iter(self._known))]
        self._known[pem] = names
        return names


def _names_in(certificate: x509.Certificate) -> frozenset[str]:
    """Returns the URIs (SPIFFE ids) and DNS names of a certificate. The common name is ignored (RFC 9525).

    DNS names with a colon and URIs without a colon are ignored, so that a DNS name cannot be mistaken for a URI, or a
    URI for a DNS name.
    """
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return frozenset()
    uris = extension.get_values_for_type(x509.UniformResourceIdentifier)
    dns_names = extension.get_values_for_type(x509.DNSName)
    return frozenset((*(uri for uri in uris if ":" in uri), *(name for name in dns_names if ":" not in name)))
