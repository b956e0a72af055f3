"""A retry of any RPC that changes something takes effect once, and gets the answer that the first attempt got."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from pathlib import Path
from typing import Any

import grpc
import pytest
from agentpb import agent_pb2 as pb

from agent_service.registry.idempotency import RequestKey
from tests.conftest import Service
from tests.interactions.conftest import start_asking
from tests.process.live import SLEEPER, serve
from tests.rpc import refused
from tests.steering.conftest import BASH


async def finished(service: Service, count: int) -> list[str]:
    """Ids of that many sessions at rest, the one longest at rest first."""
    return [(await service.run("say: hi", session_id=f"old-{number}")).session_id for number in range(count)]


async def sessions(service: Service) -> set[str]:
    """Ids of all sessions."""
    listed = await service.stub.ListSessions(pb.ListSessionsRequest())
    return {session.session_id for session in listed.sessions}


async def test_a_cancel_that_is_retried_gets_the_same_receipt_and_cancels_nothing_new(tmp_path: Path) -> None:
    async with serve(tmp_path / "data") as service:
        session_id = (await service.execute(f"bash: {SLEEPER}", options=BASH)).session_id
        await service.until(session_id, pb.SESSION_PHASE_WORKING)
        request = pb.CancelRequest(session_id=session_id, request_id="c")
        first = await service.stub.Cancel(request)
        assert first.receipt.process_ids
        assert not first.deduplicated
        await service.execute("slow: 30", session_id=session_id)
        again = await service.stub.Cancel(request)
        assert again.deduplicated
        assert (again.receipt, again.already_at_rest) == (first.receipt, False)
        assert again.session.state in (pb.SESSION_STATE_PENDING, pb.SESSION_STATE_RUNNING), "the next turn goes on"
        await service.kill()
    async with serve(tmp_path / "data") as service:
        after = await service.stub.Cancel(request)
        assert after.deduplicated
        assert after.receipt == first.receipt


async def test_a_cancel_that_did_not_wait_gets_its_receipt_by_a_retry(service: Service) -> None:
    session_id = (await service.execute("slow: 30")).session_id
    await service.until(session_id, pb.SESSION_PHASE_WORKING)
    request = pb.CancelRequest(session_id=session_id, request_id="c", wait={})
    first = await service.stub.Cancel(request)
    assert not first.HasField("receipt")
    request.ClearField("wait")
    again = await service.stub.Cancel(request)
    assert again.deduplicated
    assert again.receipt.outcome != pb.CANCEL_OUTCOME_UNSPECIFIED
    assert again.session.state == pb.SESSION_STATE_CANCELLED


async def test_a_cancel_of_nothing_cancels_nothing_when_it_is_retried(service: Service) -> None:
    session_id = (await service.run("say: hi")).session_id
    request = pb.CancelRequest(session_id=session_id, request_id="c")
    assert (await service.stub.Cancel(request)).already_at_rest
    await service.execute("slow: 0.3\nsay: done", session_id=session_id)
    again = await service.stub.Cancel(request)
    assert (again.already_at_rest, again.deduplicated) == (True, True)
    assert (await service.rest(session_id)).state == pb.SESSION_STATE_COMPLETED


async def test_an_interrupt_that_is_retried_stops_no_further_turn(service: Service) -> None:
    session_id = (await service.execute("slow: 30")).session_id
    await service.until(session_id, pb.SESSION_PHASE_WORKING)
    await service.execute("slow: 0.3", session_id=session_id, on_busy=pb.ON_BUSY_ENQUEUE)
    request = pb.InterruptRequest(session_id=session_id, request_id="i")
    first = await service.stub.Interrupt(request)
    assert (first.interrupted, first.deduplicated) == (True, False)
    again = await service.stub.Interrupt(request)
    assert (again.interrupted, again.deduplicated) == (True, True)
    assert (await service.rest(session_id)).turn.state == pb.TURN_STATE_COMPLETED


async def test_an_interrupt_that_a_crash_cut_short_is_about_its_own_turn(service: Service) -> None:
    stopped = await service.execute("slow: 30")
    await service.until(stopped.session_id, pb.SESSION_PHASE_WORKING)
    await service.stub.Interrupt(pb.InterruptRequest(session_id=stopped.session_id))
    request = pb.InterruptRequest(session_id=stopped.session_id, request_id="i")
    await remember_begun(service, request, stopped.session_id, stopped.turn.turn_id)
    await service.execute("slow: 0.5", session_id=stopped.session_id)
    again = await service.stub.Interrupt(request)
    assert (again.interrupted, again.deduplicated) == (True, True)
    assert (await service.rest(stopped.session_id)).turn.state == pb.TURN_STATE_COMPLETED


async def test_a_cancel_that_a_crash_cut_short_is_about_its_own_turn(service: Service) -> None:
    first = await service.execute("slow: 30")
    request = pb.CancelRequest(session_id=first.session_id, request_id="c")
    await remember_begun(service, request, first.session_id, first.turn.turn_id)
    again = await service.stub.Cancel(request)
    assert again.deduplicated
    assert again.session.state == pb.SESSION_STATE_CANCELLED, "the turn went on after the restart"
    other = pb.CancelRequest(session_id=first.session_id, request_id="d")
    await remember_begun(service, other, first.session_id, first.turn.turn_id)
    await service.execute("slow: 0.3", session_id=first.session_id)
    assert (await service.stub.Cancel(other)).deduplicated
    assert (await service.rest(first.session_id)).state == pb.SESSION_STATE_COMPLETED


async def test_a_cleanup_that_is_retried_deletes_no_more(tmp_path: Path) -> None:
    async with serve(tmp_path / "data") as service:
        old = await finished(service, 4)
        request = pb.CleanupRequest(older_than={}, limit=2, request_id="c")
        first = await service.stub.Cleanup(request)
        assert list(first.session_ids) == old[:2]
        again = await service.stub.Cleanup(request)
        assert again.deduplicated
        await service.kill()
    async with serve(tmp_path / "data") as service:
        after = await service.stub.Cleanup(request)
        assert after == again
        again.deduplicated = False
        assert again == first
        assert await sessions(service) == set(old[2:])


async def test_a_cleanup_that_a_crash_cut_short_ends_with_what_it_had_chosen(service: Service) -> None:
    old = await finished(service, 4)
    request = pb.CleanupRequest(older_than={}, limit=3, request_id="c")
    await remember_begun(service, request, "", "", pb.CleanupResponse(session_ids=old[:3]))
    await service.stub.DeleteSession(pb.DeleteSessionRequest(session_id=old[0]))
    again = await service.stub.Cleanup(request)
    assert again.deduplicated
    assert (again.deleted_count, list(again.session_ids)) == (3, old[:3])
    assert await sessions(service) == {old[3]}
    assert (await service.stub.Cleanup(request)).session_ids == old[:3]


async def test_a_dry_run_needs_no_request_id(service: Service) -> None:
    [old] = await finished(service, 1)
    dry = await service.stub.Cleanup(pb.CleanupRequest(older_than={}, dry_run=True, request_id="c"))
    assert (list(dry.session_ids), await sessions(service)) == ([old], {old})
    real = await service.stub.Cleanup(pb.CleanupRequest(older_than={}, request_id="c"))
    assert (list(real.session_ids), real.deduplicated) == ([old], False)


async def test_a_deletion_that_is_retried_gets_the_session_and_deletes_no_other(tmp_path: Path) -> None:
    options = pb.AgentOptions(env={"TOKEN": "a-secret"})
    request = pb.DeleteSessionRequest(session_id="mine", request_id="d")
    async with serve(tmp_path / "data") as service:
        await service.run("say: hi", session_id="mine", title="the first", options=options)
        first = await service.stub.DeleteSession(request)
        assert first.session.title == "the first"
        await service.kill()
    async with serve(tmp_path / "data") as service:
        again = await service.stub.DeleteSession(request)
        assert again.deduplicated
        assert again.session == first.session
        await service.run("say: hi", session_id="mine", title="the second")
        assert (await service.stub.DeleteSession(request)).session.title == "the first"
        assert await sessions(service) == {"mine"}
    kept = ledger_rows(tmp_path / "data", "SELECT response FROM request_ids WHERE method = 'DeleteSession'")
    assert kept
    assert b"a-secret" not in kept[0][0]


async def test_a_deletion_of_nothing_is_remembered_as_that(service: Service) -> None:
    request = pb.DeleteSessionRequest(session_id="mine", allow_missing=True, request_id="d")
    assert not (await service.stub.DeleteSession(request)).HasField("session")
    await service.run("say: hi", session_id="mine")
    again = await service.stub.DeleteSession(request)
    assert (again.HasField("session"), again.deduplicated) == (False, True)
    assert await sessions(service) == {"mine"}


async def test_a_request_id_is_of_one_rpc(service: Service) -> None:
    session_id, interaction = await start_asking(service, "bash: touch asked\nslow: 30")
    for method, request in of_one_id(session_id, interaction.interaction_id):
        assert not (await getattr(service.stub, method)(request)).deduplicated, method


async def test_a_request_id_with_other_content_is_refused_by_every_rpc(service: Service) -> None:
    session_id, interaction = await start_asking(service, "bash: touch asked\nslow: 30")
    for method, request in of_one_id(session_id, interaction.interaction_id):
        await getattr(service.stub, method)(request)
        other = type(request)()
        other.CopyFrom(request)
        change(other)
        refusal = await refused(getattr(service.stub, method)(other))
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED"), method


@pytest.mark.parametrize("method", ["Cancel", "Interrupt", "DeleteSession", "Cleanup"])
async def test_twins_at_once_take_effect_once(service: Service, method: str) -> None:
    if method in ("Cancel", "Interrupt"):
        await service.execute("slow: 30", session_id="mine")
        await service.until("mine", pb.SESSION_PHASE_WORKING)
    else:
        await service.run("say: hi", session_id="mine")
    request = getattr(pb, f"{method}Request")(request_id="twin")
    if method == "Cleanup":
        request.older_than.SetInParent()
    else:
        request.session_id = "mine"
    answers = await asyncio.gather(*(getattr(service.stub, method)(request) for _ in range(8)))
    assert sorted(answer.deduplicated for answer in answers) == [False] + [True] * 7
    for answer in answers:
        answer.deduplicated = False
        if method != "DeleteSession":
            answer.ClearField("session") if method != "Cleanup" else None
    assert all(answer == answers[0] for answer in answers)


def of_one_id(session_id: str, interaction_id: str) -> list[tuple[str, Any]]:
    """A request of every RPC that has an id, all with one and the same, in an order in which all succeed."""
    one: dict[str, Any] = {"request_id": "one"}
    return [
        ("RespondToInteraction", pb.RespondToInteractionRequest(
            session_id=session_id, interaction_id=interaction_id, allow={}, **one)),
        ("SendMessage", pb.SendMessageRequest(session_id=session_id, text="say: hello", **one)),
        ("Interrupt", pb.InterruptRequest(session_id=session_id, **one)),
        ("Execute", pb.ExecuteRequest(prompt="slow: 30", **one)),
        ("Cancel", pb.CancelRequest(session_id=session_id, **one)),
        ("Cleanup", pb.CleanupRequest(older_than={"seconds": 3600}, **one)),
        ("DeleteSession", pb.DeleteSessionRequest(session_id=session_id, force=True, **one)),
    ]  # fmt: skip


def change(request: Any) -> None:
    """Give a request other content."""
    if isinstance(request, pb.CleanupRequest):
        request.limit = 7
    elif isinstance(request, pb.ExecuteRequest):
        request.title = "other"
    else:
        request.session_id = "another"


def ledger_rows(data_dir: Path, sql: str) -> list[Any]:
    """Rows of the file that a service has left."""
    with contextlib.closing(sqlite3.connect(next(data_dir.glob("*.db")))) as db:
        return db.execute(sql).fetchall()


async def remember_begun(
    service: Service, request: Any, session_id: str, turn_id: str, response: pb.CleanupResponse | None = None
) -> None:
    """Leave what a service leaves that dies between a request's effect and its answer."""
    key = RequestKey.of(request, "")
    assert key is not None
    await service.running.ledger.remember(key.begun(session_id, turn_id, response))
