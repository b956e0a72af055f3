"""Sandboxes: walls around the processes of one agent. A sandbox turns a command into one that runs inside a view."""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

from agent_service.processes.hidden import Hidden
from agent_service.processes.view import Held, Level, SandboxUnavailable, View, held


class Wrapped(NamedTuple):
    """A command inside its walls, and the descriptors that it has to inherit."""

    argv: list[str]
    descriptors: tuple[int, ...] = ()
    made: tuple[tuple[int, int], ...] = ()
    """Guarded files that were made for it (guarded.py)."""


class Sandbox(ABC):
    """A kind of wall."""

    name: ClassVar[str]
    """The program that holds it, for logs and for GetServerInfo."""
    levels: ClassVar[frozenset[Level]]
    wrapper: ClassVar[str] = ""
    """Name of the processes that stay between the guard and the command; SIGTERM is not for them."""

    hidden: Hidden
    """The places that it leaves out of every view."""

    @abstractmethod
    def command(self, argv: Sequence[str], view: View, opened: Held) -> list[str]:
        """Return the command that runs `argv` in a view whose directories are open."""

    @contextmanager
    def wrap(self, argv: Sequence[str], view: View) -> Iterator[Wrapped]:
        """Give the command to start while the block lasts. Raises OSError for a directory that cannot be shown."""
        with held(view, self.hidden.secret) as opened:
            yield Wrapped(self.command(argv, view, opened), opened.descriptors(), opened.made)


@dataclass(frozen=True)
class NoSandbox(Sandbox):
    """No wall at all; a user of its own where the view names one."""

    name: ClassVar[str] = ""
    levels: ClassVar[frozenset[Level]] = frozenset({"off"})

    hidden: Hidden = field(default_factory=Hidden)

    def command(self, argv: Sequence[str], view: View, opened: Held) -> list[str]:
        """Return the command itself."""
        return [*become(view), *argv]

    @contextmanager
    def wrap(self, argv: Sequence[str], view: View) -> Iterator[Wrapped]:
        yield Wrapped([*become(view), *argv])


def tool(name: str) -> str:
    """Return a program's path on the service's own PATH. Raises SandboxUnavailable."""
    found = shutil.which(name)
    if found is None:
        raise SandboxUnavailable(f"there is no {name} on this host")
    return found


def become(view: View) -> list[str]:
    """Return the command that takes another user's identity before it runs the rest; none where nothing is asked."""
    if view.uid is None:
        return []
    identity = [f"--reuid={view.uid}", f"--regid={view.uid if view.gid is None else view.gid}", "--clear-groups"]
    drop = ["--inh-caps=-all", "--ambient-caps=-all", "--bounding-set=-all", "--no-new-privs"]
    return [tool("setpriv"), *identity, *drop, "--"]
