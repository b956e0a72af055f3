"""Who is at the other end of a connection, and which of several processes of a program is the agent's own."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from pathlib import Path

from agent_service.processes.guards import GroupGuard
from agent_service.processes.peers import first_of, holds, peer_of
from agent_service.processes.table import is_alive
from agent_service.processes.tree import ProcessTree

TWO = """
import os, subprocess, sys
print(os.getpid(), flush=True)
if len(sys.argv) > 1:
    subprocess.Popen(["sh", "-c", sys.argv[1] + " &"], stdout=sys.stdout, start_new_session=True).wait()
sys.stdin.read()
"""


async def test_an_orphan_that_runs_the_same_program_is_not_the_agent() -> None:
    marker = "test-peers:1:1"
    again = f"exec {sys.executable} -c 'import os, time; print(os.getpid(), flush=True); time.sleep(60)'"
    spawn = GroupGuard().spawn([sys.executable, "-c", TWO, again], marker=marker, environment=dict(os.environ))
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*spawn.command, stdin=pipe, stdout=pipe, **spawn.keywords)
    spawn.started()
    assert process.stdout is not None
    tree = ProcessTree(GroupGuard(), process.pid, marker)
    try:
        first, second = int(await process.stdout.readline()), int(await process.stdout.readline())
        assert {first, second} <= {each.pid for each in tree.processes()}
        found = first_of(tree, sys.executable)
        assert found is not None
        assert found.pid == first
        assert is_alive(found)
        assert first_of(tree, "/bin/true") is None
        assert first_of(tree, "/no/such/program") is None
    finally:
        await tree.kill()
        await process.wait()
    assert not is_alive(found)


async def test_the_kernel_says_who_has_connected(tmp_path: Path) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "s"))
    listener.listen()
    code = f"import os, socket; s = socket.socket(socket.AF_UNIX); s.connect({str(tmp_path / 's')!r}); s.recv(1)"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code)
    connection, _ = await asyncio.to_thread(listener.accept)
    assert peer_of(connection) == process.pid
    connection.close()
    listener.close()
    await process.wait()


async def test_the_end_of_a_connection_on_loopback_is_somebodys() -> None:
    other = await asyncio.create_subprocess_exec("sleep", "60")
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as ours:
        connection, _ = listener.accept()
        with connection:
            assert holds(os.getpid(), connection)
            assert not holds(other.pid, connection)
            ours.close()
            assert not holds(os.getpid(), connection)
    other.kill()
    await other.wait()
