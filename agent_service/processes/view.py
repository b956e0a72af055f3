"""View: what the processes of one agent see of the host, and the directories of a view, held open until it stands."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from agent_service.processes.guarded import Guarded, GuardedFiles, descriptors

Level = Literal["off", "workspace", "sealed"]
"""How much an agent sees: all of the host; its workspace and the programs of the host; only what is named."""


TEMPORARY = (Path("/tmp"), Path("/var/tmp"))
"""Where a view has a directory of its own."""


class SandboxUnavailable(Exception):
    """No sandbox of the wished level works on this host; the text says why."""


class OutOfBounds(OSError):
    """A directory that was named lies, or came to lie, where no agent may look."""


@dataclass(frozen=True, kw_only=True)
class View:
    """What the processes of one agent see. All paths are absolute; writable ones and `tmp` exist."""

    level: Level = "workspace"
    cwd: Path
    tmp: Path
    """Its directory for temporary files; it is /tmp and /var/tmp as well."""
    own: tuple[Path, ...] = ()
    """Directories of its session's, writable."""
    own_files: tuple[Path, ...] = ()
    """Files of the service's that it may write."""
    own_read_only: tuple[Path, ...] = ()
    """Files and directories of the service's that it may read, such as what its tenant shares."""
    writable: tuple[Path, ...] = ()
    """Directories that the caller named to be worked in, `cwd` among them when it is one."""
    read_only: tuple[Path, ...] = ()
    """Files and directories that the caller or the operator named to be read."""
    roots: tuple[Path, ...] | None = None
    """Where `writable` must lie, as the tenant's policy says; None: anywhere."""
    guarded: tuple[Path, ...] = ()
    """Those of `writable` in which the files of `guard` are read-only."""
    guard: GuardedFiles | None = None
    sockets: tuple[Path, ...] = ()
    """Unix sockets of the service's that it may connect to."""
    network: bool = True
    """Whether it is in the host's network; without, it has a loopback of its own and nothing else."""
    uid: int | None = None
    """The user it becomes; None: the service's own. Its group has the same number unless `gid` says otherwise."""
    gid: int | None = None


class Named(NamedTuple):
    """A file or directory of a view, opened, with its path as it was given and as it is."""

    given: Path
    path: Path
    descriptor: int


class Held(NamedTuple):
    """The opened files and directories of a view."""

    temporary: tuple[Named, ...]
    """`tmp`, once for each place that it has in the view besides its own; a descriptor serves for one place."""
    writable: tuple[Named, ...]
    read_only: tuple[Named, ...]
    guarded: tuple[tuple[Path, Guarded], ...] = ()
    """Guarded files, with the directory that they are in."""
    made: tuple[tuple[int, int], ...] = ()
    """What `GuardedFiles.release` must hear of when the agent has ended."""

    def descriptors(self) -> tuple[int, ...]:
        """Return all descriptors; a process that builds the view must inherit them."""
        named = [each.descriptor for each in (*self.temporary, *self.writable, *self.read_only)]
        return (*named, *(each for _, guarded in self.guarded for each in descriptors(guarded)))


@contextmanager
def held(view: View, secret: Sequence[Path]) -> Iterator[Held]:
    """Open what a view consists of while the block lasts. Blocks for a moment.

    What is opened here is what is shown: a name that leads elsewhere a moment later changes nothing. A path that the
    caller named is compared after it was opened, as the kernel has it, with `roots` and with the `secret` places.
    Raises OSError for what is not there, OutOfBounds for what must not be shown.
    """
    with ExitStack() as stack:

        def opened(path: Path, flags: int = 0) -> Named:
            descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC | flags)
            stack.callback(os.close, descriptor)
            return Named(path, Path(os.readlink(f"/proc/self/fd/{descriptor}")), descriptor)

        roots = None if view.roots is None else [opened(root).path for root in view.roots if os.path.isdir(root)]
        temporary = [opened(view.tmp, os.O_DIRECTORY)._replace(path=place) for place in TEMPORARY if place.is_dir()]
        writable = [opened(path, os.O_DIRECTORY) for path in (view.tmp, *view.own)]
        writable += [opened(path) for path in view.own_files]
        writable += [_checked(opened(path, os.O_DIRECTORY), secret, roots) for path in view.writable]
        read_only = [opened(path) for path in (*view.own_read_only, *view.sockets)]
        read_only += [_checked(opened(path), secret, None) for path in view.read_only]
        found = Held(tuple(temporary), tuple(writable), tuple(read_only))
        yield _with_guarded(found, view, stack)


def _with_guarded(found: Held, view: View, stack: ExitStack) -> Held:
    """Open the guarded files too."""
    if view.guard is None:
        return found
    opened, made = [], []
    for named in found.writable:
        if named.given in view.guarded:
            guarded, held_open = view.guard.open(named.descriptor)
            made += held_open
            if guarded is not None:
                opened.append((named.path, guarded))
                for descriptor in descriptors(guarded):
                    stack.callback(os.close, descriptor)
    return found._replace(guarded=tuple(opened), made=tuple(made))


def _checked(named: Named, secret: Sequence[Path], roots: Sequence[Path] | None) -> Named:
    if any(named.path.is_relative_to(place) for place in secret):
        raise OutOfBounds(f"{named.given} leads to a place of the service's own, which no agent is shown")
    if roots is not None and not any(named.path.is_relative_to(root) for root in roots):
        raise OutOfBounds(f"{named.given} leads out of the directories that its tenant may use")
    return named
