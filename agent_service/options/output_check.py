"""Validation of structured answers: done in the service, within a bounded time, without a network.

The agent checks as well, but takes inherited names for present ones: `required: ["toString"]` is met by `{}` there.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from functools import lru_cache
from typing import Any, NamedTuple

from jsonschema import Draft7Validator, ValidationError, validators
from jsonschema.exceptions import best_match

from agent_service.options.ecma_regex import BadPattern, compiled
from agent_service.options.output_schema import BadSchema, for_agent, resolved
from agent_service.options.strict_json import BadJson

TIME_LIMIT = 2.0
"""Seconds that one check may take."""
PRECISION = 1e-6
"""Tolerance of `multipleOf`: distance of the quotient from an integer. The agent's own figure."""
MAX_PROBLEM = 1000
"""Characters of a sentence about an answer."""


class _Check(NamedTuple):
    """State of one validation: the whole schema, and the deadline."""

    root: Any
    deadline: float


class _TooLongError(Exception):
    """The check has taken too long."""


_check: ContextVar[_Check] = ContextVar("_check")


def schema_problem(schema_json: str) -> str:
    """Return the reason why a schema is refused, for the caller; empty when it is accepted."""
    try:
        schema = for_agent(schema_json)
    except (BadJson, BadSchema) as bad:
        return str(bad)
    except RecursionError:
        return "it is nested too deeply"
    problem = problem_of(_META_SCHEMA, schema)
    return f"it is no JSON Schema: {problem}" if problem else ""


def check_output(schema_json: str, output_json: str) -> str | None:
    """Return how an answer violates an accepted schema, for people; None when it is valid.

    It may take TIME_LIMIT seconds: call it in a thread.
    """
    if not output_json:
        return "the agent gave no structured answer"
    try:
        problem = problem_of(for_agent(schema_json), json.loads(output_json))
    except (BadJson, BadSchema, RecursionError, ValueError) as error:
        return f"the answer could not be checked: {error}"[:MAX_PROBLEM]
    return f"the answer does not meet the schema: {problem}" if problem else None


def problem_of(schema: Any, value: Any) -> str:
    """Return the most relevant violation of a draft-07 schema, with its path; empty for a valid value."""
    token = _check.set(_Check(schema, time.monotonic() + TIME_LIMIT))
    try:
        error = best_match(_Validator(schema).iter_errors(value))
    except (_TooLongError, TimeoutError):
        return f"it could not be checked within {TIME_LIMIT:g} s"
    except RecursionError:
        return "a definition refers to itself without end"
    finally:
        _check.reset(token)
    return _shown(error) if error is not None else ""


def _shown(error: ValidationError) -> str:
    message = error.message if len(error.message) <= MAX_PROBLEM // 2 else f"{error.message[: MAX_PROBLEM // 2]}…"
    return f"{error.json_path[: MAX_PROBLEM // 4]}: {message}"


# -------------------------------------------------------------------------------------------- keywords, bounded in time

Keyword = Callable[[Any, Any, Any, Any], Any]


def _bounded(keyword: Keyword) -> Keyword:
    def check(validator: Any, value: Any, instance: Any, schema: Any) -> Any:
        if time.monotonic() > _check.get().deadline:
            raise _TooLongError
        return keyword(validator, value, instance, schema)

    return check


def _reference(validator: Any, reference: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    target = resolved(_check.get().root, reference)
    if target is None:
        yield ValidationError(f"{reference!r} is nothing within the schema")
    else:
        yield from validator.descend(instance, target)


def _pattern(validator: Any, pattern: str, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if isinstance(instance, str) and not _matches(pattern, instance):
        yield ValidationError(f"{instance[:100]!r} does not match {pattern!r}")


def _pattern_properties(validator: Any, named: Mapping[str, Any], instance: Any, schema: Any) -> Iterator[Any]:
    for pattern, inner in named.items() if isinstance(instance, dict) else ():
        for key, value in instance.items():
            if _matches(pattern, key):
                yield from validator.descend(value, inner, path=key, schema_path=pattern)


def _additional_properties(validator: Any, further: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if not isinstance(instance, dict):
        return
    patterns = schema.get("patternProperties", {})
    for key, value in instance.items():
        if key in schema.get("properties", {}) or any(_matches(pattern, key) for pattern in patterns):
            continue
        if further is False:
            yield ValidationError(f"{key[:100]!r} is not allowed")
        elif further is not True:
            yield from validator.descend(value, further, path=key)


def _unique_items(validator: Any, unique: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if unique and isinstance(instance, list):
        seen = {json.dumps(_plain(each), sort_keys=True) for each in instance}
        if len(seen) < len(instance):
            yield ValidationError("has an item twice")


def _plain(value: Any) -> Any:
    """The value with 1.0 as 1, which JSON takes for the same."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list) else value


def _multiple_of(validator: Any, factor: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if not validator.is_type(instance, "number"):
        return
    try:
        quotient = instance / factor
    except (OverflowError, ZeroDivisionError):
        quotient = math.inf
    if not math.isfinite(quotient) or abs(round(quotient) - quotient) > PRECISION:
        yield ValidationError(f"{instance!r} is not a multiple of {factor}")


def _matches(pattern: str, text: str) -> bool:
    """Return whether the text contains a match of the pattern. Raises TimeoutError."""
    remaining = _check.get().deadline - time.monotonic()
    if remaining <= 0:
        raise _TooLongError
    return _compiled(pattern).search(text, timeout=remaining, concurrent=True) is not None


@lru_cache(maxsize=256)
def _compiled(pattern: str) -> Any:
    try:
        return compiled(pattern)
    except BadPattern:
        return compiled(r"[^\u{0}-\u{10FFFF}]")  # of a metaschema; what callers write was compiled before


_KEYWORDS: dict[str, Keyword] = {
    **Draft7Validator.VALIDATORS,
    "$ref": _reference,
    "additionalProperties": _additional_properties,
    "multipleOf": _multiple_of,
    "pattern": _pattern,
    "patternProperties": _pattern_properties,
    "uniqueItems": _unique_items,
}
_PARTS = Draft7Validator.META_SCHEMA["properties"]
_META_SCHEMA = {**Draft7Validator.META_SCHEMA, "properties": {**_PARTS, "$defs": _PARTS["definitions"]}}
"""Draft-07's metaschema does not look into `$defs`, which later drafts have."""

_Validator: Any = validators.create(
    meta_schema={},
    validators={name: _bounded(check) for name, check in _KEYWORDS.items()},
    type_checker=Draft7Validator.TYPE_CHECKER,
)
"""Draft-07, but keywords beside a `$ref` count, as in the agent's validator."""
