"""Schemas of answers: what is accepted runs, what would fail every run is refused at once, answers are checked here."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agent_service.options.output_check import check_output, schema_problem
from agent_service.options.output_schema import for_agent

OBJECT: dict[str, Any] = {"type": "object"}


def of(**properties: Any) -> dict[str, Any]:
    """A schema of an object with these properties."""
    return {**OBJECT, "properties": properties}


EVERYTHING = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "$id": "https://example.com/everything",
    "title": "Everything",
    "$defs": {
        "node": {"type": "object", "id": "node", "properties": {"next": {"$ref": "#/$defs/node"}}, "x-note": 1},
        "maybe": {"type": "string", "nullable": True, "deprecated": True, "example": "x"},
    },
    "properties": {
        "x": {"type": "integer", "minimum": 0, "maximum": 9},
        "node": {"$ref": "#/$defs/node", "description": "stands beside a reference"},
        "pair": {"type": "array", "prefixItems": [{"type": "string"}, {"type": "integer"}], "items": False},
        "kind": {
            "oneOf": [{"const": "a"}, {"const": "b"}],
            "discriminator": {"propertyName": "kind"},
        },
        "maybe": {"$ref": "#/$defs/maybe"},
        "when": {"type": "string", "format": "date-time"},
        "code": {"type": "string", "pattern": "^\\p{L}[\\w\\-]*$"},
        "map": {"type": "object", "patternProperties": {"^x-": {"type": "string"}}, "additionalProperties": False},
    },
    "required": ["x"],
    "dependentRequired": {"kind": ["x"]},
    "dependentSchemas": {"pair": {"required": ["x"]}},
    "then": {"required": ["y"]},
    "additionalProperties": False,
}
"""All that is made acceptable to the agent, which refuses most of it as it stands."""

REFUSED: list[tuple[Any, str]] = [
    ({"type": "array"}, "$.type must be object"),
    ({"anyOf": [OBJECT, OBJECT]}, "$.anyOf is not possible at the root"),
    (of(x={"type": "strin"}), "$.properties.x.type"),
    ({**of(x={"$ref": "#/$defs/a"}), "$defs": {"a": {"type": ["a"]}}}, "$['$defs'].a.type"),
    ({**OBJECT, "zzz": 1}, "'zzz', which is no keyword"),
    ({**OBJECT, "$schema": "http://json-schema.org/draft-04/schema#"}, "$schema must be one of"),
    (of(x={"pattern": "("}), "$.properties.x.pattern"),
    (of(x={"pattern": r"\-"}), "$.properties.x.pattern"),
    (of(x={"$ref": "http://127.0.0.1:9/x"}), "is no schema within this one"),
    (of(x={"$ref": "#/$defs/a"}), "is no schema within this one"),
    (of(x={"$ref": "#/properties"}), "is no schema within this one"),
    ({**OBJECT, "allOf": [{"$ref": "#"}, {}]}, "root"),
    (of(x={"$ref": "#/properties/x"}), "without end"),
    ({**OBJECT, "required": "x"}, "$.required"),
    ({**OBJECT, "required": ["x", "x"]}, "$.required"),
    (of(x={"minimum": "1"}), "$.properties.x.minimum"),
    (of(x={"exclusiveMinimum": True}), "$.properties.x.exclusiveMinimum"),
    (of(x={"enum": []}), "$.properties.x.enum"),
    (of(x={"enum": [1, 1]}), "$.properties.x.enum"),
    (of(x={"multipleOf": 0}), "$.properties.x.multipleOf"),
    ({**OBJECT, "unevaluatedProperties": False}, "use additionalProperties"),
    (of(x={"$dynamicRef": "#a"}), "$.properties.x.$dynamicRef"),
    (of(x={"contains": {}, "minContains": 2}), "minContains"),
    (of(x=3), "$.properties.x must be a schema"),
    (of(x={"allOf": [{}] * 3000}), "of at most 2000"),
    (
        of(x={"properties": {f"p{n}": {} for n in range(100)}, "patternProperties": {f"^a{n}": {} for n in range(99)}}),
        "pairs of a property and a pattern",
    ),
    (of(x={"allOf": [{"pattern": f"^a{n}$"} for n in range(300)]}), "300 patterns of at most 100"),
    (of(**{"two words": {}}), "the API takes names"),
    ({**of(ab={}), "patternProperties": {"^a": {}}}, "'ab' must not match a pattern"),
]


@pytest.mark.parametrize(("schema", "said"), REFUSED, ids=[said for _, said in REFUSED])
def test_a_schema_that_would_fail_every_run_is_refused_with_its_place(schema: Any, said: str) -> None:
    assert said in schema_problem(json.dumps(schema))


@pytest.mark.parametrize(
    "schema",
    [
        EVERYTHING,
        {},
        {"$ref": "#/$defs/a", "$defs": {"a": of(x={"$ref": "#/$defs/a"})}},
        {"allOf": [{"$ref": "#/$defs/a"}], "$defs": {"a": OBJECT}},
        {"type": ["object", "null"]},
        {**of(x={"$ref": "#/$defs/any"}), "$defs": {"any": True}},
        of(x=True, y={"enum": [1, True, "1", None]}),
    ],
)
def test_what_generators_of_schemas_write_is_accepted(schema: Any) -> None:
    assert schema_problem(json.dumps(schema)) == ""
    assert for_agent(json.dumps(schema))["type"] == "object"


MET: list[tuple[Any, str]] = [
    (EVERYTHING, '{"x": 1, "pair": ["a", 1], "maybe": null, "code": "a-b", "map": {"x-a": "b"}, "kind": "a"}'),
    (of(x={"type": "number", "multipleOf": 0.1}), '{"x": 0.3}'),
    (of(x={"type": "integer"}), '{"x": 1.0}'),
    (of(x={"enum": [1, True]}), '{"x": true}'),
    (of(x={"uniqueItems": True}), '{"x": [1, true, "1"]}'),
]
UNMET: list[tuple[Any, str, str]] = [
    ({**OBJECT, "required": ["toString"]}, '{"x": 1}', "'toString' is a required property"),
    ({**OBJECT, "required": ["constructor", "hasOwnProperty"]}, "{}", "required"),
    ({**OBJECT, "additionalProperties": False}, '{"x": 1}', "'x' is not allowed"),
    (OBJECT, "", "no structured answer"),
    (OBJECT, "[]", "not of type 'object'"),
    (EVERYTHING, '{"x": 1, "pair": ["a", 1, 2]}', "$.pair"),
    (EVERYTHING, '{"x": 1, "kind": "c"}', "$.kind"),
    (EVERYTHING, '{"x": 1, "node": {"next": {"next": 3}}}', "$.node.next.next"),
    (EVERYTHING, '{"x": 1, "code": "1"}', "$.code"),
    (EVERYTHING, '{"kind": "a"}', "'x' is a"),
    (of(x={"uniqueItems": True}), '{"x": [{"a": 1, "b": 2}, {"b": 2.0, "a": 1}]}', "an item twice"),
    (of(x={"multipleOf": 0.1}), '{"x": 0.35}', "multiple"),
    (of(x={"const": True}), '{"x": 1}', "$.x"),
]


@pytest.mark.parametrize(("schema", "output"), MET)
def test_an_answer_that_meets_its_schema(schema: Any, output: str) -> None:
    assert check_output(json.dumps(schema), output) is None


@pytest.mark.parametrize(("schema", "output", "said"), UNMET)
def test_an_answer_that_does_not_is_told_where(schema: Any, output: str, said: str) -> None:
    assert said in (check_output(json.dumps(schema), output) or "")


def test_a_check_that_would_not_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent_service.options.output_check.TIME_LIMIT", 0.05)
    slow_pattern = json.dumps(of(x={"type": "string", "pattern": "^(a|a)*$"}))
    assert "within 0.05 s" in (check_output(slow_pattern, json.dumps({"x": "a" * 60 + "b"})) or "")
    doubling = {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(40)}
    many = json.dumps({**of(x={"$ref": "#/$defs/d0"}), "$defs": {**doubling, "d40": {"type": "integer"}}})
    assert "within 0.05 s" in (check_output(many, '{"x": 1}') or "")


def test_an_answer_of_any_depth_gets_an_answer() -> None:
    nested = json.dumps(of(x={"$ref": "#"}))
    deep: Any = {}
    for _ in range(600):
        deep = {"x": deep}
    said = check_output(nested, json.dumps(deep))
    assert said is None or "without end" in said or "could not be checked" in said
    assert check_output(nested, '{"x": {"x": 3}}') is not None
