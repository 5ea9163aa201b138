"""Sets up TLS and the authentication of callers, and reloads their files when the files change."""

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from userservice_server.config import Auth, Config, ConfigError, Tls
from userservice_server.config.secret_files import read_file
from userservice_server.config.watched_files import (
    JWKS_FILE,
    JWKS_URL,
    KEYS_FILE,
    TLS_CERTIFICATES,
    Contents,
    Watched,
    WatchedFiles,
)
from userservice_server.transport.credentials.authentication import Authentication
from userservice_server.transport.credentials.certificates import Certificates
from userservice_server.transport.credentials.jwks_url import JwksUrl
from userservice_server.transport.credentials.keys import Keys
from userservice_server.transport.credentials.keys_file import KeysFile, parse_keys_file, read_keys_file
from userservice_server.transport.credentials.tokens import InvalidKeySetError, KeySet, Tokens, parse_key_set
from userservice_server.transport.tls import ServerTls, parse_certificates, read_certificates

T = TypeVar("T")

_FIRST_KEYS_SECONDS = 2.0  # maximum wait of the start for the key set of the token issuer


def check_files(config: Config) -> None:
    """Checks the files of TLS and authentication, before the service starts its processes.

    Raises:
        ConfigError: a file cannot be used.
    """
    if config.tls.cert is not None:
        parse_certificates(read_certificates(config.tls), config.tls)
    if config.auth.keys_file is not None:
        parse_keys_file(read_keys_file(config.auth.keys_file), config.auth.keys_file)
    if config.auth.jwks_file is not None:
        _parse_jwks(_read_jwks(config.auth.jwks_file), config.auth.jwks_file)


class Callers:
    """TLS and authentication of a process. Must be created in the event loop of the process.

    Attributes:
        authentication: verifies credentials; None: callers are not authenticated.
        tls: the certificates; None: connections are not encrypted.

    Args:
        config: the settings.
        ready_changed: called only with a JWKS URL: with False at the start, with True when a fetch changes the key set.

    Raises:
        ConfigError: a file cannot be used.
    """

    def __init__(self, config: Config, ready_changed: Callable[[bool], object]) -> None:
        self._files = WatchedFiles()
        self._loop = asyncio.get_running_loop()
        self._ready_changed = ready_changed
        self._jwks: JwksUrl | None = None
        self._refreshing: asyncio.Task[None] | None = None
        self._file_keys: KeySet | None = None
        self.tls = self._make_tls(config.tls) if config.tls.cert is not None else None
        self.authentication = self._make_authentication(config.auth) if config.auth.kinds else None

    async def start(self) -> None:
        """Starts to watch the files and to refresh the key set; waits up to 2 s for the first key set."""
        self._files.start()
        if self._jwks is None:
            return
        self._ready_changed(False)  # noqa: FBT003 - its only parameter
        self._refreshing = asyncio.create_task(self._jwks.run())
        end = self._loop.time() + _FIRST_KEYS_SECONDS
        while self._jwks.key_set is None and self._loop.time() < end:  # noqa: ASYNC110 - bounded, once in a process
            await asyncio.sleep(0.02)

    def stop(self) -> None:
        """Stops watching the files and refreshing the key set."""
        self._files.stop()
        if self._refreshing is not None:
            self._refreshing.cancel()

    def reload_failures(self) -> Mapping[str, int]:
        """Returns how often files and the key set could not be loaded again, by their names in RELOADED."""
        return self._files.failures | {JWKS_URL: self._jwks.failures.total() if self._jwks else 0}

    def certificate_expiry(self) -> float | None:
        """Returns the Unix time at which the certificate of the service expires; None without TLS."""
        return self.tls.current.not_after if self.tls else None

    def _make_tls(self, tls: Tls) -> ServerTls:
        contents = read_certificates(tls)
        server_tls = ServerTls(
            parse_certificates(contents, tls), requires_client_certificates=tls.requires_certificates
        )
        self._files.add(
            Watched(
                TLS_CERTIFICATES,
                read=lambda: read_certificates(tls),
                parse=lambda contents: parse_certificates(contents, tls),
                use=server_tls.replace,
                in_use=contents,
            )
        )
        return server_tls

    def _make_authentication(self, auth: Auth) -> Authentication:
        entries = self._make_keys(auth.keys_file) if auth.keys_file is not None else None
        self._authentication = Authentication(
            keys=entries if "keys" in auth.kinds else None,
            tokens=self._make_tokens(auth) if "jwt" in auth.kinds else None,
            certificates=Certificates(entries) if entries and "mtls" in auth.kinds else None,
            entries=entries,
            refetch=self._jwks.refetch if self._jwks else None,
        )
        return self._authentication

    def _make_keys(self, path: Path) -> Keys:
        content = read_keys_file(path)
        keys = Keys(parse_keys_file(content, path))

        def use(parsed: KeysFile) -> None:
            keys.replace(parsed)
            self._authentication.forget()

        self._watch(
            KEYS_FILE,
            lambda: (read_keys_file(path),),
            lambda contents: parse_keys_file(contents[0], path),
            use,
            (content,),
        )
        return keys

    def _make_tokens(self, auth: Auth) -> Tokens:
        if auth.jwks_url is not None:
            self._jwks = JwksUrl(auth.jwks_url, self._jwks_changed)
        elif auth.jwks_file is not None:
            self._watch_jwks(auth.jwks_file)
        return Tokens(auth.jwt_issuer or "", auth.jwt_audience or "", auth.jwt_scope_claim, self._key_set)

    def _key_set(self) -> KeySet | None:
        return self._jwks.key_set if self._jwks is not None else self._file_keys

    def _jwks_changed(self) -> None:
        self._authentication.forget()
        self._ready_changed(True)  # noqa: FBT003 - its only parameter

    def _watch_jwks(self, path: Path) -> None:
        content = _read_jwks(path)
        self._file_keys = _parse_jwks(content, path)

        def use(key_set: KeySet) -> None:
            self._file_keys = key_set
            self._authentication.forget()

        self._watch(
            JWKS_FILE, lambda: (_read_jwks(path),), lambda contents: _parse_jwks(contents[0], path), use, (content,)
        )

    def _watch(
        self,
        name: str,
        read: Callable[[], Contents],
        parse: Callable[[Contents], T],
        use: Callable[[T], None],
        in_use: Contents,
    ) -> None:
        """Watches files and applies their changes in the event loop.

        If another thread applied a change, it could do so while a call verifies a credential with the old content. The
        call would then add the credential to the cache after the change emptied the cache.
        """
        self._files.add(
            Watched(name, read, parse, lambda value: self._loop.call_soon_threadsafe(use, value), in_use=in_use)
        )


def _read_jwks(path: Path) -> bytes:
    return read_file(path, "--jwt-jwks", is_secret=False)


def _parse_jwks(content: bytes, path: Path) -> KeySet:
    try:
        return parse_key_set(content)
    except InvalidKeySetError as error:
        raise ConfigError(f"--jwt-jwks {path} {error}") from None
