"""Bubblewrap: the sandbox of namespaces, by the `bwrap` program."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from agent_service.processes.hidden import Hidden, needed_in
from agent_service.processes.mounts import Mount, arrange, steps_of
from agent_service.processes.sandbox import Sandbox, become, tool
from agent_service.processes.view import Held, Level, SandboxUnavailable, View

_PROGRAMS = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix/store", "/gnu/store")
"""What a sealed view shows of the host's programs."""

_ETC = (
    *("alternatives", "ca-certificates", "crypto-policies", "fonts", "gai.conf", "gitconfig", "group", "host.conf"),
    *("hosts", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "localtime", "magic", "mime.types", "nsswitch.conf"),
    *("os-release", "passwd", "pki", "profile", "protocols", "resolv.conf", "services", "shells", "ssl", "terminfo"),
    "timezone",
)
"""What a sealed view shows of /etc, but for what only root may read."""

_KERNEL = ("/proc/sys", "/proc/sysrq-trigger", "/proc/irq", "/proc/bus", "/proc/fs", "/proc/acpi", "/proc/scsi")
"""Settings of the whole host that root may write without any capability."""


@dataclass(frozen=True)
class Bubblewrap(Sandbox):
    """Namespaces with a mount view of their own."""

    name: ClassVar[str] = "bubblewrap"
    levels: ClassVar[frozenset[Level]] = frozenset({"workspace", "sealed"})
    wrapper: ClassVar[str] = "bwrap"

    hidden: Hidden = field(default_factory=Hidden)
    own_processes: bool = False
    """Whether it hides the host's processes too: where the guard makes no PID namespace."""
    user_namespace: bool = field(default_factory=lambda: os.geteuid() != 0)
    """Whether it needs a user namespace: as an ordinary user, and as root without CAP_SYS_ADMIN."""
    bwrap: str = field(default_factory=lambda: tool("bwrap"))

    def command(self, argv: Sequence[str], view: View, opened: Held) -> list[str]:
        """Return bwrap's command line; the descriptors are named in it. Raises SandboxUnavailable."""
        if view.uid is not None and self.user_namespace:
            raise SandboxUnavailable("another user needs the rights of root, which this service does not have")
        own = [self.bwrap, "--die-with-parent", *self._namespaces(view), *self._filesystem(view, opened)]
        drop = ["--cap-drop", "ALL"]  # started by root, bwrap would hand on every capability
        if view.uid is None:
            # Root may map itself into a further user namespace, as the CLI's own sandbox does, with this one alone. It
            # allows nothing that root could not do by a set-user-id file.
            drop += ["--cap-add", "CAP_SETFCAP"] if os.geteuid() == 0 else []
            return [*own, *drop, "--chdir", str(view.cwd), "--", *argv]
        for right in ("SETUID", "SETGID", "SETPCAP"):
            drop += ["--cap-add", f"CAP_{right}"]
        inside = [*become(view), tool("env"), "-C", str(view.cwd)]  # only its own user may enter the directory
        return [*own, *drop, "--chdir", "/", "--", *inside, *argv]

    def _namespaces(self, view: View) -> list[str]:
        return [
            *("--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"),
            *(("--unshare-user",) if self.user_namespace else ()),
            *(("--unshare-pid",) if self.own_processes else ()),
            *(() if view.network else ("--unshare-net",)),
        ]

    def _filesystem(self, view: View, opened: Held) -> list[str]:
        hidden, sealed = self.hidden.all(), view.level == "sealed"
        base = list(_minimal(hidden)) if sealed else []
        steps = arrange([*base, *_linked(hidden), *steps_of(opened, hidden)], base="hidden" if sealed else "read-only")
        options = [] if sealed else ["--ro-bind", "/", "/"]
        options += ["--dev", "/dev", "--proc", "/proc"]
        for path in _KERNEL if os.geteuid() == 0 else ():
            options += ["--ro-bind-try", path, path]
        for step in steps:
            options += _options(step)
        for step in steps:
            if step.kind == "hidden" and os.path.isdir(step.path):
                options += ["--remount-ro", str(step.path)]
        return options + (["--remount-ro", "/"] if sealed else [])


def _minimal(hidden: Sequence[Path]) -> Iterator[Mount]:
    for name in _PROGRAMS:
        path = Path(name)
        if path.is_symlink():
            yield Mount(path, "link", path.readlink())
        elif os.path.isdir(path):
            yield Mount(path, "read-only", path)
    for name in _ETC:
        path = Path("/etc", name)
        if os.path.exists(path) and path not in hidden:
            yield Mount(path, "read-only", Path(os.path.realpath(path)))


def _linked(hidden: Sequence[Path]) -> Iterator[Mount]:
    return (Mount(path, "read-only", path) for path in needed_in(hidden))


def _options(step: Mount) -> list[str]:
    options: list[str] = []
    for parent in step.parents:  # bwrap itself would make them for its user alone
        options += ["--perms", "0755", "--dir", str(parent)]
    path = str(step.path)
    if step.kind == "hidden":
        return options + (
            ["--perms", "0755", "--tmpfs", path] if os.path.isdir(step.path) else ["--ro-bind", "/dev/null", path]
        )
    if step.kind == "link":
        return [*options, "--symlink", str(step.source), path]
    how = "--ro-bind" if step.kind == "read-only" else "--bind"
    return [*options, f"{how}-fd" if isinstance(step.source, int) else how, str(step.source), path]
