"""Calls are tried again when that is safe, have deadlines, page by themselves and fail with typed errors."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from agent_client import AgentClient, RunCancelled, RunFailed, errors
from agent_client.channel import service_config
from agentpb import agent_pb2 as pb
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2 as rpc

METHODS = {
    "Execute": lambda client: client.execute("x"),
    "GetStatus": lambda client: client.status("s"),
    "Cancel": lambda client: client.cancel("s"),
    "Cleanup": lambda client: client.cleanup(),
    "DeleteSession": lambda client: client.delete("s"),
    "SendMessage": lambda client: client.send_message("s", "x"),
    "Interrupt": lambda client: client.interrupt("s"),
    "RespondToInteraction": lambda client: client.deny("s", "i"),
    "GetServerInfo": lambda client: client.server_info(),
}


@pytest.mark.parametrize("method", METHODS)
async def test_a_server_that_is_away_for_a_moment_is_asked_again(client, service, script, method):
    service.fail(method, *[script.unavailable] * 2)
    await METHODS[method](client)
    assert len(service.requests[method]) == 3
    assert len({str(request) for request in service.requests[method]}) == 1, "a retry is the same request"


@pytest.mark.parametrize("method", METHODS)
async def test_every_unary_call_has_a_deadline(client, service, asked, method):
    await METHODS[method](client)
    assert asked[method] == client.timeout + (5 if method == "Cancel" else 0), "a cancel has its grace besides"
    assert service.deadlines[method], "the service is told of it"


async def test_the_clients_own_retries_outlast_the_channels(client, service, script):
    service.fail("Execute", *[script.unavailable] * 7)
    await client.execute("x")
    assert len(service.requests["Execute"]) == 8


WITH_REQUEST_ID = [
    method.name
    for method in pb.DESCRIPTOR.services_by_name["AgentService"].methods
    if "request_id" in method.input_type.fields_by_name
]


@pytest.mark.parametrize("method", WITH_REQUEST_ID)
async def test_all_attempts_of_a_call_have_one_request_id_and_the_next_call_another(client, service, script, method):
    service.fail(method, *[script.unavailable] * 6)
    await METHODS[method](client)
    await METHODS[method](client)
    *attempts, last = (request.request_id for request in service.requests[method])
    assert len(attempts) == 7
    assert len(set(attempts)) == 1
    assert attempts[0]
    assert last
    assert last != attempts[0]


@pytest.mark.parametrize("method", ["Execute", "SendMessage"])
async def test_a_request_id_may_be_given(client, service, method):
    await METHODS[method](client)
    await METHODS[method](client)
    await client.execute("x", request_id="mine")
    await client.send_message("s", "x", request_id="mine")
    first, second, third = (request.request_id for request in service.requests[method])
    assert first
    assert first != second
    assert third == "mine"


async def test_the_server_decides_about_the_pause_and_may_forbid_a_retry(client, service, script):
    draining = (grpc.StatusCode.UNAVAILABLE, "SERVER_DRAINING", "going down")
    service.fail("Execute", script.refusal(*draining, pushback="10"))
    await client.execute("x")
    assert len(service.requests["Execute"]) == 2
    service.fail("Execute", script.refusal(*draining, pushback="-1"))
    with pytest.raises(errors.ServerDraining, match="going down"):
        await client.execute("x")
    assert len(service.requests["Execute"]) == 3


async def test_a_refusal_is_not_repeated(client, service, script):
    service.fail("Execute", script.refusal(grpc.StatusCode.FAILED_PRECONDITION, "SESSION_BUSY"))
    with pytest.raises(errors.SessionBusy):
        await client.execute("x")
    assert len(service.requests["Execute"]) == 1


async def test_no_server_at_all_is_told_with_what_to_do():
    no_retries = {"grpc.enable_retries": 0}
    async with AgentClient("127.0.0.1:1", first_contact_for=0.2, channel_options=no_retries) as client:
        with pytest.raises(errors.Unavailable, match="agent-service serve"):
            await client.server_info()


async def test_metadata_goes_with_every_call(service, script):
    async with AgentClient(service.address, metadata={"authorization": "Bearer t"}) as client:
        await client.server_info()
        async for _ in client.watch(script.SESSION):
            pass
    assert all(each["authorization"] == "Bearer t" for each in service.metadata)


async def test_a_wait_moves_the_deadline(client, service, asked):
    await client.status("s", wait=timedelta(seconds=60))
    assert asked["GetStatus"] == client.timeout + 60
    assert service.deadlines["GetStatus"] > client.timeout, "the service is told of it"
    assert service.requests["GetStatus"][0].wait.seconds == 60


def test_the_retry_policy_names_every_method_of_the_contract():
    methods = [method.name for method in pb.DESCRIPTOR.services_by_name["AgentService"].methods]
    assert re.findall(r'"method": "(\w+)"', service_config()) == methods


# --- errors ---


def test_every_reason_of_the_contract_has_its_class():
    calls = {name.removeprefix("ERROR_REASON_") for name, number in pb.ErrorReason.items() if 0 < number < 100}
    assert calls <= errors.BY_REASON.keys(), "those from 101 on are reasons of runs"
    assert all(issubclass(kind, errors.AgentServiceError) for kind in errors.BY_REASON.values())


@pytest.mark.parametrize("reason", errors.BY_REASON)
async def test_a_reason_becomes_its_class(client, service, script, reason):
    kind = errors.BY_REASON[reason]
    service.fail("Execute", script.refusal(kind.code, reason, "told so", pushback="-1"))
    with pytest.raises(kind, match="told so") as caught:
        await client.execute("x")
    assert type(caught.value) is kind
    assert (caught.value.code, caught.value.reason, caught.value.message) == (kind.code, reason, "told so")


async def test_an_unknown_reason_becomes_the_class_of_its_code(client, service, script):
    service.fail("Execute", script.refusal(grpc.StatusCode.NOT_FOUND, "MOON_NOT_FOUND"))
    with pytest.raises(errors.NotFound) as caught:
        await client.execute("x")
    assert caught.value.reason == "MOON_NOT_FOUND"
    service.fail("Execute", script.refusal(grpc.StatusCode.DATA_LOSS, "WORSE"))
    with pytest.raises(errors.AgentServiceError) as lost:
        await client.execute("x")
    assert lost.value.code is grpc.StatusCode.DATA_LOSS


@pytest.mark.parametrize("reason", ["OPTION_NOT_ALLOWED", "PATH_NOT_ALLOWED"])
async def test_what_a_policy_forbids_is_named_field_by_field(client, service, script, reason):
    bad = rpc.BadRequest(field_violations=[{"field": "options.max_turns", "description": "must be at most 5"}])
    refusal = script.refusal(grpc.StatusCode.PERMISSION_DENIED, reason, "no", bad, rule="tenant.a.max_turns")
    service.fail("Execute", refusal)
    with pytest.raises(errors.PermissionDenied) as denied:
        await client.execute("x", profile="review")
    assert denied.value.violations == (("options.max_turns", "must be at most 5"),)
    assert denied.value.metadata["rule"] == "tenant.a.max_turns"
    assert service.requests["Execute"][0].profile == "review"


async def test_details_arrive_as_attributes(client, service, script):
    bad = rpc.BadRequest(field_violations=[{"field": "options.max_turns", "description": "at least 1"}])
    service.fail("Execute", script.refusal(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", "bad", bad))
    with pytest.raises(errors.InvalidField) as invalid:
        await client.execute("x")
    assert invalid.value.violations == (("options.max_turns", "at least 1"),)

    retry = rpc.RetryInfo(retry_delay=Duration(seconds=7))
    service.fail("Execute", script.refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL", "full", retry))
    with pytest.raises(errors.QueueFull) as full:
        await client.execute("x")
    assert full.value.retry_after == 7

    missing = rpc.ResourceInfo(resource_type="agentservice.v1.Session", resource_name="abc")
    service.fail("GetStatus", script.refusal(grpc.StatusCode.NOT_FOUND, "SESSION_NOT_FOUND", "gone", missing))
    with pytest.raises(errors.SessionNotFound) as gone:
        await client.status("abc")
    assert gone.value.resource == "abc"


async def test_answers_need_a_choice(client):
    with pytest.raises(TypeError, match="exactly one"):
        await client.respond("s", "i")


# --- lists ---


async def test_a_listing_reads_all_pages_and_no_more_than_asked_for(client, service):
    service.answers["ListSessions"] = [
        pb.ListSessionsResponse(sessions=[{"session_id": "a"}, {"session_id": "b"}], next_page_token="1"),
        pb.ListSessionsResponse(sessions=[{"session_id": "c"}]),
    ]
    assert [each.session_id async for each in client.list_sessions()] == ["a", "b", "c"]
    service.requests.clear()
    assert [each.session_id async for each in client.list_sessions(limit=2)] == ["a", "b"]
    assert len(service.requests["ListSessions"]) == 1


async def test_a_filter_reaches_listing_and_cleanup(client, service):
    service.answers["ListSessions"] = [pb.ListSessionsResponse()]
    since = datetime(2026, 1, 2, tzinfo=UTC)
    conditions = {"states": ["running"], "phases": ["AWAITING_INPUT"], "labels": {"a": "b"}, "create_time_min": since}
    assert [each async for each in client.list_sessions(**conditions, order_by="update_time_desc")] == []
    await client.cleanup(older_than=3600, dry_run=True, **conditions)
    listed, cleaned = service.requests["ListSessions"][0], service.requests["Cleanup"][0]
    assert listed.filter == cleaned.filter
    assert listed.filter.states == [pb.SESSION_STATE_RUNNING]
    assert listed.filter.create_time_min.ToDatetime(UTC) == since
    assert listed.order_by == pb.SESSION_ORDER_UPDATE_TIME_DESC
    assert (cleaned.older_than.seconds, cleaned.dry_run) == (3600, True)


async def test_stored_events_are_paged(client, service, script):
    service.numbered(5)
    handle = client.session(script.SESSION)
    assert [event.sequence async for event in handle.events()] == [1, 2, 3, 4, 5]


# --- runs ---


async def test_a_run_returns_what_came_of_it(client, service):
    service.numbered(2)
    service.end_turn(result="42", cost_usd=0.5, num_turns=2, structured_output_json='{"n": 42}')
    result = await client.run("x")
    assert (result.text, result.cost_usd, result.num_turns, result.structured_output) == ("42", 0.5, 2, {"n": 42})
    assert result.ok
    assert result.session_id == service.session.session_id


@pytest.mark.parametrize(("state", "kind"), [("ERROR", RunFailed), ("CANCELLED", RunCancelled)])
async def test_a_run_that_fails_raises_unless_told_otherwise(client, service, state, kind):
    service.turn.state = pb.TurnState.Value(f"TURN_STATE_{state}")
    service.turn.error.message = "it broke"
    service.end_turn()
    with pytest.raises(kind, match="it broke") as caught:
        await client.run("x")
    assert caught.value.result.turn.turn_id == service.turn.turn_id
    assert (await client.run("x", check=False)).why == "it broke"


async def test_a_result_that_is_not_in_yet_times_out(client, service):
    service.at_rest = False
    handle = await client.execute("x")
    with pytest.raises(TimeoutError):
        await handle.result(timeout=0.1)


async def test_a_result_is_there_while_background_tasks_go_on(client, service):
    service.session.state, service.session.phase = pb.SESSION_STATE_RUNNING, pb.SESSION_PHASE_BACKGROUND
    service.end_turn(result="42")
    assert (await client.run("x")).text == "42"
    assert [each.HasField("wait") for each in service.requests["GetStatus"]] == [False], "one look, and no waiting"


async def test_a_session_that_has_not_noted_its_turns_end_is_given_a_moment(client, service):
    service.session.state, service.session.phase = pb.SESSION_STATE_RUNNING, pb.SESSION_PHASE_WORKING
    service.session.current_turn.turn_id = service.turn.turn_id
    service.end_turn(result="42")
    assert (await client.run("x")).text == "42"
    assert [each.wait_for for each in service.requests["GetStatus"]] == [0, pb.WAIT_FOR_NEW_EVENT]


async def test_a_handle_without_a_turn_gives_the_last_one(client, service, script):
    service.end_turn(result="last")
    assert (await client.session(script.SESSION).result()).text == "last"


async def test_a_handle_speaks_for_its_session(client, service, script):
    handle = client.session(script.SESSION)
    await handle.cancel(reason="r", grace=1.5, force=True)
    await handle.send("more")
    await handle.interrupt()
    await handle.allow("i", updated_input={"a": 1}, answers={"q": "yes"})
    await handle.deny("i", message="m", interrupt=True)
    await handle.delete(force=True)
    await handle.execute("again", model="m")
    assert {request.session_id for requests in service.requests.values() for request in requests} == {script.SESSION}
    cancel = service.requests["Cancel"][0]
    assert (cancel.reason, cancel.grace.ToTimedelta().total_seconds(), cancel.force) == ("r", 1.5, True)
    allow, deny = service.requests["RespondToInteraction"]
    assert (allow.allow.updated_input_json, dict(allow.allow.answers)) == ('{"a": 1}', {"q": "yes"})
    assert (deny.deny.message, deny.deny.interrupt) == ("m", True)
    assert service.requests["Execute"][0].mode == pb.EXECUTE_MODE_RESUME
