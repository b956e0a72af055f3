"""Names of the contract, seen by the generators of other languages: none is a macro, a keyword or a clash there.

Macros of C's standard headers break protoc's C++ output. The C# generator appends an underscore to the message's own
name, to "Types" and to "Descriptor". A field that is a keyword of Python is reachable by getattr only.
"""

from __future__ import annotations

import keyword
from collections.abc import Iterator

from agentpb import agent_pb2 as pb
from google.protobuf.descriptor import Descriptor, FieldDescriptor

C_MACROS = {
    "stdin",
    "stdout",
    "stderr",
    "errno",
    "assert",
    "signbit",
    "isnan",
    "isinf",
    "unix",
    "linux",
    "major",
    "minor",
}
C_MACROS |= {
    "EOF",
    "NULL",
    "DOMAIN",
    "OVERFLOW",
    "UNDERFLOW",
    "TRUE",
    "FALSE",
    "IN",
    "OUT",
    "OPTIONAL",
    "ERROR",
    "DELETE",
}


def messages() -> Iterator[Descriptor]:
    """Every message of the contract, entries of maps left out."""
    for message in pb.DESCRIPTOR.message_types_by_name.values():
        yield message
        yield from (nested for nested in message.nested_types if not nested.GetOptions().map_entry)


def fields() -> Iterator[FieldDescriptor]:
    """Every field of the contract."""
    for message in messages():
        yield from message.fields


def pascal(name: str) -> str:
    """A field's name as C# has it."""
    return "".join(part.capitalize() for part in name.split("_"))


def test_no_name_is_a_macro_in_c() -> None:
    values = [value.name for enum in pb.DESCRIPTOR.enum_types_by_name.values() for value in enum.values]
    found = [name for name in [field.name for field in fields()] + values if name in C_MACROS]
    assert not found


def test_no_field_gets_an_underscore_in_csharp() -> None:
    taken = {"Types", "Descriptor"}
    found = [field.full_name for field in fields() if pascal(field.name) in taken | {field.containing_type.name}]
    assert not found


def test_no_field_is_a_keyword_in_python() -> None:
    assert not [field.full_name for field in fields() if keyword.iskeyword(field.name)]


def test_every_language_with_an_option_gets_a_namespace_of_the_package() -> None:
    options = pb.DESCRIPTOR.GetOptions()
    assert pb.DESCRIPTOR.package == "agentservice.v1"
    assert options.go_package == "agentservice.dev/go/agentservice/v1;agentservicev1"
    assert options.java_package == "dev.agentservice.v1"
    assert options.csharp_namespace == options.ruby_package.replace("::", ".") == "Agentservice.V1"
    assert options.php_namespace == "Agentservice\\V1"
    assert len(options.objc_class_prefix) >= 3
    assert options.swift_prefix
    # C# resolves `AgentService` to a namespace of that name before it looks for the class.
    assert "AgentService" not in options.csharp_namespace.split(".")
