"""The service explained by tests: continuing. A session goes on as it was, unless a request says otherwise."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import grpc.aio
from agentpb import agent_pb2 as pb

from tests.conftest import Service
from tests.invariants import check_log
from tests.rpc import refused, taken_apart

SECRET = "s3cret-value"


def said(response: pb.ExecuteResponse) -> str:
    return response.turn.result.result


async def test_a_prompt_alone_keeps_system_prompt_tools_directory_and_model(service: Service, tmp_path: Path) -> None:
    cwd = tmp_path / "project"
    cwd.mkdir()
    options = pb.AgentOptions(
        model="offline-special",
        system_prompt=pb.SystemPrompt(text="You are a gardener."),
        tools=["Bash", "Read"],
        allowed_tools=["Bash"],
        cwd=str(cwd),
        max_turns=7,
    )
    first = await service.run("request: system", options=options)
    assert "You are a gardener." in said(first)
    session_id = first.session_id

    def prompt(text: str) -> pb.ExecuteRequest:
        return pb.ExecuteRequest(prompt=text, session_id=session_id, wait={"seconds": 60})

    for asked in range(2):
        if asked:  # once with the process kept warm, once with a new one
            session = service.running.registry.live(session_id)
            assert session is not None
            await session.finished()
        assert "You are a gardener." in said(await service.stub.Execute(prompt("request: system")))
        assert said(await service.stub.Execute(prompt("request: model"))) == "offline-special"
        tools = said(await service.stub.Execute(prompt("request: tools")))
        assert "Bash" in tools
        assert "Read" in tools
        assert "Edit" not in tools
        there = await service.stub.Execute(prompt("bash: pwd\nresult"))
        assert said(there) == str(cwd)
        assert there.session.cwd == str(cwd)
    status = await service.status(session_id)
    assert status.session.options == options
    assert status.session.model == "offline-special"
    assert cwd.is_dir()


async def test_what_a_request_sets_overrides_and_what_it_clears_returns_to_the_default(service: Service) -> None:
    first = await service.run(
        "say: hi",
        options=pb.AgentOptions(
            system_prompt=pb.SystemPrompt(text="first"), allowed_tools=["Bash"], max_turns=5, env={"A": "1", "B": "2"}
        ),
    )
    second = await service.run(
        "request: system",
        session_id=first.session_id,
        options=pb.AgentOptions(system_prompt=pb.SystemPrompt(text="second"), env={"C": "3"}),
        clear_options=["max_turns"],
    )
    assert "second" in said(second)
    assert "first" not in said(second)
    now = second.session.options
    assert list(now.allowed_tools) == ["Bash"]
    assert not now.HasField("max_turns")
    assert dict(now.env) == {"C": "***"}, "a map is replaced as a whole"
    third = await service.run("bash: touch x\nsay: ok", session_id=first.session_id, clear_options=["allowed_tools"])
    assert third.session.options.system_prompt.text == "second"
    assert [denial.tool_name for denial in third.turn.result.permission_denials] == ["Bash"]


async def test_modes_say_whether_the_session_must_exist(service: Service) -> None:
    made = await service.run("say: hi", session_id="my-session.1", mode=pb.EXECUTE_MODE_CREATE)
    assert made.session_id == "my-session.1"
    again = pb.ExecuteRequest(prompt="say: hi", session_id="my-session.1", mode=pb.EXECUTE_MODE_CREATE)
    assert (await refused(service.stub.Execute(again))).reason == "SESSION_ALREADY_EXISTS"
    resumed = await service.run("recall", session_id="my-session.1", mode=pb.EXECUTE_MODE_RESUME)
    assert said(resumed) == "say: hi"
    either = await service.run("recall", session_id="my-session.1", mode=pb.EXECUTE_MODE_CREATE_OR_RESUME)
    assert either.turn.number == 3
    absent = pb.ExecuteRequest(prompt="say: hi", session_id="another", mode=pb.EXECUTE_MODE_RESUME)
    assert (await refused(service.stub.Execute(absent))).reason == "SESSION_NOT_FOUND"


async def test_one_of_two_who_create_the_same_session_at_once_is_refused(service: Service) -> None:
    async def create(mode: pb.ExecuteMode) -> str:
        try:
            await service.execute("say: hi", session_id="the-same", mode=mode)
        except grpc.aio.AioRpcError as error:
            return taken_apart(error).reason
        return "started"

    outcomes = await asyncio.gather(*(create(pb.EXECUTE_MODE_CREATE) for _ in range(10)))
    assert sorted(outcomes) == ["SESSION_ALREADY_EXISTS"] * 9 + ["started"]
    check_log(await service.events("the-same"), (await service.rest("the-same")).session)


async def test_titles_and_labels_are_merged(service: Service) -> None:
    first = await service.run("say: hi", title="A title", labels={"team": "red", "kind": "test"})
    second = await service.run("say: hi", session_id=first.session_id, labels={"team": "blue", "new": ""})
    assert second.session.title == "A title"
    assert dict(second.session.labels) == {"team": "blue", "kind": "test", "new": ""}
    third = await service.run("say: hi", session_id=first.session_id, title="Another")
    assert third.session.title == "Another"
    many = {str(number): "" for number in range(62)}
    request = pb.ExecuteRequest(prompt="say: hi", session_id=first.session_id, labels=many)
    assert set((await refused(service.stub.Execute(request))).fields) == {"labels"}
    assert dict((await service.status(first.session_id)).session.labels) == dict(second.session.labels)


async def test_a_fork_inherits_and_its_parent_does_not_notice(service: Service) -> None:
    parent = await service.run("say: hi", options=pb.AgentOptions(system_prompt=pb.SystemPrompt(text="old")), title="P")
    before = (await service.status(parent.session_id)).session
    fork = await service.run("recall\nbash: true\nrequest: system", fork_from=parent.session_id, session_id="the-fork")
    assert fork.session_id == "the-fork"
    assert fork.session.parent_session_id == parent.session_id
    answers = [
        event.assistant_message.content[0] for event in await service.events("the-fork") if "assist" in event.type
    ]
    assert answers[0].text.text == "say: hi"
    assert "old" in said(fork)
    assert fork.session.turn_count == 1
    assert fork.session.cwd != before.cwd
    further = await service.run("recall", session_id="the-fork")
    assert said(further) == "say: hi"
    assert (await service.status(parent.session_id)).session == before
    assert said(await service.run("recall", session_id=parent.session_id)) == "say: hi"


async def test_a_session_without_cwd_has_an_empty_directory_of_its_own_until_it_is_deleted(service: Service) -> None:
    allowed = pb.AgentOptions(allowed_tools=["Bash"])
    first = await service.run("bash: pwd; ls -A; echo x > kept\nresult", options=allowed)
    own = Path(first.session.cwd)
    assert said(first) == str(own)
    assert own.is_relative_to(service.data_dir)
    assert said(await service.run("bash: cat kept\nresult", session_id=first.session_id)) == "x"
    other = await service.run("say: hi")
    assert other.session.cwd != first.session.cwd
    await service.stub.DeleteSession(pb.DeleteSessionRequest(session_id=first.session_id))
    assert not os.path.exists(own.parent)  # noqa: ASYNC240 - a glance
    assert os.path.exists(other.session.cwd)  # noqa: ASYNC240 - a glance


async def test_secrets_come_out_nowhere(service: Service) -> None:
    options = pb.AgentOptions(
        env={"TOKEN": SECRET},
        settings_json=json.dumps({"companyAnnouncements": [SECRET]}),
        mcp_servers={
            "one": pb.McpServer(stdio=pb.McpStdioServer(command="false", env={"KEY": SECRET})),
            "two": pb.McpServer(http=pb.McpHttpServer(url="http://127.0.0.1:9", headers={"Authorization": SECRET})),
            "three": pb.McpServer(sse=pb.McpHttpServer(url="http://127.0.0.1:9", headers={"X-Key": SECRET})),
        },
    )
    options.allowed_tools.append("Bash")
    dry = await service.execute("say: hi", options=options, validate_only=True)
    first = await service.run("bash: test -n $TOKEN && echo it is there\nresult", options=options, request_id="k")
    assert said(first) == "it is there"
    session_id = first.session_id
    again = await service.run("bash: test -n $TOKEN && echo it is there\nresult", options=options, request_id="k")
    assert again.deduplicated
    watched = [
        response
        async for response in service.stub.WatchSession(pb.WatchSessionRequest(session_id=session_id, include_raw=True))
    ]
    forked = await service.execute("say: hi", fork_from=session_id)
    checked = await service.execute("say: hi", session_id=session_id, validate_only=True)
    answers = [
        dry,
        first,
        again,
        checked,
        forked,
        *watched,
        await service.status(session_id),
        await service.stub.ListSessions(pb.ListSessionsRequest()),
        await service.stub.ListEvents(pb.ListEventsRequest(session_id=session_id, include_raw=True)),
        await service.stub.Interrupt(pb.InterruptRequest(session_id=session_id)),
        await service.stub.Cancel(pb.CancelRequest(session_id=session_id)),
        await service.stub.DeleteSession(pb.DeleteSessionRequest(session_id=session_id)),
    ]
    for answer in answers:
        assert SECRET.encode() not in answer.SerializeToString(), answer
    shown = answers[-1].session.options
    assert dict(shown.env) == {"TOKEN": "***"}
    assert shown.settings_json == "***"
    assert shown.mcp_servers["one"].stdio.env["KEY"] == "***"
    assert shown.mcp_servers["two"].http.headers["Authorization"] == "***"
    assert shown.mcp_servers["three"].sse.headers["X-Key"] == "***"


async def test_a_dry_run_starts_nothing(service: Service) -> None:
    dry = await service.execute("say: hi", session_id="dry", validate_only=True, request_id="dry")
    assert not dry.session_id
    assert not dry.HasField("turn")
    assert (await refused(service.stub.GetStatus(pb.GetStatusRequest(session_id="dry")))).reason == "SESSION_NOT_FOUND"
    real = await service.run("say: hi", session_id="dry", request_id="dry")
    assert not real.deduplicated
    again = await service.execute("say: hi", session_id="dry", validate_only=True)
    assert again.session_id == "dry"
    assert again.session == (await service.status("dry")).session
    assert again.session.turn_count == 1
