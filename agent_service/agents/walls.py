"""Walls: what is around each agent: its sandbox, its view of the host, the user that it is."""

from __future__ import annotations

import logging
import os
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from agentpb import agent_pb2 as pb

from agent_service.agents.identities import Identities, give, let_through
from agent_service.agents.programs import needed
from agent_service.agents.sdk import bundled_cli
from agent_service.agents.workspace import Directories
from agent_service.errors import CannotServe
from agent_service.policy import Grant
from agent_service.processes import cgroups
from agent_service.processes.cgroups import Cgroups, Limits, NoLimits, find_cgroups
from agent_service.processes.guarded import GuardedFiles
from agent_service.processes.guards import ProcessGuard
from agent_service.processes.hidden import hidden_places
from agent_service.processes.sandbox import Sandbox, Wrapped
from agent_service.processes.sandbox_choice import SandboxChoice, choose_sandbox
from agent_service.processes.view import Level, SandboxUnavailable, View

log = logging.getLogger(__name__)


TOOLS = Path(cgroups.__file__).with_name("tools.sh")
"""What runs a shell command in the cgroup of an agent's tools."""

SETTINGS = (".claude", ("settings.json", "settings.local.json"))
"""Files of a working directory in which an agent could allow itself what it likes, for every later one there."""


@dataclass
class Wall:
    """What is around one agent."""

    sandbox: Sandbox
    view: View
    name: str
    """As Session.sandbox shows it."""
    marker: str
    cgroups: Cgroups | None = None
    entering: Sequence[str] = ()
    """The command that enters its cgroups."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """What its environment must have."""
    made: list[tuple[int, int]] = field(default_factory=list)
    """Guarded files that were made for it."""

    @contextmanager
    def wrap(self, argv: Sequence[str]) -> Iterator[Wrapped]:
        """Give the command to start in place of `argv` while the block lasts. Raises OSError, SandboxUnavailable."""
        with self.sandbox.wrap(argv, self.view) as wrapped:
            self.made += wrapped.made
            yield wrapped

    def let_out(self, sockets: Sequence[Path], programs: Sequence[Path]) -> None:
        """Let the agent connect to these Unix sockets, by means of these programs."""
        shown = (*self.view.own_read_only, *programs)
        self.view = replace(self.view, sockets=tuple(sockets), own_read_only=shown)

    def enter(self, command: Sequence[str]) -> list[str]:
        """Return the guard's command within the agent's limits."""
        return [*self.entering, *command]

    def fall(self) -> None:
        """Take away what was made for the agent, which has ended."""
        made, self.made = self.made, []
        if self.view.guard is not None:
            self.view.guard.release(made)
        if self.cgroups is not None:
            self.cgroups.remove(self.marker)


class Walls:
    """Makes the walls of agents, as the service's own level and their tenant's grant say."""

    def __init__(
        self, choice: SandboxChoice | None = None, *, data_dir: Path = Path("data"), cgroups: Cgroups | str = ""
    ) -> None:
        """Hold agents with what `choice` found to work; without, there are no walls.

        `cgroups` limit them, or the text says why not.
        """
        self._choice = choice or SandboxChoice()
        self._data_dir = data_dir
        self._cgroups = cgroups
        self._identities = Identities(data_dir / "users")
        self._guard = GuardedFiles(*SETTINGS)
        self._unlimited: set[str] = set()

    @property
    def level(self) -> Level:
        """The level of agents whose tenant's policy says nothing."""
        return self._choice.level

    @property
    def usual(self) -> str:
        """The walls of agents whose tenant's policy says nothing, as GetServerInfo shows them."""
        return self._choice.shown(self._choice.level)

    def problem(self, grant: Grant) -> str:
        """Why agents under this grant cannot be held as it asks; empty when they can."""
        try:
            self._choice.of(self._level(grant))
            self._identities.of(grant.run_as, grant.tenant)
        except (SandboxUnavailable, OSError) as error:
            return str(error)
        return ""

    def has_network(self, grant: Grant) -> bool:
        """Return whether agents under this grant are in the host's network."""
        return self._level(grant) != "sealed"

    def inside(self, options: pb.AgentOptions, grant: Grant) -> pb.AgentOptions:
        """Return options as they can be met inside the walls.

        For root, whose file permissions reach the kernel's settings, a part of /proc is read-only. The kernel then
        lets nobody mount another /proc, so the CLI's own sandbox has to use this one.
        """
        covered = os.geteuid() == 0 and grant.run_as is None and self._level(grant) != "off"
        if not covered or not options.sandbox.enabled:
            return options
        adapted = pb.AgentOptions()
        adapted.CopyFrom(options)
        adapted.sandbox.enable_weaker_nested_sandbox = True
        return adapted

    def _level(self, grant: Grant) -> Level:
        return self._choice.level if grant.sandbox is None else grant.sandbox

    def around(
        self,
        options: pb.AgentOptions,
        directories: Directories,
        grant: Grant,
        environment: Mapping[str, str],
        marker: str,
    ) -> Wall:
        """Return the walls of one agent, and let its directories belong to its user. Asks the file system.

        Call it when everything that it reads at its start is written. Raises SandboxUnavailable, OSError.
        """
        level = self._level(grant)
        sandbox = self._choice.of(level)
        view = View(level=level, cwd=directories.cwd, tmp=directories.tmp)
        if level != "off":
            view = _view(level, sandbox, options, directories, grant, environment)
            view = replace(view, guard=self._guard, guarded=_guarded(options))
        if (user := self._identities.of(grant.run_as, grant.tenant)) is not None:
            view = replace(view, uid=user.uid, gid=user.gid)
            give(directories, user, own_cwd=not options.cwd)
            if not sandbox.wrapper:  # a view of its own has ways of its own
                home = directories.home
                let_through([self._data_dir, home.parent.parent, home.parent, directories.tmp.parent])
        return self._limited(Wall(sandbox, view, self._choice.shown(level), marker), grant)

    def _limited(self, wall: Wall, grant: Grant) -> Wall:
        """Return walls with the limits of the grant, as far as this host has any."""
        limits = Limits(grant.memory, grant.processes)
        if limits == Limits():
            return wall
        if isinstance(self._cgroups, Cgroups):
            entering = self._cgroups.enter(limits, wall.marker, wall.view.uid)
            wall = replace(wall, cgroups=self._cgroups, entering=entering)
            tools = self._cgroups.tools(limits, wall.marker)
            return wall if tools is None else _with_tools(wall, tools)
        if grant.tenant not in self._unlimited:
            self._unlimited.add(grant.tenant)
            log.warning("memory and processes of tenant %s are not limited: %s", grant.tenant, self._cgroups)
        return wall


def _with_tools(wall: Wall, tools: Path) -> Wall:
    """Return walls in which the agent's shell commands enter a cgroup of their own by the file `tools`."""
    view = replace(wall.view, own_files=(tools,), own_read_only=(*wall.view.own_read_only, TOOLS))
    prefix = f"/bin/sh -e {shlex.quote(str(TOOLS))}"  # the CLI puts it before every shell command
    return replace(wall, view=view, environment={"AGENT_TOOLS_CGROUP": str(tools), "CLAUDE_CODE_SHELL_PREFIX": prefix})


def _guarded(options: pb.AgentOptions) -> tuple[Path, ...]:
    """Return the caller's directories whose settings are guarded: an own one is used by nobody else."""
    further = [Path(each) for each in options.add_dirs if os.path.isdir(Path(each) / SETTINGS[0])]
    return (*([Path(options.cwd)] if options.cwd else []), *further)


def _view(
    level: Level,
    sandbox: Sandbox,
    options: pb.AgentOptions,
    directories: Directories,
    grant: Grant,
    environment: Mapping[str, str],
) -> View:
    own = [directories.home, directories.config]
    named = [Path(each) for each in (*([options.cwd] if options.cwd else []), *options.add_dirs)]
    if not options.cwd:
        own.append(directories.cwd)
    roots = None if grant.cwd_roots is None else (*map(Path, grant.cwd_roots), *own)
    return View(
        level=level,
        cwd=directories.cwd,
        tmp=directories.tmp,
        own=tuple(own),
        own_read_only=(directories.scratch, Path(bundled_cli()).parent),
        writable=tuple(named),
        read_only=tuple(needed(options, environment, sandbox.hidden, grant, sealed=level == "sealed")),
        roots=roots,
        network=level != "sealed",
    )


def _cgroups(owner: str) -> Cgroups | str:
    """Return the cgroups for agents, without those that earlier runs of the service left, or why there are none."""
    try:
        cgroups = find_cgroups()
    except (NoLimits, OSError) as error:
        return str(error)
    cgroups.remove(owner)
    return cgroups


async def open_walls(
    wished: str,
    *,
    owner: str,
    guard: ProcessGuard,
    data_dir: Path,
    secret: Iterable[Path] = (),
    must_hold: bool = False,
) -> Walls:
    """Try this host's sandboxes, say in the log which was chosen, and return the walls that they make.

    `owner` is the first part of all markers. `secret` are files and directories beside the data directory that no agent
    may see. Where the walls `must_hold`, as wherever others than the developer at this machine may call, "auto" that
    finds none is refused. Raises CannotServe.
    """
    hidden = hidden_places([data_dir, *secret])
    try:
        choice = await choose_sandbox(wished, guard=guard, hidden=hidden, directory=data_dir, others=must_hold)
        if must_hold and wished == "auto":
            choice.of("workspace")
    except SandboxUnavailable as error:
        advice = "install bubblewrap, or say --sandbox off to let agents see what this service sees"
        raise CannotServe(f"agents cannot be held as asked: {error}; {advice}") from error
    walls = Walls(choice, data_dir=data_dir, cgroups=_cgroups(owner) if must_hold else "there is no access file")
    if choice.level == "off":
        why = f"; none works here ({choice.reasons()})" if wished == "auto" else ""
        log.warning(
            "sandbox: off: every agent sees what this service sees, the token of its callers among it, and can approve "
            "what it asks for%s",
            why,
        )
    else:
        log.info("sandbox: %s", walls.usual)
    return walls
