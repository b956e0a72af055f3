"""Records with fields of any size: every response keeps to its limit, and whatever was cut in it is read whole."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from agent_client import AgentClient
from agentpb import agent_pb2 as pb
from claude_agent_sdk import ToolPermissionContext
from google.protobuf.message import Message
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from agent_service import events
from agent_service.events.fields import field_at
from agent_service.events.limits import MAX_RESPONSE
from agent_service.ledger import Commit, Event, key_of
from agent_service.ledger.journal import Journal
from agent_service.session import outcomes
from agent_service.session.interactions import Interactions
from agent_service.session.permissions import interaction_of
from agent_service.session.states import move
from agent_service.session.turn import QueuedTurn, keep_prompt, new_turn, record_end
from tests.conftest import Service, start_service
from tests.rpc import refused
from tests.world import World

texts = st.builds(
    lambda unit, size: unit * (size // len(unit.encode())),
    st.sampled_from(["x", "é", "😀", '"', "\\", "\n", "a b "]),
    st.sampled_from([4, 100, 5_000, 60_000, 300_000, 1_200_000, 3_000_000]),
)
few_texts = st.lists(texts, max_size=6)
objects = st.dictionaries(st.sampled_from(["a", "b", "command"]), texts, max_size=3)
results = st.fixed_dictionaries(
    {"result": texts, "errors": few_texts, "stop_reason": texts, "structured_output": objects},
    optional={
        "permission_denials": st.lists(
            st.fixed_dictionaries({"tool_name": texts, "tool_input": objects}), min_size=1, max_size=40
        ),
        "modelUsage": st.dictionaries(texts, st.just({"inputTokens": 1}), max_size=4),
    },
)
questions = st.lists(
    st.fixed_dictionaries({"question": texts, "header": texts, "options": st.just([{"label": "a"}])}), max_size=3
)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A service while the test lasts."""
    world = World(tmp_path / "data", patience=120)
    yield world
    world.close()


class Told:
    """A session that is written as the service writes one, and what it was told in full."""

    def __init__(self, service: Service, options: dict[str, str], prompt: str) -> None:
        self.service = service
        agents = {name: pb.AgentDefinition(prompt=text[:200_000]) for name, text in options.items()}
        self.record = pb.Session(
            session_id=str(uuid4()), first_available_sequence=1, turn_count=1, options=pb.AgentOptions(agents=agents)
        )
        self.record.create_time.GetCurrentTime()
        self.journal = Journal(self.record, service.running.ledger, new=True)
        self.work = QueuedTurn(new_turn(str(uuid4()), prompt, ""), pb.ExecuteRequest(prompt=prompt))
        self.whole: dict[str, Message] = {}
        """Every turn and interaction as it was told, by its id."""

    async def begin(self) -> None:
        turn = self.work.turn
        turn.number, turn.state = 1, pb.TURN_STATE_RUNNING
        self.whole[turn.turn_id] = pb.Turn(prompt=self.work.request.prompt)
        self.record.current_turn.CopyFrom(turn)
        self.journal.add(events.turn_queued(turn), turn_id=turn.turn_id)
        self.journal.turn_changed(turn)
        keep_prompt(self.journal, self.work)
        for phase in (pb.SESSION_PHASE_QUEUED, pb.SESSION_PHASE_STARTING, pb.SESSION_PHASE_AWAITING_INPUT):
            move(self.journal, phase)
        self.journal.add(events.user_prompt(self.work.request.prompt, (), "u"), turn_id=turn.turn_id)
        await self.journal.commit()

    async def ask(self, interactions: Interactions, given: dict[str, Any]) -> asyncio.Task[Any]:
        asked = interaction_of("AskUserQuestion", given, ToolPermissionContext(), turn_id=self.work.turn.turn_id)
        asking = asyncio.create_task(interactions.ask(asked, given, pb.InteractionPolicy()))
        await asyncio.sleep(0)
        copy = self.whole[asked.interaction_id] = pb.Interaction()
        copy.CopyFrom(asked)
        await self.journal.flushed()
        return asking

    async def end(self, result: dict[str, Any]) -> None:
        told, _ = events.turn_result(result, events.RunningTotals())
        whole = self.whole[self.work.turn.turn_id] = pb.Turn(prompt=self.work.request.prompt, result=told)
        outcome = outcomes.of_result(told, None)
        if outcome.error is not None:
            whole.error.CopyFrom(outcome.error)
        record_end(self.journal, self.work, outcome, told, events.raw_json(result))
        self.record.ClearField("current_turn")
        move(self.journal, outcome.phase, error=outcome.error, turn_id=self.work.turn.turn_id)
        await self.journal.commit()

    async def check(self) -> None:
        """Every response fits, and everything that any of them says was cut is there."""
        stub, session_id = self.service.stub, self.record.session_id
        status = await stub.GetStatus(pb.GetStatusRequest(session_id=session_id, history_limit=1000))
        page = await stub.ListEvents(pb.ListEventsRequest(session_id=session_id, page_size=1000, include_raw=True))
        listed = await stub.ListSessions(pb.ListSessionsRequest(page_size=1000))
        watch = stub.WatchSession(pb.WatchSessionRequest(session_id=session_id, include_raw=True, follow=True))
        watched = [await watch.read(), await watch.read()]
        watch.cancel()
        assert all(each.ByteSize() <= MAX_RESPONSE for each in (status, page, listed, *watched))
        await self._check_turn(status.turn)
        await self._check_turn(status.session.current_turn)
        for shown in status.session.pending_interactions:
            await self._check_interaction(shown)
        for event in page.events:
            for path in event.truncated_fields:
                if path != "…":
                    await self._check_event(event, path)

    async def _check_turn(self, shown: pb.Turn) -> None:
        paths = [*shown.truncated_fields, *(f"result.{path}" for path in shown.result.truncated_fields if path != "…")]
        for path in paths:
            if path != "…":
                assert await self.read(path, turn_id=shown.turn_id) == field_at(self.whole[shown.turn_id], path)

    async def _check_interaction(self, shown: pb.Interaction) -> None:
        if shown.input_truncated:
            for path in ("input_json", "questions"):
                found = await self.read(path, interaction_id=shown.interaction_id)
                assert found == field_at(self.whole[shown.interaction_id], path)

    async def _check_event(self, event: pb.SessionEvent, path: str) -> None:
        found = await self.read(path, sequence=event.sequence)
        payload, _, rest = path.partition(".")
        kind, _, inner = rest.partition(".")
        if kind in ("turn", "interaction"):
            shown = getattr(getattr(event, payload), kind)
            name = shown.turn_id if kind == "turn" else shown.interaction_id
            assert found == field_at(self.whole[name], inner)
        elif path == "raw_json":
            json.loads(found)
        else:
            assert found.startswith(self.work.request.prompt.encode()[:1000])

    async def read(self, field: str, **where: Any) -> bytes:
        request = pb.ReadFieldRequest(session_id=self.record.session_id, field=field, **where)
        pieces = [piece async for piece in self.service.stub.ReadField(request)]
        assert all(piece.ByteSize() <= (1 << 20) + 64 for piece in pieces)
        whole = b"".join(piece.data for piece in pieces)
        assert pieces[0].total_bytes == len(whole)
        return whole


def test_whatever_records_contain_responses_fit_and_the_whole_is_read(world: World) -> None:
    @settings(
        max_examples=12,
        deadline=None,
        derandomize=True,
        database=None,
        phases=(Phase.explicit, Phase.generate),
        suppress_health_check=list(HealthCheck),
    )
    @given(options=objects, prompt=texts, asked=st.lists(questions, max_size=4), result=results, failed=st.booleans())
    def example(options: Any, prompt: str, asked: Any, result: Any, failed: bool) -> None:
        world.run(tell(options, prompt[:500_000], asked, result | {"is_error": failed, "type": "result"}))

    async def tell(options: Any, prompt: str, asked: Any, result: Any) -> None:
        told = Told(world.service, options, prompt)
        await told.begin()
        interactions = Interactions(told.journal, lambda: None)
        asking = [await told.ask(interactions, {"questions": each}) for each in asked]
        await told.check()
        interactions.withdraw("cancel")
        await asyncio.gather(*asking, return_exceptions=True)
        await told.end(result)
        await told.check()
        await world.service.running.ledger.delete(key_of(told.record))

    example()


async def test_a_restart_withdraws_every_large_question_and_keeps_the_whole(tmp_path: Path) -> None:
    asked = [{"questions": [{"question": f"{number}" + "q" * 700_000}]} for number in range(4)]
    async with start_service(tmp_path) as service:
        told = Told(service, {}, "p" * 400_000)
        await told.begin()
        interactions = Interactions(told.journal, lambda: None)
        asking = [await told.ask(interactions, each) for each in asked]
    for task in asking:
        task.cancel()
    await asyncio.gather(*asking, return_exceptions=True)  # the ledger they would write to is closed
    async with start_service(tmp_path) as service:
        told.service = service
        events = [
            event for event in await service.events(told.record.session_id) if event.HasField("interaction_resolved")
        ]
        assert len(events) == len(asked)
        async with AgentClient(service.running.address) as client:
            for event, given in zip(events, asked, strict=True):
                whole = (await client.complete(told.record.session_id, event)).interaction_resolved.interaction
                assert whole.questions[0].text == given["questions"][0]["question"]
                assert whole.state == pb.INTERACTION_STATE_WITHDRAWN
        await told.check()


async def test_what_an_earlier_version_cut_for_good_is_not_passed_off_as_whole(service: Service) -> None:
    session = pb.Session(session_id="old", state=pb.SESSION_STATE_COMPLETED, first_available_sequence=1)
    session.create_time.GetCurrentTime()
    session.rest_time.GetCurrentTime()
    field = "assistant_message.content[0].text.text"
    event = pb.SessionEvent(session_id="old", sequence=1, type="message.assistant", truncated_fields=[field])
    event.assistant_message.content.add().text.text = "the beginning"
    stub = b'{"truncated":true,"type":"assistant","bytes":2000000}'
    stored = Event(1, event.type, event.SerializeToString(), stub)
    await service.running.ledger.append(Commit(key_of(session), [stored], session))
    request = pb.ReadFieldRequest(session_id="old", sequence=1, field=field)
    assert (await refused(service.stub.ReadField(request))).reason == "INVALID_FIELD"
    async with AgentClient(service.running.address) as client:
        kept = await client.complete("old", event)
    assert kept == event
