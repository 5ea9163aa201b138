"""The status and error details of a failed call."""

from dataclasses import dataclass, field

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, QuotaFailure, RequestInfo, RetryInfo
from google.rpc.status_pb2 import Status


@dataclass(frozen=True)
class Failure:
    """The status and details of an error."""

    code: str
    message: str
    reason: str = ""
    domain: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    violations: list[tuple[str, str]] = field(default_factory=list)
    request_id: str = ""
    retry_after: float | None = None
    quota: list[str] = field(default_factory=list)
    raw: bytes = b""

    @property
    def fields(self) -> list[str]:
        return [name for name, _ in self.violations]


def failure_of(error: grpc.RpcError) -> Failure:
    """Reads the error of a call made through grpc or grpc.aio."""
    assert isinstance(error, grpc.Call | grpc.aio.AioRpcError)
    code = error.code()
    trailing = {pair[0]: pair[1] for pair in error.trailing_metadata() or ()}
    raw = trailing.get("grpc-status-details-bin", b"")
    assert isinstance(raw, bytes)
    status = Status.FromString(raw)
    if raw:
        assert (status.code, status.message) == (code.value[0], error.details())
    info, bad, request, retry, quota = ErrorInfo(), BadRequest(), RequestInfo(), RetryInfo(), QuotaFailure()
    for detail in status.details:
        _unpack(detail, info, bad, request, retry, quota)
    return Failure(
        code=code.name,
        message=error.details() or "",
        reason=info.reason,
        domain=info.domain,
        metadata=dict(info.metadata),
        violations=[(violation.field, violation.description) for violation in bad.field_violations],
        request_id=request.request_id,
        retry_after=retry.retry_delay.ToTimedelta().total_seconds() if retry.HasField("retry_delay") else None,
        quota=[violation.subject for violation in quota.violations],
        raw=raw,
    )


def _unpack(detail: AnyMessage, *places: ErrorInfo | BadRequest | RequestInfo | RetryInfo | QuotaFailure) -> None:
    assert any(detail.Unpack(place) for place in places), f"a detail that no client expects: {detail.type_url}"
