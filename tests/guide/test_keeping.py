"""The service explained by tests: keeping. Sessions are listed by what is known of them, and deleted when unwanted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import grpc
import grpc.aio
import pytest
from agentpb import agent_pb2 as pb
from google.protobuf.timestamp_pb2 import Timestamp

from agent_service.ledger import Commit, SessionKey, key_of
from agent_service.ledger.journal import now_us
from tests.conftest import Service
from tests.invariants import check_log, check_session
from tests.rpc import refused

HOUR = 3_600_000_000


def record(number: int, *, age: int = 0, **fields: Any) -> pb.Session:
    """A session at rest, as old as said."""
    session = pb.Session(
        session_id=f"session-{number:04}",
        agent_session_id=str(uuid4()),
        state=pb.SESSION_STATE_COMPLETED,
        phase=pb.SESSION_PHASE_DORMANT,
        first_available_sequence=1,
        **fields,
    )
    for name in ("create_time", "update_time", "rest_time"):
        getattr(session, name).FromMicroseconds(now_us() - age + number)
    return session


async def fill(service: Service, *records: pb.Session) -> None:
    """Put sessions into the ledger, without running them."""
    await asyncio.gather(*(service.running.ledger.append(Commit(key_of(each), session=each)) for each in records))


async def listed(service: Service, page_size: int = 1000, **fields: Any) -> list[str]:
    """The ids of a listing, all its pages."""
    request = pb.ListSessionsRequest(page_size=page_size, **fields)
    ids: list[str] = []
    while True:
        page = await service.stub.ListSessions(request)
        assert len(page.sessions) <= page_size
        for session in page.sessions:
            check_session(session)
        ids += [session.session_id for session in page.sessions]
        if not page.next_page_token:
            return ids
        request.page_token = page.next_page_token


async def test_a_listing_of_many_comes_in_pages_and_in_order(service: Service) -> None:
    records = [record(number) for number in range(300)]
    await fill(service, *records)
    oldest_first = [each.session_id for each in records]
    assert await listed(service, 7, order_by=pb.SESSION_ORDER_CREATE_TIME_ASC) == oldest_first
    assert await listed(service, 100) == oldest_first[::-1]
    default = await service.stub.ListSessions(pb.ListSessionsRequest())
    assert len(default.sessions) == 50
    records[5].title = "changed"
    records[5].update_time.FromMicroseconds(now_us() + 10_000)
    await fill(service, records[5])
    assert (await listed(service, 9, order_by=pb.SESSION_ORDER_UPDATE_TIME_DESC))[0] == records[5].session_id
    assert (await service.stub.GetServerInfo(pb.GetServerInfoRequest())).load.sessions == 300


async def test_a_page_is_cut_by_its_bytes_too(service: Service) -> None:
    large = pb.AgentOptions(system_prompt=pb.SystemPrompt(text="x" * 300_000))
    await fill(service, *(record(number, options=large) for number in range(8)))
    page = await service.stub.ListSessions(pb.ListSessionsRequest(page_size=8))
    assert 1 <= len(page.sessions) <= 4
    assert page.ByteSize() < (1 << 20) + 310_000
    assert len(await listed(service, 8)) == 8


async def test_a_filter_means_all_of_its_conditions(service: Service) -> None:
    def at(micros: int) -> Timestamp:
        time = Timestamp()
        time.FromMicroseconds(micros)
        return time

    now = now_us()
    records = [
        record(0, age=5 * HOUR, title="Fix the Bug", labels={"team": "red", "env": "prod"}),
        record(1, age=3 * HOUR, title="fix 100% of it", labels={"team": "red"}),
        record(2, age=HOUR, title="Something", labels={"team": "blue"}),
    ]
    failed = record(3, title="Fixed?", labels={"team": "blue"})
    failed.state, failed.phase = pb.SESSION_STATE_ERROR, pb.SESSION_PHASE_FAILED
    failed.error.CopyFrom(pb.SessionError(reason="API_ERROR", message="it failed"))
    await fill(service, *records, failed)

    async def found(**wanted: Any) -> list[int]:
        ids = await listed(service, filter=wanted, order_by=pb.SESSION_ORDER_CREATE_TIME_ASC)
        return [int(each[-1]) for each in ids]

    assert await found(states=[pb.SESSION_STATE_ERROR]) == [3]
    assert await found(states=[pb.SESSION_STATE_ERROR, pb.SESSION_STATE_COMPLETED]) == [0, 1, 2, 3]
    assert await found(phases=[pb.SESSION_PHASE_DORMANT]) == [0, 1, 2]
    assert await found(labels={"team": "red"}) == [0, 1]
    assert await found(labels={"team": "red", "env": "prod"}) == [0]
    assert await found(labels={"team": "re"}) == []
    assert await found(title_contains="FIX") == [0, 1, 3]
    assert await found(title_contains="100%") == [1]
    assert await found(title_contains="%") == [1]
    assert await found(create_time_min=at(now - 4 * HOUR), create_time_max=at(now - 2 * HOUR)) == [1]
    assert await found(update_time_min=at(now - 2 * HOUR)) == [2, 3]
    assert await found(update_time_max=at(now - 2 * HOUR), labels={"team": "red"}, title_contains="bug") == [0]
    assert await found(states=[pb.SESSION_STATE_RUNNING]) == []


async def test_a_listing_shows_sessions_at_work_as_they_are(service: Service) -> None:
    started = await service.execute("wait: 60", labels={"a": "b"})
    await service.until(started.session_id, pb.SESSION_PHASE_WORKING)
    page = await service.stub.ListSessions(pb.ListSessionsRequest(filter={"states": [pb.SESSION_STATE_RUNNING]}))
    assert [each.session_id for each in page.sessions] == [started.session_id]
    status = await service.status(started.session_id)
    assert page.sessions[0] == status.session
    await service.stub.Cancel(pb.CancelRequest(session_id=started.session_id, force=True))
    assert await listed(service, filter={"states": [pb.SESSION_STATE_RUNNING]}) == []
    assert await listed(service, filter={"states": [pb.SESSION_STATE_CANCELLED]}) == [started.session_id]


async def test_cleanup_deletes_what_is_old_enough_and_meets_the_filter(service: Service) -> None:
    def old(number: int, hours: int, label: str) -> pb.Session:
        return record(number, age=hours * HOUR, labels={"kind": label})

    await fill(service, old(0, 30, "a"), old(1, 26, "b"), old(2, 3, "a"), old(3, 1, "b"), old(4, 40, "a"))
    working = await service.execute("wait: 60", labels={"kind": "a"})

    async def cleanup(**fields: Any) -> list[str]:
        answer = await service.stub.Cleanup(pb.CleanupRequest(**fields))
        assert not answer.failures
        assert answer.deleted_count == len(answer.session_ids)
        return [each[-1] for each in answer.session_ids]

    assert await cleanup(dry_run=True) == ["4", "0", "1"], "a day by default, oldest first"
    assert await cleanup(dry_run=True, older_than={"seconds": 2 * 3600}) == ["4", "0", "1", "2"]
    assert await cleanup(dry_run=True, older_than={}, filter={"labels": {"kind": "b"}}) == ["1", "3"]
    assert await cleanup(dry_run=True, older_than={}, limit=2) == ["4", "0"]
    assert len(await listed(service)) == 6
    assert await cleanup(limit=1) == ["4"]
    assert await cleanup(older_than={"seconds": 2 * 3600}, filter={"labels": {"kind": "a"}}) == ["0", "2"]
    assert await cleanup(older_than={}) == ["1", "3"]
    assert await listed(service) == [working.session_id], "sessions at work are never touched"
    await service.stub.Cancel(pb.CancelRequest(session_id=working.session_id, force=True))


async def test_cleanup_counts_what_it_frees_and_may_keep_the_transcripts(service: Service) -> None:
    kept, lost = await service.run("say: kept"), await service.run("say: lost")

    def files() -> set[str]:
        return {
            path.name
            for path in (
                *service.data_dir.glob("sessions/*/config/projects/*/*.jsonl"),
                *service.data_dir.glob("tenants/*/kept/projects/*/*.jsonl"),
            )
        }

    def file_of(session: pb.Session) -> str:
        return f"{session.agent_session_id}.jsonl"

    assert files() >= {file_of(kept.session), file_of(lost.session)}
    request = pb.CleanupRequest(older_than={}, filter={"create_time_max": lost.session.create_time})
    request.keep_transcripts = True
    answer = await service.stub.Cleanup(request)
    assert list(answer.session_ids) == [kept.session_id]
    assert answer.freed_bytes > 1000
    assert file_of(kept.session) in files()
    await service.stub.Cleanup(pb.CleanupRequest(older_than={}))
    assert file_of(lost.session) not in files()
    assert not list((service.data_dir / "sessions").iterdir())


async def test_a_deleted_session_is_gone_for_every_rpc_and_its_id_is_free(service: Service) -> None:
    done = await service.run("say: before", session_id="again")
    deleted = await service.stub.DeleteSession(pb.DeleteSessionRequest(session_id="again"))
    check_session(deleted.session)
    assert deleted.session.session_id == "again"
    assert deleted.session.turn_count == 1
    assert await listed(service) == []
    status = await refused(service.stub.GetStatus(pb.GetStatusRequest(session_id="again")))
    assert status.reason == "SESSION_NOT_FOUND"
    gone = await refused(service.stub.DeleteSession(pb.DeleteSessionRequest(session_id="again")))
    assert gone.code is grpc.StatusCode.NOT_FOUND
    missing = await service.stub.DeleteSession(pb.DeleteSessionRequest(session_id="again", allow_missing=True))
    assert not missing.HasField("session")
    new = await service.run("recall", session_id="again")
    assert new.turn.result.result == "recall"
    assert new.session.agent_session_id != done.session.agent_session_id
    check_log(await service.events("again"), (await service.status("again")).session)


async def test_deleting_a_session_at_work_needs_force(service: Service) -> None:
    started = await service.execute("wait: 60")
    await service.until(started.session_id, pb.SESSION_PHASE_WORKING)
    watch = asyncio.create_task(service.events(started.session_id))
    plain = await refused(service.stub.DeleteSession(pb.DeleteSessionRequest(session_id=started.session_id)))
    assert plain.reason == "SESSION_ACTIVE"
    forced = await service.stub.DeleteSession(pb.DeleteSessionRequest(session_id=started.session_id, force=True))
    assert forced.session.state == pb.SESSION_STATE_CANCELLED
    check_session(forced.session)
    seen = await watch
    check_log(seen)
    assert seen[-1].state_changed.state == pb.SESSION_STATE_CANCELLED
    assert (await service.stub.GetServerInfo(pb.GetServerInfoRequest())).load.running == 0


async def test_a_kept_transcript_outlives_its_session(service: Service) -> None:
    done = await service.run("say: hi")
    request = pb.DeleteSessionRequest(session_id=done.session_id, keep_transcript=True)
    await service.stub.DeleteSession(request)
    assert next((service.data_dir / "tenants/default/kept").rglob(f"{done.session.agent_session_id}.jsonl"))
    assert not list((service.data_dir / "sessions").iterdir())


async def test_a_session_says_when_its_time_is_over(service: Service) -> None:
    done = await service.run("say: hi", ttl={"seconds": 60})
    session = done.session
    assert session.expire_time.ToMilliseconds() - session.rest_time.ToMilliseconds() == 60_000
    assert await service.running.registry.deletion.expire(lambda _: 0) == 0
    short = await service.run("say: hi", session_id=done.session_id, ttl={"nanos": 1000})
    assert short.session.HasField("expire_time")
    assert await service.running.registry.deletion.expire(lambda _: 0) == 1
    assert await listed(service) == []


async def test_a_session_that_is_deleted_as_it_comes_to_rest_leaves_no_directory(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = await service.run("say: hi")
    session = service.running.registry.live(done.session_id)
    assert session is not None
    stored = session.journal.snapshot()
    assert stored is not None
    stored.agent_session_id = stored.workspace_id = ""  # as it was before the commit that is on its way to the disk

    async def early(_: SessionKey) -> pb.Session:
        return stored

    monkeypatch.setattr(service.running.registry.live_sessions, "get", early)
    deleted = await service.stub.DeleteSession(pb.DeleteSessionRequest(session_id=done.session_id))
    assert deleted.session.agent_session_id == done.session.agent_session_id
    assert not list((service.data_dir / "sessions").iterdir())


async def test_a_session_that_is_deleted_as_its_turn_begins_leaves_no_directory(service: Service) -> None:
    done = await service.run("say: hi")
    session = service.running.registry.live(done.session_id)
    assert session is not None
    with session.journal.update() as record:  # as a turn that is stopped at once does, without a commit behind it
        record.agent_session_id = record.workspace_id = str(uuid4())
    (service.data_dir / "sessions" / record.workspace_id / "work").mkdir(parents=True)
    await service.stub.DeleteSession(pb.DeleteSessionRequest(session_id=done.session_id))
    assert not (service.data_dir / "sessions" / record.workspace_id).exists()


async def test_a_session_that_was_read_while_it_was_deleted_is_not_opened_by_who_comes_later(
    start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    service = await start(idle_timeout=0.0)
    await service.run("say: hi", session_id="mine")
    async with asyncio.timeout(20):
        while service.running.registry.live("mine") is not None:  # its agent is being ended
            await service.status("mine")
    read, ledger = asyncio.Event(), service.running.ledger
    go_on, session_of = asyncio.Event(), ledger.session

    async def slowly(name: SessionKey) -> pb.Session | None:
        monkeypatch.undo()
        found = await session_of(name)
        read.set()
        await go_on.wait()
        return found

    monkeypatch.setattr(ledger, "session", slowly)
    first = asyncio.create_task(service.execute("say: first", session_id="mine", on_busy=pb.ON_BUSY_ENQUEUE))
    await asyncio.wait_for(read.wait(), 20)
    await service.stub.DeleteSession(pb.DeleteSessionRequest(session_id="mine"))
    second = asyncio.create_task(service.execute("say: second", session_id="mine", on_busy=pb.ON_BUSY_ENQUEUE))
    assert (await service.stub.GetServerInfo(pb.GetServerInfoRequest())).load.sessions == 0
    go_on.set()
    turns = [(await call).turn.number for call in (first, second)]
    assert sorted(turns) == [1, 2]
    assert (await service.rest("mine")).session.turn_count == 2


async def test_a_deletion_whose_caller_leaves_is_carried_out(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    await service.run("say: hi", session_id="mine", title="old")
    begun, go_on, delete = asyncio.Event(), asyncio.Event(), service.running.ledger.delete

    async def slowly(name: SessionKey, **fields: Any) -> int | None:
        begun.set()
        await go_on.wait()
        return await delete(name, **fields)

    monkeypatch.setattr(service.running.ledger, "delete", slowly)
    call = service.stub.DeleteSession(pb.DeleteSessionRequest(session_id="mine"))
    waiting = asyncio.ensure_future(call)
    await asyncio.wait_for(begun.wait(), 20)
    call.cancel()
    await asyncio.wait([waiting])
    anew = asyncio.create_task(service.run("say: anew", session_id="mine", mode=pb.EXECUTE_MODE_CREATE))
    go_on.set()
    session = (await anew).session
    assert (session.title, session.turn_count) == ("", 1)
