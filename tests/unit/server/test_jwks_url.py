"""The cache of a JWKS URL, with a server that fails, hangs, rotates its keys and returns wrong data."""

import asyncio
import logging
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from harness.credentials import Identity, Issuer, authority, issued, jwks
from harness.jwks_server import JwksServer
from harness.ports import free_port

from userservice_server.transport.credentials import jwks_url
from userservice_server.transport.credentials.jwks_url import FetchError, JwksUrl, fetch_https

ROOT = authority()


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[JwksServer]:
    trust(ROOT, tmp_path, monkeypatch)
    with JwksServer(issued(ROOT), tmp_path, jwks(Issuer())) as running:
        yield running


def trust(root: Identity, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / "roots.pem"
    path.write_bytes(root.certificate.public_bytes(Encoding.PEM))
    monkeypatch.setenv("SSL_CERT_FILE", str(path))


def key_ids(url: JwksUrl) -> list[str]:
    return [key.key_id for key in url.key_set.keys] if url.key_set else []


def test_only_authorities_in_ssl_cert_file_are_trusted(
    server: JwksServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert fetch_https(server.url) == server.content
    trust(authority("another"), tmp_path, monkeypatch)
    with pytest.raises(FetchError, match="certificate is not trusted"):
        fetch_https(server.url)


@pytest.mark.parametrize(
    ("names", "days"), [(["elsewhere.test"], (-1, 1)), (["localhost"], (-2, -1)), (["localhost"], (1, 2))]
)
def test_a_server_with_a_wrong_certificate_is_not_trusted(
    names: list[str], days: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trust(ROOT, tmp_path, monkeypatch)
    identity = issued(ROOT, names, starts=timedelta(days[0]), ends=timedelta(days[1]))
    with (
        JwksServer(identity, tmp_path) as server,
        pytest.raises(FetchError, match="certificate is not trusted") as raised,
    ):
        fetch_https(server.url)
    assert "localhost" not in str(raised.value)


@pytest.mark.parametrize("location", ["http://localhost:1/jwks", "file:///etc/passwd", "ftp://localhost/x"])
def test_a_redirect_to_another_scheme_than_https_is_not_followed(server: JwksServer, location: str) -> None:
    server.status, server.location = 302, location
    with pytest.raises(FetchError, match=r"redirect|HTTP status 302"):
        fetch_https(server.url)


def test_proxy_variables_do_not_apply_to_loopback(server: JwksServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")
    assert fetch_https(server.url)


def test_a_response_larger_than_the_limit_is_rejected(server: JwksServer) -> None:
    server.content = b"x" * (2 << 20)
    with pytest.raises(FetchError, match="larger than"):
        fetch_https(server.url)


def test_the_error_for_a_refused_connection_contains_no_address() -> None:
    port = free_port()
    with pytest.raises(FetchError) as raised:
        fetch_https(f"https://127.0.0.1:{port}/secret-path")
    assert "secret-path" not in str(raised.value)
    assert str(port) not in str(raised.value)


async def wait_for(condition: "asyncio.Future[bool] | object", within: float = 5) -> None:
    end = time.monotonic() + within
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end
        await asyncio.sleep(0.01)


async def test_keys_are_refreshed_in_the_background_and_kept_when_a_refresh_fails(
    server: JwksServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    changes: list[int] = []
    url = JwksUrl(server.url, lambda: changes.append(1), refresh=0.05)
    running = asyncio.create_task(url.run())
    await wait_for(lambda: key_ids(url) == ["first"])
    server.content = jwks(Issuer("second"), Issuer("third"))
    await wait_for(lambda: key_ids(url) == ["second", "third"])
    assert len(changes) == 2
    for server.status, server.content in ((500, b""), (200, b"<html>"), (200, b'{"keys": []}'), (404, b"{}")):
        before = url.failures.total()
        await asyncio.shield(url._started())
        assert url.failures.total() > before
        assert key_ids(url) == ["second", "third"]
    running.cancel()
    assert len(changes) == 2
    assert set(url.failures) >= {"HTTP status 500", "the response is not JSON", "HTTP status 404"}
    assert any("the present keys stay in use" in message for message in caplog.messages)


async def test_a_failed_first_fetch_is_retried_soon(server: JwksServer) -> None:
    server.status = 503
    url = JwksUrl(server.url, lambda: None)
    running = asyncio.create_task(url.run())
    await wait_for(lambda: url.failures.total() == 1)
    assert url.key_set is None
    server.status = 200
    await wait_for(lambda: key_ids(url) == ["first"])
    running.cancel()


async def test_unknown_key_ids_cause_one_fetch_per_interval_for_all_waiting_calls(server: JwksServer) -> None:
    url = JwksUrl(server.url, lambda: None, unknown_key_interval=2)
    server.delay = 0.2
    assert await asyncio.gather(*(url.refetch() for _ in range(50))) == [True] * 50
    assert server.requests == 1
    assert not await url.refetch()
    assert server.requests == 1
    await asyncio.sleep(2)
    assert await url.refetch()
    assert server.requests == 2


async def test_a_hanging_server_does_not_block_the_event_loop(
    server: JwksServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jwks_url, "_WAIT_SECONDS", 0.2)
    monkeypatch.setattr(jwks_url, "_FETCH_SECONDS", 0.5)
    server.delay = 3
    url = JwksUrl(server.url, lambda: None)
    started = time.monotonic()
    waiting = [asyncio.create_task(url.refetch()) for _ in range(150)]
    lags = []
    while not all(task.done() for task in waiting):
        before = time.monotonic()
        await asyncio.sleep(0.01)
        lags.append(time.monotonic() - before)
    assert time.monotonic() - started < 2
    assert sorted(lags)[len(lags) // 2] < 0.1
    # At most 100 calls wait for the fetch; the other 50 return at once.
    assert sum(task.result() for task in waiting) == 100
    await wait_for(lambda: url.failures["no complete response in time"] == 1)


async def test_a_slow_response_ends_with_a_timeout(server: JwksServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jwks_url, "_FETCH_SECONDS", 0.3)
    server.pause, server.content = 0.2, b"x" * 1000
    with pytest.raises(FetchError, match="no complete response in time"):
        fetch_https(server.url)
