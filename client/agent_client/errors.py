"""The exceptions of calls and runs that fail; those of calls are built from the service's google.rpc details.

A call that fails raises a subclass of AgentServiceError: one class per reason of the contract, each below the class of
its status code, so `except SessionBusy` and `except FailedPrecondition` both read as they should. A run that fails is a
successful call; only `run` (and `result(check=True)`) make RunFailed of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import grpc
from google.rpc import error_details_pb2  # type: ignore[import-untyped]  # it has stubs, but no py.typed

from agent_client.forks import ForkedAfterUse as ForkedAfterUse

if TYPE_CHECKING:
    from agent_client.results import RunResult

DOMAIN = "agentservice.v1"

_Detail = TypeVar("_Detail")


class FieldViolation(NamedTuple):
    """One bad field of a request: its path (`options.max_turns`) and what would be accepted."""

    field: str
    description: str


class AgentServiceError(Exception):
    """A call that failed: `code` and `reason` for programs, `message` for people, `details` as they were sent."""

    code: grpc.StatusCode = grpc.StatusCode.UNKNOWN
    reason: str = ""

    def __init__(
        self,
        message: str,
        *,
        code: grpc.StatusCode | None = None,
        reason: str = "",
        details: Sequence[Any] = (),
        retry_after: float | None = None,
    ) -> None:
        """Keep what the service said; code and reason default to those of the class."""
        super().__init__(message)
        self.message = message
        self.advice = ""
        """What to do about it, where the client can tell; "" where it cannot."""
        self.code = code or self.code
        self.reason = reason or self.reason
        self.details = tuple(details)
        self.retry_after = retry_after

    def __str__(self) -> str:
        """Return the message with the advice."""
        return f"{self.message}; {self.advice}" if self.advice else self.message

    @property
    def metadata(self) -> Mapping[str, str]:
        """Facts of the error by name, such as `first_available_sequence`."""
        info = first_of(self.details, error_details_pb2.ErrorInfo)
        return dict(info.metadata) if info else {}

    @property
    def resource(self) -> str:
        """The name of what was missing or in the way; empty when the service names nothing."""
        info = first_of(self.details, error_details_pb2.ResourceInfo)
        return str(info.resource_name) if info else ""


class InvalidArgument(AgentServiceError):
    """The request cannot be right, whatever the state of the service."""

    code = grpc.StatusCode.INVALID_ARGUMENT


class RefusedFields:
    """What an error that is about fields of the request has besides: `violations` names them all."""

    details: tuple[Any, ...]

    @property
    def violations(self) -> tuple[FieldViolation, ...]:
        """Each bad field, with what would be accepted."""
        bad = first_of(self.details, error_details_pb2.BadRequest)
        return tuple(FieldViolation(each.field, each.description) for each in bad.field_violations) if bad else ()


class InvalidField(InvalidArgument, RefusedFields):
    """Fields of the request are not acceptable; `violations` names them all."""

    reason = "INVALID_FIELD"


class MalformedRequest(InvalidArgument):
    """The request's bytes are no message of the RPC's request type."""

    reason = "MALFORMED_REQUEST"


class InvalidPageToken(InvalidArgument):
    """The page token was not made by this RPC with these arguments."""

    reason = "INVALID_PAGE_TOKEN"


class InteractionKindMismatch(InvalidArgument):
    """The answer does not fit the kind of the interaction."""

    reason = "INTERACTION_KIND_MISMATCH"


class Unauthenticated(AgentServiceError):
    """The service does not know who calls."""

    code = grpc.StatusCode.UNAUTHENTICATED


class CredentialsMissing(Unauthenticated):
    """The service wants credentials and got none."""

    reason = "CREDENTIALS_MISSING"


class CredentialsInvalid(Unauthenticated):
    """The credentials are not, or no longer, good."""

    reason = "CREDENTIALS_INVALID"


class PermissionDenied(AgentServiceError):
    """The caller may not do this."""

    code = grpc.StatusCode.PERMISSION_DENIED


class RpcNotAllowed(PermissionDenied):
    """The caller may not use this RPC."""

    reason = "RPC_NOT_ALLOWED"


class OptionNotAllowed(PermissionDenied, RefusedFields):
    """The operator's policy, or a profile, forbids options; `violations` names them all, `metadata` has the rule."""

    reason = "OPTION_NOT_ALLOWED"


class PathNotAllowed(PermissionDenied, RefusedFields):
    """The operator's policy forbids directories; `violations` names them all, `metadata` has the rule."""

    reason = "PATH_NOT_ALLOWED"


class NotFound(AgentServiceError):
    """There is no such thing, or none that the caller may know of."""

    code = grpc.StatusCode.NOT_FOUND


class SessionNotFound(NotFound):
    """There is no such session."""

    reason = "SESSION_NOT_FOUND"


class TurnNotFound(NotFound):
    """The session has no such turn."""

    reason = "TURN_NOT_FOUND"


class InteractionNotFound(NotFound):
    """The session has no such interaction."""

    reason = "INTERACTION_NOT_FOUND"


class ProfileNotFound(NotFound):
    """There is no such profile, or none that the caller may use."""

    reason = "PROFILE_NOT_FOUND"


class AlreadyExists(AgentServiceError):
    """It exists already."""

    code = grpc.StatusCode.ALREADY_EXISTS


class SessionAlreadyExists(AlreadyExists):
    """mode="create" met an existing session."""

    reason = "SESSION_ALREADY_EXISTS"


class RequestIdReused(AlreadyExists):
    """The request id was used before, for a request with other content."""

    reason = "REQUEST_ID_REUSED"


class FailedPrecondition(AgentServiceError):
    """The session is not in a state that permits this."""

    code = grpc.StatusCode.FAILED_PRECONDITION


class SessionBusy(FailedPrecondition):
    """The session is at work and `on_busy` is "reject"."""

    reason = "SESSION_BUSY"


class SessionNotActive(FailedPrecondition):
    """The session is at rest, and the request needs a running turn."""

    reason = "SESSION_NOT_ACTIVE"


class SessionActive(FailedPrecondition):
    """The session is at work, and the request needs it at rest."""

    reason = "SESSION_ACTIVE"


class InteractionClosed(FailedPrecondition):
    """The interaction was answered already; `metadata` says by whom."""

    reason = "INTERACTION_CLOSED"


class WorkspaceMissing(FailedPrecondition):
    """The directory the session works in is gone."""

    reason = "WORKSPACE_MISSING"


class ResumeRejected(FailedPrecondition):
    """The conversation cannot be continued."""

    reason = "RESUME_REJECTED"


class SandboxUnavailable(FailedPrecondition):
    """The sandbox that the operator's policy asks for does not work on the service's host."""

    reason = "SANDBOX_UNAVAILABLE"


class OutOfRange(AgentServiceError):
    """A cursor points outside the log."""

    code = grpc.StatusCode.OUT_OF_RANGE


class SequenceCompacted(OutOfRange):
    """Events after the given sequence are no longer stored."""

    reason = "SEQUENCE_COMPACTED"

    @property
    def first_available_sequence(self) -> int:
        """The oldest event still stored; watch with `after_sequence` one below it."""
        return int(self.metadata.get("first_available_sequence", "0"))


class SequenceInFuture(OutOfRange):
    """The given sequence is past the end of the log."""

    reason = "SEQUENCE_IN_FUTURE"


class ResourceExhausted(AgentServiceError):
    """There is no room; `retry_after` says when to try again, if the service knows."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED


class QueueFull(ResourceExhausted):
    """As many turns wait already as the operator lets wait."""

    reason = "QUEUE_FULL"


class RequestTooLarge(ResourceExhausted):
    """The request has more bytes than the service takes: ServerLimits.max_message_bytes."""

    reason = "REQUEST_TOO_LARGE"


class QuotaExceeded(ResourceExhausted):
    """The caller has used up what it may use."""

    reason = "QUOTA_EXCEEDED"


class RateLimited(ResourceExhausted):
    """The caller asks too often."""

    reason = "RATE_LIMITED"


class Unavailable(AgentServiceError):
    """The service cannot be reached, or cannot serve for now; retries did not help."""

    code = grpc.StatusCode.UNAVAILABLE


class ServerDraining(Unavailable):
    """The service is shutting down."""

    reason = "SERVER_DRAINING"


class StoreUnavailable(Unavailable):
    """The service's ledger cannot be read or written; nothing of the request was kept."""

    reason = "STORE_UNAVAILABLE"


class IdentityUnavailable(Unavailable):
    """The keys of the token's issuer could not be read for too long; no token of it can be checked."""

    reason = "IDENTITY_UNAVAILABLE"


class Internal(AgentServiceError):
    """The service failed; `message` carries an incident id to look for in its log."""

    code = grpc.StatusCode.INTERNAL
    reason = "INTERNAL"


class AgentUnavailable(Internal):
    """The agent's program cannot be started on the service's host."""

    reason = "AGENT_UNAVAILABLE"


class DeadlineExceeded(AgentServiceError):
    """The service did not answer in time. What was asked for may still happen."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED


class Unimplemented(AgentServiceError):
    """This version of the service does not serve this part of the contract."""

    code = grpc.StatusCode.UNIMPLEMENTED


class RunFailed(Exception):
    """A run that ended in an error; `result` holds its session, its turn, and what it cost."""

    def __init__(self, result: RunResult) -> None:
        """Say why, in the words of the service."""
        super().__init__(result.why or "the run failed")
        self.result = result


class RunCancelled(RunFailed):
    """A run that somebody stopped."""


BY_CODE = {kind.code: kind for kind in AgentServiceError.__subclasses__()}
BY_REASON = {
    kind.reason: kind for parent in BY_CODE.values() for kind in (parent, *parent.__subclasses__()) if kind.reason
}


def first_of(details: Sequence[Any], kind: type[_Detail]) -> _Detail | None:
    """Return the first google.rpc detail of a kind; None when there is none."""
    return next((detail for detail in details if isinstance(detail, kind)), None)
