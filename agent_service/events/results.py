"""A `result` frame → the figures of its turn alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agentpb import agent_pb2 as pb

from agent_service.events.frames import duration_of, usage_of
from agent_service.events.text import int32, int64, mapping, number, text_of, to_json
from agent_service.events.transcript import lines_backwards

DIAGNOSTIC = "[ede_diagnostic]"
"""What begins the texts that the CLI writes for its own authors."""

COST_STATE = b'{"type":"cost-state"'
"""How the line of a transcript begins that holds a conversation's totals."""

_COUNTERS = {
    "input_tokens": "inputTokens",
    "output_tokens": "outputTokens",
    "cache_read_input_tokens": "cacheReadInputTokens",
    "cache_creation_input_tokens": "cacheCreationInputTokens",
    "web_search_requests": "webSearchRequests",
}


@dataclass(frozen=True, slots=True)
class ModelTotals:
    """The usage and cost of one model so far."""

    cost_usd: float = 0.0
    counts: tuple[int, ...] = (0,) * len(_COUNTERS)


@dataclass(frozen=True, slots=True)
class RunningTotals:
    """The usage and cost of a conversation so far, from its last result.

    A process that begins a conversation starts with `RunningTotals()`, one that resumes or forks one with
    `restored_totals`.
    """

    cost_usd: float = 0.0
    api_duration_ms: int = 0
    models: Mapping[str, ModelTotals] = field(default_factory=dict)


def turn_result(frame: Mapping[str, Any], previous: RunningTotals) -> tuple[pb.TurnResult, RunningTotals]:
    """The result of one turn, and the totals to give to the next call for the same process.

    `total_cost_usd`, `modelUsage` and `duration_api_ms` are running totals; `usage` (without subagents), `num_turns`
    and `duration_ms` are the turn's own. Totals that went down were reset, as by /clear: they count from zero again.
    """
    totals = _totals(frame, previous)
    base = RunningTotals() if _fell(previous, totals) else previous
    result = pb.TurnResult(
        subtype=text_of(frame.get("subtype")),
        is_error=frame.get("is_error") is True,
        result=text_of(frame.get("result")),
        stop_reason=text_of(frame.get("stop_reason")),
        terminal_reason=text_of(frame.get("terminal_reason")),
        num_turns=int32(frame.get("num_turns")),
        duration=duration_of(frame.get("duration_ms")),
        api_duration=duration_of(totals.api_duration_ms - base.api_duration_ms),
        cost_usd=max(0.0, totals.cost_usd - base.cost_usd),
        usage=usage_of(mapping(frame.get("usage"))),
        errors=_errors(frame.get("errors")),
    )
    if frame.get("structured_output") is not None:
        result.structured_output_json = to_json(frame["structured_output"])
    _add_models(result, frame, totals, base)
    _add_denials(result, frame.get("permission_denials"))
    return result, totals


def _totals(frame: Mapping[str, Any], previous: RunningTotals) -> RunningTotals:
    """The frame's totals; what it does not say stands as before."""
    cost, usage, duration = frame.get("total_cost_usd"), frame.get("modelUsage"), frame.get("duration_api_ms")
    return RunningTotals(
        cost_usd=previous.cost_usd if cost is None else number(cost),
        api_duration_ms=previous.api_duration_ms if duration is None else int64(duration),
        models=_models(usage) if isinstance(usage, Mapping) else previous.models,
    )


def restored_totals(transcript: Path) -> RunningTotals:
    """The totals with which a process that resumes or forks this conversation will begin.

    The CLI writes them into the transcript when it leaves in good order, and takes up the last ones: after a kill these
    are older than its last result, or none. Read them once the former process is gone; blocks for a few milliseconds.
    """
    with suppress(OSError):
        for line in lines_backwards(transcript, COST_STATE):
            with suppress(ValueError, RecursionError):
                if line.startswith(COST_STATE):
                    return _totals_of(mapping(json.loads(line)))
    return RunningTotals()


def _totals_of(state: Mapping[str, Any]) -> RunningTotals:
    return RunningTotals(
        cost_usd=number(state.get("totalCostUSD")),
        api_duration_ms=int64(state.get("totalAPIDuration")),
        models=_models(mapping(state.get("modelUsage"))),
    )


def _models(usage: Mapping[str, Any]) -> dict[str, ModelTotals]:
    return {text_of(model): _model_totals(mapping(entry)) for model, entry in usage.items()}


def _model_totals(entry: Mapping[str, Any]) -> ModelTotals:
    return ModelTotals(
        cost_usd=number(entry.get("costUSD")), counts=tuple(int64(entry.get(name)) for name in _COUNTERS.values())
    )


def _fell(before: RunningTotals, after: RunningTotals) -> bool:
    none = ModelTotals()
    return after.cost_usd < before.cost_usd or any(
        now < then
        for model, totals in before.models.items()
        for now, then in zip(after.models.get(model, none).counts, totals.counts, strict=True)
    )


def _add_models(result: pb.TurnResult, frame: Mapping[str, Any], totals: RunningTotals, base: RunningTotals) -> None:
    """Usage of the models that did something in this turn."""
    none = ModelTotals()
    for model, now in totals.models.items():
        then = base.models.get(model, none)
        if now == then:
            continue
        entry = mapping(mapping(frame.get("modelUsage")).get(model))
        counts = {name: a - b for name, a, b in zip(_COUNTERS, now.counts, then.counts, strict=True)}
        result.model_usage[model].CopyFrom(
            pb.ModelUsage(
                usage=pb.Usage(**counts),
                cost_usd=max(0.0, now.cost_usd - then.cost_usd),
                context_window=int64(entry.get("contextWindow")),
                max_output_tokens=int64(entry.get("maxOutputTokens")),
            )
        )


def _errors(errors: object) -> list[str]:
    texts = [text_of(error) for error in errors] if isinstance(errors, list) else []
    return [text for text in texts if text and DIAGNOSTIC not in text]


def _add_denials(result: pb.TurnResult, denials: object) -> None:
    for denial in map(mapping, denials if isinstance(denials, list) else []):
        result.permission_denials.add(
            tool_name=text_of(denial.get("tool_name")),
            tool_use_id=text_of(denial.get("tool_use_id")),
            tool_input_json=to_json(denial.get("tool_input", {})),
        )
