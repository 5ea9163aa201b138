"""Maps failures to google.rpc.Status with details (AIP-193), by the rules of the proto enum ErrorReason."""

import asyncio
from functools import lru_cache

import grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import ErrorInfo, QuotaFailure, RequestInfo, RetryInfo
from google.rpc.status_pb2 import Status

from userservice.v1.error_reason_pb2 import ErrorReason, ErrorRule, error_rule
from userservice_server import errors
from userservice_server.domain.violations import bad_request
from userservice_server.wire.varint import varint

DOMAIN = "userservice"
DETAILS_KEY = "grpc-status-details-bin"


_PREFIX = "ERROR_REASON_"


def _rules() -> dict[str, ErrorRule]:
    """Returns the rule of each error reason, from the options of the proto enum."""
    values = ErrorReason.DESCRIPTOR.values
    rules = {value.name.removeprefix(_PREFIX): value.GetOptions().Extensions[error_rule] for value in values}
    return {name: rule for name, rule in rules.items() if rule.code}


RULES = _rules()
BUG = "INTERNAL"  # the reason for every exception that is not a ServiceError
BUG_MESSAGE = "internal error; see the server log for this request id"
_WITH_CURSOR = (errors.ServerShuttingDownError, errors.ReaderStalledError, errors.CredentialsInvalidError)
_WITH_RETRY = (errors.OverloadedError, errors.RateLimitedError)
_WITH_OWN_DETAILS = (errors.InvalidFieldsError, *_WITH_RETRY)


class ProtocolError(Exception):
    """A failure that the health protocol defines; it has no error reason and no details."""

    def __init__(self, code: grpc.StatusCode, text: str) -> None:
        super().__init__(text)
        self.code = code


def reason_of(error: Exception) -> str:
    """Returns the error reason of an exception; for an unexpected exception, that of a bug."""
    return error.reason if isinstance(error, errors.ServiceError) else BUG


def outcome_of(error: BaseException) -> tuple[grpc.StatusCode, str]:
    """Returns the code that the link ``errors`` maps a failure to, and the reason of an error of the service."""
    if isinstance(error, ProtocolError):
        return error.code, ""
    if isinstance(error, asyncio.CancelledError | grpc.aio.InternalError):  # the client has disconnected
        return grpc.StatusCode.CANCELLED, ""
    if isinstance(error, grpc.aio.AbortError) or not isinstance(error, Exception):
        return grpc.StatusCode.UNKNOWN, ""
    reason = reason_of(error)
    return grpc.StatusCode[RULES[reason].code], reason


def _metadata(error: Exception) -> dict[str, str]:
    if isinstance(error, _WITH_CURSOR) and error.next_cursor:
        return {"next_cursor": str(error.next_cursor)}
    if isinstance(error, errors.ImportOffsetGapError):
        return {"next_offset": str(error.next_offset)}
    return {"scope": error.scope} if isinstance(error, errors.ScopeMissingError) else {}


def _retry_ms(error: Exception, rule: ErrorRule) -> int:
    return max(1, round(error.retry_after * 1000)) if isinstance(error, _WITH_RETRY) else rule.retry_delay_ms


def _quota_failure(error: errors.RateLimitedError) -> QuotaFailure:
    return QuotaFailure(violations=[QuotaFailure.Violation(subject=error.subject, description=str(error))])


def encoded_status(error: Exception, call_id: str) -> tuple[grpc.StatusCode, str, bytes]:
    """Returns code and message for a failed call, and the encoded status of ``status_of`` (empty: no details).

    Most errors differ only in the id of the call. The rest of their status is encoded once: a call that is rejected
    should cost the server little.
    """
    if isinstance(error, ProtocolError):
        return error.code, str(error), b""
    if isinstance(error, errors.ServiceError) and not isinstance(error, _WITH_OWN_DETAILS) and not _metadata(error):
        code, head, tail = _fixed_parts(error.reason, str(error))
        request_info = _REQUEST_INFO_HEAD + _delimited(_delimited(call_id.encode(), 1), 2)
        return code, str(error), b"".join((head, _delimited(request_info, 3), tail))
    code, status = status_of(error, call_id)
    return code, status.message, status.SerializeToString()


@lru_cache(maxsize=256)
def _fixed_parts(reason: str, message: str) -> tuple[grpc.StatusCode, bytes, bytes]:
    """Returns code and encoded status, before and after RequestInfo, of an error without details of its own.

    The concatenation of two encoded messages is the encoding of both merged.
    """
    rule = RULES[reason]
    code = grpc.StatusCode[rule.code]
    head = Status(code=code.value[0], message=message, details=[_packed(ErrorInfo(reason=reason, domain=DOMAIN))])
    tail = Status(details=[_packed(_retry_info(rule.retry_delay_ms))] if rule.retry_delay_ms else [])
    return code, head.SerializeToString(), tail.SerializeToString()


def _delimited(content: bytes, number: int) -> bytes:
    return bytes((number << 3 | 2,)) + varint(len(content)) + content


def _packed(detail: Message) -> Any:
    packed = Any()
    packed.Pack(detail)
    return packed


def _retry_info(milliseconds: int) -> RetryInfo:
    delay = Duration()
    delay.FromMilliseconds(milliseconds)
    return RetryInfo(retry_delay=delay)


_REQUEST_INFO_HEAD = _packed(RequestInfo()).SerializeToString()


def row_status(error: errors.ServiceError) -> bytes:
    """Returns the encoded status of a row of an import that failed; without a call id, because the store keeps it."""
    details: list[Message] = [ErrorInfo(reason=error.reason, domain=DOMAIN)]
    if isinstance(error, errors.InvalidFieldsError):
        details.append(bad_request(error.violations))
    status = Status(code=grpc.StatusCode[RULES[error.reason].code].value[0], message=str(error))
    status.details.extend(map(_packed, details))
    encoded: bytes = status.SerializeToString()
    return encoded


def status_of(error: Exception, call_id: str) -> tuple[grpc.StatusCode, Status]:
    """Returns the status for a failed call. It does not contain the text of an unexpected exception."""
    reason = reason_of(error)
    rule = RULES[reason]
    details: list[Message] = [
        ErrorInfo(reason=reason, domain=DOMAIN, metadata=_metadata(error)),
        RequestInfo(request_id=call_id),
    ]
    if isinstance(error, errors.InvalidFieldsError):
        details.append(bad_request(error.violations))
    if isinstance(error, errors.RateLimitedError):
        details.append(_quota_failure(error))
    if retry_ms := _retry_ms(error, rule):
        details.append(_retry_info(retry_ms))
    code = grpc.StatusCode[rule.code]
    status = Status(code=code.value[0], message=BUG_MESSAGE if reason is BUG else str(error))
    status.details.extend(map(_packed, details))
    return code, status
