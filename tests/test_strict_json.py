"""JSON that callers write is taken as it was written, or refused with the place of the fault."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_service.options.strict_json import MAX_DEPTH, MAX_TRACED, BadJson, parse, parse_object

FAULTS = [
    ('{"a": NaN}', "NaN", "$.a (line 1, column 7)"),
    ('{"a": [1,\n {"b c": -Infinity}]}', "-Infinity", '$.a[1]["b c"] (line 2, column 10)'),
    ('{"a": 1e999}', "too large", "$.a (line 1, column 7)"),
    ("[-" + "9" * 400 + "]", "too large", "$[0] (line 1, column 2)"),
    ('{"a": {"b": 1,\n"b": 2}}', "twice", "$.a.b (line 2, column 1)"),
    ('{"a": 1, "\\u0061": 2}', "twice", "$.a (line 1, column 10)"),
    ('{"x": {"__proto__": 1}}', "__proto__", "$.x.__proto__ (line 1, column 8)"),
    ('{"a": ["ok", "\\ud800"]}', "surrogate", "$.a[1] (line 1, column 14)"),
    ('{"\\udfff": 1}', "surrogate", "(line 1, column 2)"),
    ("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), "nested", f"(line 1, column {MAX_DEPTH + 1})"),
    ("[" * 100_000, "nested", f"(line 1, column {MAX_DEPTH + 1})"),
    ("{\n 1}", "property name", "line 2, column 2"),
    ('{"a": 1} x', "Extra data", "line 1, column 10"),
    ("", "Expecting value", "line 1, column 1"),
    ('{"a": [1, NaN', "NaN", "$.a[1] (line 1, column 11)"),
    ("{'a': 1}", "property name", "line 1, column 2"),
    ('{"a": 1 /* why */}', "Expecting", "line 1, column 9"),
]


@pytest.mark.parametrize(("text", "said", "place"), FAULTS)
def test_a_fault_is_refused_with_its_place(text: str, said: str, place: str) -> None:
    with pytest.raises(BadJson) as caught:
        parse(text)
    assert said in str(caught.value)
    assert place in str(caught.value)
    assert len(str(caught.value)) < 500


def test_an_integer_that_the_agent_would_round_is_refused_where_it_matters() -> None:
    assert parse("[9007199254740993]") == [9007199254740993]
    with pytest.raises(BadJson, match=r"another number.* at \$\[0\]"):
        parse("[9007199254740993]", exact=True)
    assert parse("[9007199254740992, 1e20, 0.1]", exact=True) == [9007199254740992, 1e20, 0.1]


@pytest.mark.parametrize("text", ["[1]", "1", "null", '"x"'])
def test_an_object_is_an_object(text: str) -> None:
    with pytest.raises(BadJson, match="object"):
        parse_object(text)


@pytest.mark.parametrize("fault", ['"x": NaN', '"a": 0, "a": 1', '"x": "\\ud800"', '"x": 1e999'])
def test_a_fault_in_a_long_text_is_refused_as_well(fault: str) -> None:
    with pytest.raises(BadJson):
        parse('{"long": "' + "x" * MAX_TRACED + '", ' + fault + "}")


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner),
    max_leaves=20,
)


@given(json_values, st.booleans())
def test_whatever_json_has_is_taken_as_it_is(value: object, ascii_only: bool) -> None:
    assert parse(json.dumps(value, ensure_ascii=ascii_only)) == value


@given(st.text(alphabet='{}[]:,"\\ud8001e9.NaIfinty- \n', max_size=40))
def test_nothing_but_the_one_error_comes_of_any_text(text: str) -> None:
    with suppress(BadJson):
        assert parse(text) == json.loads(text)
