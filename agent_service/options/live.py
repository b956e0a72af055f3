"""Options that matter after an agent's start: a mode in settings, directories that may be gone."""

from __future__ import annotations

from pathlib import Path

from agentpb import agent_pb2 as pb

from agent_service.errors import FieldViolation


def may_choose_mode(options: pb.AgentOptions) -> bool:
    """Return whether settings may name the permission mode that an agent begins in."""
    return bool(options.setting_sources) or "defaultMode" in options.settings_json


def missing_directories(options: pb.AgentOptions) -> list[FieldViolation]:
    """Directories the options name and that are there no longer."""
    named = [("cwd", options.cwd)] if options.cwd else []
    named += [("add_dirs", path) for path in options.add_dirs] + [("plugins", path) for path in options.plugins]
    return [FieldViolation(field, f"{path} is no directory") for field, path in named if not Path(path).is_dir()]
