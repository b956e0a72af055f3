"""ErrorReason's comments are true: the code, the metadata and whether a retry helps are as the service does it.

The contract says of each reason in one form: "Code: CODE | none, a run's. Metadata: none | KEY, KEY. Retry: no | later
| perhaps." A value whose comment says "Not sent yet" is for a version to come. Compared with the source, both ways.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from agentpb import agent_pb2 as pb

from agent_service import errors

ROOT = Path(__file__).resolve().parents[2]
FORM = re.compile(
    r"((?:  // [^\n]*\n)+?)  // Code: ([A-Z_]+|none, a run's)\. Metadata: ([a-z_, ]+)\. Retry: (no|later|perhaps)\.\n"
    r"  ERROR_REASON_(\w+) = (\d+);"
)
MAKERS = ("error", "AgentFailed")
"""What makes a SessionError, or what becomes one: the reason comes first, `retryable` by its name."""


class Promise(NamedTuple):
    """What the contract says of a reason."""

    code: str
    metadata: frozenset[str]
    retry: str
    is_call: bool
    is_run: bool
    is_sent: bool


class Raised(NamedTuple):
    """A RequestError that is made somewhere."""

    place: str
    reason: str
    metadata: frozenset[str]
    has_retry_after: bool


def promises() -> dict[str, Promise]:
    """All reasons of the contract."""
    found = {}
    for text, code, metadata, retry, reason, _ in FORM.findall((ROOT / "proto" / "agent.proto").read_text()):
        keys = frozenset() if metadata == "none" else frozenset(metadata.split(", "))
        of_run = code == "none, a run's"
        found[reason] = Promise(
            code, keys, retry, not of_run, of_run or "Also a run's" in text, "Not sent yet" not in text
        )
    return found


PROMISES = promises()
CLASSES = {
    kind.__name__: kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, errors.RequestError)
}


def modules() -> Iterator[tuple[str, ast.Module]]:
    """Every module of the service but errors.py."""
    for path in sorted((ROOT / "agent_service").rglob("*.py")):
        if path.name != "errors.py":
            yield str(path.relative_to(ROOT)), ast.parse(path.read_text())


def called(node: ast.Call) -> str:
    """The name of what is called, without its module; of a classmethod such as InvalidField.of, its class."""
    function = node.func
    if isinstance(function, ast.Attribute) and function.attr == "of":
        function = function.value
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def raised() -> Iterator[Raised]:
    """Every RequestError that the service makes."""
    for name, module in modules():
        for node in ast.walk(module):
            if not isinstance(node, ast.Call) or called(node) not in CLASSES:
                continue
            keywords = {each.arg: each.value for each in node.keywords}
            given = keywords.get("metadata")
            assert given is None or isinstance(given, ast.Dict), f"{name}:{node.lineno}: metadata is no literal"
            keys = [key.value for key in given.keys if isinstance(key, ast.Constant)] if given is not None else []
            yield Raised(
                f"{name}:{node.lineno}", CLASSES[called(node)].reason, frozenset(keys), "retry_after" in keywords
            )


def stored() -> Iterator[tuple[str, str, str]]:
    """Place, reason and retry of every SessionError that is made with a literal reason."""
    for name, module in modules():
        for node in ast.walk(module):
            if isinstance(node, ast.Call) and called(node) in MAKERS and node.args and not of_log(node):
                retryable = next((each.value for each in node.keywords if each.arg == "retryable"), ast.Constant(False))
                reason = node.args[0]
            elif isinstance(node, ast.Tuple) and len(node.elts) == 2 and names_reason(node.elts[0]):
                reason, retryable = node.elts
            else:
                continue
            if isinstance(reason, ast.Constant):
                yield f"{name}:{node.lineno}", str(reason.value), retry_of(retryable)


def of_log(node: ast.Call) -> bool:
    """Whether it is log.error."""
    return isinstance(node.func, ast.Attribute) and getattr(node.func.value, "id", "") == "log"


def names_reason(value: ast.expr) -> bool:
    """Whether a literal is the name of a reason."""
    return isinstance(value, ast.Constant) and value.value in PROMISES


def retry_of(value: ast.expr) -> str:
    """Whether a retry helps, as it is written in the source."""
    if not isinstance(value, ast.Constant):
        return "perhaps"
    return "later" if value.value is True else "no"


def test_each_reason_is_described_in_the_one_form() -> None:
    values = {name.removeprefix("ERROR_REASON_") for name in pb.ErrorReason.DESCRIPTOR.values_by_name}
    assert values - {"UNSPECIFIED"} == PROMISES.keys()


def test_each_error_of_a_call_is_a_reason_with_its_code() -> None:
    for kind in CLASSES.values():
        assert kind.reason in PROMISES, f"{kind.__name__}: {kind.reason} is not in ErrorReason"
        assert kind.code.name == PROMISES[kind.reason].code, kind.__name__


def test_each_reason_of_a_call_is_raised_and_no_other() -> None:
    wanted = {reason for reason, promise in PROMISES.items() if promise.is_call and promise.is_sent}
    assert {each.reason for each in raised()} == wanted


def test_metadata_is_what_the_contract_says() -> None:
    for each in raised():
        assert each.metadata == PROMISES[each.reason].metadata, f"{each.place}: {each.reason}"


def test_who_is_told_when_to_come_again_is_told_that_it_helps() -> None:
    for each in raised():
        assert not each.has_retry_after or PROMISES[each.reason].retry == "later", f"{each.place}: {each.reason}"


def test_each_reason_of_a_run_is_stored_and_no_other() -> None:
    wanted = {reason for reason, promise in PROMISES.items() if promise.is_run and promise.is_sent}
    assert {reason for _, reason, _ in stored()} == wanted


def test_a_run_is_retryable_as_the_contract_says() -> None:
    for place, reason, retry in stored():
        promised = PROMISES[reason].retry
        assert promised in (retry, "perhaps"), f"{place}: a retry after {reason} helps: {retry}; contract: {promised}"
