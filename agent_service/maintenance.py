"""Upkeep: what an operator does with a data directory by hand: look for contradictions, and copy it while in use."""

from __future__ import annotations

import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from agent_service.agents.workspace import Workspaces
from agent_service.ledger import copy_ledger, fsck, stored_sessions

FOLDERS = ("tenants", "sessions")


@dataclass(frozen=True)
class Findings:
    """What a look at a data directory found: what must not be, and what one should know."""

    sessions: int
    problems: tuple[str, ...]
    notes: tuple[str, ...]


def check(data_dir: Path) -> Findings:
    """Look at a data directory, which may be in use: every contradiction of the ledger, and how the files fit it."""
    problems = fsck(data_dir)
    if problems:
        return Findings(0, tuple(problems), ())
    workspaces = Workspaces(data_dir)
    sessions = {session.session_id: session for session in stored_sessions(data_dir)}
    workspaces_used = {session.workspace_id for session in sessions.values()}
    notes = [
        f"session {session.session_id} cannot be resumed: its transcript is missing"
        for session in sessions.values()
        if session.model and workspaces.transcript(session) is None
    ]
    notes += [
        f"sessions/{folder} belongs to no session and can be removed"
        for folder in workspaces.session_folders()
        if folder not in workspaces_used
    ]
    return Findings(len(sessions), (), tuple(notes))


def backup(data_dir: Path, destination: Path) -> None:
    """Copy a data directory, which may be in use, into a new one. Raises OSError.

    The ledger is copied first: what the agents' own files hold is then as new or newer, and no event lacks its
    transcript.
    """
    destination.mkdir(mode=0o700, parents=True)
    copy_ledger(data_dir, destination)
    for name in FOLDERS:
        if (data_dir / name).is_dir():
            _copy_tree(data_dir / name, destination / name)


def _copy_tree(source: Path, target: Path) -> None:
    """Copy a directory; what vanishes meanwhile is left out."""
    try:
        shutil.copytree(source, target, symlinks=True, copy_function=_copy_file)
    except shutil.Error as error:
        if left := [each for each in error.args[0] if Path(each[0]).exists()]:
            raise shutil.Error(left) from error


def _copy_file(source: str, target: str) -> None:
    """Copy a regular file; what vanishes meanwhile, and what is no file at all, is left out."""
    if Path(source).is_file():
        with suppress(FileNotFoundError):
            shutil.copy2(source, target)
