"""Refreshes the key set of a JWKS URL. After a failed refresh, the present keys stay in use."""

import asyncio
import logging
import os
import ssl
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from http.client import HTTPException, HTTPMessage
from ipaddress import ip_address
from threading import Thread
from typing import IO
from urllib.parse import urlsplit

from userservice_server.transport.credentials.tokens import InvalidKeySetError, KeySet, parse_key_set

_MAX_BYTES = 1 << 20
_STEP_SECONDS = 5.0  # timeout for connecting and for each read of the response
_FETCH_SECONDS = 10.0  # timeout of a fetch
_WAIT_SECONDS = 5.0  # maximum wait of a call for a fetch
_MAX_WAITING = 100  # waiting calls; without a limit, tokens with invented key ids could exhaust the memory
REFRESH_SECONDS, UNKNOWN_KEY_SECONDS = 300.0, 30.0
_FIRST_RETRY_SECONDS, _LAST_RETRY_SECONDS = 1.0, 30.0

logger = logging.getLogger("userservice.jwks")


class FetchError(Exception):
    """The key set could not be fetched. The text is logged, so it contains no URL and no text of the response."""


class JwksUrl:
    """Fetches and caches the key set of a JWKS URL.

    Attributes:
        key_set: the last valid key set; None until the first fetch succeeds.
        failures: number of failed fetches by cause; made for a metric.

    Args:
        url: the URL, https.
        changed: called after the key set has changed.
        fetch: fetches the URL.
        refresh: seconds between two fetches.
        unknown_key_interval: minimum seconds between two fetches for unknown key ids.
    """

    def __init__(
        self,
        url: str,
        changed: Callable[[], object],
        fetch: "Callable[[str], bytes] | None" = None,
        refresh: float = REFRESH_SECONDS,
        unknown_key_interval: float = UNKNOWN_KEY_SECONDS,
    ) -> None:
        self.key_set: KeySet | None = None
        self.failures: Counter[str] = Counter()
        self._url = url
        self._changed = changed
        self._fetch = fetch or fetch_https
        self._refresh = refresh
        self._unknown_key_interval = unknown_key_interval
        self._fetching: asyncio.Task[bool] | None = None
        self._last_for_unknown = float("-inf")
        self._waiting = 0
        self._is_failing = False

    async def run(self) -> None:
        """Refreshes the key set until cancelled."""
        retry = _FIRST_RETRY_SECONDS
        while True:
            if await asyncio.shield(self._started()):
                retry = _FIRST_RETRY_SECONDS
                await asyncio.sleep(self._refresh)
            else:
                await asyncio.sleep(retry)
                retry = min(2 * retry, _LAST_RETRY_SECONDS)

    async def refetch(self) -> bool:
        """Refreshes the key set because a token has an unknown key id; concurrent calls share one fetch.

        Returns:
            Whether the call waited for a fetch, even one that failed or is still running. The call does not wait if the
            last fetch for an unknown key id was too recent, or if too many calls wait already.
        """
        now = asyncio.get_running_loop().time()
        if self._fetching is None:
            if now - self._last_for_unknown < self._unknown_key_interval:
                return False
            self._last_for_unknown = now
        if self._waiting >= _MAX_WAITING:
            return False
        self._waiting += 1
        try:
            await asyncio.wait([self._started()], timeout=_WAIT_SECONDS)
        finally:
            self._waiting -= 1
        return True

    def _started(self) -> "asyncio.Task[bool]":
        """Returns the running fetch; starts a fetch if none is running."""
        if self._fetching is None:
            self._fetching = asyncio.create_task(self._fetch_once())
        return self._fetching

    async def _fetch_once(self) -> bool:
        try:
            key_set = parse_key_set(await _in_thread(self._fetch, self._url))
        except (FetchError, InvalidKeySetError) as error:
            self._failed(f"the response {error}" if isinstance(error, InvalidKeySetError) else str(error))
            return False
        finally:
            self._fetching = None
        if self._is_failing:
            logger.info("JWKS available")
        self._is_failing = False
        before, self.key_set = self.key_set, key_set
        if before is None or before.thumbprints != key_set.thumbprints:
            logger.info("JWKS changed", extra={"keys": len(key_set.keys)})
        if before != key_set:
            self._changed()
        return True

    def _failed(self, cause: str) -> None:
        self.failures[cause] += 1
        self._is_failing = True
        fields = {"cause": cause, "failures": self.failures.total()}
        kept = "the present keys stay in use" if self.key_set else "tokens cannot be verified yet"
        logger.error("JWKS refresh failed; %s", kept, extra=fields)


async def _in_thread(fetch: Callable[[str], bytes], url: str) -> bytes:
    """Fetches in a separate thread: a fetch that hangs would occupy a thread of the pool that resolves names."""
    future: Future[bytes] = Future()

    def run() -> None:
        failure: FetchError
        try:
            content = fetch(url)
        except FetchError as error:
            failure = error
        except Exception as error:  # noqa: BLE001 - every exception means that the fetch failed
            failure = FetchError(type(error).__name__)
        else:
            _settle(lambda: future.set_result(content))
            return
        _settle(lambda: future.set_exception(failure))

    Thread(target=run, name="jwks", daemon=True).start()
    try:
        return await asyncio.wait_for(asyncio.wrap_future(future), _FETCH_SECONDS)
    except TimeoutError:
        raise FetchError("no complete response in time") from None


def _settle(settle: Callable[[], object]) -> None:
    with suppress(Exception):  # the result is no longer needed: the fetch timed out, or the event loop is closed
        settle()


class _NoDowngrade(urllib.request.HTTPRedirectHandler):
    """Follows redirects to https only."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        if urlsplit(newurl).scheme != "https":
            fp.close()
            raise FetchError("redirect to a URL that is not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def fetch_https(url: str) -> bytes:
    """Fetches an https URL.

    OpenSSL reads SSL_CERT_FILE and SSL_CERT_DIR. Proxy variables apply, except to loopback addresses.

    Raises:
        FetchError: the URL cannot be fetched.
    """
    handlers: list[urllib.request.BaseHandler] = [
        urllib.request.HTTPSHandler(context=ssl.create_default_context()),
        _NoDowngrade(),
    ]
    if _is_loopback(urlsplit(url).hostname or ""):
        handlers.append(urllib.request.ProxyHandler({}))
    end = time.monotonic() + _FETCH_SECONDS
    try:
        with urllib.request.build_opener(*handlers).open(url, timeout=_STEP_SECONDS) as response:
            content = b""
            while part := response.read1(65536):
                content += part
                if len(content) > _MAX_BYTES:
                    raise FetchError(f"the response is larger than {_MAX_BYTES} bytes")
                if time.monotonic() > end:
                    raise FetchError("no complete response in time")
            return content
    except urllib.error.HTTPError as error:
        error.close()
        raise FetchError(f"HTTP status {error.code}") from None
    except (OSError, HTTPException) as error:
        cause = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(cause, ssl.SSLCertVerificationError):
            reason = cause.verify_message.partition(",")[0]  # without the host, which follows "Hostname mismatch"
            raise FetchError(f"the server's certificate is not trusted: {reason}") from None
        name = os.strerror(cause.errno) if isinstance(cause, OSError) and cause.errno else type(cause).__name__
        raise FetchError(f"cannot connect: {name}") from None


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
