"""The service explained by tests: a fork that ends at an earlier turn of its parent."""

from __future__ import annotations

import grpc.aio
from agentpb import agent_pb2 as pb

from tests.conftest import Service
from tests.rpc import refused

FRUIT = ("apples", "pears", "plums")


async def test_a_fork_at_a_turn_knows_that_turn_and_none_behind_it(service: Service) -> None:
    first = await service.run(f"say: {FRUIT[0]}")
    for fruit in FRUIT[1:]:
        await service.run(
            f"bash: true\nsay: {fruit}", session_id=first.session_id, options=pb.AgentOptions(allowed_tools=["Bash"])
        )
    turns = [event.turn_id for event in await service.events(first.session_id) if event.type == "turn.completed"]
    for index in range(3):
        fork = await service.run("request: messages", fork_from=first.session_id, fork_at_turn_id=turns[index])
        assert [fruit in fork.turn.result.result for fruit in FRUIT] == [True] * (index + 1) + [False] * (2 - index)
        assert fork.session.parent_session_id == first.session_id
    following = await service.run("request: messages", session_id=fork.session_id)
    assert all(fruit in following.turn.result.result for fruit in FRUIT)


async def test_a_turn_that_a_fork_cannot_end_with_is_refused_before_anything_is_made(service: Service) -> None:
    parent = await service.run("fail: 401")
    other = await service.run("say: hello")

    def fork(turn_id: str, **fields: object) -> pb.ExecuteRequest:
        return pb.ExecuteRequest(prompt="recall", fork_at_turn_id=turn_id, **fields)

    unknown = "12345678-1234-4234-9234-123456789abc"
    refusal = await refused(service.stub.Execute(fork(unknown, fork_from=other.session_id)))
    assert (refusal.code, "has no turn" in refusal.text) == (grpc.StatusCode.NOT_FOUND, True)
    refusal = await refused(service.stub.Execute(fork(parent.turn.turn_id, fork_from=other.session_id)))
    assert (refusal.code, "has no turn" in refusal.text) == (grpc.StatusCode.NOT_FOUND, True)
    refusal = await refused(service.stub.Execute(fork(unknown)))
    assert (refusal.code, "must go with fork_from" in refusal.text) == (grpc.StatusCode.INVALID_ARGUMENT, True)
    refusal = await refused(service.stub.Execute(fork("first", fork_from=other.session_id)))
    assert (refusal.code, "must be the id of a turn" in refusal.text) == (grpc.StatusCode.INVALID_ARGUMENT, True)
    running = await service.stub.Execute(pb.ExecuteRequest(prompt="wait: 60", session_id=other.session_id))
    refusal = await refused(
        service.stub.Execute(fork(running.turn.turn_id, fork_from=other.session_id, validate_only=True))
    )
    assert (refusal.code, "cannot be branched" in refusal.text) == (grpc.StatusCode.FAILED_PRECONDITION, True)
    assert (await service.stub.CountSessions(pb.CountSessionsRequest())).total == 2
