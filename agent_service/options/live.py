"""What of a session's options matters after its agent's start: its settings, and directories that may be gone."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from agentpb import agent_pb2 as pb

from agent_service.errors import FieldViolation
from agent_service.options.translation import PERMISSION_MODES


class LiveSettings(NamedTuple):
    """What a connected agent can still be told; None where the options leave it open."""

    model: str | None
    permission_mode: str | None


def live_settings(options: pb.AgentOptions) -> LiveSettings:
    """The settings of `options` that a connected agent can take over."""
    return LiveSettings(options.model or None, PERMISSION_MODES.get(options.permission_mode))


def missing_directories(options: pb.AgentOptions) -> list[FieldViolation]:
    """Directories the options name and that are there no longer."""
    named = [("cwd", options.cwd)] if options.cwd else []
    named += [("add_dirs", path) for path in options.add_dirs] + [("plugins", path) for path in options.plugins]
    return [FieldViolation(field, f"{path} is no directory") for field, path in named if not Path(path).is_dir()]
