"""Messages of the contract by chance: built by their descriptors, mostly valid, with hostile values in some places."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from agentpb import agent_pb2 as pb
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

F = FieldDescriptor
DEPTH = 5
"""Messages within messages, at most."""
EDGES = [0, 1, -1, 2, 100, 1000, 1001, 2**31 - 1, -(2**31)]
INTEGERS = {
    F.TYPE_INT32: EDGES,
    F.TYPE_INT64: [*EDGES, 2**31, 2**53 + 1, 2**63 - 1, -(2**63)],
}
NUMBERS = [0.0, -0.0, 0.5, 1e-300, 1e308, -1.0, float("inf"), float("-inf"), float("nan")]
TEXTS = [
    "",
    " ",
    "\0",
    "\n\r\t",
    "x",
    "ü" * 300,
    "x" * 300,
    "\u202egnirts",
    "\U0001f600" * 20,
    "\ufffd\uffff\ufeff",
    "../../../etc/passwd",
    "/",
    "%s%n{}{0}$(id)`id`",
    "'; DROP TABLE sessions; --",
    "-1",
    "null",
    "@/etc/passwd",
    "--help",
    "a=b,c",
    "http://[::1",
    "https://",
]
JSONS = [
    "",
    "{}",
    "[]",
    "null",
    '"x"',
    "{",
    '{"a": NaN}',
    '{"a": Infinity}',
    '{"a": 1e999}',
    '{"a": 1, "a": 2}',
    '{"a": "\\ud800"}',
    '{"\\u0000": "\0"}',
    "[" * 5000,
    '{"a":' * 2000 + "1" + "}" * 2000,
    '{"a": ' + "9" * 5000 + "}",
    '{"type": "object"}',
    '{"type": "object", "properties": {"a": {"$ref": "#"}}}',
    '{"type": ["object", "nothing"], "$schema": "x"}',
    '{"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}',
    '{"permissions": {"allow": ["Bash"], "deny": 5}}',
    '{"command": "true"}',
    '{"questions": [], "answers": {"a": 1}}',
    '{"hooks": {"Stop": "x"}, "env": {"A": null}}',
]
PATHS = ["/tmp", "/nowhere", "/", "relative", "/tmp/../tmp", "/\0", "/dev/null", "/" + "x" * 5000]
TYPES = ["message.*", "message.user", "state.changed", "task.*", "unknown", "nothing.*", "*", "message"]
PIECES = ["prompt", "result.result", "error.message", "input_json", "assistant_message.content[0].text.text", "x["]


class Known:
    """Names that exist, or have existed, in the service."""

    def __init__(self) -> None:
        """Begin with none."""
        self.names: dict[str, list[str]] = defaultdict(list)

    def learn(self, message: Message) -> None:
        """Take the names out of a response."""
        for field, value in message.ListFields():
            if field.type == F.TYPE_STRING and not field.is_repeated and field.name in NAMES:
                self._add(NAMES[field.name], value)
            elif field.type == F.TYPE_MESSAGE and field.is_repeated and not _is_map(field):
                for each in value[-3:]:
                    self.learn(each)
            elif field.type == F.TYPE_MESSAGE and not field.is_repeated:
                self.learn(value)

    def _add(self, kind: str, name: str) -> None:
        names = self.names[kind]
        if name and name not in names:
            names.append(name)
            del names[:-40]


NAMES = {
    "session_id": "session",
    "fork_from": "session",
    "turn_id": "turn",
    "interaction_id": "interaction",
    "page_token": "token",
    "next_page_token": "token",
    "message_uuid": "uuid",
    "uuid": "uuid",
    "resume_at_message_uuid": "uuid",
}
"""Fields that hold a name, and of what."""


class Grammar:
    """Makes requests."""

    def __init__(self, chance: random.Random, known: Known) -> None:
        """Choose by `chance`; take names from `known`."""
        self._chance = chance
        self._known = known
        self._wild = 0.0
        self._by_name: dict[str, Callable[[], str]] = {
            "prompt": lambda: chance.choice(["say: hi", "slow: 0.1", "bash: touch here", "think: so\nsay: so"]),
            "text": lambda: "say: steered",
            "request_id": lambda: chance.choice(["", f"id-{chance.randrange(30)}"]),
            "event_types": lambda: chance.choice(TYPES),
            "field": lambda: chance.choice(PIECES),
            "cwd": lambda: "/tmp",
            "add_dirs": lambda: "/tmp",
            "plugins": lambda: "/tmp",
            "media_type": lambda: chance.choice(["text/plain", "image/png", "application/pdf"]),
            "url": lambda: "https://example.invalid/x",
            "preset": lambda: "claude_code",
            "clear_options": lambda: chance.choice(["allowed_tools", "env", "remembered_permissions", "model"]),
            "type": lambda: chance.choice(["addRules", "setMode", "addDirectories"]),
            "behavior": lambda: chance.choice(["allow", "deny", "ask"]),
            "destination": lambda: "session",
            "tools": lambda: chance.choice(["Bash", "Read", "none", "default"]),
            "allowed_tools": lambda: chance.choice(["Bash", "Read", "Bash(ls *)"]),
        }

    def request(self, kind: type[Message]) -> Message:
        """A request; how wild it is differs from one to the next."""
        self._wild = self._chance.choice([0.0, 0.0, 0.02, 0.1, 0.5])
        message = kind()
        self._fill(message, DEPTH)
        return message

    def spoiled(self, data: bytes) -> bytes:
        """The bytes of a request, some flipped, cut out, or put in; or none of a request at all."""
        spoiled = bytearray(data)
        for _ in range(self._chance.randint(1, 4)):
            at = self._chance.randrange(len(spoiled) + 1)
            how = self._chance.randrange(4)
            if how == 0 and spoiled:
                spoiled[min(at, len(spoiled) - 1)] ^= 1 << self._chance.randrange(8)
            elif how == 1:
                del spoiled[at : at + self._chance.randint(1, 20)]
            elif how == 2:
                spoiled[at:at] = self._chance.randbytes(self._chance.randint(1, 20))
            else:
                spoiled += spoiled[at:]
        return bytes(spoiled)

    def _fill(self, message: Message, depth: int) -> None:
        if isinstance(message, Duration | Timestamp):
            self._fill_time(message)
            return
        groups: set[str] = set()
        for field in self._chance.sample(list(message.DESCRIPTOR.fields), len(message.DESCRIPTOR.fields)):
            group = field.containing_oneof.name if field.containing_oneof is not None else ""
            if group in groups or not self._wants(field, depth):
                continue
            groups |= {group} - {""}
            if _is_map(field):
                self._fill_map(getattr(message, field.name), field, depth)
            elif field.is_repeated:
                self._fill_list(getattr(message, field.name), field, depth)
            elif field.type == F.TYPE_MESSAGE:
                getattr(message, field.name).SetInParent()
                self._fill(getattr(message, field.name), depth - 1)
            else:
                setattr(message, field.name, self._scalar(field))

    def _wants(self, field: FieldDescriptor, depth: int) -> bool:
        """Whether a field is set: names nearly always, what lies deep rarely."""
        if field.type == F.TYPE_MESSAGE and depth <= 0:
            return False
        if field.name in ("session_id", "prompt", "text", "interaction_id", "field", "media_type", "type"):
            return self._chance.random() > 0.05
        return self._chance.random() < (0.35 if depth == DEPTH else 0.15)

    def _count(self) -> int:
        return self._chance.choice([1, 1, 2, 3, 70, 300] if self._is_wild() else [1, 1, 2, 3])

    def _fill_list(self, values: Any, field: FieldDescriptor, depth: int) -> None:
        for _ in range(self._count()):
            if field.type == F.TYPE_MESSAGE:
                self._fill(values.add(), depth - 1)
            else:
                values.append(self._scalar(field))

    def _fill_map(self, values: Any, field: FieldDescriptor, depth: int) -> None:
        assert field.message_type is not None
        key, value = field.message_type.fields_by_name["key"], field.message_type.fields_by_name["value"]
        for _ in range(self._count()):
            if value.type == F.TYPE_MESSAGE:
                self._fill(values[self._scalar(key)], depth - 1)
            else:
                values[self._scalar(key)] = self._scalar(value)

    def _fill_time(self, message: Any) -> None:
        if self._is_wild():
            message.seconds = self._chance.choice([-1, 0, 2**31, 2**63 - 1, -(2**63), 253402300800])
            message.nanos = self._chance.choice([-1, 0, 999_999_999, 1_000_000_000, 2**31 - 1, -(2**31)])
        elif isinstance(message, Duration):
            message.FromMilliseconds(self._chance.choice([0, 1, 50, 200, 1000, 3_600_000]))
        else:
            message.FromSeconds(self._chance.choice([0, 1_700_000_000, 4_000_000_000]))

    def _is_wild(self) -> bool:
        return self._chance.random() < self._wild

    def _scalar(self, field: FieldDescriptor) -> Any:
        if field.type == F.TYPE_STRING:
            return self._text(field)
        if field.type == F.TYPE_BYTES:
            return self._chance.randbytes(self._chance.choice([0, 1, 100]))
        if field.type == F.TYPE_BOOL:
            return self._chance.random() < 0.5
        if field.type == F.TYPE_ENUM:
            assert field.enum_type is not None
            wild = self._is_wild()
            return self._chance.choice([99, -1, 2**31 - 1] if wild else list(field.enum_type.values_by_number))
        if field.type == F.TYPE_DOUBLE:
            return self._chance.choice(NUMBERS) if self._is_wild() else 1.5
        return self._chance.choice(INTEGERS[field.type]) if self._is_wild() else self._chance.randrange(20)

    def _text(self, field: FieldDescriptor) -> str:
        if self._is_wild():
            return self._hostile(JSONS + TEXTS if field.name.endswith("_json") else TEXTS + PATHS)
        if (names := self._known.names[NAMES.get(field.name, "")]) and self._chance.random() < 0.9:
            return self._chance.choice(names)
        if field.name.endswith("_json"):
            return self._chance.choice(JSONS)
        make = self._by_name.get(field.name)
        return make() if make is not None else self._chance.choice(["x", "some words", "model", "A_NAME"])

    def _hostile(self, texts: Sequence[str]) -> str:
        text = self._chance.choice(texts)
        return text * self._chance.choice([1, 1, 1, 1, 1000]) if len(text) < 100 else text


def _is_map(field: FieldDescriptor) -> bool:
    kind: Descriptor | None = field.message_type
    return kind is not None and kind.GetOptions().map_entry


def harmless(request: Any, chance: random.Random) -> None:
    """Change a request so that many of its kind can be made: what would start an agent is mostly a check."""
    if isinstance(request, pb.ExecuteRequest):
        if chance.random() < 0.99:
            request.validate_only = True
        else:
            request.options.mcp_servers.clear()
            request.options.permission_mode = pb.PERMISSION_MODE_DEFAULT
    if isinstance(request, pb.CleanupRequest | pb.DeleteSessionRequest) and chance.random() < 0.8:
        request.ClearField("session_id") if isinstance(request, pb.DeleteSessionRequest) else None
        if isinstance(request, pb.CleanupRequest):
            request.dry_run = True
