"""The data directory, closed to every caller: it has the ledger, all transcripts, and other sessions' files."""

from __future__ import annotations

import os
from collections.abc import Iterator

from agentpb import agent_pb2 as pb

from agent_service.errors import FieldViolation

WORK = ("sessions", "work")
"""The one kind of directory in it that a request may name, as Session.cwd shows it: sessions/NAME/work."""


def closed_directories(options: pb.AgentOptions, data_dir: str) -> Iterator[FieldViolation]:
    """Every directory of the options that is the data directory or below it, with symbolic links followed."""
    if not data_dir:
        return
    named = [("cwd", options.cwd)] if options.cwd else []
    named += [(f"add_dirs[{index}]", path) for index, path in enumerate(options.add_dirs)]
    named += [(f"plugins[{index}]", path) for index, path in enumerate(options.plugins)]
    for field, path in named:
        if _is_closed(os.path.realpath(path), data_dir):
            yield FieldViolation(f"options.{field}", "must not be in the service's data directory")


def _is_closed(path: str, data_dir: str) -> bool:
    if path == data_dir:
        return True
    if not path.startswith(f"{data_dir}/"):
        return False
    parts = path.removeprefix(f"{data_dir}/").split("/")
    return len(parts) < 3 or (parts[0], parts[2]) != WORK
