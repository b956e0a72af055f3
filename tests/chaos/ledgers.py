"""The ledger under attack, on a service of its own: what was acknowledged is there, or the loss is said."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import grpc.aio
from agentpb import agent_pb2 as pb

from agent_service import maintenance as upkeep
from tests.process.live import Live, refused, serve

EX_IOERR, EX_CONFIG = 74, 78


def _unlink(data_dir: Path) -> None:
    (data_dir / "ledger.db").unlink()


def _replace(data_dir: Path) -> None:
    shutil.copy(data_dir / "ledger.db", data_dir / "copy")
    (data_dir / "copy").rename(data_dir / "ledger.db")


def _unlink_log(data_dir: Path) -> None:
    (data_dir / "ledger.db-wal").unlink()


FILES: dict[str, Callable[[Path], None]] = {"unlinked": _unlink, "replaced": _replace, "log unlinked": _unlink_log}


async def take_away(folder: Path, how: str) -> list[str]:
    """Take the ledger away under a service at work: it ends, and the next one does not start as if nothing had been."""
    data_dir = folder / "data"
    async with serve(data_dir) as live:
        told = [(await live.run("say: kept")).session_id for _ in range(2)]
        FILES[how](data_dir)
        with suppress(grpc.aio.AioRpcError):
            while live.process.returncode is None:
                told.append((await live.execute("say: more")).session_id)
        code = await asyncio.wait_for(live.process.wait(), 30)
    wrong = [] if code == EX_IOERR else [f"ledger {how}: the service ended with {code}"]
    code, text = await refused(data_dir) if not _is_whole(data_dir, told) else (EX_CONFIG, "")
    if code != EX_CONFIG:
        wrong.append(f"ledger {how}: the next start ended with {code}: {text}")
    rescued = data_dir / "ledger.db.rescued"
    if code == EX_CONFIG and rescued.exists():
        for name in ("ledger.db", "ledger.db-wal", "ledger.db-shm"):
            (data_dir / name).unlink(missing_ok=True)
        rescued.rename(data_dir / "ledger.db")
        if not _is_whole(data_dir, told):
            wrong.append(f"ledger {how}: what was acknowledged is not in the rescued ledger")
    return wrong


def _is_whole(data_dir: Path, told: list[str]) -> bool:
    """Whether the ledger is sound and has every session that was acknowledged."""
    with suppress(Exception):
        if not upkeep.check(data_dir).problems:
            with closing(sqlite3.connect(data_dir / "ledger.db")) as db:
                stored = {row[0] for row in db.execute("SELECT session_id FROM sessions")}
            return set(told) <= stored
    return False


async def lock(folder: Path, seconds: float = 12.0) -> list[str]:
    """Hold a foreign lock: calls wait or are UNAVAILABLE, the service goes on, and works again afterwards."""
    async with serve(folder / "data") as live:
        await live.run("say: before")
        with closing(sqlite3.connect(folder / "data" / "ledger.db", isolation_level=None)) as db:
            db.execute("BEGIN EXCLUSIVE")
            try:
                await live.stub.Execute(pb.ExecuteRequest(prompt="say: locked"), timeout=seconds)
                wrong = ["a call was acknowledged while the ledger was locked"]
            except grpc.aio.AioRpcError as error:
                known = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
                wrong = [] if error.code() in known else [f"a lock makes a call fail as {error.code()}"]
            db.execute("ROLLBACK")
        if live.process.returncode is not None:
            return [*wrong, f"a foreign lock ended the service with {live.process.returncode}"]
        if not await _works_again(live):
            wrong.append("after a foreign lock a session does not complete")
    return wrong


async def _works_again(live: Live, patience: float = 30.0) -> bool:
    """Whether a session completes once the lock is gone; a call just before is told to come again."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        try:
            return (await live.run("say: after")).turn.state == pb.TURN_STATE_COMPLETED
        except grpc.aio.AioRpcError as error:
            if error.code() != grpc.StatusCode.UNAVAILABLE:
                raise
            await asyncio.sleep(0.5)
    return False
