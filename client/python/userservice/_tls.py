"""The TLS settings of a manager: certificates and keys from files or from memory."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

import grpc

PemSource = str | os.PathLike[str] | bytes
"""The path of a file in PEM form, or its content. A string that contains `-----BEGIN` is the content."""

_BEGIN = "-----BEGIN"
_LIKE_CONTENT = re.compile(r"[A-Za-z0-9+/=\s]{120,}")  # base64, such as that of a private key
_CERTIFICATE = b"-----BEGIN CERTIFICATE-----"
_PRIVATE_KEY = b"PRIVATE KEY-----"


class TlsSettings:
    """Loads the credentials of encrypted channels. Loads them again when a file has changed.

    Args:
        ca: Certificates of trusted authorities; None for those of gRPC.
        cert: The certificate chain of the client; needs `key`.
        key: The private key of the client; needs `cert`.

    Raises:
        TypeError: If a setting is not a path or bytes.
        ValueError: If a file cannot be read or is not in PEM form, if only one of `cert` and `key` is given, or if the
            key does not belong to the certificate. The message does not contain the private key.
    """

    def __init__(self, ca: PemSource | None, cert: PemSource | None, key: PemSource | None) -> None:
        if cert is not None and key is None:
            raise ValueError("cert needs key: the private key of the client certificate")
        if key is not None and cert is None:
            raise ValueError("key needs cert: the certificate chain of the client")
        self._ca = _Pem("ca", ca, _CERTIFICATE)
        self._cert = _Pem("cert", cert, _CERTIFICATE)
        self._key = _Pem("key", key, _PRIVATE_KEY)
        self._pems = (self._ca, self._cert, self._key)
        # Files are read now, so that an error is raised early, and again for the first channel.
        self._loaded = self._read()

    def load(self) -> grpc.ChannelCredentials:
        """Returns credentials with the current content of the files; if it is invalid, with the last valid content."""
        self.has_changed()
        ca, cert, key = (content or None for content in self._loaded)
        return grpc.ssl_channel_credentials(ca, key, cert)

    def has_changed(self) -> bool:
        """Returns whether the files have new, valid content since the last call of `load` or `has_changed`."""
        last = self._loaded
        with suppress(ValueError):
            self._loaded = self._read()
        return self._loaded != last

    def _read(self) -> tuple[bytes, ...]:
        contents = tuple(pem.read() for pem in self._pems)
        self._check_pair()
        return contents

    def _check_pair(self) -> None:
        # gRPC accepts a key that does not belong to the certificate, and every connection then fails. While the two
        # files are being replaced, they may not belong together.
        if self._cert.path is None or self._key.path is None:
            return
        import ssl  # noqa: PLC0415 - the import takes 10 ms, and most programs do not need it

        try:
            # The password prevents OpenSSL from asking for one on the terminal.
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(self._cert.path, self._key.path, password="")
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            raise ValueError(
                f"cannot use cert {self._cert.path} with key {self._key.path}: "
                f"{getattr(error, 'reason', None) or 'the files are not valid'}"
            ) from None

    def __bool__(self) -> bool:
        return any(pem.is_set for pem in self._pems)

    @property
    def can_change(self) -> bool:
        """Whether a setting is a file."""
        return any(pem.path is not None for pem in self._pems)


class _Pem:
    def __init__(self, name: str, source: PemSource | None, marker: bytes) -> None:
        self._name, self._marker = name, marker
        self.path: Path | None = None
        self._content = b""
        if isinstance(source, bytes):
            self._content = source
        elif isinstance(source, str) and _BEGIN in source:
            self._content = source.encode()
        elif isinstance(source, (str, os.PathLike)):
            self.path = Path(source)
        elif source is not None:
            raise TypeError(f"{name} must be a path or bytes in PEM form, not {type(source).__name__}")
        self.is_set = source is not None

    def read(self) -> bytes:
        if not self.is_set:
            return b""
        content, source = self._content, self._name
        if self.path is not None:
            source = f"{self._name} {self.path}"
            try:
                content = self.path.read_bytes()
            except OSError as error:
                if _LIKE_CONTENT.fullmatch(str(self.path)):
                    source = f"{self._name}: its content needs the line -----BEGIN; as a path"
                raise ValueError(f"cannot read {source}: {error.strerror}") from None
        if self._marker not in content:
            kind = "private key" if self._marker == _PRIVATE_KEY else "certificate"
            raise ValueError(f"{source} contains no {kind} in PEM form")
        return content
