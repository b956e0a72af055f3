"""Write docs/limits.md: limits.py [--check]. All limits in one place, made from where each is kept.

Those of the operator come from Config, those of every service of this version from ServerLimits, and those of single
fields from the comments in proto/agent.proto, whose sentences about limits are quoted.
"""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from agentpb import agent_pb2 as pb
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.duration_pb2 import Duration

from agent_service.api.limits import fixed_limits
from agent_service.config import Config
from agent_service.options import MAX_DURATION_SECONDS

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "limits.md"
DESCRIPTORS = ROOT / "generated" / "agentpb" / "descriptors.binpb"
OF_LIMIT = re.compile(r"\b(?:at most|at least|up to|clamped|1 to \d|no limit|more than \d)")
SENTENCE = re.compile(r"(?<=[.])\s+(?=[A-Z`\"0-9])")

HEAD = f"""# Limits

Made by `tools/limits.py` from Config, ServerLimits and the comments of the contract; `make check` compares.

GetServerInfo tells the limits of a running service. A request beyond a limit is refused with INVALID_FIELD and the
field's path, a request of too many bytes with REQUEST_TOO_LARGE. What an agent says beyond a limit is cut and named in
`truncated_fields`; ReadField has all of it. Durations are at most {MAX_DURATION_SECONDS // (365 * 86400)} years.
"""


def page() -> str:
    """The whole page."""
    parts = [HEAD, "## Of every service of this version\n", *_fixed(), "", "## The operator's\n"]
    parts += [
        "Flags of `agent-service serve`, variables `AGENT_SERVICE_…`, or keys of the TOML file.\n",
        *_configured(),
    ]
    parts += ["", "## Of single fields\n", *_fields(), ""]
    return "\n".join(parts)


def _fixed() -> Iterator[str]:
    comments = dict(_comments())
    yield "| ServerLimits | value | of what |"
    yield "|---|---|---|"
    for field, value in fixed_limits().ListFields():
        yield f"| `{field.name}` | {_shown(field.name, value)} | {comments[f'ServerLimits.{field.name}']} |"


def _shown(name: str, value: object) -> str:
    if isinstance(value, Duration):
        return f"{value.seconds // 3600} h"
    assert isinstance(value, int)
    return f"{value} ({_binary(value)})" if name.endswith("_bytes") else f"{value}"


def _binary(value: int) -> str:
    return f"{value >> 20} MiB" if not value % (1 << 20) else f"{value >> 10} KiB"


def _configured() -> Iterator[str]:
    limited = {field.name for field in pb.ServerLimits.DESCRIPTOR.fields}
    yield "| option | default | what | in ServerLimits |"
    yield "|---|---|---|---|"
    for field in dataclasses.fields(Config):
        is_count = isinstance(field.default, int) and not isinstance(field.default, bool)
        if is_count or field.metadata.get("duration"):
            default = f"{field.default:g} s" if field.metadata.get("duration") else f"{field.default}"
            flag = "--" + field.name.replace("_", "-")
            yield f"| `{flag}` | {default} | {field.metadata['help']} | {'yes' if field.name in limited else ''} |"


def _fields() -> Iterator[str]:
    yield "| field | limit |"
    yield "|---|---|"
    for path, comment in _comments():
        found = [each.strip() for each in SENTENCE.split(comment) if OF_LIMIT.search(each)]
        if found and not path.startswith("ServerLimits."):
            yield f"| `{path}` | {' '.join(found).replace('|', chr(92) + '|')} |"


def _comments() -> Iterator[tuple[str, str]]:
    """Each field and enum value of the contract with its comment, in the order of the file."""
    files = FileDescriptorSet.FromString(DESCRIPTORS.read_bytes())
    file = next(each for each in files.file if each.package == pb.DESCRIPTOR.package)
    for location in file.source_code_info.location:
        path = list(location.path)
        if len(path) == 4 and path[0] == 4 and path[2] == 2:
            message = file.message_type[path[1]]
            yield f"{message.name}.{message.field[path[3]].name}", _one_line(location.leading_comments)
        elif len(path) == 4 and path[0] == 5 and path[2] == 2:
            enum = file.enum_type[path[1]]
            yield enum.value[path[3]].name, _one_line(location.leading_comments)


def _one_line(comment: str) -> str:
    return " ".join(comment.split())


def main() -> int:
    """Write the page, or say whether it is as it would be written."""
    if "--check" not in sys.argv:
        PAGE.write_text(page())
        return 0
    if PAGE.exists() and PAGE.read_text() == page():
        print("docs/limits.md is as the limits are.")
        return 0
    print("docs/limits.md is not as the limits are: run `make limits`.", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
