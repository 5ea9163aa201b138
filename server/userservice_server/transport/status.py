"""Maps failures to google.rpc.Status with details (AIP-193), by the rules of the proto enum ErrorReason."""

import grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import ErrorInfo, QuotaFailure, RequestInfo, RetryInfo
from google.rpc.status_pb2 import Status

from userservice.v1.error_reason_pb2 import ErrorReason, ErrorRule, error_rule
from userservice_server import errors
from userservice_server.domain.violations import bad_request

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


def _metadata(error: Exception) -> dict[str, str]:
    if isinstance(error, _WITH_CURSOR) and error.next_cursor:
        return {"next_cursor": str(error.next_cursor)}
    return {"scope": error.scope} if isinstance(error, errors.ScopeMissingError) else {}


def _retry_ms(error: Exception, rule: ErrorRule) -> int:
    return max(1, round(error.retry_after * 1000)) if isinstance(error, _WITH_RETRY) else rule.retry_delay_ms


def _quota_failure(error: errors.RateLimitedError) -> QuotaFailure:
    return QuotaFailure(violations=[QuotaFailure.Violation(subject=error.subject, description=str(error))])


def status_of(error: Exception, call_id: str) -> tuple[grpc.StatusCode, Status]:
    """Returns the status for a failed call. The text of an unexpected exception is left out."""
    reason = error.reason if isinstance(error, errors.ServiceError) else BUG
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
        delay = Duration()
        delay.FromMilliseconds(retry_ms)
        details.append(RetryInfo(retry_delay=delay))
    code = grpc.StatusCode[rule.code]
    status = Status(code=code.value[0], message=BUG_MESSAGE if reason is BUG else str(error))
    for detail in details:
        packed = Any()
        packed.Pack(detail)
        status.details.append(packed)
    return code, status
