"""Workspaces: where a session's files are. All of them lie under the data directory, so that a backup is one folder.

tenants/TENANT/config    the CLI's own files, transcripts included (CLAUDE_CONFIG_DIR)
tenants/TENANT/home      the agent's HOME
sessions/ID/work         the directory a session works in when it names none
sessions/ID/scratch      files handed to the CLI: prompts, settings, MCP configuration
tmp/XXXXXXXX             TMPDIR of one agent process, removed with it
"""

from __future__ import annotations

import hashlib
import mmap
import shutil
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from agentpb import agent_pb2 as pb

from agent_service.agent import project_folder


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

    def scratch(self, session_id: str) -> Path:
        """Where files handed to the session's CLI lie."""
        return self._private(self._root / "sessions" / session_id / "scratch")

    def cwd(self, session: pb.Session) -> Path:
        """The directory the session works in: its own unless its options name one."""
        return Path(session.options.cwd or self._root / "sessions" / session.session_id / "work")

    def make_cwd(self, session: pb.Session) -> Path:
        """The directory the session works in, made when it is its own."""
        cwd = self.cwd(session)
        return cwd if session.options.cwd else self._private(cwd)

    def new_tmp(self) -> Path:
        """A short-named directory for one process's temporary files and sockets."""
        return self._private(self._root / "tmp" / uuid4().hex[:8])

    def clear_tmp(self) -> None:
        """Remove what earlier runs of the service left."""
        shutil.rmtree(self._root / "tmp", ignore_errors=True)

    def session_folders(self) -> list[str]:
        """Ids of the sessions that have a directory of their own."""
        folder = self._root / "sessions"
        return sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []

    def transcript(self, session: pb.Session) -> Path | None:
        """The CLI's file of the session's conversation; None when there is none."""
        if not session.agent_session_id:
            return None
        projects = self._config(session.owner) / "projects"
        name = f"{session.agent_session_id}.jsonl"
        expected = projects / project_folder(self.cwd(session)) / name
        if expected.exists():
            return expected
        # The session changed its cwd: the CLI goes on with the file where it began.
        return self.find_transcript(session.owner, session.agent_session_id)

    def find_transcript(self, owner: str, agent_session_id: str) -> Path | None:
        """The CLI's file of a conversation, wherever it was begun; slower the more conversations there are."""
        return next((self._config(owner) / "projects").glob(f"*/{agent_session_id}.jsonl"), None)

    def remove(self, session: pb.Session, *, keep_transcript: bool) -> int:
        """Remove the session's directories, and its transcript unless kept; bytes freed. A `cwd` of the caller's stays."""
        freed = 0
        if not keep_transcript and (transcript := self.transcript(session)) is not None:
            freed += _remove(transcript.with_suffix(""))
            freed += _remove(transcript)
            if transcript.parent.exists() and not any(transcript.parent.iterdir()):
                transcript.parent.rmdir()
        return freed + _remove(self._root / "sessions" / session.session_id)

    @staticmethod
    def _private(path: Path) -> Path:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        return path


def holds_message(transcript: Path, uuid: str) -> bool:
    """Whether a conversation has the user message `uuid`; blocks for a few milliseconds."""
    with (
        suppress(OSError, ValueError),
        transcript.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as lines,
    ):
        return lines.rfind(f'"uuid":"{uuid}"'.encode()) >= 0
    return False


def _folder(owner: str) -> str:
    """A folder name for a tenant whatever its name: no two share one."""
    return hashlib.sha256(owner.encode()).hexdigest()[:16] if owner else "default"


def _remove(path: Path) -> int:
    if path.is_dir() and not path.is_symlink():
        freed = sum(file.lstat().st_size for file in path.rglob("*") if not file.is_dir())
        shutil.rmtree(path, ignore_errors=True)
        return freed
    if path.exists() or path.is_symlink():
        freed = path.lstat().st_size
        path.unlink(missing_ok=True)
        return freed
    return 0
