"""The Messages API's encoding: replies as server-sent events or as one JSON object, and errors. No I/O."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from starlette.responses import JSONResponse, Response

from .script import PARTIAL, TOKEN, Reply, tick_text
from .steps import Cut, Fail, Say, Silence, Think, Tick, Tokens, UseTool

SIGNATURE = "b2ZmbGluZQ=="
PIECE = 16  # characters of a delta of short texts; long ones go in PIECES deltas
PIECES = 64
TICK = 0.1
BATCH = 1000  # token deltas in one write

ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}


@dataclass(frozen=True, slots=True)
class Pause:
    """A pause, in seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Drop:
    """Drop the connection here."""


Part = bytes | Pause | Drop


def new_id(prefix: str) -> str:
    """Return a new id in the API's form: the CLI merges messages of the same id."""
    return f"{prefix}_offline{uuid.uuid4().hex}"


def error_body(status: int, message: str) -> dict[str, Any]:
    """Return an error in the API's form."""
    kind = ERROR_TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")
    return {"type": "error", "error": {"type": kind, "message": message}, "request_id": new_id("req")}


def refusal(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    """Return an error as a response."""
    body = error_body(status, message)
    return JSONResponse(body, status, {"request-id": body["request_id"], **(headers or {})})


def failure_text(failure: Fail) -> str:
    """Return the text of an error that a directive asked for."""
    return f"The offline model was asked to fail with {failure.status}."


def stream(reply: Reply) -> Iterator[Part]:
    """Return the reply as server-sent events; events without a pause between them are joined into few pieces."""
    ready = [_event("message_start", message=_message(reply, content=[], stop_reason=None, output_tokens=1))]
    for part in _events(reply):
        if isinstance(part, bytes):
            ready.append(part)
            if len(ready) <= BATCH:
                continue
        if ready:
            yield b"".join(ready)
            ready.clear()
        if not isinstance(part, bytes):
            yield part
        if isinstance(part, Drop):
            return
    yield b"".join(ready)


def whole(reply: Reply) -> Iterator[Part]:
    """Return the reply as one JSON object, after the pauses of all its steps."""
    yield Pause(sum(_duration(step) for step in reply.steps))
    content = [_block(step) for step in reply.steps if not isinstance(step, Fail | Silence)]
    text = json.dumps(
        _message(reply, content=content, stop_reason=reply.stop_reason, output_tokens=reply.output_tokens)
    ).encode()
    if any(isinstance(step, Cut) for step in reply.steps):
        yield text[: len(text) // 2]
        yield Drop()
    yield text


def _events(reply: Reply) -> Iterator[Part]:
    index = 0
    for step in reply.steps:
        match step:
            case Silence(seconds):
                yield Pause(seconds)
                continue
            case Fail(status):
                yield _event(
                    "error", **{k: v for k, v in error_body(status, failure_text(step)).items() if k != "type"}
                )
                return
            case _:
                yield _event("content_block_start", index=index, content_block=_opening(step))
                yield from _deltas(step, index)
        if isinstance(step, Cut):
            yield Drop()
            return
        yield _event("content_block_stop", index=index)
        index += 1
    yield _event(
        "message_delta",
        delta={"stop_reason": reply.stop_reason, "stop_sequence": None},
        usage=_usage(reply, reply.output_tokens),
    )
    yield _event("message_stop")


def _deltas(step: Say | Think | UseTool | Tick | Tokens | Cut, index: int) -> Iterator[Part]:
    match step:
        case Say(text):
            for piece in _pieces(text):
                yield _delta(index, type="text_delta", text=piece)
        case Think(text):
            for piece in _pieces(text):
                yield _delta(index, type="thinking_delta", thinking=piece)
            yield _delta(index, type="signature_delta", signature=SIGNATURE)
        case UseTool(_, given):
            for piece in _pieces(json.dumps(given)):
                yield _delta(index, type="input_json_delta", partial_json=piece)
        case Tick(count):
            for number in range(1, count + 1):
                yield _delta(index, type="text_delta", text=tick_text(number))
                yield Pause(TICK)
        case Tokens(count):
            token = _delta(index, type="text_delta", text=TOKEN)
            for _ in range(count):
                yield token
        case Cut():
            yield _delta(index, type="text_delta", text=PARTIAL)


def _pieces(text: str) -> Iterator[str]:
    size = max(PIECE, -(-len(text) // PIECES))
    for start in range(0, len(text), size):
        yield text[start : start + size]


def _duration(step: object) -> float:
    match step:
        case Silence(seconds):
            return seconds
        case Tick(count):
            return count * TICK
        case _:
            return 0.0


def _opening(step: Say | Think | UseTool | Tick | Tokens | Cut) -> dict[str, Any]:
    block = _block(step)
    if isinstance(step, UseTool):
        return {**block, "input": {}}
    return {key: value if key == "type" else "" for key, value in block.items()}


def _block(step: Say | Think | UseTool | Tick | Tokens | Cut) -> dict[str, Any]:
    match step:
        case Say(text):
            return {"type": "text", "text": text}
        case Think(text):
            return {"type": "thinking", "thinking": text, "signature": SIGNATURE}
        case UseTool(name, given):
            return {"type": "tool_use", "id": new_id("toolu"), "name": name, "input": given}
        case Tick(count):
            return {"type": "text", "text": "".join(tick_text(number) for number in range(1, count + 1))}
        case Tokens(count):
            return {"type": "text", "text": TOKEN * count}
        case Cut():
            return {"type": "text", "text": PARTIAL}


def _message(reply: Reply, *, content: list[Any], stop_reason: str | None, output_tokens: int) -> dict[str, Any]:
    return {
        "id": new_id("msg"),
        "type": "message",
        "role": "assistant",
        "model": reply.model,
        "content": content,
        "stop_reason": stop_reason,
        "stop_sequence": None,
        "usage": _usage(reply, output_tokens),
    }


def _usage(reply: Reply, output_tokens: int) -> dict[str, int]:
    return {
        "input_tokens": reply.input_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "output_tokens": output_tokens,
    }


def _delta(index: int, **delta: Any) -> bytes:
    return _event("content_block_delta", index=index, delta=delta)


def _event(kind: str, **fields: Any) -> bytes:
    # ASCII only: a lone surrogate has no UTF-8, but an escape.
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode("ascii")
