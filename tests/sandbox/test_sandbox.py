"""Sandboxes around a plain command: what it sees, and what it does not. No agent is started."""

from __future__ import annotations

import os
import shlex
import subprocess
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent_service.agents import walls as walls_module
from agent_service.agents.walls import open_walls
from agent_service.errors import CannotServe
from agent_service.processes import bubblewrap as bubblewrap_module
from agent_service.processes import landlock_sandbox
from agent_service.processes.choice import choose_guard
from agent_service.processes.guards import GroupGuard
from agent_service.processes.hidden import Hidden, hidden_places
from agent_service.processes.sandbox import NoSandbox, Sandbox
from agent_service.processes.sandbox_choice import choose_sandbox
from agent_service.processes.view import OutOfBounds, SandboxUnavailable, View
from tests.sandbox.walls import bubblewrap, landlock

SWAPS = 1000


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory as a service has it: a ledger and two sessions."""
    for name in ("one/work", "one/tmp", "two/work", "shared"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("ledger", "two/work/file", "shared/file"):
        (tmp_path / name).write_text("text")
    return tmp_path


@pytest.fixture(params=["bubblewrap", "landlock"])
def walls(request: pytest.FixtureRequest, place: Path) -> Sandbox:
    hidden = hidden_places([place])
    return bubblewrap(hidden) if request.param == "bubblewrap" else landlock(hidden)


def view(place: Path, **fields: Any) -> View:
    own = View(cwd=place / "one/work", tmp=place / "one/tmp", own=(place / "one/work",))
    return replace(own, own_read_only=(place / "shared",), **fields)


def run(sandbox: Sandbox, seen: View, *argv: str) -> subprocess.CompletedProcess[str]:
    """Run a command behind the walls."""
    with sandbox.wrap(argv, seen) as wrapped:
        environment = {"PATH": os.environ["PATH"], "TMPDIR": str(seen.tmp)}
        return subprocess.run(
            wrapped.argv,
            pass_fds=wrapped.descriptors,
            env=environment,
            cwd=seen.cwd,
            capture_output=True,
            text=True,
            check=False,
        )


def said(sandbox: Sandbox, seen: View, script: str) -> list[str]:
    done = run(sandbox, seen, "sh", "-c", script)
    assert done.stderr == ""
    return done.stdout.split()


def test_a_command_works_in_its_directory_and_reads_what_it_is_shown(walls: Sandbox, place: Path) -> None:
    script = f"echo a >file; cat file; cat {place}/shared/file; echo; echo b >$TMPDIR/x; cat $TMPDIR/x; pwd"
    assert said(walls, view(place), script) == ["a", "text", "b", f"{place}/one/work"]
    assert (place / "one/work/file").read_text() == "a\n"


def test_a_command_does_not_get_through_the_walls(walls: Sandbox, place: Path) -> None:
    attempts = {
        "reads the ledger": f"cat {place}/ledger",
        "reads another session's file": f"cat {place}/two/work/file",
        "writes what it is shown": f"echo x >{place}/shared/file",
        "writes the host": "touch /usr/local/probe",
        "looks into root's home": '[ -n "$(ls -A /root)" ]',
        "reads the passwords": "cat /etc/shadow",
        "changes the kernel's settings": "echo 1 >/proc/sys/kernel/core_uses_pid",
        "mounts": "mount -t tmpfs none /mnt",
        "reaches a process outside": f"kill -0 {os.getpid()}",
        "reads the environment of a process outside": f"head -c 1 /proc/{os.getppid()}/environ",
        "has a capability": "! grep -Eq '^Cap(Prm|Eff):.*0000000[08]0000000$' /proc/self/status",
    }
    script = "\n".join(f"if ({attempt}) >/dev/null 2>&1; then echo '{what}'; fi" for what, attempt in attempts.items())
    assert run(walls, view(place), "sh", "-c", script).stdout == ""
    assert (place / "shared/file").read_text() == "text"


def test_bubblewrap_hides_that_there_are_others(place: Path) -> None:
    walls = bubblewrap(hidden_places([place]))
    script = f"ls {place} {place}/one; ls -A /tmp /run | grep -v :; touch /var/tmp/private; ls /tmp"
    assert said(walls, view(place), script)[:6] == [f"{place}:", "one", "shared", f"{place}/one:", "tmp", "work"]
    assert (place / "one/tmp/private").exists()


def test_a_sealed_view_has_no_network_and_nothing_of_the_host_but_its_programs(place: Path) -> None:
    walls = bubblewrap(hidden_places([place]))
    sealed = view(place, level="sealed", network=False)
    found = said(walls, sealed, "ls / ; cat /proc/net/route | tail -n +2; ls /etc/passwd; touch /x 2>&1 | head -c 5")
    assert {"usr", "etc", "tmp", "proc", "dev", "/etc/passwd"} <= set(found)
    assert not {"root", "home", "opt", "srv", "mnt", "sys", "boot"} & set(found)
    assert found[-1] == "touch"


def test_a_directory_in_a_hidden_place_is_shown_when_it_is_named(walls: Sandbox, tmp_path: Path, place: Path) -> None:
    home = tmp_path / "home"
    (home / "project").mkdir(parents=True)
    (home / "key").write_text("secret")
    (home / "link").symlink_to(home / "project")
    hidden = replace(walls.hidden, secret=(place / "ledger", place / "two"), places=(*walls.hidden.places, home))
    walls = replace(walls, hidden=hidden)  # type: ignore[type-var]
    seen = view(place, cwd=home / "link", writable=(home / "link",))
    done = run(walls, seen, "sh", "-c", f"echo x >file; cat {home}/key; cat {home}/project/file")
    assert done.stdout == "x\n"


def test_a_name_that_leads_to_the_services_own_files_is_refused(walls: Sandbox, place: Path, tmp_path: Path) -> None:
    (tmp_path / "one/work/link").symlink_to(place / "two")
    for fields in ({"writable": (place / "one/work/link",)}, {"read_only": (place / "two/work/file",)}):
        with pytest.raises(OutOfBounds, match="no agent is shown"):
            run(walls, view(place, **fields), "true")


def test_a_name_that_leads_out_of_the_tenants_directories_is_refused(walls: Sandbox, tmp_path: Path) -> None:
    walls = replace(walls, hidden=Hidden())  # type: ignore[type-var]
    (tmp_path / "one/work/link").symlink_to("/usr")
    with pytest.raises(OutOfBounds, match="leads out"):
        run(walls, view(tmp_path, writable=(tmp_path / "one/work/link",), roots=(tmp_path,)), "true")


@pytest.mark.parametrize("kind", ["bubblewrap", "landlock"])
def test_a_link_that_changes_while_the_view_is_made_leads_nowhere_else(kind: str, place: Path) -> None:
    """The thousand rounds build the view; some are run, for a process costs as much as a hundred looks."""
    # A thousand of Landlock's take 1 s alone, and 10 to 14 s behind the suite's other tests.
    rounds = SWAPS if kind == "bubblewrap" else SWAPS // 5
    hidden = Hidden(secret=(place / "two", place / "ledger"))
    walls = bubblewrap(hidden) if kind == "bubblewrap" else landlock(hidden)
    good, bad, link = place / "one/good", place / "two/work", place / "one/link"
    good.mkdir()
    link.symlink_to(good)
    done = threading.Event()

    def swap() -> None:
        for target in (bad, good) * 10**6:
            if done.is_set():
                return
            os.symlink(target, place / "one/next")
            os.replace(place / "one/next", link)

    swapping = threading.Thread(target=swap)
    swapping.start()
    try:
        seen = view(place, writable=(link,))
        refused = sum(_refuses(walls, seen, good, run_it=number % 20 == 0) for number in range(rounds))
    finally:
        done.set()
        swapping.join()
    assert 0 < refused < rounds
    assert sorted(os.listdir(bad)) == ["file"]


def _refuses(walls: Sandbox, seen: View, good: Path, *, run_it: bool) -> bool:
    try:
        with walls.wrap(["sh", "-c", f"echo x >{shlex.quote(str(seen.writable[0]))}/new"], seen) as wrapped:
            named = [os.readlink(f"/proc/self/fd/{each}") for each in wrapped.descriptors]
            assert str(good) in named
            if run_it:
                subprocess.run(wrapped.argv, pass_fds=wrapped.descriptors, capture_output=True, check=False)
    except OutOfBounds:
        return True
    return False


async def test_the_strongest_sandbox_that_works_is_chosen(place: Path) -> None:
    bubblewrap(Hidden())
    guard = (await choose_guard()).guard
    hidden = hidden_places([place])

    async def choice(wished: str) -> str:
        found = await choose_sandbox(wished, guard=guard, hidden=hidden, directory=place)
        return found.shown(found.level)

    assert await choice("auto") == "workspace (bubblewrap)"
    assert await choice("sealed") == "sealed (bubblewrap)"
    assert await choice("off") == "off"


async def test_without_bubblewrap_landlock_stands_in_but_does_not_seal(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    landlock(Hidden())
    monkeypatch.setattr(bubblewrap_module, "tool", _no_tool)
    arguments: Any = {"guard": GroupGuard(), "hidden": hidden_places([place]), "directory": place}
    choice = await choose_sandbox("auto", **arguments)
    assert choice.shown(choice.level) == "workspace (Landlock)"
    assert "there is no bwrap" in choice.reasons()
    with pytest.raises(SandboxUnavailable, match=r"'sealed' works on this host: bubblewrap.*there is no bwrap"):
        await choose_sandbox("sealed", **arguments)


async def test_without_any_sandbox_auto_goes_on_and_a_wish_fails(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bubblewrap_module, "tool", _no_tool)
    monkeypatch.setattr(landlock_sandbox.landlock, "abi", lambda: 0)
    arguments: Any = {"guard": GroupGuard(), "hidden": hidden_places([place]), "directory": place}
    choice = await choose_sandbox("auto", **arguments)
    assert isinstance(choice.of(choice.level), NoSandbox)
    assert "no Landlock" in choice.reasons()
    with pytest.raises(SandboxUnavailable):
        await choose_sandbox("workspace", **arguments)


async def test_a_sandbox_with_a_hole_does_not_pass_its_trial(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for bwrap that starts the command without any wall."""
    hole = place / "bwrap"
    hole.write_text('#!/bin/sh\nwhile [ "$1" != -- ]; do shift; done; shift; exec "$@"\n')
    hole.chmod(0o755)
    monkeypatch.setattr(bubblewrap_module, "tool", lambda name: str(hole))
    monkeypatch.setattr(landlock_sandbox.landlock, "abi", lambda: 0)
    choice = await choose_sandbox("auto", guard=GroupGuard(), hidden=hidden_places([place]), directory=place)
    assert choice.level == "off"
    assert "a hidden file can be read" in choice.reasons()


def _no_tool(name: str) -> str:
    raise SandboxUnavailable(f"there is no {name} on this host")


async def test_a_service_that_others_can_call_does_not_start_without_walls(
    place: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(bubblewrap_module, "tool", _no_tool)
    monkeypatch.setattr(landlock_sandbox.landlock, "abi", lambda: 0)
    monkeypatch.setattr(walls_module, "choose_sandbox", choose_sandbox)
    arguments: Any = {"owner": "a", "guard": GroupGuard(), "data_dir": place}
    for wished in ("auto", "workspace", "sealed"):
        with pytest.raises(CannotServe, match="install bubblewrap"):
            await open_walls(wished, must_hold=True, **arguments)
    assert (await open_walls("off", must_hold=True, **arguments)).usual == "off"
    caplog.clear()
    assert (await open_walls("auto", **arguments)).usual == "off"
    [line] = caplog.messages
    assert "every agent sees what this service sees" in line
