"""Mounts: the order in which a view is put together from what is shown, what may be written and what is hidden."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from agent_service.processes.view import Held, Named

Kind = Literal["hidden", "temporary", "read-only", "writable", "link"]
"""What is to be at a place: nothing, the view's own temporary files, what is there on the host, or a link."""

ROOT = Path("/")


class Mount(NamedTuple):
    """One step: a place of the view and what is to be there."""

    path: Path
    kind: Kind
    source: int | Path | None = None
    """A descriptor, or for what is the operator's alone, a path; for a link, where it leads."""
    parents: tuple[Path, ...] = ()
    """Directories above it that have to be made first, the uppermost first."""
    pinned: bool = False
    """Whether it stands where what is around it is just as writable, so that it can be neither moved nor removed."""


def arrange(steps: Sequence[Mount], *, base: Kind) -> list[Mount]:
    """Return the steps that are needed, the upper directories first: what lies deeper has the last word.

    Of two steps for one place the later one holds. `base` is what holds where no step says anything.
    """
    by_path = {step.path: step for step in steps}
    kept: dict[Path, Mount] = {}
    for step in sorted(by_path.values(), key=lambda step: len(step.path.parts)):
        around, cover = _around(step.path, kept, base)
        if step.kind != around or step.pinned:
            made = around in ("hidden", "temporary")
            kept[step.path] = step._replace(parents=_between(cover, step.path, kept) if made else ())
    return list(kept.values())


def _around(path: Path, kept: dict[Path, Mount], base: Kind) -> tuple[Kind, Path]:
    """Return what holds around a path, and the place that says so."""
    for parent in path.parents:
        if parent in kept:
            return kept[parent].kind, parent
    return base, ROOT


def _between(cover: Path, path: Path, kept: dict[Path, Mount]) -> tuple[Path, ...]:
    made = {parent for step in kept.values() for parent in step.parents}
    below = [parent for parent in path.parents if parent != cover and parent.is_relative_to(cover)]
    return tuple(parent for parent in reversed(below) if parent not in made)


def steps_of(held: Held, hidden: Sequence[Path]) -> list[Mount]:
    """Return the steps that show what a view holds and hide the rest."""
    steps = [Mount(path, "hidden") for path in hidden]
    steps += [Mount(named.path, "temporary", named.descriptor) for named in held.temporary]
    for named in held.read_only:
        steps += _shown(named, "read-only", hidden)
    for named in held.writable:
        steps += _shown(named, "writable", hidden)
    for directory, guarded in held.guarded:
        folder = directory / guarded.folder
        steps.append(Mount(folder, "writable", guarded.descriptor, pinned=True))
        steps += [Mount(folder / name, "read-only", descriptor) for name, descriptor in guarded.files]
    return steps


def _shown(named: Named, kind: Kind, hidden: Sequence[Path]) -> list[Mount]:
    shown = Mount(named.path, kind, named.descriptor)
    if named.given == named.path or not any(named.given.is_relative_to(place) for place in hidden):
        return [shown]
    return [shown, Mount(named.given, "link", named.path)]
