"""Audited: the link of the chain that writes the audit log: a line for every call that changes something, and for
every refusal; for reads on request.

A line has names and ids. Values of options, prompts, answers and credentials have no place in it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

from agentpb import agent_pb2 as pb
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.descriptor_pb2 import MethodOptions
from google.protobuf.message import Message

from agent_service import errors
from agent_service.api.call import Call, CallerLeft
from agent_service.api.chain import DESCRIPTOR
from agent_service.audit import AuditLog, AuditUnwritable

MAX_TEXT = 200
"""Characters of a value that a caller chose; the line of a refused call holds unchecked ones."""
MAX_NAMED = 50
"""Sessions that the line of a Cleanup names; their number is always there."""
REFUSALS = frozenset({"UNAUTHENTICATED", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED"})
"""Codes by which a caller is refused for what it is or has used up."""
NO_REFUSALS = (errors.QueueFull, errors.RequestTooLarge)
IDS = {"session_id": "session", "turn_id": "turn", "interaction_id": "interaction", "request_id": "request_id"}


def _reads(method: MethodDescriptor) -> bool:
    return bool(method.GetOptions().idempotency_level == MethodOptions.NO_SIDE_EFFECTS)


READS = frozenset(method.name for method in DESCRIPTOR.methods if _reads(method))
"""The RPCs that change nothing."""


class Audited:
    """The link: `Audited(...)` around each call. Outside of whatever finds out who calls."""

    def __init__(self, log: AuditLog, *, policy: Callable[[], str], strict: bool, reads: bool) -> None:
        """Write into `log`, with the version of the policy in force.

        `strict` refuses what changes something while the log cannot be written; otherwise such calls go on, and the
        service's own log says so. `reads` has a line for every call.
        """
        self._log = log
        self._policy = policy
        self._strict = strict
        self._reads = reads

    def __call__(self, call: Call) -> _Entry:
        """Surround one call."""
        return _Entry(self, call)

    def admit(self, call: Call) -> None:
        """Refuse a call that would change something without a trace. Raises StoreUnavailable."""
        if self._log.failure is None or not self._strict or call.method in READS:
            return
        try:
            self._log.retry()
        except AuditUnwritable as error:
            raise errors.StoreUnavailable("the audit log cannot be written, so nothing may be changed") from error

    def record(self, call: Call, error: BaseException | None) -> None:
        """Write the line of a call that is over, if it is to have one."""
        refusal = _is_refusal(error)
        if call.method in READS and not refusal and not self._reads:
            return
        line = self._line(call, error, "refused" if refusal else "done" if error is None else "failed")
        if _is_nameless(error):
            self._log.append_nameless(line)
        else:
            self._log.append(line)

    def _line(self, call: Call, error: BaseException | None, decision: str) -> dict[str, Any]:
        line: dict[str, Any] = {
            **_identity(call, error),
            "peer": call.peer,
            "method": call.method,
            "decision": decision,
        }
        line |= _reason(error)
        if policy := self._policy():
            line["policy"] = policy
        if call.request is not None:
            line |= _ids(call.request, call.response) | _many(call.request, call.response)
        if isinstance(call.request, pb.RespondToInteractionRequest):
            line["answer"] = _answer(call.request, call.response)
        return line


class _Entry:
    __slots__ = ("_audited", "_call")

    def __init__(self, audited: Audited, call: Call) -> None:
        self._audited = audited
        self._call = call

    async def __aenter__(self) -> None:
        self._audited.admit(self._call)

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._audited.record(self._call, error)


def _is_refusal(error: BaseException | None) -> bool:
    if not isinstance(error, errors.RequestError) or isinstance(error, NO_REFUSALS):
        return False
    return error.code.name in REFUSALS


def _is_nameless(error: BaseException | None) -> bool:
    return isinstance(error, errors.RequestError) and error.code.name == "UNAUTHENTICATED"


def _identity(call: Call, error: BaseException | None) -> dict[str, str]:
    who = call.principal
    if _is_nameless(error) or not who.name:
        return {}
    found = {"principal": who.name, "tenant": call.owner or who.tenant, "via": who.via, "credential": who.credential}
    return {key: _short(value) for key, value in found.items() if value}


def _reason(error: BaseException | None) -> dict[str, str]:
    if error is None:
        return {}
    if not isinstance(error, errors.RequestError):
        return {"reason": "CALLER_LEFT" if isinstance(error, CallerLeft) else "CANCELLED"}
    rule = error.metadata.get("rule", "")
    return {"reason": error.reason} | ({"rule": rule} if rule else {})


def _ids(request: Message, response: object) -> dict[str, str]:
    """Return the ids that the request names; those that the service chose are in the response."""
    found = {}
    for field, name in IDS.items():
        value = getattr(request, field, "") or getattr(response, field, "")
        if value:
            found[name] = _short(value)
    if isinstance(response, pb.ExecuteResponse) and response.turn.turn_id:
        found["turn"] = response.turn.turn_id
    return found


def _many(request: Message, response: object) -> dict[str, Any]:
    """Say how many sessions a call was about that names none, and that it changed nothing where it was a rehearsal."""
    found: dict[str, Any] = {}
    if isinstance(response, pb.CleanupResponse):
        found = {"count": response.deleted_count, "sessions": [*response.session_ids[:MAX_NAMED]]}
    elif isinstance(response, pb.CancelSessionsResponse):
        found = {"count": response.summary.cancelled}
    if getattr(request, "dry_run", False) or getattr(request, "validate_only", False):
        found["rehearsal"] = True
    return found


def _answer(request: pb.RespondToInteractionRequest, response: object) -> Mapping[str, Any]:
    """Say what was answered: the tool, and which input it was allowed."""
    found: dict[str, Any] = {"allowed": request.HasField("allow")}
    changed = request.allow.updated_input_json
    if isinstance(response, pb.RespondToInteractionResponse):
        asked = response.interaction
        found["tool"] = _short(asked.tool_name)
        found["input"] = hashlib.sha256((changed or asked.input_json).encode()).hexdigest()
        if asked.input_truncated and not changed:
            found["input_cut"] = True
    found["changed"] = bool(changed)
    if request.allow.updated_permissions:
        found["remembered"] = len(request.allow.updated_permissions)
    return found


def _short(value: str) -> str:
    return value[:MAX_TEXT]
