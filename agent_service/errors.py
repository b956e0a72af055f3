"""Every way a request can fail: its status code, its reason, and the google.rpc details that go with it.

Core code raises these, and each door translates them (api/rpc_status.py). Only the status code comes from grpc.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, NamedTuple
from uuid import uuid4

from grpc import StatusCode

DOMAIN = "agentservice.v1"


def new_incident() -> str:
    """A new id under which the log has a fault of the service; all that a caller is told of it."""
    return uuid4().hex[:12]


class FieldViolation(NamedTuple):
    """One bad field of a request: its path as written in the proto (`options.max_turns`) and what would be accepted."""

    field: str
    description: str


class RequestError(Exception):
    """A request that fails; subclasses name the code and the reason of contract.md's table."""

    code: ClassVar[StatusCode] = StatusCode.INTERNAL
    reason: ClassVar[str] = "INTERNAL"
    resource_type: ClassVar[str] = ""

    def __init__(
        self,
        message: str,
        *,
        resource: str = "",
        metadata: Mapping[str, str] | None = None,
        retry_after: float | None = None,
    ) -> None:
        """Keep what the caller is told: the text, the resource's name, ErrorInfo metadata, seconds to a retry."""
        super().__init__(message)
        self.message = message
        self.resource = resource
        self.metadata = dict(metadata or {})
        self.retry_after = retry_after


class FieldError(RequestError):
    """Fields of the request are refused; lists every violation found, not just the first."""

    def __init__(self, violations: Sequence[FieldViolation], *, metadata: Mapping[str, str] | None = None) -> None:
        """Make one readable text of all violations."""
        text = "; ".join(f"{field}: {description}" for field, description in violations)
        super().__init__(text, metadata=metadata)
        self.violations = tuple(violations)


class InvalidField(FieldError):
    """Fields of the request are not acceptable from anybody."""

    code = StatusCode.INVALID_ARGUMENT
    reason = "INVALID_FIELD"

    @classmethod
    def of(cls, field: str, description: str) -> InvalidField:
        """Say that a single field is bad."""
        return cls([FieldViolation(field, description)])


class OptionNotAllowed(FieldError):
    """The tenant's policy, or a profile, forbids what the request sets; metadata has `tenant`, `rule`, `policy`."""

    code = StatusCode.PERMISSION_DENIED
    reason = "OPTION_NOT_ALLOWED"


class PathNotAllowed(FieldError):
    """The tenant's policy forbids directories that the request names; metadata has `tenant`, `rule`, `policy`."""

    code = StatusCode.PERMISSION_DENIED
    reason = "PATH_NOT_ALLOWED"


class ProfileNotFound(RequestError):
    """There is no such profile, or none that the caller may use; metadata has `profile`."""

    code = StatusCode.NOT_FOUND
    reason = "PROFILE_NOT_FOUND"


class MalformedRequest(RequestError):
    """The request's bytes are no message of the RPC's request type."""

    code = StatusCode.INVALID_ARGUMENT
    reason = "MALFORMED_REQUEST"


class RequestTooLarge(RequestError):
    """The request has more bytes than a message may have; metadata has `max_message_bytes`."""

    code = StatusCode.RESOURCE_EXHAUSTED
    reason = "REQUEST_TOO_LARGE"


class InvalidPageToken(RequestError):
    """The page token was not made by this RPC with these arguments."""

    code = StatusCode.INVALID_ARGUMENT
    reason = "INVALID_PAGE_TOKEN"


class InteractionKindMismatch(RequestError):
    """The answer does not fit the kind of the interaction."""

    code = StatusCode.INVALID_ARGUMENT
    reason = "INTERACTION_KIND_MISMATCH"


class SessionNotFound(RequestError):
    """There is no such session, or none that the caller may know of."""

    code = StatusCode.NOT_FOUND
    reason = "SESSION_NOT_FOUND"
    resource_type = "agentservice.v1.Session"

    def __init__(self, session_id: str) -> None:
        """Name the session that is missing."""
        super().__init__(f"session {session_id} does not exist", resource=session_id)


class TurnNotFound(RequestError):
    """The session has no such turn."""

    code = StatusCode.NOT_FOUND
    reason = "TURN_NOT_FOUND"
    resource_type = "agentservice.v1.Turn"


class InteractionNotFound(RequestError):
    """The session has no such interaction."""

    code = StatusCode.NOT_FOUND
    reason = "INTERACTION_NOT_FOUND"
    resource_type = "agentservice.v1.Interaction"


class SessionAlreadyExists(RequestError):
    """Execute with EXECUTE_MODE_CREATE met an existing session."""

    code = StatusCode.ALREADY_EXISTS
    reason = "SESSION_ALREADY_EXISTS"
    resource_type = "agentservice.v1.Session"


class RequestIdReused(RequestError):
    """The request id was used before, for a request with other content."""

    code = StatusCode.ALREADY_EXISTS
    reason = "REQUEST_ID_REUSED"


class SessionBusy(RequestError):
    """The session is at work and `on_busy` is REJECT."""

    code = StatusCode.FAILED_PRECONDITION
    reason = "SESSION_BUSY"
    resource_type = "agentservice.v1.Session"


class SessionNotActive(RequestError):
    """The session is at rest, and the request needs a running turn."""

    code = StatusCode.FAILED_PRECONDITION
    reason = "SESSION_NOT_ACTIVE"
    resource_type = "agentservice.v1.Session"


class SessionActive(RequestError):
    """The session is at work, and the request needs it at rest."""

    code = StatusCode.FAILED_PRECONDITION
    reason = "SESSION_ACTIVE"
    resource_type = "agentservice.v1.Session"


class InteractionClosed(RequestError):
    """The interaction was answered already; metadata says by whom."""

    code = StatusCode.FAILED_PRECONDITION
    reason = "INTERACTION_CLOSED"
    resource_type = "agentservice.v1.Interaction"


class WorkspaceMissing(RequestError):
    """The directory the session works in is gone."""

    code = StatusCode.FAILED_PRECONDITION
    reason = "WORKSPACE_MISSING"


class SandboxUnavailable(RequestError):
    """The sandbox that the policy asks for does not work on this host."""

    code = StatusCode.FAILED_PRECONDITION
    reason = "SANDBOX_UNAVAILABLE"


class ResumeRejected(RequestError):
    """The conversation cannot be continued: its transcript is missing, or it never began."""

    code = StatusCode.FAILED_PRECONDITION
    reason = "RESUME_REJECTED"
    resource_type = "agentservice.v1.Session"


class SequenceCompacted(RequestError):
    """Events after the given sequence are no longer stored; metadata has `first_available_sequence`."""

    code = StatusCode.OUT_OF_RANGE
    reason = "SEQUENCE_COMPACTED"


class SequenceInFuture(RequestError):
    """The given sequence is past the end of the log; metadata has `last_sequence`."""

    code = StatusCode.OUT_OF_RANGE
    reason = "SEQUENCE_IN_FUTURE"


class QueueFull(RequestError):
    """As many turns wait already as the operator lets wait."""

    code = StatusCode.RESOURCE_EXHAUSTED
    reason = "QUEUE_FULL"


class ServerDraining(RequestError):
    """The service is shutting down."""

    code = StatusCode.UNAVAILABLE
    reason = "SERVER_DRAINING"


class StoreUnavailable(RequestError):
    """The ledger cannot be read or written; nothing of this request was kept."""

    code = StatusCode.UNAVAILABLE
    reason = "STORE_UNAVAILABLE"


class CredentialsMissing(RequestError):
    """The call has no credential, and the RPC needs one."""

    code = StatusCode.UNAUTHENTICATED
    reason = "CREDENTIALS_MISSING"


class CredentialsInvalid(RequestError):
    """The credential is unknown, malformed or expired; which of these is not told."""

    code = StatusCode.UNAUTHENTICATED
    reason = "CREDENTIALS_INVALID"


class RpcNotAllowed(RequestError):
    """The principal may not call this RPC, or not for this tenant."""

    code = StatusCode.PERMISSION_DENIED
    reason = "RPC_NOT_ALLOWED"


class QuotaExceeded(RequestError):
    """The tenant has as many turns waiting, or sessions kept, as it may."""

    code = StatusCode.RESOURCE_EXHAUSTED
    reason = "QUOTA_EXCEEDED"


class RateLimited(RequestError):
    """The tenant calls more often than it may."""

    code = StatusCode.RESOURCE_EXHAUSTED
    reason = "RATE_LIMITED"


class IdentityUnavailable(RequestError):
    """The issuer's keys could not be read for too long, so no token of it can be checked."""

    code = StatusCode.UNAVAILABLE
    reason = "IDENTITY_UNAVAILABLE"


class CannotServe(Exception):
    """The service cannot start as configured; the text says what to change."""
