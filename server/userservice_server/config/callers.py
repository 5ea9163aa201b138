"""The settings for TLS and for the authentication of callers."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from userservice_server.config.error import ConfigError

_FLAG = "flag"
_METHODS = ("none", "keys", "jwt", "mtls")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


@dataclass(frozen=True, slots=True)
class Auth:
    """The settings for the authentication of callers.

    Attributes:
        auth: the accepted kinds of credentials, separated by commas; None: not set.
        keys_file: file with keys and certificates.
        jwt_issuer: issuer of tokens.
        jwt_audience: audience of tokens.
        jwt_jwks: file or URL of the issuer's key set.
        jwt_scope_claim: name of the claim with the scopes.
    """

    auth: str | None = None
    keys_file: Path | None = None
    jwt_issuer: str | None = None
    jwt_audience: str | None = None
    jwt_jwks: str | None = None
    jwt_scope_claim: str = "scope"

    def __post_init__(self) -> None:
        """Checks that the settings are complete, and that each has an effect.

        A setting without an effect, such as --keys-file without --auth keys, would give a false sense of security.
        """
        names = self.auth.split(",") if self.auth is not None else ["none"]
        if not set(names) <= set(_METHODS) or len(set(names)) < len(names):
            raise ConfigError(f"--auth must name each of {', '.join(_METHODS)} at most once, separated by commas")
        if "none" in names and len(names) > 1:
            raise ConfigError("--auth none excludes other kinds of authentication")
        self._check_keys_file()
        self._check_jwt()

    @property
    def kinds(self) -> frozenset[str]:
        """The accepted kinds of credentials: ``keys``, ``jwt``, ``mtls``; empty if callers are not authenticated."""
        return frozenset((self.auth or "none").split(",")) - {"none"}

    def _check_keys_file(self) -> None:
        users = self.kinds & {"keys", "mtls"}
        if users and self.keys_file is None:
            raise ConfigError(f"--auth {','.join(sorted(users))} requires --keys-file")
        if self.keys_file is not None and not users:
            raise ConfigError("--keys-file requires --auth keys or mtls")

    def _check_jwt(self) -> None:
        needed = {
            "--jwt-issuer": self.jwt_issuer,
            "--jwt-audience": self.jwt_audience,
            "--jwt-jwks": self.jwt_jwks,
        }
        if "jwt" not in self.kinds:
            if given := [flag for flag, value in needed.items() if value is not None]:
                raise ConfigError(f"{given[0]} requires --auth jwt")
            return
        if missing := [flag for flag, value in needed.items() if not value]:
            raise ConfigError(f"--auth jwt requires {' and '.join(missing)}")
        if not self.jwt_scope_claim:
            raise ConfigError("--jwt-scope-claim must be the name of a claim")
        if self.jwks_url is not None:
            _check_jwks_url(self.jwks_url)

    @property
    def jwks_url(self) -> str | None:
        """The URL of the issuer's key set; None if --jwt-jwks is a file or not set."""
        return self.jwt_jwks if self.jwt_jwks and _SCHEME.match(self.jwt_jwks) else None

    @property
    def jwks_file(self) -> Path | None:
        """The file with the issuer's key set; None if --jwt-jwks is a URL or not set."""
        return Path(self.jwt_jwks) if self.jwt_jwks and self.jwks_url is None else None


def _check_jwks_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        is_url = bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_url = False
    if not is_url or parts.scheme != "https":
        raise ConfigError("--jwt-jwks must be a file or an https URL; without TLS, an attacker can replace the keys")
    if parts.username is not None or parts.password is not None:
        raise ConfigError("--jwt-jwks must not contain a user or a password")


@dataclass(frozen=True, slots=True)
class Tls:
    """The files for TLS, and whether connections need a client certificate.

    Attributes:
        cert: file with the certificate of the service, followed by its chain.
        key: file with the private key of that certificate.
        client_ca: file with the certificate authorities of client certificates.
        client_auth: ``require`` if each connection needs a client certificate, else ``none``.
    """

    cert: Path | None = field(default=None, metadata={_FLAG: "tls_cert"})
    key: Path | None = field(default=None, metadata={_FLAG: "tls_key"})
    client_ca: Path | None = field(default=None, metadata={_FLAG: "tls_client_ca"})
    client_auth: str = field(default="none", metadata={_FLAG: "tls_client_auth"})

    def __post_init__(self) -> None:
        """Checks that no setting lacks another one that it needs."""
        if (self.cert is None) != (self.key is None):
            raise ConfigError("--tls-cert and --tls-key must be set together")
        if self.cert is None and (self.client_ca is not None or self.requires_certificates):
            raise ConfigError("--tls-client-ca and --tls-client-auth require --tls-cert and --tls-key")
        if (self.client_ca is not None) != self.requires_certificates:
            raise ConfigError("--tls-client-ca and --tls-client-auth=require must be set together")

    @property
    def requires_certificates(self) -> bool:
        """Whether every connection needs a client certificate."""
        return self.client_auth == "require"
