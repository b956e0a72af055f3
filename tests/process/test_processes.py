"""What becomes of process trees: the same promises, asked of every guard this host has."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import uuid4

import pytest

from agent_service.agents.sdk import bundled_cli
from agent_service.processes import guards
from agent_service.processes import table as proctable
from agent_service.processes.choice import Choice, choose_guard, probe
from agent_service.processes.guards import (
    GUARDS,
    CgroupGuard,
    GroupGuard,
    GuardUnavailable,
    NamespaceGuard,
    ProcessGuard,
    SubreaperGuard,
)
from agent_service.processes.tags import owner_id, session_marker
from agent_service.processes.tree import ProcessTree, Reaped, end_leftovers

pytestmark = pytest.mark.process

CLI = bundled_cli()
OWNER = f"test-{os.getpid()}"
PIPE = asyncio.subprocess.PIPE

C_LIBRARYS_SIGNALS = 1 << 31 | 1 << 32
"""Signals 32 and 33: the C library keeps them to itself, and Debian's make has its children ignore them. No program can
change that through the C library, and none is sent them."""

SLEEP = "sleep 300"
BAD_COMPANY = f"""
    {SLEEP} &
    sh -c 'trap "" TERM INT HUP; {SLEEP} & echo deaf; wait; wait; {SLEEP}' &
    setsid {SLEEP} &
    ({SLEEP} &)
    setsid sh -c '{SLEEP} & echo daemon' &
"""
"""A child, one that is deaf to SIGTERM, one in another session, two that daemonised."""


@dataclass
class Running:
    process: asyncio.subprocess.Process
    tree: ProcessTree
    marker: str

    async def says(self, *lines: str) -> None:
        """Wait until the tree has written all of these lines, in any order."""
        assert self.process.stdout is not None
        missing = set(lines)
        while missing:
            line = await asyncio.wait_for(self.process.stdout.readline(), 10)
            assert line, f"ended before {missing}"
            missing.discard(line.decode().strip())

    async def process_lives(self) -> None:
        """Its command goes on, and what would have to end goes on too."""
        await until(lambda: "sleep" in {process.name for process in self.tree.processes()})
        assert self.process.returncode is None


_probed: dict[type[ProcessGuard], ProcessGuard | GuardUnavailable] = {}


async def outcome_of_probe(kind: type[ProcessGuard]) -> ProcessGuard | GuardUnavailable:
    """Asked of the host once, since a probe takes as long as a test."""
    if kind not in _probed:
        try:
            _probed[kind] = await probe(kind)
        except GuardUnavailable as error:
            _probed[kind] = error
    return _probed[kind]


async def probed(kind: type[ProcessGuard]) -> ProcessGuard:
    """A guard of this kind, or the test is skipped."""
    found = await outcome_of_probe(kind)
    if isinstance(found, GuardUnavailable):
        pytest.skip(f"{kind.name}: {found}")
    return found


@pytest.fixture(params=GUARDS, ids=lambda kind: kind.name)
async def guard(request: pytest.FixtureRequest) -> ProcessGuard:
    return await probed(request.param)


@asynccontextmanager
async def running(
    guard: ProcessGuard,
    *argv: str,
    marker: str = "",
    path: str = os.environ["PATH"],
    variables: dict[str, str] | None = None,
    **keywords: object,
) -> AsyncIterator[Running]:
    marker = marker or session_marker(OWNER, "i1", uuid4().hex)
    spawn = guard.spawn(argv, marker=marker, environment=os.environ | {"PATH": path}, variables=variables)
    streams = {"stdin": PIPE, "stdout": PIPE}
    process = await asyncio.create_subprocess_exec(*spawn.command, **streams, **spawn.keywords, **keywords)
    spawn.started()
    run = Running(process, ProcessTree(guard, process.pid, marker), marker)
    try:
        yield run
    finally:
        await run.tree.kill()
        await process.communicate()
        assert (await run.tree.kill()).process_ids == ()
        spawn.close()


def shell(script: str) -> tuple[str, str, str]:
    return "sh", "-c", script


def alive(pids: tuple[int, ...] | list[int]) -> list[int]:
    return [pid for pid in pids if proctable.read_process(str(pid)) is not None]


async def until(condition: Callable[[], bool], patience: float = 5.0) -> None:
    async with asyncio.timeout(patience):
        while not condition():
            await asyncio.sleep(0.005)


async def sleepers(tree: ProcessTree) -> list[int]:
    """The five that bad company consists of, once all of them are there."""
    await until(lambda: [process.name for process in tree.processes()].count("sleep") == 5)
    return [process.pid for process in tree.processes() if process.name == "sleep"]


def the_command(run: Running) -> proctable.Process:
    """The process that the caller asked for, under the guard's wrappers."""
    members = run.tree.processes()
    wrappers = run.tree._wrappers(members)
    parent = wrappers[-1].pid if wrappers else os.getpid()
    below = [process for process in members if process.parent == parent]
    return next(process for process in below if _command_line(process.pid) != _command_line(parent))


def _command_line(pid: int) -> bytes:
    """A namespace's first process has a fork of itself that looks after the service's death."""
    return Path(f"/proc/{pid}/cmdline").read_bytes()


class TestEveryGuard:
    async def test_kill_leaves_nothing_and_lists_whom_it_killed(self, guard: ProcessGuard) -> None:
        async with running(guard, *shell(f"{BAD_COMPANY} wait; {SLEEP}")) as run:
            await run.says("deaf", "daemon")
            before = await sleepers(run.tree)
            reaped = await run.tree.kill()
            assert set(before) <= set(reaped.process_ids)
            assert alive(reaped.process_ids) == []
            assert (reaped.killed, reaped.terminated, reaped.survivors) == (True, False, ())

    async def test_terminate_lets_the_command_say_goodbye_and_then_leaves_nothing(self, guard: ProcessGuard) -> None:
        goodbye = f"trap 'echo goodbye; exit 7' TERM; {BAD_COMPANY} while :; do wait; sleep 0.01; done"
        async with running(guard, *shell(goodbye)) as run:
            await run.says("deaf", "daemon")
            ending = asyncio.create_task(run.tree.terminate(0.3))
            await run.says("goodbye")
            reaped = await ending
            assert await run.process.wait() == 7
            assert alive(reaped.process_ids) == []
            assert reaped.terminated
            assert len(reaped.process_ids) >= 6

    async def test_terminate_kills_who_does_not_listen(self, guard: ProcessGuard) -> None:
        async with running(guard, *shell(f"trap '' TERM; echo deaf; {SLEEP}; {SLEEP}; {SLEEP}")) as run:
            await run.says("deaf")
            reaped = await run.tree.terminate(0.1)
            assert reaped.terminated
            assert reaped.killed
            assert 0.1 <= reaped.duration < 5

    async def test_a_tree_that_goes_at_once_is_not_waited_for(self, guard: ProcessGuard) -> None:
        async with running(guard, *shell(f"echo up; exec {SLEEP}")) as run:
            await run.says("up")
            reaped = await run.tree.terminate(30)
            assert not reaped.killed
            assert reaped.duration < 5

    async def test_a_stopped_command_ends_too(self, guard: ProcessGuard) -> None:
        async def stop_and_end(end: Callable[[ProcessTree], Awaitable[Reaped]]) -> None:
            async with running(guard, *shell(f"echo up; {SLEEP} & {SLEEP}")) as run:
                await run.says("up")
                os.kill(the_command(run).pid, signal.SIGSTOP)
                await until(lambda: "T" in {process.state for process in run.tree.processes()})
                assert alive((await end(run.tree)).process_ids) == []

        await asyncio.gather(stop_and_end(lambda tree: tree.kill()), stop_and_end(lambda tree: tree.terminate(5)))

    async def test_a_dead_commands_tools_die_with_it_or_with_the_next_kill(self, guard: ProcessGuard) -> None:
        async with running(guard, *shell(f"{BAD_COMPANY} wait; {SLEEP}")) as run:
            await run.says("deaf", "daemon")
            before = await sleepers(run.tree)
            os.kill(the_command(run).pid, signal.SIGKILL)
            if guard.dies_with_service:
                await until(lambda: alive(before) == [], 1.0)
            await run.tree.kill()
            assert alive(before) == []

    async def test_a_dead_wrapper_hides_nobody(self, guard: ProcessGuard) -> None:
        async with running(guard, *shell(f"{BAD_COMPANY} wait; {SLEEP}")) as run:
            await run.says("deaf", "daemon")
            before = await sleepers(run.tree)
            os.kill(run.process.pid, signal.SIGKILL)
            reaped = await run.tree.kill()
            assert alive(before) == []
            assert reaped.survivors == ()

    async def test_a_daemon_that_drops_its_environment_is_found(self, guard: ProcessGuard) -> None:
        if isinstance(guard, GroupGuard):
            pytest.skip(guard.strength)
        escape = f"setsid env -i /bin/sh -c '(/bin/{SLEEP} & echo $! ) ; exit' & {SLEEP}"
        async with running(guard, *shell(escape)) as run:
            assert run.process.stdout is not None
            await run.process.stdout.readline()
            await until(lambda: [process.name for process in run.tree.processes()].count("sleep") == 2)
            reaped = await run.tree.kill()
            assert alive(reaped.process_ids) == []

    async def test_kill_now_cuts_a_grace_short(self, guard: ProcessGuard) -> None:
        async with running(guard, *shell(f"trap '' TERM; echo deaf; {SLEEP}; {SLEEP}; {SLEEP}; {SLEEP}")) as run:
            await run.says("deaf")
            ending = asyncio.create_task(run.tree.terminate(60))
            await asyncio.sleep(0)
            run.tree.kill_now()
            reaped = await asyncio.wait_for(ending, 5)
            assert reaped.killed

    async def test_a_tree_that_has_ended_gives_an_empty_receipt(self, guard: ProcessGuard) -> None:
        async with running(guard, "true") as run:
            await run.process.wait()
            await run.tree.kill()
            reaped = await run.tree.terminate(1)
            assert (reaped.process_ids, reaped.terminated, reaped.killed) == ((), False, False)

    async def test_a_tree_can_be_killed_in_the_moment_of_its_start(self, guard: ProcessGuard) -> None:
        for _ in range(3):
            async with running(guard, *shell(SLEEP)) as run:
                reaped = await run.tree.kill()
                assert reaped.killed

    async def test_exit_codes_are_the_commands_and_128_plus_the_signal(self, guard: ProcessGuard) -> None:
        async def exit_code(script: str) -> int:
            async with running(guard, *shell(script)) as run:
                return await run.process.wait()

        codes = await asyncio.gather(*(exit_code(each) for each in ("exit 0", "exit 3", "exit 255", "kill -KILL $$")))
        assert codes == [0, 3, 255, -9 if isinstance(guard, GroupGuard) else 137]

    async def test_a_command_that_does_not_exist_is_127(self, guard: ProcessGuard) -> None:
        if isinstance(guard, GroupGuard):
            pytest.skip("the spawn itself raises FileNotFoundError")
        async with running(guard, "/does/not/exist", stderr=PIPE) as run:
            assert await run.process.wait() == 127

    async def test_the_commands_path_does_not_choose_its_guard(self, guard: ProcessGuard, tmp_path: Path) -> None:
        for name in ("sh", "setpriv", "unshare", Path(os.path.realpath(sys.executable)).name):
            (tmp_path / name).write_text("#!/bin/sh\necho fooled\n")
            (tmp_path / name).chmod(0o755)
        async with running(guard, "/bin/sh", "-c", "echo $PATH", path=str(tmp_path)) as run:
            assert (await run.process.communicate())[0].decode().strip() == str(tmp_path)

    async def test_the_callers_variables_are_for_the_command_alone(self, guard: ProcessGuard) -> None:
        odd = {
            "CALLERS": 'it\'s "odd" $HOME `id` \\ \n\tüx\udcff',
            "OPTIND": "3",
            "IFS": "/",
            "EMPTY": "",
            "PATH": "/nowhere",
        }
        script = "import json, os; print(json.dumps(dict(os.environ)), flush=True); input()"
        async with running(guard, sys.executable, "-I", "-c", script, variables=odd) as run:
            assert run.process.stdout is not None
            seen = json.loads(await run.process.stdout.readline())
            assert {name: seen.get(name) for name in odd} == odd
            wrappers = run.tree._wrappers(run.tree.processes())
            assert len(wrappers) == guard.wrappers
            command = the_command(run).pid
            for process in (each for each in run.tree.processes() if each.pid != command):
                assert b"CALLERS" not in proctable.read(f"/proc/{process.pid}/environ"), process.name

    async def test_no_tool_ends_another_agent_by_the_descriptors_of_its_guard(self, guard: ProcessGuard) -> None:
        attack = 'for each in /proc/1/fd/*  /proc/$PPID/fd/*; do [ -t "$each" ] || echo x | tee "$each"; done'
        if not isinstance(guard, NamespaceGuard):
            pytest.skip("it has no descriptor that ends anything")
        async with (
            running(guard, *shell(f"echo up; {SLEEP}")) as other,
            running(guard, *shell(f"exec 3>&1 1>/dev/null 2>&1; {attack}; echo done >&3; {SLEEP}")) as run,
        ):
            await other.says("up")
            assert run.process.stdout is not None
            while b"done" not in await run.process.stdout.readline():
                pass
            await other.process_lives()
            await run.process_lives()

    async def test_a_megabyte_passes_both_ways(self, guard: ProcessGuard) -> None:
        data = os.urandom(1 << 20)
        async with running(guard, "cat") as run:
            output, _ = await asyncio.wait_for(run.process.communicate(data), 10)
            assert output == data
            assert run.process.returncode == 0

    async def test_the_command_gets_signals_as_a_fresh_process_would(self, guard: ProcessGuard) -> None:
        async with running(guard, "grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status") as run:
            output, _ = await run.process.communicate()
            assert [int(line.split()[1], 16) & ~C_LIBRARYS_SIGNALS for line in output.splitlines()] == [0, 0]

    async def test_many_trees_end_at_once(self, guard: ProcessGuard) -> None:
        up = asyncio.Barrier(20)

        async def start_and_kill() -> Reaped:
            async with running(guard, *shell(f"echo up; {SLEEP} & {SLEEP}")) as run:
                await run.says("up")
                async with up:
                    return await run.tree.kill()

        receipts = await asyncio.gather(*(start_and_kill() for _ in range(up.parties)))
        assert all(alive(receipt.process_ids) == [] for receipt in receipts)
        assert sum(len(receipt.process_ids) for receipt in receipts) >= 40

    async def test_memory_is_that_of_the_whole_tree(self, guard: ProcessGuard) -> None:
        eater = "import sys; data = bytearray(b'x') * (50 << 20); print('fed', flush=True); sys.stdin.read()"
        async with running(guard, sys.executable, "-I", "-c", eater) as run:
            await run.says("fed")
            assert 50 << 20 <= run.tree.memory_bytes() < 120 << 20


async def test_an_agents_own_lifeline_ends_it_and_no_other() -> None:
    guard = await probed(NamespaceGuard)
    async with running(guard, *shell(f"echo up; {SLEEP}")) as other:
        await other.says("up")
        marker = session_marker(OWNER, "i1", uuid4().hex)
        spawn = guard.spawn(shell(f"echo up; {BAD_COMPANY} wait"), marker=marker, environment=os.environ)
        process = await asyncio.create_subprocess_exec(*spawn.command, stdout=PIPE, **spawn.keywords)
        spawn.started()
        run = Running(process, ProcessTree(guard, process.pid, marker), marker)
        await run.says("up", "deaf", "daemon")
        members = [each.pid for each in run.tree.processes()]
        spawn.close()
        await process.wait()
        await until(lambda: alive(members) == [])
        await other.process_lives()


HIDING = """
import ctypes, os
from agent_service.processes.unreadable import hide

def owner():
    return os.stat("/proc/self/environ").st_uid

os.setresuid(65534, 65534, 65534)
ctypes.CDLL(None).prctl(4, 1)  # as after an exec
before = owner()
hide()
print(before, owner(), flush=True)
open("/proc/self/fd/" + str(os.memfd_create("own")))
os.execv("/usr/bin/stat", ["stat", "-c", "%u", "/proc/self/environ"])
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
async def test_a_hidden_process_belongs_to_root_under_proc_and_what_it_executes_does_not() -> None:
    argv = [sys.executable, "-c", HIDING]
    process = await asyncio.create_subprocess_exec(*argv, stdout=PIPE, cwd=Path(__file__).parents[2])
    assert (await process.communicate())[0].split() == [b"65534", b"0", b"65534"]


SERVICE = """
import asyncio, os, sys
from agent_service.processes.guards import GUARDS

async def main(name, marker, *argv):
    guard = next(kind for kind in GUARDS if kind.name == name)()
    spawn = guard.spawn(argv, marker=marker, environment=os.environ)
    await asyncio.create_subprocess_exec(*spawn.command, **spawn.keywords)
    spawn.started()
    await asyncio.sleep(300)

asyncio.run(main(*sys.argv[1:]))
"""


@asynccontextmanager
async def a_service(guard: ProcessGuard, marker: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Another process that spawned a tree of its own and runs on."""
    script = f"{BAD_COMPANY} wait; {SLEEP}"
    argv = [sys.executable, "-c", SERVICE, guard.name, marker, *shell(script)]
    service = await asyncio.create_subprocess_exec(*argv, stdout=PIPE, cwd=Path(__file__).parents[2])
    heard = Running(service, ProcessTree(guard, None, marker), marker)
    try:
        await heard.says("deaf", "daemon")
        yield service
    finally:
        await heard.tree.kill()
        if service.returncode is None:
            service.kill()
        await service.communicate()


class TestTheDeathOfTheService:
    async def test_leaves_nothing_a_second_later(self, guard: ProcessGuard) -> None:
        if not guard.dies_with_service:
            pytest.skip(guard.strength)
        marker = session_marker(OWNER, "i1", uuid4().hex)
        async with a_service(guard, marker) as service:
            tree = ProcessTree(guard, None, marker)
            before = await sleepers(tree)
            service.kill()
            await until(lambda: tree.processes() == [], 1.0)
            assert alive(before) == []

    async def test_what_a_weak_guard_leaves_is_swept_at_the_next_start(self) -> None:
        owner = f"{OWNER}-{uuid4().hex}"
        marker = session_marker(owner, "i1", "s1")
        async with a_service(GroupGuard(), marker) as service:
            service.kill()
            await until(lambda: alive([service.pid]) == [])
            left = await sleepers(ProcessTree(GroupGuard(), None, marker))
            reaped = await end_leftovers(owner)
            assert set(left) <= set(reaped.process_ids)
            assert alive(left) == []
            assert alive(reaped.process_ids) == []


class TestSweep:
    async def test_touches_only_its_own_data_directory(self) -> None:
        guard = GroupGuard()
        mine, other = f"{OWNER}-a", f"{OWNER}-ab"
        async with (
            running(guard, *shell(f"echo up; {SLEEP}; :"), marker=session_marker(mine, "i1", "s1")) as first,
            running(guard, *shell(f"echo up; {SLEEP}; :"), marker=session_marker(other, "i1", "s1")) as second,
        ):
            await first.says("up")
            await second.says("up")
            reaped = await end_leftovers(mine)
            assert first.process.pid in reaped.process_ids
            assert second.process.pid not in reaped.process_ids
            assert await first.process.wait() == -9
            assert second.tree.processes()

    async def test_spares_a_service_that_was_started_inside_a_session(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(
            proctable.Host, "_marker_of", lambda self, process: f"{OWNER}:i:s" if process.pid == os.getpid() else None
        )
        assert await end_leftovers(OWNER) == replace(await end_leftovers(OWNER), duration=pytest.approx(0, abs=5))

    async def test_finds_nothing_where_nothing_is(self) -> None:
        assert (await end_leftovers(f"{OWNER}-nobody")).process_ids == ()

    @pytest.mark.parametrize("owner", ["", ":", "a b", "a/b", "*"])
    async def test_refuses_an_owner_that_could_mean_anyone(self, owner: str) -> None:
        with pytest.raises(ValueError, match="not a process marker"):
            await end_leftovers(owner)

    def test_an_owner_is_one_directory_however_it_is_called(self, tmp_path: Path) -> None:
        (tmp_path / "data").mkdir()
        (tmp_path / "link").symlink_to("data")
        assert owner_id(tmp_path / "data") == owner_id(tmp_path / "link") != owner_id(tmp_path)

    @pytest.mark.parametrize("parts", [("", "i", "s"), ("o", "i:j", "s"), ("o", "i", "../s")])
    def test_a_marker_is_made_of_plain_parts(self, parts: tuple[str, str, str]) -> None:
        with pytest.raises(ValueError, match="not a process marker"):
            session_marker(*parts)


class TestTheChoice:
    async def test_auto_takes_the_strongest_that_works_and_says_why_not_the_others(self) -> None:
        choice = await choose_guard()
        stronger = [kind.name for kind in GUARDS[: GUARDS.index(type(choice.guard))]]
        assert [refusal.name for refusal in choice.refused] == stronger
        assert all(refusal.reason for refusal in choice.refused)

    async def test_without_the_tools_a_weaker_guard_is_taken(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        for tool in ("sh", "setsid", "sleep"):
            (tmp_path / tool).symlink_to(f"/usr/bin/{tool}")
        monkeypatch.setenv("PATH", str(tmp_path))
        choice = await choose_guard()
        assert isinstance(choice.guard, SubreaperGuard | GroupGuard)
        assert "setpriv" in choice.refused[0].reason

    async def test_a_wish_is_granted_or_refused_by_name(self) -> None:
        assert await choose_guard("process-group") == Choice(GroupGuard())
        with pytest.raises(GuardUnavailable, match="no process guard is called 'magic'; there are: auto, pidns"):
            await choose_guard("magic")

    async def test_a_wish_that_cannot_be_met_says_why(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr(guards, "_own_cgroup", lambda: tmp_path / "none")
        with pytest.raises(GuardUnavailable, match=r"'cgroup' does not work on this host: cgroup: .*No such file"):
            await choose_guard("cgroup")

    async def test_a_directory_that_is_no_cgroup_is_refused(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr(guards, "_own_cgroup", lambda: tmp_path)
        with pytest.raises(GuardUnavailable, match="cgroup"):
            await choose_guard("cgroup")


class TestANamespace:
    async def test_gives_every_command_an_id_of_its_own_and_reaps_its_orphans(self) -> None:
        guard = await probed(NamespaceGuard)
        look = "(true &) ; (true &) ; sleep 0.1; ps -o stat= -A | grep -c Z; echo $$"
        async with running(guard, *shell(look)) as first, running(guard, *shell(look)) as second:
            zombies, inside = (await first.process.communicate())[0].split()
            _, inside_second = (await second.process.communicate())[0].split()
            assert zombies == b"0"
            assert inside != inside_second


class TestACgroup:
    async def test_is_removed_with_its_tree(self) -> None:
        guard = await probed(CgroupGuard)
        async with running(guard, *shell(f"echo up; {SLEEP}; :")) as run:
            await run.says("up")
            assert len(guard.cgroups(run.marker)) == 1
            await run.tree.kill()
            assert guard.cgroups(run.marker) == []


class TestTheRealAgent:
    async def test_starts_answers_and_dies_under_every_guard(self, tmp_path: Path) -> None:
        async with asyncio.TaskGroup() as group:
            for kind in GUARDS:
                found = await outcome_of_probe(kind)
                if isinstance(found, ProcessGuard):
                    group.create_task(self._lives_under(found, tmp_path / kind.name), name=kind.name)

    async def _lives_under(self, guard: ProcessGuard, tmp_path: Path) -> None:
        tmp_path.mkdir()
        environment = {
            "CLAUDE_CONFIG_DIR": str(tmp_path),
            "HOME": str(tmp_path),
            "TMPDIR": str(tmp_path),
            "ANTHROPIC_API_KEY": "none",
            "ANTHROPIC_BASE_URL": "http://127.0.0.1:9",
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        }
        hello = {"type": "control_request", "request_id": "r1", "request": {"subtype": "initialize", "hooks": None}}
        argv = [CLI, "--output-format", "stream-json", "--input-format", "stream-json", "--verbose"]
        command = ["env", *(f"{key}={value}" for key, value in environment.items()), *argv, "--setting-sources", ""]
        async with running(guard, *command, limit=1 << 22) as run:
            assert run.process.stdin is not None
            assert run.process.stdout is not None
            run.process.stdin.write(json.dumps(hello).encode() + b"\n")
            answer = json.loads(await asyncio.wait_for(run.process.stdout.readline(), 20))
            assert answer["response"]["subtype"] == "success"
            assert "claude" in {process.name for process in run.tree.processes()}
            began = time.monotonic()
            reaped = await run.tree.terminate(5)
            assert time.monotonic() - began < 5
            assert alive(reaped.process_ids) == []
