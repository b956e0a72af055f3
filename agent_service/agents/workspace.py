"""Workspaces: where a session's files are. All of them lie under the data directory, so that a backup is one folder.

tenants/TENANT/config    the CLI's own files, transcripts included (CLAUDE_CONFIG_DIR)
tenants/TENANT/home      the agent's HOME
sessions/AGENT/work      the directory a session works in when it names none; AGENT is its agent_session_id
sessions/AGENT/conversations   ids of the conversations that the session's agent began after the first, one a line
sessions/AGENT/scratch   files handed to the CLI: prompts, settings, MCP configuration
warm/AGENT               says that no session has that agent yet
tmp/XXXXXXXX             TMPDIR of one agent process, removed with it

A session's directory bears the name of its agent's conversation, because an agent may be started before its session is
known.
"""

from __future__ import annotations

import hashlib
import logging
import mmap
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from agentpb import agent_pb2 as pb

from agent_service.agents import trees
from agent_service.agents.sdk import project_folder

log = logging.getLogger(__name__)


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

    def config_dir(self, owner: str) -> Path:
        """The tenant's CLAUDE_CONFIG_DIR."""
        return self._private(self._config(owner))

    def _config(self, owner: str) -> Path:
        return self._root / "tenants" / _folder(owner) / "config"

    def home(self, owner: str) -> Path:
        """The tenant's HOME."""
        return self._private(self._root / "tenants" / _folder(owner) / "home")

    def _own(self, workspace_id: str) -> Path:
        if not workspace_id:
            raise ValueError("the session has no agent yet, and so no directory")
        return self._root / "sessions" / workspace_id

    def scratch(self, session: pb.Session) -> Path:
        """Return the directory of the files handed to the session's CLI."""
        return self._private(self._own(_workspace_id(session)) / "scratch")

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
        """Make the directories of a new process of the session's agent."""
        return Directories(
            cwd=self.make_cwd(session),
            home=self.home(session.owner),
            config=self.config_dir(session.owner),
            scratch=self.scratch(session),
            tmp=self.new_tmp(),
        )

    def new_tmp(self) -> Path:
        """A short-named directory for one process's temporary files and sockets."""
        return self._private(self._root / "tmp" / uuid4().hex[:8])

    def clear(self) -> None:
        """Remove what agents of earlier runs of the service left."""
        _try_to_remove(self._root / "tmp")
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
        _try_to_remove(own / "scratch")
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
        projects = self._config(session.owner) / "projects"
        name = f"{session.agent_session_id}.jsonl"
        cwd = self.cwd(session)
        for folder in (project_folder(cwd), project_folder(cwd.resolve())):
            if (projects / folder / name).exists():
                return projects / folder / name
        if session.turn_count <= 1 and not session.model:
            return None  # it has had no time to change its cwd, and a search takes longer the more sessions there are
        # The session changed its cwd: the CLI goes on with the file where it began.
        return self.find_transcript(session.owner, session.agent_session_id)

    def find_transcript(self, owner: str, agent_session_id: str) -> Path | None:
        """The CLI's file of a conversation, wherever it was begun; slower the more conversations there are."""
        return next((self._config(owner) / "projects").glob(f"*/{agent_session_id}.jsonl"), None)

    def note_conversation(self, session: pb.Session, agent_session_id: str) -> None:
        """Note that the session's agent has begun another conversation, so that its transcript can be removed."""
        own = self._private(self._own(_workspace_id(session)))
        with (own / "conversations").open("a", encoding="ascii") as file:
            file.write(f"{agent_session_id}\n")

    def _transcripts(self, session: pb.Session) -> list[Path]:
        """The CLI's files of all conversations that the session's agent has had."""
        workspace_id, current = _workspace_id(session), self.transcript(session)
        ids = {workspace_id, *_lines(self._own(workspace_id) / "conversations")} if workspace_id else set()
        earlier = sorted(ids - {session.agent_session_id})
        found = [current, *(self.find_transcript(session.owner, agent_session_id) for agent_session_id in earlier)]
        return [transcript for transcript in found if transcript is not None]

    def remove(self, session: pb.Session, *, keep_transcript: bool) -> int:
        """Remove the session's directories, and its transcripts unless kept; bytes freed. The caller's `cwd` stays.

        Raises OSError for what the host does not let go; a second attempt removes the rest.
        """
        freed = 0
        for transcript in [] if keep_transcript else self._transcripts(session):
            freed += trees.remove(transcript.with_suffix(""))
            freed += trees.remove(transcript)
            with suppress(OSError):  # other sessions have transcripts there, or are about to
                transcript.parent.rmdir()
        return freed + (trees.remove(self._own(_workspace_id(session))) if _workspace_id(session) else 0)

    @staticmethod
    def _private(path: Path) -> Path:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        return path


def holds_message(transcript: Path, uuid: str) -> bool:
    """Return whether a conversation has the user message `uuid`; blocks for a few milliseconds."""
    return _holds(transcript, f'"uuid":"{uuid}"')


def holds_messages(transcript: Path) -> bool:
    """Return whether a conversation has any message of a user."""
    return _holds(transcript, '"type":"user"')


def _holds(transcript: Path, text: str) -> bool:
    with (
        suppress(OSError, ValueError),
        transcript.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as lines,
    ):
        return lines.rfind(text.encode()) >= 0
    return False


def _workspace_id(session: pb.Session) -> str:
    """Name of the session's directory. A conversation's id changes when the agent begins another one; this does not."""
    return session.workspace_id or session.agent_session_id


def _lines(file: Path) -> list[str]:
    return file.read_text(encoding="ascii").split() if file.is_file() else []


def _try_to_remove(path: Path) -> None:
    try:
        trees.remove(path)
    except OSError as error:
        log.warning("%s cannot be removed: %s; it is tried again at the next start", path, error)


def _names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []


def _folder(owner: str) -> str:
    """A folder name for a tenant whatever its name: no two share one."""
    return hashlib.sha256(owner.encode()).hexdigest()[:16] if owner else "default"
