"""Landlock: the sandbox for hosts without namespaces. The kernel refuses every path that the view does not name."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from agent_service.processes import landlock
from agent_service.processes.hidden import Hidden, needed_in
from agent_service.processes.sandbox import Sandbox
from agent_service.processes.view import Held, Level, SandboxUnavailable, View

_DEVICES = ("null", "zero", "full", "random", "urandom", "tty", "pts", "ptmx", "shm", "fd")


@dataclass(frozen=True)
class Landlock(Sandbox):
    """A ruleset over paths.

    Hidden places can be seen to be there but not be read. There is no private /tmp, the sockets of daemons stay within
    reach, and the CLI's own sandbox cannot be set up inside, because a confined process may mount nothing.
    """

    name: ClassVar[str] = "Landlock"
    levels: ClassVar[frozenset[Level]] = frozenset({"workspace"})

    hidden: Hidden = field(default_factory=Hidden)

    def __post_init__(self) -> None:
        if (version := landlock.abi()) < landlock.LEAST_ABI:
            raise SandboxUnavailable(f"the kernel has no Landlock, or too old a one (version {version})")

    def command(self, argv: Sequence[str], view: View, opened: Held) -> list[str]:
        """Return the launcher's command line; the descriptors are named in it."""
        identity = ["-", "-"] if view.uid is None else [str(view.uid), str(view.uid if view.gid is None else view.gid)]
        reading = [f"@{named.descriptor}" for named in opened.read_only]
        hidden = self.hidden.all()
        reading += [str(path) for path in (*_visible(Path("/"), hidden), *needed_in(hidden))]
        writing = [f"@{named.descriptor}" for named in opened.writable]
        writing += [f"/dev/{name}" for name in _DEVICES]
        interpreter, launcher = os.path.realpath(sys.executable), str(Path(landlock.__file__))
        program = shutil.which(argv[0]) or argv[0]
        return [
            interpreter,
            "-I",
            "-S",
            launcher,
            *identity,
            "\n".join(reading),
            "\n".join(writing),
            program,
            *argv[1:],
        ]


def _visible(folder: Path, hidden: Sequence[Path]) -> Iterator[Path]:
    """Yield what may be read of a folder: a ruleset cannot take away, so a folder with a hidden place is listed."""
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return
    for name in names:
        path = folder / name
        if path.is_symlink() or path in hidden or "\n" in name or path == Path("/dev"):
            continue
        if any(place.is_relative_to(path) for place in hidden):
            yield from _visible(path, hidden)
        else:
            yield path
