"""The hook `on_call` of the Python clients, and the spans that its adapter for OpenTelemetry creates."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
from harness.collectors import Collector
from harness.services import Service
from harness.stores import Store
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from userservice import CallAttempt, SyncUserManager, UserManager, UserNotFoundError
from userservice.hooks import CallEnd
from userservice.opentelemetry import trace_calls

GET, STREAM = (f"userservice.v1.UserService/{name}" for name in ("GetUser", "ListUsersChunked"))
Use = Callable[[Any], Any]


async def with_asyncio(address: str, use: Use, **options: Any) -> Any:
    """Runs a function with the asyncio manager, and awaits the awaitables in its result."""
    async with UserManager(address, **options) as manager:
        return await _awaited(use(manager))


async def with_threads(address: str, use: Use, **options: Any) -> Any:
    def work() -> Any:
        with SyncUserManager(address, **options) as manager:
            return use(manager)

    return await asyncio.to_thread(work)


async def _awaited(result: Any) -> Any:
    if hasattr(result, "__anext__"):
        return [users async for users in result]
    return await result


Kind = Callable[..., Awaitable[Any]]
KINDS = pytest.mark.parametrize("kind", [with_asyncio, with_threads])


@dataclass
class Hook:
    """Records the attempts of calls, and adds a header to each."""

    ended: list[tuple[str, str]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def __call__(self, attempt: CallAttempt) -> CallEnd:
        attempt.headers.append(("x-request-id", "from-the-hook"))

        def end(code: grpc.StatusCode, seconds: float) -> None:
            self.ended.append((attempt.method, code.name))
            self.seconds.append(seconds)

        return end


@dataclass(frozen=True)
class Traced:
    """A service and a program that send their spans to one collector."""

    address: str
    collector: Collector
    provider: TracerProvider


@pytest.fixture(scope="module")
def traced() -> Iterator[Traced]:
    with (
        Collector() as collector,
        Store() as store,
        Service(redis_url=store.url, environment=collector.environment) as service,
    ):
        provider = TracerProvider(resource=Resource({"service.name": "program"}), shutdown_on_exit=False)
        endpoint = f"{collector.environment['OTEL_EXPORTER_OTLP_ENDPOINT']}/v1/traces"
        provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(endpoint)))
        with SyncUserManager(service.address) as manager:
            for number in range(3):
                manager.add(user_id=f"u{number}")
        yield Traced(service.address, collector, provider)
        provider.shutdown()
        assert service.stop() == 0


@KINDS
async def test_the_hook_observes_calls_and_adds_headers(traced: Traced, kind: Kind) -> None:
    hook = Hook()
    with pytest.raises(UserNotFoundError) as error:
        await kind(traced.address, lambda manager: manager.get("missing"), on_call=hook)
    assert error.value.request_id == "from-the-hook"
    await kind(traced.address, lambda manager: manager.get("u0"), on_call=hook)
    await kind(traced.address, lambda manager: manager.get("u0"), on_call=hook, share_reads=True)
    assert hook.ended == [(GET, "NOT_FOUND"), (GET, "OK"), (GET, "OK")]
    assert all(0 < seconds < 10 for seconds in hook.seconds)


@KINDS
async def test_the_hook_observes_each_attempt(kind: Kind) -> None:
    hook = Hook()
    with pytest.raises(Exception, match="UNAVAILABLE"):
        await kind("127.0.0.1:1", lambda manager: manager.get("u0", timeout=0.5), on_call=hook)
    assert len(hook.ended) > 1
    assert set(hook.ended) <= {(GET, "UNAVAILABLE"), (GET, "DEADLINE_EXCEEDED")}


async def test_the_hook_observes_a_stream_until_its_end(traced: Traced) -> None:
    hook = Hook()
    await with_asyncio(traced.address, lambda manager: manager.list_chunked(chunk_size=1), on_call=hook)
    await with_threads(traced.address, lambda manager: list(manager.list_chunked(chunk_size=1)), on_call=hook)
    assert hook.ended == [(STREAM, "OK")] * 2
    async with UserManager(traced.address, on_call=hook) as manager:
        stream = manager.list_chunked(chunk_size=1)
        await anext(stream)
        await stream.aclose()
    with SyncUserManager(traced.address, on_call=hook) as blocking:
        chunks = blocking.list_chunked(chunk_size=1)
        next(chunks)
        chunks.close()
    assert hook.ended[2:] == [(STREAM, "CANCELLED")] * 2


@KINDS
@pytest.mark.parametrize("share_reads", [False, True])
async def test_a_call_is_one_trace_from_the_program_to_the_store(
    traced: Traced,
    kind: Kind,
    share_reads: bool,  # noqa: FBT001
) -> None:
    tracer = traced.provider.get_tracer("test")
    with tracer.start_as_current_span("work") as work:
        options = {"on_call": trace_calls(traced.provider), "share_reads": share_reads}
        await kind(traced.address, lambda manager: manager.get("u0"), **options)
    trace = f"{work.get_span_context().trace_id:032x}"
    spans = {(span.name, span.kind): span for span in traced.collector.trace(trace, 4)}
    client, server = spans[GET, "CLIENT"], spans[GET, "SERVER"]
    assert client.parent_id == spans["work", "INTERNAL"].span_id
    assert server.parent_id == client.span_id
    assert spans["EVALSHA get", "CLIENT"].parent_id == server.span_id
    host, _, port = traced.address.rpartition(":")
    assert client.attributes == {
        "rpc.system.name": "grpc",
        "rpc.method": GET,
        "rpc.status_code": "OK",
        "server.address": host,
        "server.port": int(port),
    }
    assert not client.is_error
    assert (client.resource["service.name"], server.resource["service.name"]) == ("program", "userservice")


@KINDS
@pytest.mark.parametrize(("address", "code"), [("", "NOT_FOUND"), ("127.0.0.1:1", "UNAVAILABLE")])
async def test_only_faults_of_the_server_are_errors(traced: Traced, kind: Kind, address: str, code: str) -> None:
    tracer, on_call = traced.provider.get_tracer("test"), trace_calls(traced.provider)
    with tracer.start_as_current_span("work") as work, pytest.raises(Exception, match=code):
        await kind(address or traced.address, lambda manager: manager.get("missing", timeout=0.05), on_call=on_call)
    trace = f"{work.get_span_context().trace_id:032x}"
    client = next(span for span in traced.collector.trace(trace, 2) if span.name == GET and span.kind == "CLIENT")
    assert client.attributes["rpc.status_code"] == code
    assert client.is_error == (code == "UNAVAILABLE")


@pytest.mark.long
async def test_a_shared_call_belongs_to_the_trace_of_one_of_its_gets(traced: Traced) -> None:
    tracer, on_call = traced.provider.get_tracer("test"), trace_calls(traced.provider)

    async def get(manager: UserManager, user_id: str) -> None:
        with tracer.start_as_current_span("work of a shared call"):
            await manager.get(user_id)

    async with UserManager(traced.address, on_call=on_call, share_reads=True) as manager:
        # Later gets wait for the end of an earlier call, which starts theirs.
        await asyncio.gather(*(get(manager, f"u{number % 3}") for number in range(350)))
    spans = traced.collector.spans()
    works = {span.span_id: span for span in spans if span.name == "work of a shared call"}
    calls = [span for span in spans if span.parent_id in works]
    assert len(calls) > 1
    for call in calls:
        assert works[call.parent_id].end >= call.end, "the get of the span was waiting for the call"


def test_a_hook_must_be_callable() -> None:
    wrong: Any = "hook"
    with pytest.raises(TypeError, match="on_call must be callable"):
        SyncUserManager(on_call=wrong)
