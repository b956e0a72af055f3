"""Outcomes: what a turn's end means for the turn and its session. Pure: results, failures and stops in, states out.

A result's subtype is not to be trusted alone: an API failure arrives as subtype "success" with `is_error`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any

from agentpb import agent_pb2 as pb

from agent_service.events import MAX_ERROR, cut, cut_front


class StopCause(IntEnum):
    """Why a running turn is stopped, from the weakest to the strongest: a stronger one replaces a weaker one."""

    INTERRUPT = 1
    STALL = 2
    TIMEOUT = 3
    DRAIN = 4
    CANCEL = 5


@dataclass(frozen=True)
class Outcome:
    """The end of a turn, and the phase that its session takes."""

    turn_state: pb.TurnState.ValueType
    state: pb.SessionState.ValueType
    phase: pb.SessionPhase.ValueType
    error: pb.SessionError | None = None
    reason: str = ""
    keeps_queue: bool = False


COMPLETED = Outcome(pb.TURN_STATE_COMPLETED, pb.SESSION_STATE_COMPLETED, pb.SESSION_PHASE_DORMANT, keeps_queue=True)

_LIMITS = {
    "error_max_turns": ("MAX_TURNS", "the turn used up max_turns; resume with a higher one"),
    "error_max_budget_usd": ("MAX_BUDGET_USD", "the turn used up max_budget_usd; resume with a higher one"),
}


_UNFINISHED = {
    "max_tokens": "the answer was cut at the model's limit of tokens",
    "model_context_window_exceeded": "the answer was cut at the end of the model's context",
    "pause_turn": "the model paused in mid-answer",
}
"""Reasons of the API's for which a message ends unfinished; the agent goes on or says `is_error`, in most cases."""


def of_result(
    result: pb.TurnResult,
    api_error_status: int | None,
    output_problem: str | None = None,
    refused: pb.SessionError | None = None,
) -> Outcome:
    """Return the outcome of the agent's result.

    `output_problem` says how its answer fails to meet the schema, `refused` that a hook did not let the prompt pass.
    """
    if result.subtype in _LIMITS:
        reason, text = _LIMITS[result.subtype]
        return failed(pb.SESSION_PHASE_LIMIT_REACHED, error(reason, text))
    if result.terminal_reason.startswith("aborted"):
        return Outcome(
            pb.TURN_STATE_CANCELLED,
            pb.SESSION_STATE_CANCELLED,
            pb.SESSION_PHASE_INTERRUPTED_BY_CLIENT,
            reason="the turn was interrupted",
            keeps_queue=True,
        )
    if not result.is_error:
        return _of_success(result, output_problem, refused)
    return failed(pb.SESSION_PHASE_FAILED, _error_of_result(result, api_error_status))


def _of_success(result: pb.TurnResult, output_problem: str | None, refused: pb.SessionError | None) -> Outcome:
    """Return the outcome of a result without an error: "success" is also reported of turns without an answer."""
    if refused is None and result.terminal_reason == "hook_stopped":
        refused = error("HOOK_STOPPED", "a hook stopped the turn")
    if refused is None and result.stop_reason == "refusal":
        refused = error("API_ERROR", "the model refused to answer")
    if refused is None and result.stop_reason in _UNFINISHED:
        refused = error("AGENT_ERROR", _UNFINISHED[result.stop_reason], retryable=True)
    if refused is None and output_problem is not None:
        refused = error("STRUCTURED_OUTPUT_INVALID", output_problem, retryable=True)
    if refused is not None:
        return failed(pb.SESSION_PHASE_FAILED, refused)
    if result.terminal_reason == "stop_hook_prevented":
        return replace(COMPLETED, reason="a Stop hook ended the turn after its answer")
    return COMPLETED


def refused_prompt(frame: Mapping[str, Any]) -> pb.SessionError | None:
    """Return the reason of a hook that refused the prompt; None when the frame is no such notice."""
    verdict = frame.get("prompt_submit_outcome")
    if frame.get("subtype") != "informational" or not isinstance(verdict, Mapping):
        return None
    text = str(verdict.get("reason") or "")
    if verdict.get("kind") == "blocked_by_hook":
        return error("PROMPT_BLOCKED", f"a hook blocked the prompt: {text}")
    if verdict.get("kind") == "stopped_by_hook":
        return error("HOOK_STOPPED", f"a hook stopped the turn: {text}")
    return None


def _error_of_result(result: pb.TurnResult, api_error_status: int | None) -> pb.SessionError:
    text = result.result or "; ".join(result.errors) or f"the agent reported {result.subtype or 'an error'}"
    if result.subtype == "success":
        reason, retryable = _api_reason(api_error_status)
        retryable = retryable and result.stop_reason != "refusal"
        failure = error(reason, text, retryable=retryable)
        if api_error_status is not None:
            failure.api_error_status = api_error_status
        return failure
    if result.subtype == "error_max_structured_output_retries":
        return error("STRUCTURED_OUTPUT_INVALID", f"no answer met output_schema_json: {text}", retryable=True)
    return error("AGENT_ERROR", text, retryable=True)


def _api_reason(status: int | None) -> tuple[str, bool]:
    if status in (401, 403):
        return "AUTHENTICATION_FAILED", False
    if status == 429:
        return "RATE_LIMITED", True
    if status == 529:
        return "OVERLOADED", True
    return "API_ERROR", status is None or status == 408 or status >= 500


def of_stop(cause: StopCause, reason: str) -> Outcome:
    """Return the outcome of a turn that a stop ended."""
    if cause is StopCause.CANCEL:
        return Outcome(
            pb.TURN_STATE_CANCELLED,
            pb.SESSION_STATE_CANCELLED,
            pb.SESSION_PHASE_CANCELLED,
            reason=reason or "cancelled",
        )
    if cause is StopCause.INTERRUPT:
        return Outcome(
            pb.TURN_STATE_CANCELLED,
            pb.SESSION_STATE_CANCELLED,
            pb.SESSION_PHASE_INTERRUPTED_BY_CLIENT,
            reason=reason or "interrupted",
            keeps_queue=True,
        )
    if cause is StopCause.DRAIN:
        return interrupted("the service was shut down while the turn ran; the next Execute resumes the conversation")
    if cause is StopCause.STALL:
        return failed(pb.SESSION_PHASE_TIMED_OUT, error("STALLED", reason, retryable=True))
    return failed(pb.SESSION_PHASE_TIMED_OUT, error("EXECUTION_TIMEOUT", reason))


def interrupted(text: str) -> Outcome:
    """Return the outcome of a turn that the service's end interrupted. Its queue waits for the next start."""
    return Outcome(
        pb.TURN_STATE_ERROR,
        pb.SESSION_STATE_ERROR,
        pb.SESSION_PHASE_INTERRUPTED,
        error("SERVICE_INTERRUPTED", text, retryable=True),
        keeps_queue=True,
    )


def failed(phase: pb.SessionPhase.ValueType, failure: pb.SessionError) -> Outcome:
    """A turn that failed."""
    return Outcome(pb.TURN_STATE_ERROR, pb.SESSION_STATE_ERROR, phase, failure)


def internal(incident: str) -> pb.SessionError:
    """The error of a fault of the service, which is in the log under the incident's id; without Python's text."""
    return error("INTERNAL", f"internal error, incident {incident}", retryable=True)


def error(reason: str, message: str, *, retryable: bool = False, stderr_tail: str = "") -> pb.SessionError:
    """Make a SessionError; its text is never empty, and both texts have at most MAX_ERROR bytes."""
    return pb.SessionError(
        reason=reason,
        message=cut(message, MAX_ERROR) or reason,
        retryable=retryable,
        stderr_tail=cut_front(stderr_tail, MAX_ERROR),
    )
