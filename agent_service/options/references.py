"""References to secrets: `secret://NAME` in place of a value, which only the agent's process gets to see.

They may stand in the environment of the agent and of MCP servers, and in the headers of MCP servers, there also behind
the name of a scheme: `Bearer secret://NAME`. Records, events and answers keep the reference.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import NamedTuple

from agentpb import agent_pb2 as pb

from agent_service.options.paths import quoted

SCHEME = "secret://"
_REFERENCE = re.compile(r"((?:[A-Za-z]+ )?)secret://([A-Za-z0-9][A-Za-z0-9._-]{0,127})")
_IN_ENVIRONMENT = re.compile(r"()secret://([A-Za-z0-9][A-Za-z0-9._-]{0,127})")


class Reference(NamedTuple):
    """One value that is a secret's name."""

    path: str
    """The field that has it, such as `env["TOKEN"]`."""
    name: str
    in_header: bool


class _Place(NamedTuple):
    values: MutableMapping[str, str]
    path: str
    in_header: bool


def references(options: pb.AgentOptions) -> Iterator[Reference]:
    """Every reference in options that passed `check`."""
    for place in _places(options):
        for key, value in place.values.items():
            if (match := _match(value, place.in_header)) is not None:
                yield Reference(_path(place, key), match[2], place.in_header)


def filled(options: pb.AgentOptions, secrets: Mapping[str, str]) -> pb.AgentOptions:
    """A copy of the options with the secrets in place of their names."""
    copy = pb.AgentOptions()
    copy.CopyFrom(options)
    for place in _places(copy):
        for key, value in list(place.values.items()):
            if (match := _match(value, place.in_header)) is not None:
                place.values[key] = match[1] + secrets[match[2]]
    return copy


def check_references(options: pb.AgentOptions, say: Callable[[str, str], None]) -> None:
    """Every value that was meant as a reference and is none."""
    for place in _places(options):
        for key, value in place.values.items():
            if SCHEME in value and _match(value, place.in_header) is None:
                say(
                    _path(place, key),
                    f"must be {SCHEME}NAME as a whole{', or SCHEME ' + SCHEME + 'NAME' if place.in_header else ''}; a "
                    "secret is named with 1 to 128 letters, digits, '.', '_' and '-' that begin with a letter or digit",
                )


def is_reference(value: str) -> bool:
    """Return whether a value of an environment or a header names a secret instead of being one."""
    return _match(value, in_header=True) is not None


def _match(value: str, in_header: bool) -> re.Match[str] | None:
    if SCHEME not in value:
        return None
    return (_REFERENCE if in_header else _IN_ENVIRONMENT).fullmatch(value)


def _path(place: _Place, key: str) -> str:
    return f"{place.path}[{quoted(key)}]"


def _places(options: pb.AgentOptions) -> Iterator[_Place]:
    """The maps whose values may be references."""
    if options.env:
        yield _Place(options.env, "env", in_header=False)
    for name, server in options.mcp_servers.items():
        where = f"mcp_servers[{quoted(name)}]"
        match server.WhichOneof("transport"):
            case "stdio":
                yield _Place(server.stdio.env, f"{where}.stdio.env", in_header=False)
            case "sse":
                yield _Place(server.sse.headers, f"{where}.sse.headers", in_header=True)
            case "http":
                yield _Place(server.http.headers, f"{where}.http.headers", in_header=True)
