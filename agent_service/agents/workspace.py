"""Workspaces: where a session's files are. All of them lie under the data directory, so that a backup is one folder.

sessions/NAME/           all of one session; NAME is the id of its agent's first conversation (Session.workspace_id)
sessions/NAME/home       its agent's HOME
sessions/NAME/config     the CLI's own files, transcripts included (CLAUDE_CONFIG_DIR)
sessions/NAME/work       the directory it works in when it names none
sessions/NAME/scratch    files handed to the CLI: prompts, settings, MCP configuration
sessions/NAME/conversations   ids of the conversations that its agent began after the first, one a line
tenants/TENANT/config    what an operator gives all sessions of a tenant (shared.py); no agent has it
tenants/TENANT/kept      transcripts that outlive their sessions
warm/NAME                says that no session has that agent yet
tmp/XXXXXXXX             TMPDIR of one agent process, removed with it

A session's directory bears the name of its agent's conversation, because an agent may be started before its session is
known. Until 2026-11 the sessions of a tenant had one HOME and one CLAUDE_CONFIG_DIR, tenants/TENANT/home and config: a
conversation moves from there to its session at the session's next start (`adopt`).
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from agentpb import agent_pb2 as pb

from agent_service.agents import conversations, shared
from agent_service.agents.conversations import Conversation, transcript_anywhere, transcript_begun_in
from agent_service.agents.removals import Removals
from agent_service.options import is_uuid

_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
"""The names of tenants that a folder can bear as they are."""


@dataclass(frozen=True)
class Directories:
    """The directories of one agent process. They exist."""

    cwd: Path
    """The directory it works in: the session's own, or the caller's."""
    home: Path
    config: Path
    """The CLI's own files (CLAUDE_CONFIG_DIR)."""
    scratch: Path
    """The files that the CLI reads at its start, secrets among them; emptied once it has."""
    tmp: Path
    """Temporary files and sockets of this process, removed with it."""


class Workspaces:
    """The directories of tenants, sessions and agents under one data directory."""

    def __init__(self, data_dir: Path) -> None:
        """Lay them under `data_dir`, which exists."""
        self._root = data_dir.resolve()
        self.removals = Removals(self._root / "removing")

    def tenant_config(self, owner: str) -> Path:
        """The directory with what an operator gives all sessions of a tenant; it need not be there."""
        return self._tenant(owner) / "config"

    def _tenant(self, owner: str) -> Path:
        return self._root / "tenants" / _folder(owner)

    def _own(self, workspace_id: str) -> Path:
        if not workspace_id:
            raise ValueError("the session has no agent yet, and so no directory")
        return self._root / "sessions" / workspace_id

    def _config(self, session: pb.Session) -> Path:
        return self._own(_workspace_id(session)) / "config"

    def cwd(self, session: pb.Session) -> Path:
        """The directory the session works in: its own unless its options name one."""
        return Path(session.options.cwd or self._own(_workspace_id(session)) / "work")

    def cwd_of(self, session: pb.Session) -> str:
        """Return the working directory for the session's record; empty until the session has one."""
        return str(self.cwd(session)) if session.options.cwd or _workspace_id(session) else ""

    def make_cwd(self, session: pb.Session) -> Path:
        """The directory the session works in, made when it is its own."""
        cwd = self.cwd(session)
        return cwd if session.options.cwd else self._private(cwd)

    def make(self, session: pb.Session) -> Directories:
        """Make the directories of a new process of the session's agent, with what its tenant shares. Raises OSError."""
        own = self._private(self._own(_workspace_id(session)))
        config = self._private(own / "config")
        shared.give(self.tenant_config(session.owner), config)
        return Directories(
            cwd=self.make_cwd(session),
            home=self._private(own / "home"),
            config=config,
            scratch=self._private(own / "scratch"),
            tmp=self.new_tmp(),
        )

    def new_tmp(self) -> Path:
        """A short-named directory for one process's temporary files and sockets."""
        return self._private(self._root / "tmp" / uuid4().hex[:8])

    def clear(self) -> None:
        """Remove what agents of earlier runs of the service left."""
        self.removals.discard(self._root / "tmp")
        for agent_session_id in self.unclaimed():
            self.forget(agent_session_id)

    def note_unclaimed(self, agent_session_id: str) -> None:
        """Note that the directory of this agent is no session's yet."""
        (self._private(self._root / "warm") / agent_session_id).touch()

    def claim(self, agent_session_id: str) -> None:
        """Let the directory of this agent be a session's from now on."""
        (self._root / "warm" / agent_session_id).unlink(missing_ok=True)

    def unclaimed(self) -> list[str]:
        """Ids of agents that were started for no session."""
        return _names(self._root / "warm")

    def forget(self, agent_session_id: str) -> None:
        """Remove the directory of an agent that no session has had; one with work in it stays, whatever is noted."""
        own = self._own(agent_session_id)
        for name in ("scratch", "config", "home"):
            self.removals.discard(own / name)
        with suppress(OSError):
            (own / "work").rmdir()
        with suppress(OSError):
            own.rmdir()
        self.claim(agent_session_id)

    def session_folders(self) -> list[str]:
        """The agent_session_ids of sessions that have a directory of their own."""
        unclaimed = set(self.unclaimed())
        return [name for name in _names(self._root / "sessions") if name not in unclaimed]

    def transcript(self, session: pb.Session) -> Path | None:
        """The CLI's file of the session's conversation; None when there is none."""
        if not session.agent_session_id:
            return None
        cwd, tenant = self.cwd(session), self.tenant_config(session.owner)
        for config in (self._config(session), tenant):
            if found := transcript_begun_in(config, session.agent_session_id, cwd):
                return found
        # The session changed its cwd: the CLI goes on with the file where it began.
        if found := transcript_anywhere(self._config(session), session.agent_session_id):
            return found
        if session.turn_count <= 1 and not session.model:
            return None  # it has had no time to change its cwd, and a search takes longer the more sessions there are
        return transcript_anywhere(tenant, session.agent_session_id)

    def adopt(self, session: pb.Session) -> None:
        """Move the session's conversations to its own directory, if they are still with its tenant. Raises OSError.

        Call it while the session has no process, and before `transcript` is what an agent is started with.
        """
        tenant, current = self.tenant_config(session.owner), self.transcript(session)
        if current is None or not current.is_relative_to(tenant):
            return
        config = self._private(self._private(self._own(_workspace_id(session))) / "config")
        for transcript in (*self._with_tenant(session, but=session.agent_session_id), current):
            conversations.move(transcript, transcript.stem, tenant, config)

    def fork(self, session: pb.Session, parent: Conversation) -> Path | None:
        """Copy the conversation that a session is forked from to the session; None when it is gone. Raises OSError."""
        of_parent = pb.Session(owner=session.owner, **parent._asdict(), turn_count=2)
        found = self.transcript(of_parent)
        if found is None:
            return None
        return conversations.copy(found, self._private(self._private(self._own(_workspace_id(session))) / "config"))

    def remove_copy(self, session: pb.Session, agent_session_id: str) -> None:
        """Remove what `fork` copied: the conversation goes on in a transcript of its own."""
        if found := transcript_anywhere(self._config(session), agent_session_id):
            with suppress(OSError):  # it goes with the session
                conversations.remove(found, agent_session_id, self._config(session), self.removals.remove)

    def note_conversation(self, session: pb.Session, agent_session_id: str) -> None:
        """Note that the session's agent has begun another conversation, so that its transcript can be found."""
        own = self._private(self._own(_workspace_id(session)))
        with open(own / "conversations", "a", encoding="ascii", opener=_open_at_once) as file:
            file.write(f"{agent_session_id}\n")

    def _conversations(self, session: pb.Session) -> set[str]:
        """The ids of all conversations that the session's agent has had."""
        workspace_id = _workspace_id(session)
        noted = _noted_ids(self._own(workspace_id) / "conversations") if workspace_id else ()
        return {each for each in (workspace_id, session.agent_session_id, *noted) if each}

    def _with_tenant(self, session: pb.Session, *, but: str = "") -> list[Path]:
        """The transcripts of the session that are still with its tenant."""
        config = self.tenant_config(session.owner)
        if not (config / "projects").is_dir():
            return []
        found = (transcript_anywhere(config, each) for each in sorted(self._conversations(session) - {but}))
        return [transcript for transcript in found if transcript is not None]

    def remove(self, session: pb.Session, *, keep_transcript: bool) -> int:
        """Remove all that is on disk of the session, but its transcripts if they are kept; bytes freed.

        The caller's `cwd` stays. Raises OSError for what the host lets neither go nor be moved; what takes long is
        removed afterwards.
        """
        if not _workspace_id(session):
            return 0
        if keep_transcript:
            self._keep(session)
        tenant, remove = self.tenant_config(session.owner), self.removals.remove
        freed = sum(conversations.remove(file, file.stem, tenant, remove) for file in self._with_tenant(session))
        return freed + remove(self._own(_workspace_id(session)))

    def _keep(self, session: pb.Session) -> None:
        """Move the session's transcripts to where they outlive it: a CLAUDE_CONFIG_DIR that the CLI can resume from."""
        kept = self._tenant(session.owner) / "kept"
        own = self._config(session)
        for each in sorted(self._conversations(session)):
            if found := transcript_anywhere(own, each):
                conversations.move(found, each, own, kept)
        for transcript in self._with_tenant(session):
            conversations.move(transcript, transcript.stem, self.tenant_config(session.owner), kept)

    @staticmethod
    def _private(path: Path) -> Path:
        """Make a directory that only this user can read; what an agent put in its place is removed."""
        with suppress(OSError):
            if not stat.S_ISDIR(path.lstat().st_mode):
                path.unlink()
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        return path


def conversation_of(session: pb.Session) -> Conversation:
    """The conversation that the session's agent is in."""
    return Conversation(_workspace_id(session), session.agent_session_id)


def _workspace_id(session: pb.Session) -> str:
    """Name of the session's directory. A conversation's id changes when the agent begins another one; this does not."""
    return session.workspace_id or session.agent_session_id


def _noted_ids(file: Path) -> list[str]:
    """Ids in a file that the session's agent can write: nothing else in it counts, and no more than a megabyte."""
    try:
        with open(file, "rb", opener=_open_at_once) as lines:
            words = lines.read(1 << 20).decode("ascii", "replace").split()
    except OSError:
        return []
    return [word for word in words if is_uuid(word)]


def _open_at_once(path: str, flags: int) -> int:
    """Open a file of an agent's: a pipe in its place would hold up the thread for ever, a link would lead elsewhere."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)


def _names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []


def _folder(owner: str) -> str:
    """A folder name for a tenant whatever its name: no two share one. `default` is no tenant's name."""
    if not owner:
        return "default"
    return owner if _PLAIN.fullmatch(owner) and owner != "default" else f"~{hashlib.sha256(owner.encode()).hexdigest()}"
