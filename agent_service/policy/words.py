"""The contract's enums in the access file's words: small letters, without the enum's name."""

from __future__ import annotations

from collections.abc import Mapping

from agentpb import agent_pb2 as pb

from agent_service.options import PERMISSION_MODES


def _words(prefix: str, names: Mapping[str, int]) -> dict[int, str]:
    return {number: name.removeprefix(prefix).lower() for name, number in names.items() if number}


MODES: Mapping[int, str] = _words("PERMISSION_MODE_", dict(pb.PermissionMode.items()))
"""PermissionMode → such as "accept_edits"."""
SOURCES: Mapping[int, str] = _words("SETTING_SOURCE_", dict(pb.SettingSource.items()))
"""SettingSource → such as "project"."""
EFFORTS: Mapping[str, int] = {word: number for number, word in _words("EFFORT_", dict(pb.Effort.items())).items()}
"""Such as "high" → Effort; a greater number is more effort."""

_OF_AGENT = {word: MODES[number] for number, word in PERMISSION_MODES.items()}


def mode_of_agent(word: str) -> str:
    """Return the access file's word for a mode as the agent names it, such as "acceptEdits"; else the word itself."""
    return _OF_AGENT.get(word, word)


def mode_number(word: str) -> pb.PermissionMode.ValueType:
    """Return the PermissionMode of a word such as "accept_edits"."""
    return pb.PermissionMode.Value(f"PERMISSION_MODE_{word.upper()}")
