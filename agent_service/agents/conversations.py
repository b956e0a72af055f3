"""Conversations: the CLI's files of a conversation, below one configuration directory (CLAUDE_CONFIG_DIR).

projects/FOLDER/ID.jsonl   the transcript; FOLDER is made of the directory that the conversation was begun in
projects/FOLDER/ID/        transcripts of its subagents, and long tool results
projects/FOLDER/memory     what agents noted of that directory
file-history/ID …          what the CLI keeps beside it, see BESIDE

An agent may put a link, a pipe or a file without end in a file's place: nothing here follows, waits for or reads it.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from agent_service.agents import tree_copy, trees
from agent_service.agents.sdk import project_folder
from agent_service.events import lines_backwards

MAX_TRANSCRIPT = 1 << 30
"""Bytes of a transcript. The longest seen had 50 MB; an agent can make one of terabytes at once, all of it a hole."""

BESIDE = ("file-history/{id}", "session-env/{id}", "tasks/{id}", "todos/{id}-agent-{id}.json", "debug/{id}.txt")
"""Files of the CLI that bear the id of a conversation."""


class Conversation(NamedTuple):
    """A conversation: its id, and the directory of the session that had it."""

    workspace_id: str
    agent_session_id: str


def transcript_begun_in(config: Path, agent_session_id: str, cwd: Path) -> Path | None:
    """The transcript of a conversation that was begun in `cwd`; None without."""
    for folder in (project_folder(cwd), project_folder(cwd.resolve())):
        if _is_transcript(file := config / "projects" / folder / f"{agent_session_id}.jsonl"):
            return file
    return None


def transcript_anywhere(config: Path, agent_session_id: str) -> Path | None:
    """The transcript of a conversation, wherever it was begun; slower the more directories there are."""
    found = (config / "projects").glob(f"*/{agent_session_id}.jsonl")
    return next((file for file in found if _is_transcript(file)), None)


def move(transcript: Path, agent_session_id: str, source: Path, target: Path) -> None:
    """Move a conversation from one configuration to another; the transcript last, so that it can be repeated."""
    places = [f"projects/{transcript.parent.name}/{agent_session_id}", *(b.format(id=agent_session_id) for b in BESIDE)]
    for place in places:
        _move(source / place, target / place)
    memory = f"projects/{transcript.parent.name}/memory"
    if (source / memory).is_dir() and not (target / memory).exists():
        _parent(target / memory)
        tree_copy.copy(source / memory, target / memory)
    _move(transcript, target / "projects" / transcript.parent.name / transcript.name)
    with suppress(OSError):  # other conversations were begun there
        transcript.parent.rmdir()


def copy(transcript: Path, target: Path) -> Path:
    """Copy a conversation into another configuration, so that it can be forked there. Raises OSError."""
    file = target / "projects" / transcript.parent.name / transcript.name
    _parent(file)
    trees.remove(file)
    trees.remove(file.with_suffix(""))
    if transcript.with_suffix("").is_dir():
        tree_copy.copy(transcript.with_suffix(""), file.with_suffix(""))
    copy_file(transcript, file)
    return file


def remove(transcript: Path, agent_session_id: str, config: Path, remove_tree: Callable[[Path], int]) -> int:
    """Remove a conversation from a configuration that holds others too; bytes freed. Raises OSError."""
    freed = sum(remove_tree(config / place.format(id=agent_session_id)) for place in BESIDE)
    freed += remove_tree(transcript.with_suffix("")) + remove_tree(transcript)
    with suppress(OSError):  # others were begun there, or are about to be
        transcript.parent.rmdir()
    return freed


def _move(source: Path, target: Path) -> None:
    if not os.path.lexists(source) or source.is_symlink():
        return
    _parent(target)
    try:
        source.rename(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        if source.is_dir():
            tree_copy.copy(source, target)
        else:
            copy_file(source, target)
        trees.remove(source)


def _parent(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)


def copy_file(source: Path, target: Path) -> None:
    """Copy a regular file into a new one that only this user can read. Raises OSError."""
    reading = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(reading).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(source))
        writing = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            while os.sendfile(writing, reading, None, 1 << 26):
                pass
        finally:
            os.close(writing)
    finally:
        os.close(reading)


def _is_transcript(path: Path) -> bool:
    """Return whether there is a regular file, no link to one, of a size that a conversation can have."""
    with suppress(OSError):
        found = path.lstat()
        return stat.S_ISREG(found.st_mode) and found.st_size <= MAX_TRANSCRIPT
    return False


def holds_message(transcript: Path, uuid: str) -> bool:
    """Return whether a conversation has the user message `uuid`; blocks for a few milliseconds."""
    return _holds(transcript, f'"uuid":"{uuid}"')


def holds_messages(transcript: Path) -> bool:
    """Return whether a conversation has any message of a user."""
    return _holds(transcript, '"type":"user"')


def _holds(transcript: Path, text: str) -> bool:
    with suppress(OSError):
        return any(lines_backwards(transcript, text.encode()))
    return False
