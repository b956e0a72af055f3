"""Upkeep: what an operator does with a data directory by hand: look for contradictions, and copy it while in use."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from agent_service.agents import tree_copy
from agent_service.agents.workspace import Workspaces
from agent_service.ledger import Assigned, accept, assign, copy_ledger, fsck, stored_sessions

FOLDERS = ("tenants", "sessions")


@dataclass(frozen=True)
class Findings:
    """The findings of fsck: contradictions, and remarks."""

    sessions: int
    problems: tuple[str, ...]
    notes: tuple[str, ...]


def check(data_dir: Path) -> Findings:
    """Look at a data directory, which may be in use: every contradiction of the ledger, and how the files fit it."""
    problems = fsck(data_dir)
    if problems:
        return Findings(0, tuple(problems), ())
    workspaces = Workspaces(data_dir)
    sessions = stored_sessions(data_dir)
    workspaces_used = {session.workspace_id for session in sessions}
    notes = [
        f"session {session.session_id} cannot be resumed: its transcript is missing"
        for session in sessions
        if session.model and workspaces.transcript(session) is None
    ]
    notes += [
        f"sessions/{folder} belongs to no session and can be removed"
        for folder in workspaces.session_folders()
        if folder not in workspaces_used
    ]
    notes += [f"removing/{name} is not removed yet: the service tries again" for name in workspaces.removals.left()]
    return Findings(len(sessions), (), tuple(notes))


def assign_sessions(data_dir: Path, tenant: str) -> Assigned:
    """Give the sessions that belong to no tenant to one. Raises LedgerUnusable, OSError."""
    return assign(data_dir, tenant, Workspaces(data_dir).adopt)


def accept_ledger(data_dir: Path) -> None:
    """Have the next start take the ledger as it is, whatever it lacks. Raises OSError."""
    accept(data_dir)


def backup(data_dir: Path, destination: Path) -> list[str]:
    """Copy a data directory, which may be in use, into a new one; what could not be read. Raises OSError.

    The ledger is copied first: what the agents' own files hold is then as new or newer, and no event lacks its
    transcript.
    """
    destination.mkdir(mode=0o700, parents=True)
    copy_ledger(data_dir, destination)
    problems = []
    for name in FOLDERS:
        if (data_dir / name).is_dir():
            problems += [f"{name}/{problem}" for problem in tree_copy.copy(data_dir / name, destination / name)]
    return problems
