"""The schema of a structured answer: taken from the caller's dialect into the agent's, or refused.

The agent compiles schemas with Ajv in its strict mode for draft-07, and the API wants an object at the root. A schema
that either refuses would fail every run; so what draft 2020-12 says otherwise is said in draft-07's words, annotations
are left out, and what has no counterpart is refused with its place.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from agent_service.options.ecma_regex import BadPattern, compiled
from agent_service.options.strict_json import parse_object

DIALECTS = frozenset(
    {
        "https://json-schema.org/draft/2020-12/schema",
        "https://json-schema.org/draft/2019-09/schema",
        "http://json-schema.org/draft-07/schema",
        "http://json-schema.org/draft-06/schema",
    }
)
"""Values of `$schema`, without their fragment."""

_ONE = ("additionalItems", "additionalProperties", "contains", "else", "if", "items", "not", "propertyNames", "then")
_LISTS = ("allOf", "anyOf", "items", "oneOf")
_MAPS = ("$defs", "definitions", "dependencies", "patternProperties", "properties")
_VALUES = frozenset(
    [
        "$ref",
        "const",
        "default",
        "description",
        "enum",
        "examples",
        "exclusiveMaximum",
        "exclusiveMinimum",
        "format",
        "maxItems",
        "maxLength",
        "maxProperties",
        "maximum",
        "minItems",
        "minLength",
        "minProperties",
        "minimum",
        "multipleOf",
        "pattern",
        "readOnly",
        "required",
        "title",
        "type",
        "uniqueItems",
        "writeOnly",
        "$comment",
        "contentEncoding",
        "contentMediaType",
    ]
)
_ANNOTATIONS = frozenset(
    [
        "contentSchema",
        "deprecated",
        "discriminator",
        "example",
        "externalDocs",
        "id",
        "nullable",
        "xml",
        "markdownDescription",
    ]
)
"""Keywords that restrict nothing (`nullable` is made a type first); the agent knows none of them."""
_WITHOUT_COUNTERPART = {
    "$anchor": "refer to #/$defs/NAME instead",
    "$dynamicAnchor": "refer to #/$defs/NAME instead",
    "$dynamicRef": "refer to #/$defs/NAME instead",
    "$id": "only the root may have one",
    "$recursiveRef": "refer to # instead",
    "maxContains": "the agent checks draft-07, which has no counterpart",
    "minContains": "the agent checks draft-07, which has no counterpart",
    "unevaluatedItems": "the agent checks draft-07; use additionalItems",
    "unevaluatedProperties": "the agent checks draft-07; use additionalProperties",
}
MAX_SCHEMAS = 2000
"""Schemas within a schema."""
MAX_PATTERNS = 100
"""Patterns of a schema: one may take some milliseconds to compile."""
_ROOT_KEY = re.compile(r"[a-zA-Z0-9_.-]{1,64}")


class BadSchema(ValueError):
    """Why a schema is refused, and where."""


def for_agent(schema_json: str) -> dict[str, Any]:
    """The schema in the words of draft-07, as the agent and the service check it. Raises BadJson, BadSchema."""
    root = parse_object(schema_json)
    dialect = root.pop("$schema", None)
    if dialect is not None and (not isinstance(dialect, str) or dialect.removesuffix("#") not in DIALECTS):
        raise BadSchema(f"$schema must be one of {', '.join(sorted(DIALECTS))}")
    root.pop("$id", None)
    schema = _rooted(_said_anew(root, "$"))
    places = list(_schemas(schema, "$"))
    if len(places) > MAX_SCHEMAS:
        raise BadSchema(f"it has {len(places)} schemas within it of at most {MAX_SCHEMAS}")
    _check_patterns(places)
    known = {id(place) for _, place in places}
    for path, place in places:
        if "$ref" in place and not _is_place(resolved(schema, str(place["$ref"])), str(place["$ref"]), known):
            raise BadSchema(
                f'{path}.$ref {str(place["$ref"])[:100]!r} is no schema within this one, such as "#/$defs/a"'
            )
    _check_ends(schema, schema, frozenset(), set())
    return schema


def _is_place(target: Any, reference: str, known: set[int]) -> bool:
    """Return whether the target of a reference is a schema, and not a value that looks like one."""
    return reference.startswith(("#/$defs/", "#/definitions/")) if isinstance(target, bool) else id(target) in known


def resolved(root: Any, reference: str) -> Any:
    """Return the target of a reference within a schema, None when there is none. No schema is ever fetched."""
    if not (reference == "#" or reference.startswith("#/")):
        return None
    found = root
    for step in reference[2:].split("/") if reference != "#" else []:
        key = _unescaped(step)
        if isinstance(found, dict):
            found = found.get(key)
        elif isinstance(found, list) and key.isdecimal() and int(key) < len(found):
            found = found[int(key)]
        else:
            return None
    return found if isinstance(found, (dict, bool)) else None


def _unescaped(step: str) -> str:
    plain = re.sub("%([0-9a-fA-F]{2})", lambda match: chr(int(match[1], 16)), step)
    return plain.replace("~1", "/").replace("~0", "~")


# ------------------------------------------------------------------------------------------------ in draft-07's words


def _said_anew(schema: Any, path: str) -> Any:
    """A schema and all within it, in draft-07's words."""
    if isinstance(schema, bool):
        return schema
    if not isinstance(schema, dict):
        raise BadSchema(f"{path} must be a schema: an object, true or false")
    said = _renamed(_with_null(schema), path)
    said = {keyword: _inner(keyword, value, f"{path}.{keyword}") for keyword, value in said.items()}
    _leave_out_what_is_ignored(said)
    _check_lists(said, path)
    return said


def _renamed(schema: Mapping[str, Any], path: str) -> dict[str, Any]:
    said: dict[str, Any] = {}
    for keyword, value in schema.items():
        if keyword in _ANNOTATIONS or keyword.startswith("x-"):
            continue
        if reason := _WITHOUT_COUNTERPART.get(keyword):
            raise BadSchema(f"{path}.{keyword}: {reason}")
        if keyword in ("dependentRequired", "dependentSchemas"):
            said["dependencies"] = {**_mapping(said.get("dependencies", {}), path), **_mapping(value, path)}
        elif keyword == "prefixItems":
            said["items"] = value
        elif keyword == "items" and "prefixItems" in schema:
            said["additionalItems"] = value
        elif keyword in _VALUES or keyword in _ONE or keyword in _LISTS or keyword in _MAPS:
            said[keyword] = value
        else:
            raise BadSchema(f"{path} has {keyword[:64]!r}, which is no keyword of JSON Schema; notes begin with x-")
    return said


def _mapping(value: Any, path: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadSchema(f"{path}: dependencies must be an object")
    return value


def _with_null(schema: dict[str, Any]) -> dict[str, Any]:
    """OpenAPI's `nullable` as a type."""
    kind = schema.get("type")
    if schema.get("nullable") is not True or kind is None:
        return schema
    kinds = kind if isinstance(kind, list) else [kind]
    return {**schema, "type": kinds if "null" in kinds else [*kinds, "null"]}


def _inner(keyword: str, value: Any, path: str) -> Any:
    if keyword in _LISTS and isinstance(value, list):
        return [_said_anew(each, f"{path}[{index}]") for index, each in enumerate(value)]
    if keyword in _ONE:
        return _said_anew(value, path)
    if keyword in _MAPS and isinstance(value, dict):
        named = keyword == "dependencies"
        return {
            key: each if named and isinstance(each, list) else _said_anew(each, f"{path}.{key}")
            for key, each in value.items()
        }
    return value


def _leave_out_what_is_ignored(schema: dict[str, Any]) -> None:
    """Remove what the standard ignores and strict mode refuses, such as `then` without `if`."""
    if "if" not in schema:
        schema.pop("then", None)
        schema.pop("else", None)
    elif "then" not in schema and "else" not in schema:
        del schema["if"]
    if not isinstance(schema.get("items"), list):
        schema.pop("additionalItems", None)


def _check_lists(schema: Mapping[str, Any], path: str) -> None:
    enum = schema.get("enum")
    if isinstance(enum, list) and (not enum or len({json.dumps(each, sort_keys=True) for each in enum}) < len(enum)):
        raise BadSchema(f"{path}.enum must have at least one value, and none twice")


def _check_patterns(places: Sequence[tuple[str, dict[str, Any]]]) -> None:
    patterns = [
        (f"{path}.pattern", place["pattern"]) for path, place in places if isinstance(place.get("pattern"), str)
    ]
    named = [
        (f"{path}.patternProperties", pattern, place.get("properties"))
        for path, place in places
        if isinstance(place.get("patternProperties"), dict)
        for pattern in place["patternProperties"]
    ]
    if len(patterns) + len(named) > MAX_PATTERNS:
        raise BadSchema(f"it has {len(patterns) + len(named)} patterns of at most {MAX_PATTERNS}")
    if sum(len(properties) for _, _, properties in named if isinstance(properties, dict)) > MAX_SCHEMAS:
        raise BadSchema(f"it has more than {MAX_SCHEMAS} pairs of a property and a pattern")
    for where, pattern in patterns:
        _compiled(pattern, where)
    for where, pattern, properties in named:
        _check_apart(_compiled(pattern, where), properties, where)


def _compiled(pattern: str, where: str) -> Any:
    try:
        return compiled(pattern)
    except BadPattern as bad:
        raise BadSchema(f"{where}: {pattern[:100]!r} is no pattern of JavaScript with the flag u: {bad}") from None


def _check_apart(search: Any, properties: Any, where: str) -> None:
    """The agent refuses a property that a pattern names as well."""
    for name in properties if isinstance(properties, dict) else ():
        try:
            both = search.search(name, timeout=0.05)
        except TimeoutError:
            both = True
        if both:
            raise BadSchema(f"{where}: the property {name[:64]!r} must not match a pattern as well")


# ------------------------------------------------------------------------------------------------------------ the root


def _rooted(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema with `type: object` at its root, which the API demands; Raises BadSchema where it cannot be."""
    schema = _inlined(schema)
    kind = schema.get("type", "object")
    if kind != "object" and not (isinstance(kind, list) and "object" in kind):
        raise BadSchema(f"$.type must be object: the answer is an object; put the {kind} into a property of one")
    for keyword in ("anyOf", "oneOf", "allOf"):
        if keyword in schema:
            raise BadSchema(f"$.{keyword} is not possible at the root, as the API says; put it into a property")
    properties = schema.get("properties")
    for name in properties if isinstance(properties, dict) else ():
        if not _ROOT_KEY.fullmatch(name):
            raise BadSchema(f"$.properties: the API takes names of 1 to 64 of a-z A-Z 0-9 _ . - and not {name[:80]!r}")
    return {**schema, "type": "object"}


def _inlined(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the root with its reference replaced by the target: generators put a whole model into `$defs`."""
    for _ in range(8):
        whole = schema.get("allOf")
        if "$ref" in schema:
            rest = {key: value for key, value in schema.items() if key != "$ref"}
            target = resolved(schema, schema["$ref"]) if isinstance(schema["$ref"], str) else None
        elif isinstance(whole, list) and len(whole) == 1:
            rest, target = {key: value for key, value in schema.items() if key != "allOf"}, whole[0]
        else:
            return schema
        if not isinstance(target, dict) or target is schema or _restricts(rest, target):
            return schema
        schema = {**target, **rest}
    return schema


def _restricts(rest: Mapping[str, Any], target: Mapping[str, Any]) -> bool:
    """Return whether both have a keyword in common that is more than an annotation."""
    return bool((rest.keys() & target.keys()) - {"title", "description", "default", "examples", "$comment"})


def _schemas(schema: Any, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every schema within one that is an object, itself among them, with its path."""
    if not isinstance(schema, dict):
        return
    yield path, schema
    for keyword, value in schema.items():
        if keyword in _MAPS and isinstance(value, dict):
            for key, each in value.items():
                yield from _schemas(each, f"{path}.{keyword}.{key}")
        elif keyword in _LISTS and isinstance(value, list):
            for index, each in enumerate(value):
                yield from _schemas(each, f"{path}.{keyword}[{index}]")
        elif keyword in _ONE:
            yield from _schemas(value, f"{path}.{keyword}")


def _check_ends(root: Any, schema: Any, above: frozenset[int], done: set[int]) -> None:
    """Raise BadSchema where a schema refers to itself for the same value, which no check could end."""
    if not isinstance(schema, dict) or id(schema) in done:
        return
    if id(schema) in above:
        raise BadSchema("a definition refers to itself without end")
    for inner in _of_the_same_value(root, schema):
        _check_ends(root, inner, above | {id(schema)}, done)
    done.add(id(schema))
    for keyword in _MAPS:
        value = schema.get(keyword)
        for inner in value.values() if isinstance(value, dict) else ():
            _check_ends(root, inner, frozenset(), done)
    for keyword in ("additionalItems", "additionalProperties", "contains", "items", "propertyNames"):
        value = schema.get(keyword)
        for inner in value if isinstance(value, list) else [value]:
            _check_ends(root, inner, frozenset(), done)


def _of_the_same_value(root: Any, schema: dict[str, Any]) -> Iterator[Any]:
    if isinstance(schema.get("$ref"), str):
        yield resolved(root, schema["$ref"])
    for keyword in ("allOf", "anyOf", "oneOf"):
        value = schema.get(keyword)
        yield from value if isinstance(value, list) else ()
    for keyword in ("if", "then", "else", "not"):
        yield schema.get(keyword)
    dependencies = schema.get("dependencies")
    yield from dependencies.values() if isinstance(dependencies, dict) else ()
