"""The contract's invariants as a machine: whatever is asked of the service, in whatever order, they hold.

Real service, real CLI; few and short steps. Each example works on sessions of its own in one service.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import hypothesis.strategies as st
import pytest
from agentpb import agent_pb2 as pb
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, rule, run_state_machine_as_test

from tests.invariants import AT_REST, check_log, check_session
from tests.rpc import taken_apart
from tests.world import World

PROMPTS = ("say: hi", "slow: 0.3", "fail: 400", "bash: echo hi", "wait: 30", "turns: 2", "cut", "tokens: 200")
REFUSALS = {"SESSION_BUSY", "SESSION_NOT_FOUND", "SESSION_ACTIVE", "QUEUE_FULL", "RESUME_REJECTED"}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A service while the test lasts."""
    world = World(tmp_path / "data", patience=60, max_sessions=2, max_queued=3, idle_timeout=5.0)
    yield world
    world.close()


def machine(world: World) -> type[RuleBasedStateMachine]:
    """The machine over a service."""
    service = world.service

    async def made(method: str, request: Any) -> Any:
        return await getattr(service.stub, method)(request, timeout=40)

    class Contract(RuleBasedStateMachine):
        """Callers who do what they like."""

        sessions = Bundle("sessions")

        def __init__(self) -> None:
            super().__init__()
            self.known: dict[str, list[pb.SessionEvent]] = {}

        def call(self, method: str, request: Any) -> Any:
            """Make a call; None when it was refused for one of the reasons that are the caller's own business."""
            try:
                return world.run(made(method, request))
            except grpc.aio.AioRpcError as error:
                refusal = taken_apart(error)
                assert refusal.reason in REFUSALS, (refusal, request)
                return None

        def execute(self, **fields: Any) -> pb.ExecuteResponse | None:
            fields["options"] = pb.AgentOptions(allowed_tools=["Bash"], include_partial_messages=True)
            response: pb.ExecuteResponse | None = self.call("Execute", pb.ExecuteRequest(**fields))
            if response is not None:
                assert response.state == response.session.state
                assert response.turn.turn_id
                self.known.setdefault(response.session_id, [])
            return response

        @rule(target=sessions, prompt=st.sampled_from(PROMPTS))
        def start(self, prompt: str) -> Any:
            response = self.execute(prompt=prompt)
            return response.session_id if response is not None else multiple()

        @rule(session=sessions, prompt=st.sampled_from(PROMPTS), on_busy=st.sampled_from(pb.OnBusy.values()))
        def go_on(self, session: str, prompt: str, on_busy: Any) -> None:
            self.execute(prompt=prompt, session_id=session, on_busy=on_busy, mode=pb.EXECUTE_MODE_RESUME)

        @rule(session=sessions, prompt=st.sampled_from(PROMPTS))
        def go_on_and_wait(self, session: str, prompt: str) -> None:
            request = {"prompt": prompt, "session_id": session, "mode": pb.EXECUTE_MODE_RESUME, "wait": {"seconds": 1}}
            response = self.execute(**request)
            if response is not None and not response.wait_expired:
                assert response.turn.HasField("end_time")

        @rule(target=sessions, session=sessions)
        def fork(self, session: str) -> Any:
            response = self.execute(prompt="recall", fork_from=session)
            return response.session_id if response is not None else multiple()

        @rule(session=sessions, force=st.booleans())
        def cancel(self, session: str, force: bool) -> None:
            response = self.call("Cancel", pb.CancelRequest(session_id=session, force=force, grace={"seconds": 1}))
            if response is not None:
                assert response.session.state in AT_REST
                assert response.HasField("receipt") != response.already_at_rest

        @rule(session=sessions)
        def interrupt(self, session: str) -> None:
            self.call("Interrupt", pb.InterruptRequest(session_id=session))

        @rule(session=sessions)
        def rest(self, session: str) -> None:
            self.call("GetStatus", pb.GetStatusRequest(session_id=session, wait={"seconds": 1}))

        @rule(session=sessions, force=st.booleans())
        def delete(self, session: str, force: bool) -> None:
            if self.call("DeleteSession", pb.DeleteSessionRequest(session_id=session, force=force)) is not None:
                self.known.pop(session)

        @invariant()
        def what_is_shown_obeys_the_contract(self) -> None:
            for session_id, seen in self.known.items():
                self.read_on(session_id, seen)
                status = self.call("GetStatus", pb.GetStatusRequest(session_id=session_id))
                check_session(status.session)
                assert status.state == status.session.state
                assert (status.state == pb.SESSION_STATE_ERROR) == status.HasField("error")
                if status.state in AT_REST:
                    assert status.turn.HasField("end_time")
                    assert status.HasField("result") == status.turn.HasField("result")
                if status.session.last_sequence == len(seen):
                    check_log(seen, status.session)
            page = self.call("ListSessions", pb.ListSessionsRequest())
            assert {each.session_id for each in page.sessions} == set(self.known)

        def read_on(self, session_id: str, seen: list[pb.SessionEvent]) -> None:
            """What was seen stays as it was; what is new continues it."""
            request = pb.ListEventsRequest(session_id=session_id, after_sequence=len(seen), page_size=1000)
            seen += self.call("ListEvents", request).events
            check_log(seen)

        def teardown(self) -> None:
            for session_id, seen in self.known.items():
                self.call("Cancel", pb.CancelRequest(session_id=session_id, force=True))
                self.read_on(session_id, seen)
                session = self.call("GetStatus", pb.GetStatusRequest(session_id=session_id)).session
                whole = world.run(service.events(session_id))
                assert whole[: len(seen)] == seen
                check_log(whole, session if session.last_sequence == len(whole) else None)
                self.call("DeleteSession", pb.DeleteSessionRequest(session_id=session_id))
            load = self.call("GetServerInfo", pb.GetServerInfoRequest()).load
            assert (load.running, load.queued, load.sessions, load.watchers) == (0, 0, 0, 0)

    return Contract


def test_the_contract_holds_whatever_callers_do(world: World) -> None:
    run_state_machine_as_test(
        lambda: machine(world)(),
        settings=settings(
            max_examples=8,
            stateful_step_count=8,
            deadline=None,
            derandomize=True,
            database=None,
            phases=(Phase.explicit, Phase.generate),
            suppress_health_check=list(HealthCheck),
        ),
    )
