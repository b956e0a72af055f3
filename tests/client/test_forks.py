"""A process forked after a client was used is told so at once; one forked before works; the parent goes on."""

from __future__ import annotations

import asyncio
import sys

import pytest
from agentpb import agent_pb2 as pb

CAUSE = "forked after its parent had made a call"

# Each child reports what its call came to; `after` and `before` are clients that the parent has and has not used.
BEGINNING = """
import os, sys
from agent_client import SyncAgentClient
address, session_id = [*sys.argv[1:], ""][:2]
def client():
    return SyncAgentClient(address, timeout=30, retry_for=30)
def call(client):
    try:
        return client.server_info().model_backend
    except RuntimeError as error:
        return str(error)
"""
OS_FORK = """
def forked(work):
    reader, writer = os.pipe()
    if not (child := os.fork()):
        os.write(writer, work().encode())
        sys.exit(7)  # as most programs leave: destructors run
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    return os.read(reader, 10_000).decode()
before = client()
print(forked(lambda: call(before)))
used = client()
print(call(used))
events = used.watch(session_id, follow=True)
print(next(events).sequence)
print(forked(lambda: call(before)))
print(forked(lambda: call(used)))
print(forked(lambda: call(client())))
print(forked(lambda: "closed" if used.close() is None else ""))
print(next(events).sequence)
print(call(used))
"""
MULTIPROCESSING = """
import multiprocessing
used = client()
print(call(used))
def work(number):
    return call(used)
context = multiprocessing.get_context("fork")
with context.Pool(2) as pool:
    print(*set(pool.map(work, range(3))))
print(call(used))
"""


async def test_after_a_fork_a_client_works_or_names_the_cause_at_once(service, script):
    service.numbered(2)
    seen = await _program(BEGINNING + OS_FORK, service.address, script.SESSION)
    assert seen[:3] == ["backend", "backend", "1"], "a child that is forked before any use works"
    assert [CAUSE in line for line in seen[3:6]] == [True] * 3, seen
    assert seen[6:] == ["closed", "2", "backend"], "the parent's calls and watches go on"


async def test_a_pool_of_forked_workers_names_the_cause(service):
    seen = await _program(BEGINNING + MULTIPROCESSING, service.address)
    assert seen[0] == seen[2] == "backend"
    assert CAUSE in seen[1]


APPLICATION = """
import os
from agent_client import SyncAgentClient
client = SyncAgentClient(os.environ["ADDRESS"], timeout=30, retry_for=30)
if os.environ["WHEN"] == "at import":
    client.server_info()
def app(environ, start_response):
    try:
        text, status = client.server_info().model_backend, "200 OK"
    except RuntimeError as error:
        text, status = str(error), "500 Internal Server Error"
    start_response(status, [("Content-Type", "text/plain")])
    return [text.encode()]
"""


@pytest.mark.parametrize(
    ("when", "preload", "answer"),
    [("at import", True, CAUSE), ("at import", False, "backend"), ("later", True, "backend")],
)
async def test_workers_of_gunicorn_work_or_say_why_not(service, tmp_path, when, preload, answer):
    (tmp_path / "application.py").write_text(APPLICATION)
    socket = tmp_path / "socket"
    (tmp_path / "gunicorn.conf.py").write_text("def post_worker_init(worker): print('ready', flush=True)\n")
    flags = ["--chdir", str(tmp_path), "--bind", f"unix:{socket}", "--workers", "1", "--worker-tmp-dir", str(tmp_path)]
    process = await asyncio.create_subprocess_exec(
        *[sys.executable, "-m", "gunicorn", *flags, *["--preload"][:preload], "application:app"],
        env={"ADDRESS": service.address, "WHEN": when},
        cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(30):
            assert await process.stdout.readline() == b"ready\n"
            assert answer in await _get(str(socket))
    finally:
        process.terminate()
        await process.wait()


async def test_a_watch_left_open_does_not_keep_a_program_from_ending(service, script):
    service.numbered(1)
    service.at_rest = False
    program = BEGINNING + "events = client().watch(session_id)\nprint(next(events).sequence)\n"
    assert await _program(program, service.address, script.SESSION) == ["1"]


@pytest.fixture(autouse=True)
def _backend(service):
    service.answers["GetServerInfo"] = pb.GetServerInfoResponse(model_backend="backend")


async def _program(text: str, *arguments: str) -> list[str]:
    process = await asyncio.create_subprocess_exec(
        *[sys.executable, "-c", text, *arguments], stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, err.decode()
    return out.decode().splitlines()


async def _get(path: str) -> str:
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(b"GET / HTTP/1.0\r\n\r\n")
    answer = await reader.read()
    writer.close()
    return answer.decode()
