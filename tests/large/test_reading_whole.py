"""Everything that can be written can be read: what a response has no room for, ReadField has."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from agentpb import agent_pb2 as pb

from agent_service.errors import SessionNotFound
from agent_service.ledger import fsck
from agent_service.registry.fields import FieldReader
from tests.conftest import Service, start_service
from tests.interactions.conftest import policy, respond
from tests.rpc import refused

MIB = 1 << 20
LONG = "é" * 900_000


async def read(service: Service, session_id: str, field: str, **record: Any) -> str:
    """A whole field."""
    request = pb.ReadFieldRequest(session_id=session_id, field=field, **record)
    pieces = [response async for response in service.stub.ReadField(request)]
    assert all(len(piece.data) <= MIB for piece in pieces)
    assert [piece.total_bytes for piece in pieces[1:]] == [0] * (len(pieces) - 1)
    whole = b"".join(piece.data for piece in pieces)
    assert pieces[0].total_bytes == len(whole)
    return whole.decode()


async def events_of(service: Service, session_id: str, kind: str, **fields: Any) -> list[pb.SessionEvent]:
    """The stored events of a type, page by page."""
    request = pb.ListEventsRequest(session_id=session_id, event_types=[kind], **fields)
    found: list[pb.SessionEvent] = []
    while True:
        page = await service.stub.ListEvents(request)
        found += page.events
        if not page.next_page_token:
            return found
        request.page_token = page.next_page_token


async def test_a_final_text_of_megabytes_is_read_whole(service: Service) -> None:
    done = await service.run(f"say: {LONG}")
    turn_id = done.turn.turn_id
    assert done.turn.result.truncated_fields == ["result"]
    assert {*done.turn.truncated_fields} == {"prompt", "result.result"}
    assert await read(service, done.session_id, "result.result", turn_id=turn_id) == LONG
    assert await read(service, done.session_id, "prompt", turn_id=turn_id) == f"say: {LONG}"
    for kind, field, whole in [
        ("turn.queued", "turn_queued.turn.prompt", f"say: {LONG}"),
        ("turn.completed", "turn_completed.turn.result.result", LONG),
        ("message.assistant", "assistant_message.content[0].text.text", LONG),
        ("message.user", "user_message.content[0].text.text", f"say: {LONG}"),
    ]:
        [event] = await events_of(service, done.session_id, kind)
        assert field in event.truncated_fields
        assert await read(service, done.session_id, field, sequence=event.sequence) == whole


async def test_a_structured_output_and_denials_of_megabytes_are_read_whole(service: Service) -> None:
    options = pb.AgentOptions(output_schema_json='{"type": "object"}')
    calls = [f"echo {'z' * 50_000} > /etc/{number}" for number in range(12)]
    prompt = "\n".join([f"bash: {call}" for call in calls] + [f'json: {{"a": "{"y" * MIB}"}}'])
    done = await service.run(prompt, options=options)
    result, turn = done.turn.result, done.turn.turn_id
    assert "structured_output_json" in result.truncated_fields
    whole = await read(service, done.session_id, "result.structured_output_json", turn_id=turn)
    assert json.loads(whole) == {"a": "y" * MIB}
    for number, call in enumerate(calls):
        field = f"permission_denials[{number}].tool_input_json"
        assert field in result.truncated_fields
        assert json.loads(await read(service, done.session_id, f"result.{field}", turn_id=turn))["command"] == call
    listed = json.loads(await read(service, done.session_id, "result.permission_denials", turn_id=turn))
    assert len(listed) == len(calls)


async def test_what_was_asked_and_answered_is_read_whole(service: Service) -> None:
    question = "q" * MIB
    started = await service.execute(f"ask: {question} | {'a' * 300_000} | b", options=policy())
    session = await service.until(started.session_id, pb.SESSION_PHASE_AWAITING_INPUT)
    [pending] = session.pending_interactions
    key = {"interaction_id": pending.interaction_id}
    assert "pending_interactions[0].input_json" in session.truncated_fields or pending.input_truncated
    assert await read(service, session.session_id, "questions[0].text", **key) == question
    assert await read(service, session.session_id, "pending_interactions[0].questions[0].text") == question
    assert (
        json.loads(await read(service, session.session_id, "input_json", **key))["questions"][0]["question"] == question
    )
    await respond(service, session.session_id, pending.interaction_id, deny={"message": "n" * MIB})
    await service.rest(session.session_id)
    assert await read(service, session.session_id, "message", **key) == "n" * MIB
    assert await read(service, session.session_id, "questions[0].options[0].label", **key) == "a" * 300_000
    [event] = await events_of(service, session.session_id, "interaction.requested")
    field = "interaction_requested.interaction.questions[0].text"
    assert await read(service, session.session_id, field, sequence=event.sequence) == question


async def test_the_agents_own_message_is_kept_whole_and_pages_with_it_stay_small(
    service: Service, options: Callable[..., pb.AgentOptions]
) -> None:
    done = await service.run(f"say: {LONG}\nbash: head -c 25000 /dev/zero | tr '\\0' x", options=options("Bash"))
    kind = {"event_types": ["message.assistant"], "include_raw": True}
    page = await service.stub.ListEvents(pb.ListEventsRequest(session_id=done.session_id, **kind))
    assert page.ByteSize() < 2 * MIB + 4096
    first = page.events[0]
    assert "raw_json" in first.truncated_fields
    assert json.loads(first.raw_json)["truncated"] is True
    raw = json.loads(await read(service, done.session_id, "raw_json", sequence=first.sequence))
    assert raw["message"]["content"][0]["text"] == LONG
    assert json.loads(first.raw_json)["bytes"] > MIB
    watched = [e for e in await service.events(done.session_id, **kind) if e.sequence == first.sequence]
    assert watched == [first]


async def test_a_restart_forgets_nothing_and_a_deletion_everything(tmp_path: Path) -> None:
    async with start_service(tmp_path / "data") as service:
        done = await service.run(f"say: {LONG}")
        asking = (await service.execute(f"ask: {'q' * MIB} | a | b", options=policy())).session_id
        await service.until(asking, pb.SESSION_PHASE_AWAITING_INPUT)
    assert fsck(tmp_path / "data") == []
    async with start_service(tmp_path / "data") as service:
        [event] = await events_of(service, asking, "interaction.requested")
        field = "interaction_requested.interaction.questions[0].text"
        assert await read(service, asking, field, sequence=event.sequence) == "q" * MIB
        assert await read(service, done.session_id, "result.result", turn_id=done.turn.turn_id) == LONG
        for session_id in (done.session_id, asking):
            await service.stub.DeleteSession(pb.DeleteSessionRequest(session_id=session_id))
            request = pb.ReadFieldRequest(session_id=session_id, field="raw_json", sequence=1)
            assert (await refused(service.stub.ReadField(request))).reason == "SESSION_NOT_FOUND"
    with closing(sqlite3.connect(tmp_path / "data" / "ledger.db")) as db:
        deleted = {key for (key,) in db.execute("SELECT session_key FROM deletions")}
        assert {key for (key,) in db.execute("SELECT session_key FROM wholes")} <= deleted


async def test_secrets_are_not_read_from_options_and_long_options_are(service: Service) -> None:
    options = pb.AgentOptions(
        env={"TOKEN": "secret-1"},
        settings_json='{"companyAnnouncements": ["secret-2"]}',
        system_prompt={"text": "p" * 100_000},
    )
    done = await service.run("say: hi", options=options)
    assert await read(service, done.session_id, "options.system_prompt.text") == "p" * 100_000
    for field in ("options", 'options.env["TOKEN"]', "options.env", "options.settings_json"):
        assert "secret" not in await read(service, done.session_id, field)


@pytest.mark.parametrize(
    ("field", "record", "reason"),
    [
        ("", {"turn_id": "TURN"}, "INVALID_FIELD"),
        ("nonsense", {"turn_id": "TURN"}, "INVALID_FIELD"),
        ("result.permission_denials[7]", {"turn_id": "TURN"}, "INVALID_FIELD"),
        ("a[[", {"sequence": 1}, "INVALID_FIELD"),
        ("raw_json", {"sequence": 1}, "INVALID_FIELD"),
        ("raw_json", {"sequence": 0}, "INVALID_FIELD"),
        ("raw_json", {"sequence": 10_000}, "SEQUENCE_IN_FUTURE"),
        ("prompt", {"turn_id": "other"}, "TURN_NOT_FOUND"),
        ("input_json", {"interaction_id": "other"}, "INTERACTION_NOT_FOUND"),
        ("x" * 1001, {"turn_id": "TURN"}, "INVALID_FIELD"),
    ],
)
async def test_what_is_not_there_is_said(service: Service, field: str, record: dict[str, Any], reason: str) -> None:
    done = await service.run("say: hi")
    named = {name: done.turn.turn_id if value == "TURN" else value for name, value in record.items()}
    request = pb.ReadFieldRequest(session_id=done.session_id, field=field, **named)
    assert (await refused(service.stub.ReadField(request))).reason == reason


async def test_a_field_of_a_session_that_is_deleted_meanwhile_is_not_found(service: Service) -> None:
    session = pb.Session(session_id="gone", last_sequence=5)
    request = pb.ReadFieldRequest(session_id="gone", sequence=5, field="prompt")
    with pytest.raises(SessionNotFound):
        async with FieldReader(service.running.ledger).open(request, session):
            pass
