"""Authenticates calls by the header ``authorization`` or the client certificate of the connection."""

import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from userservice_server.errors import CredentialsInvalidError, CredentialsMissingError, ScopeMissingError
from userservice_server.transport.call import Call
from userservice_server.transport.credentials.caller import Caller, UnknownKeyIdError
from userservice_server.transport.credentials.keys import Keys
from userservice_server.transport.credentials.open_streams import OpenStream, OpenStreams

if TYPE_CHECKING:  # the libraries for certificates and tokens take a fifth of a second to import
    from userservice_server.transport.credentials.certificates import Certificates
    from userservice_server.transport.credentials.tokens import Tokens

CREDENTIAL_KEY = "authorization"
_SCHEME = "bearer "
_MAX_CACHED = 10_000  # credentials
_MAX_CACHED_LENGTH = 4096  # characters; longer credentials are verified for each call


class Authentication:
    """Verifies credentials of the kinds that ``--auth`` names.

    Verified credentials are cached in a dictionary by their text. Python keys the hashes of strings with a random
    secret (unless PYTHONHASHSEED is set), so a caller cannot construct a different text with the same hash. The time of
    a look-up therefore reveals nothing about the cached credentials.

    Args:
        keys: verifies keys; None if keys are not accepted.
        tokens: verifies JWTs; None if they are not accepted.
        certificates: verifies client certificates; None if they are not accepted.
        entries: the entries of the keys file; None if there is no keys file.
        refetch: refreshes the key set of the token issuer; returns whether to look up the signing key again.
    """

    def __init__(
        self,
        *,
        keys: Keys | None = None,
        tokens: "Tokens | None" = None,
        certificates: "Certificates | None" = None,
        entries: Keys | None = None,
        refetch: Callable[[], Awaitable[bool]] | None = None,
    ) -> None:
        self._keys = keys
        self._tokens = tokens
        self._certificates = certificates
        self._entries = entries
        self._refetch = refetch
        self._cache: dict[str | bytes, Caller] = {}
        self._open_streams = OpenStreams(self._fault_of)

    def forget(self) -> None:
        """Empties the cache after a change of the keys file or key set, so that each credential is verified again."""
        self._cache.clear()

    async def caller_of(self, call: Call) -> Caller:
        """Returns the caller of a call, and adds the kind of credential and the caller's name to the access log.

        Raises:
            CredentialsMissingError: the call has no credential.
            CredentialsInvalidError: the credential is not valid.
            AuthenticationUnavailableError: the credential cannot be verified now.
        """
        if (known := self.known_caller_of(call)) is not None:
            return known
        value = call.credential
        try:
            caller = await self._verified(value) if value is not None else self._certified(call)
        except CredentialsInvalidError as error:
            call.log_fields["credential_fault"] = error.cause
            raise
        _name_in_log(call, caller)
        return caller

    def known_caller_of(self, call: Call) -> Caller | None:
        """Returns the caller if the credential is in the cache, else None; takes less time than ``caller_of``."""
        value = call.credential
        caller = self._cache.get(value) if value is not None else None
        if caller is None or caller.expires_at <= time.time():
            return None
        _name_in_log(call, caller)
        return caller

    async def _verified(self, value: str | bytes) -> Caller:
        self._cache.pop(value, None)  # if the credential is still cached, it has expired
        if not isinstance(value, str) or value[: len(_SCHEME)].lower() != _SCHEME:
            raise CredentialsInvalidError("no bearer token")
        token = value[len(_SCHEME) :]
        if self._keys is not None and (self._tokens is None or self._keys.is_key(token)):
            caller = self._keys.verify(token)
        elif self._tokens is not None:
            caller = await self._verified_token(self._tokens, token)
        else:
            raise CredentialsInvalidError("bearer tokens are not accepted")
        if len(value) <= _MAX_CACHED_LENGTH:
            while len(self._cache) >= _MAX_CACHED:
                del self._cache[next(iter(self._cache))]
            self._cache[value] = caller
        return caller

    async def _verified_token(self, tokens: "Tokens", token: str) -> Caller:
        try:
            return tokens.verify(token)
        except UnknownKeyIdError:
            if self._refetch is None or not await self._refetch():
                raise CredentialsInvalidError("unknown signing key") from None
        try:
            return tokens.verify(token)
        except UnknownKeyIdError:
            raise CredentialsInvalidError("unknown signing key") from None

    def _certified(self, call: Call) -> Caller:
        if self._certificates is None:
            raise CredentialsMissingError("no credential: send the header authorization with a bearer token")
        return self._certificates.verify(call.context.auth_context(), time.time())

    def stream_of(self, call: Call, caller: Caller, scope: str) -> OpenStream:
        """Returns a ``with`` block that ends the stream of a call when the credential no longer permits the scope."""
        return OpenStream(self._open_streams, call, caller, scope)

    def _fault_of(self, caller: Caller, scope: str) -> str:
        if caller.kind == "jwt":
            return self._tokens.fault_of(caller) if self._tokens else "tokens are not accepted"
        if time.time() >= caller.expires_at:
            return f"expired {caller.kind}"
        return self._entries.fault_of(caller, scope) if self._entries else "keys are not accepted"


def _name_in_log(call: Call, caller: Caller) -> None:
    call.log_fields["credential"] = caller.kind
    call.log_fields["caller"] = caller.name


def check_scope(caller: Caller, scope: str) -> None:
    """Raises ScopeMissingError if a caller does not have a scope."""
    if scope and scope not in caller.scopes:
        raise ScopeMissingError(scope)
