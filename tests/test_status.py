"""What is kept of a finished session's status is never older than what its caller was told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import grpc.aio
import pytest
from agentpb import agent_pb2 as pb

from agent_service.ledger import SessionKey
from agent_service.registry.status_cache import ENTRY, MAX_BYTES, MAX_PAGE, CachedMessages, CachedStatus, StatusCache
from tests.conftest import Service

KEY = SessionKey("", "s")


async def test_no_status_is_older_than_the_last_acknowledged_write(start: Callable[..., Any]) -> None:
    service: Service = await start(idle_timeout=0.01)
    session_id, told, done = (await service.run("say: 1")).session_id, 1, asyncio.Event()
    await service.until(session_id, pb.SESSION_PHASE_DORMANT)

    async def look() -> int:
        looks = 0
        while not done.is_set():
            known = told
            shown = await service.status(session_id, history_limit=0)
            assert shown.session.turn_count >= known
            assert shown.turn.number == shown.session.turn_count
            assert shown.result.result in ("", str(shown.session.turn_count))
            looks += 1
        return looks

    async def look_at_messages() -> int:
        looks = 0
        while not done.is_set():
            shown = await service.status(session_id)
            assert len(shown.messages) >= shown.session.message_count
            said = [event.assistant_message.content[0].text.text for event in shown.messages[1::2]]
            assert shown.result.result in ("", *said[-1:])
            looks += 1
        return looks

    lookers = [asyncio.create_task(look()) for _ in range(4)]
    lookers += [asyncio.create_task(look_at_messages()) for _ in range(4)]
    for number in (2, 3):
        assert (await service.execute(f"say: {number}", session_id=session_id)).turn.number == number
        told = number
        await service.until(session_id, pb.SESSION_PHASE_DORMANT)
    done.set()
    assert min(await asyncio.gather(*lookers)) > 10
    for _ in range(2):
        last = await service.status(session_id)
        assert (last.result.result, len(last.messages)) == ("3", 6)
        assert len((await service.status(session_id, history_limit=2)).messages) == 2


async def test_a_deleted_session_has_no_status_even_if_it_was_just_asked_for(start: Callable[..., Any]) -> None:
    service: Service = await start(idle_timeout=0.01)
    session_id = (await service.run("say: 1")).session_id
    await service.until(session_id, pb.SESSION_PHASE_DORMANT)
    asking = [asyncio.create_task(service.status(session_id)) for _ in range(20)]
    await service.stub.DeleteSession(pb.DeleteSessionRequest(session_id=session_id))
    for _ in range(2):
        with pytest.raises(grpc.aio.AioRpcError, match="NOT_FOUND"):
            await service.status(session_id)
    await asyncio.gather(*asking, return_exceptions=True)
    await service.run("say: anew", session_id=session_id)
    assert (await service.status(session_id)).result.result == "anew"


def test_messages_are_kept_only_with_the_head_they_were_read_after() -> None:
    status_cache = StatusCache()
    first, second = CachedStatus(0, b"first", True), CachedStatus(0, b"second", True)
    page = CachedMessages(100, b"messages", truncated=False)
    status_cache.put_page(KEY, first, page)
    assert status_cache.get(KEY, 0) is None
    status_cache.put(KEY, second)
    status_cache.put_page(KEY, first, page)
    assert status_cache.get(KEY, 0) is second
    status_cache.put_page(KEY, second, CachedMessages(100, b"x" * (MAX_PAGE + 1), truncated=False))
    assert status_cache.get(KEY, 0) is second
    status_cache.put_page(KEY, second, page)
    assert status_cache.get(KEY, 0) == second._replace(page=page)
    status_cache.forget(KEY)
    assert status_cache.get(KEY, 0) is None


def test_what_is_kept_is_bounded_with_all_that_goes_with_it() -> None:
    status_cache = StatusCache()
    for number in range(100_000):
        head = CachedStatus(0, b"x" * 300, False)
        status_cache.put(SessionKey("", f"{number:036}"), head)
        status_cache.put_page(SessionKey("", f"{number:036}"), head, CachedMessages(100, b"x" * 200, truncated=False))
    kept = [number for number in range(100_000) if status_cache.get(SessionKey("", f"{number:036}"), 0)]
    assert kept == list(range(100_000 - MAX_BYTES // (500 + ENTRY), 100_000))
