"""Chooses the sandbox: the strongest whose walls hold in a trial with a real command on this host."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from agent_service.processes.bubblewrap import Bubblewrap
from agent_service.processes.choice import Refusal
from agent_service.processes.guards import NamespaceGuard, ProcessGuard
from agent_service.processes.hidden import Hidden
from agent_service.processes.landlock_sandbox import Landlock
from agent_service.processes.sandbox import NoSandbox, Sandbox
from agent_service.processes.tags import session_marker
from agent_service.processes.view import Level, SandboxUnavailable, View

OFF = "off"
LEVELS: tuple[Level, ...] = ("workspace", "sealed")
_PATIENCE = 10.0


@dataclass(frozen=True)
class SandboxChoice:
    """The level of sessions whose tenant has none of its own, the sandboxes that passed, and why others did not."""

    level: Level = "off"
    passed: tuple[tuple[Level, Sandbox], ...] = ()
    refused: tuple[Refusal, ...] = ()

    def of(self, level: Level) -> Sandbox:
        """Return the sandbox that holds this level here. Raises SandboxUnavailable."""
        if level == "off":
            return NoSandbox()
        for each, sandbox in self.passed:
            if each == level:
                return sandbox
        raise SandboxUnavailable(f"no sandbox {level!r} works on this host: {self.reasons() or 'none was tried'}")

    def reasons(self) -> str:
        """Return why each sandbox that failed did so."""
        return "; ".join(f"{name}: {reason}" for name, reason in self.refused)

    def shown(self, level: Level) -> str:
        """Return a level with what holds it, such as "workspace (bubblewrap)"; "off" for none."""
        return level if level == "off" else f"{level} ({self.of(level).name})"


async def choose_sandbox(
    wished: str, *, guard: ProcessGuard, hidden: Hidden, directory: Path, others: bool = False
) -> SandboxChoice:
    """Try the sandboxes on this host, the strongest first, each with a command that tries what must not be possible.

    `wished` is auto, off, workspace or sealed: "auto" is the strongest that shows the host's programs, or "off".
    `directory` is where the trials may work; `others` says that tenants may have other levels than the service's own.
    Raises SandboxUnavailable when the level that is wished for by name does not work.
    """
    if wished == OFF and not others:
        return SandboxChoice()
    passed: dict[Level, Sandbox] = {}
    refused: list[Refusal] = []
    wanted: tuple[Level, ...] = LEVELS if others or wished == "sealed" else ("workspace",)
    for name, make in _kinds(guard, hidden):
        for level in wanted:
            try:
                sandbox = make()
                if level in sandbox.levels and level not in passed:
                    await _trial(sandbox, level, guard, directory)
                    passed[level] = sandbox
            except (SandboxUnavailable, OSError) as error:
                refused.append(Refusal(name, f"{level}: {error}"))
                break
        if len(passed) == len(wanted):
            break
    usual: Level = "off" if wished == OFF else "sealed" if wished == "sealed" else "workspace"
    choice = SandboxChoice(usual, tuple(passed.items()), tuple(refused))
    if wished == "auto" and "workspace" not in passed:
        return SandboxChoice("off", choice.passed, choice.refused)
    choice.of(usual)
    return choice


def _kinds(guard: ProcessGuard, hidden: Hidden) -> Iterator[tuple[str, Callable[[], Sandbox]]]:
    alone = not isinstance(guard, NamespaceGuard)
    if os.geteuid() == 0:
        yield Bubblewrap.name, lambda: Bubblewrap(hidden, own_processes=alone)
    yield (
        f"{Bubblewrap.name} in a user namespace",
        lambda: Bubblewrap(hidden, own_processes=alone, user_namespace=True),
    )
    yield Landlock.name, lambda: Landlock(hidden)


_ATTEMPTS = """
cat "$1/secret/file" && exit 3
(: >>"$1/shown/file") && exit 4
cat "$1/shown/file" || exit 5
(: >"$1/work/file" && : >"$TMPDIR/file") || exit 6
kill -0 "$2" && exit 7
exit 9
"""
_MEANING = {
    3: "a hidden file can be read",
    4: "a file that is shown can be written",
    5: "a file that is shown cannot be read",
    6: "the working directory cannot be written",
    7: "a process outside can be signalled",
}
_HELD = 9
"""What the trial's command exits with when every wall holds: nothing that fails before it does."""


async def _trial(sandbox: Sandbox, level: Level, guard: ProcessGuard, directory: Path) -> None:
    place = Path(tempfile.mkdtemp(prefix="trial-", dir=directory))
    try:
        for name in ("secret", "shown", "work", "tmp"):
            (place / name).mkdir()
            (place / name / "file").write_text(name)
        view = View(
            level=level,
            cwd=place / "work",
            tmp=place / "tmp",
            own=(place / "work",),
            own_read_only=(place / "shown",),
            network=level != "sealed",
        )
        code, output = await _run(sandbox, view, guard, place)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    if code != _HELD:
        raise SandboxUnavailable(_MEANING.get(code) or output or f"the trial's command ended with {code}")


async def _run(sandbox: Sandbox, view: View, guard: ProcessGuard, place: Path) -> tuple[int, str]:
    marker = session_marker("probe", f"{os.getpid()}", place.name)
    argv = ["sh", "-c", _ATTEMPTS, "trial", str(place), str(os.getpid())]
    pipe, none = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
    with sandbox.wrap(argv, view) as wrapped:
        environment = {"PATH": os.defpath, "TMPDIR": str(view.tmp)}
        spawn = guard.spawn(wrapped.argv, marker=marker, environment=environment, descriptors=wrapped.descriptors)
        try:
            process = await asyncio.create_subprocess_exec(
                *spawn.command, stdin=none, stdout=none, stderr=pipe, cwd=view.cwd, **spawn.keywords
            )
        finally:
            spawn.started()
    try:
        async with asyncio.timeout(_PATIENCE):
            _, stderr = await process.communicate()
    except TimeoutError as error:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        raise SandboxUnavailable(f"the trial was not over after {_PATIENCE:g} s") from error
    return process.returncode or 0, stderr.decode(errors="replace").strip().splitlines()[-1:][0] if stderr else ""
