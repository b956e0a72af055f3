"""The service explained by tests: refusals. A bad request is told what is wrong, in words and for programs."""

from __future__ import annotations

import asyncio
import logging
import random
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from agentpb import agent_pb2 as pb
from google.protobuf.message import DecodeError

from agent_service import errors
from tests.conftest import Service, start_service
from tests.rpc import ALL, Refusal, raw_call, refused

pytestmark = pytest.mark.asyncio(loop_scope="module")

ABSENT = "5a9d7c1e-0000-4000-8000-000000000000"
OF_ONE_SESSION = [name for name, kind in ALL.items() if "session_id" in kind.DESCRIPTOR.fields_by_name]

WHERE = {
    "CREDENTIALS_MISSING": "identity/test_matrix.py::test_who_may_call_what",
    "CREDENTIALS_INVALID": "identity/test_matrix.py::test_who_may_call_what",
    "RPC_NOT_ALLOWED": "identity/test_matrix.py::test_who_may_call_what",
    "RATE_LIMITED": "identity/test_rates.py::test_a_tenant_that_starts_too_much_is_told_when_to_come_back",
    "QUOTA_EXCEEDED": "tenants/test_quotas.py::test_a_tenants_quotas_bound_it_and_nobody_else",
    "IDENTITY_UNAVAILABLE": "identity/test_signed.py::test_the_last_good_keys_count_until_they_are_stale",
    "INVALID_FIELD": "guide/test_refusals.py::test_a_bad_field_is_named_with_its_path",
    "MALFORMED_REQUEST": "guide/test_refusals.py::test_bytes_that_are_no_message_are_malformed",
    "REQUEST_TOO_LARGE": "guide/test_refusals.py::test_a_request_above_the_limit_is_refused_with_the_limit",
    "INVALID_PAGE_TOKEN": "guide/test_refusals.py::test_page_tokens_belong_to_their_question",
    "SESSION_NOT_FOUND": "guide/test_refusals.py::test_an_unknown_session_is_not_found_by_any_rpc",
    "SESSION_ALREADY_EXISTS": "guide/test_refusals.py::test_a_session_that_is_there_is_not_created",
    "SESSION_BUSY": "guide/test_refusals.py::test_a_session_at_work_refuses_another_turn_and_its_deletion",
    "SESSION_ACTIVE": "guide/test_refusals.py::test_a_session_at_work_refuses_another_turn_and_its_deletion",
    "SESSION_NOT_ACTIVE": "guide/test_refusals.py::test_a_session_that_is_there_is_not_created",
    "REQUEST_ID_REUSED": "guide/test_refusals.py::test_a_request_id_is_used_for_one_thing",
    "WORKSPACE_MISSING": "guide/test_refusals.py::test_a_conversation_without_its_files_is_not_resumed",
    "RESUME_REJECTED": "guide/test_refusals.py::test_a_conversation_without_its_files_is_not_resumed",
    "INTERNAL": "guide/test_refusals.py::test_what_breaks_inside_is_told_by_number_only",
    "SERVER_DRAINING": "guide/test_refusals.py::test_a_service_that_shuts_down_starts_nothing_and_says_so",
    "SEQUENCE_IN_FUTURE": "guide/test_watching.py::test_a_cursor_past_the_end_is_refused",
    "QUEUE_FULL": "guide/test_queueing.py::test_beyond_the_queue_a_turn_is_refused_with_when_to_come_again",
    "OPTION_NOT_ALLOWED": "policy/test_refusing.py::test_all_violations_are_told_at_once_with_what_is_allowed",
    "PATH_NOT_ALLOWED": "policy/test_refusing.py::test_a_refusal_of_directories_tells_nothing_of_the_host",
    "PROFILE_NOT_FOUND": "policy/test_profiles.py::test_a_change_of_a_file_reaches_new_sessions_only",
    "SEQUENCE_COMPACTED": "test_watcher.py::test_a_cursor_before_what_is_stored_is_refused",
}
"""Each reason the table of the contract names, and the test that meets it."""

NOT_MET = {
    "INTERACTION_KIND_MISMATCH": "an answer to an interaction: tests of interactions",
    "INTERACTION_NOT_FOUND": "an answer to an interaction: tests of interactions",
    "INTERACTION_CLOSED": "an answer to an interaction: tests of interactions",
    "TURN_NOT_FOUND": "no request must name a turn that exists: the one of Interrupt is a guard",
    "STORE_UNAVAILABLE": "a broken ledger ends the service: tests/ledger/test_failing.py",
    "UNIMPLEMENTED": "every RPC is served",
    "SANDBOX_UNAVAILABLE": "the policy asks for walls that this host has not: tests/sandbox",
}
"""Those that these RPCs cannot meet, and why."""


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def service(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    """One service for all: what is refused leaves nothing behind."""
    async with start_service(tmp_path_factory.mktemp("refusals") / "data") as service:
        yield service


async def refusal_of(service: Service, method: str, request: Any, **settings: Any) -> Refusal:
    """Make a call that must be refused as the contract says every refusal is."""
    refusal = await refused(getattr(service.stub, method)(request, **settings))
    assert refusal.domain == "agentservice.v1"
    assert refusal.kinds[0] == "ErrorInfo"
    assert refusal.size < 4096
    assert refusal.text
    assert (refusal.reason == "INVALID_FIELD") == ("BadRequest" in refusal.kinds)
    return refusal


async def invalid(service: Service, method: str, request: Any) -> dict[str, str]:
    """Make a call that must be refused for its fields; what is said of each."""
    refusal = await refusal_of(service, method, request)
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
    assert all(refusal.fields.values())
    return refusal.fields


def execute(**fields: Any) -> pb.ExecuteRequest:
    return pb.ExecuteRequest(**{"prompt": "say: never", **fields})


def with_options(**fields: Any) -> pb.ExecuteRequest:
    return execute(options=pb.AgentOptions(**fields))


def duration(seconds: int, nanos: int = 0) -> dict[str, int]:
    return {"seconds": seconds, "nanos": nanos}


BAD_FIELDS: dict[str, tuple[str, Any, set[str]]] = {
    "no prompt": ("Execute", pb.ExecuteRequest(), {"prompt"}),
    "blank prompt": ("Execute", execute(prompt=" \t\n"), {"prompt"}),
    "huge prompt": ("Execute", execute(prompt="x" * (2 << 20) + "x"), {"prompt"}),
    "unknown mode": ("Execute", execute(mode=99), {"mode"}),
    "unknown on_busy": ("Execute", execute(on_busy=-1), {"on_busy"}),
    "unknown restart_policy": ("Execute", execute(restart_policy=7), {"restart_policy"}),
    "unknown permission mode": ("Execute", with_options(permission_mode=77), {"options.permission_mode"}),
    "unknown effort": ("Execute", with_options(effort=77), {"options.effort"}),
    "unknown enum deep inside": (
        "Execute",
        with_options(agents={"a": {"description": "d", "prompt": "p", "memory": 9}}, thinking={"mode": 8}),
        {'options.agents["a"].memory', "options.thinking.mode"},
    ),
    "unknown enum in a list": ("Execute", with_options(setting_sources=[1, 42]), {"options.setting_sources[1]"}),
    "unknown enum in a filter": (
        "ListSessions",
        pb.ListSessionsRequest(filter={"states": [1, 9], "phases": [99]}, order_by=5),
        {"filter.states", "filter.phases", "order_by"},
    ),
    "unknown wait_for": ("GetStatus", pb.GetStatusRequest(session_id="a", wait_for=9), {"wait_for"}),
    "negative durations": (
        "Execute",
        execute(wait=duration(-1), ttl=duration(0, -1), queue_timeout=duration(-5), execution_timeout=duration(-1)),
        {"wait", "ttl", "queue_timeout", "execution_timeout"},
    ),
    "a duration of no time": ("Execute", execute(execution_timeout=duration(0)), {"execution_timeout"}),
    "a duration of ages": ("Execute", execute(wait=duration(1 << 40)), {"wait"}),
    "a question for ages": (
        "Execute",
        with_options(interactions=pb.InteractionPolicy(timeout=duration(1 << 38))),
        {"options.interactions.timeout"},
    ),
    "a duration that is none": ("GetStatus", pb.GetStatusRequest(session_id="a", wait=duration(0, 1 << 30)), {"wait"}),
    "negative interval": (
        "WatchSession",
        pb.WatchSessionRequest(session_id="a", heartbeat_interval=duration(-1)),
        {"heartbeat_interval"},
    ),
    "negative age": ("Cleanup", pb.CleanupRequest(older_than=duration(-1), limit=-1), {"older_than", "limit"}),
    "negative grace": ("Cancel", pb.CancelRequest(session_id="a", grace=duration(-1)), {"grace"}),
    "a grace of hours": ("Cancel", pb.CancelRequest(session_id="a", grace=duration(300, 1)), {"grace"}),
    "a long reason": ("Cancel", pb.CancelRequest(session_id="a", reason="x" * 1025), {"reason"}),
    "no time at all": (
        "ListSessions",
        pb.ListSessionsRequest(filter={"create_time_min": duration(1 << 50), "update_time_max": duration(0, -1)}),
        {"filter.create_time_min", "filter.update_time_max"},
    ),
    "relative cwd": ("Execute", with_options(cwd="tmp"), {"options.cwd"}),
    "missing cwd": ("Execute", with_options(cwd="/no/such/directory"), {"options.cwd"}),
    "missing directories": (
        "Execute",
        with_options(add_dirs=["/tmp", "/no/such"], plugins=["/no/such"]),
        {"options.add_dirs[1]", "options.plugins[0]"},
    ),
    "malformed settings": ("Execute", with_options(settings_json="{nope"), {"options.settings_json"}),
    "settings that are a list": ("Execute", with_options(settings_json="[1]"), {"options.settings_json"}),
    "malformed schema": ("Execute", with_options(output_schema_json='{"a":'), {"options.output_schema_json"}),
    "a schema with NaN": ("Execute", with_options(output_schema_json='{"a": NaN}'), {"options.output_schema_json"}),
    "a bottomless schema": (
        "Execute",
        with_options(output_schema_json='{"a":' + "[" * 100_000),
        {"options.output_schema_json"},
    ),
    "ids that are paths": (
        "Execute",
        execute(session_id="../../etc/passwd", fork_from="/etc"),
        {"session_id", "fork_from"},
    ),
    "an id with NUL": ("Execute", execute(session_id="a\0b"), {"session_id"}),
    "a hidden id": ("Execute", execute(session_id=".hidden"), {"session_id"}),
    "a fork of itself": ("Execute", execute(session_id="a", fork_from="a"), {"fork_from"}),
    "a resumed fork": ("Execute", execute(mode=pb.EXECUTE_MODE_RESUME, fork_from="a"), {"mode"}),
    "RESUME of nothing": ("Execute", execute(mode=pb.EXECUTE_MODE_RESUME), {"session_id"}),
    "long words": (
        "Execute",
        execute(title="x" * 256, request_id="x" * 129, labels={"k" * 64: "v", "k": "v" * 256, "": "v"}),
        {"title", "request_id", f"labels[{'k' * 20!r}]", "labels['k']", "labels['']"},
    ),
    "many labels": ("Execute", execute(labels={str(number): "" for number in range(65)}), {"labels"}),
    "attachments": (
        "Execute",
        execute(
            attachments=[
                {"media_type": "image/png"},
                {"media_type": "text/html", "data": b"x"},
                {"media_type": "image/png", "url": "http://example.com/x.png"},
            ]
        ),
        {"attachments[0]", "attachments[1].media_type", "attachments[2].url"},
    ),
    "attachments that are not what they say": (
        "SendMessage",
        pb.SendMessageRequest(
            session_id="a",
            text="x",
            attachments=[
                {"media_type": "image/png", "data": b"\xff\xd8\xff\xe0 a JPEG"},
                {"media_type": "application/pdf", "data": b"not one"},
                {"media_type": "text/plain", "data": b"\xff\xfe"},
                {"media_type": "image/gif", "url": "https://"},
                {"media_type": "image/gif", "url": "https:///x.gif"},
                {"media_type": "image/gif", "url": "https://a b/x.gif"},
                {"media_type": "image/gif", "url": "https://user:word@example.com/x.gif"},
                {"media_type": "text/plain", "url": "https://example.com/x.txt"},
                {"media_type": "text/plain", "data": b"x", "title": "x" * 256},
            ],
        ),
        {f"attachments[{n}].{name}" for n, name in enumerate(["data"] * 3 + ["url"] * 5 + ["title"])},
    ),
    "JSON in an answer": (
        "RespondToInteraction",
        pb.RespondToInteractionRequest(
            session_id="a", interaction_id="b", allow={"updated_input_json": '{"n": 9007199254740993}'}
        ),
        {"allow.updated_input_json"},
    ),
    "an answer under a name that the agent drops": (
        "RespondToInteraction",
        pb.RespondToInteractionRequest(session_id="a", interaction_id="b", allow={"answers": {"__proto__": "x"}}),
        {'allow.answers["__proto__"]'},
    ),
    "updates of permissions": (
        "RespondToInteraction",
        pb.RespondToInteractionRequest(
            session_id="a",
            interaction_id="b",
            allow={
                "updated_permissions": [
                    {"type": "addRules", "behavior": "allow", "rules": [{"tool_name": "Bash"}]},
                    {"type": "addRules", "behavior": "maybe", "destination": "userSettings"},
                    {"type": "setMode", "mode": "anything"},
                    {"type": "addDirectories", "directories": ["relative"]},
                    {"type": "nonsense"},
                ]
            },
        ),
        {
            "allow.updated_permissions[1].behavior",
            "allow.updated_permissions[1].destination",
            "allow.updated_permissions[1].rules",
            "allow.updated_permissions[2].mode",
            "allow.updated_permissions[3].directories[0]",
            "allow.updated_permissions[4].type",
        },
    ),
    "heavy attachments": (
        "Execute",
        execute(attachments=[{"media_type": "image/png", "data": b"\x89PNG\r\n\x1a\n" + b"x" * (3 << 20)}]),
        {"attachments"},
    ),
    "options to clear": ("Execute", execute(clear_options=["model", "nonsense"]), {"clear_options[1]"}),
    "heavy options": ("Execute", with_options(settings_json='{"claudeMd": "' + "x" * (1 << 20) + '"}'), {"options"}),
    "history": ("GetStatus", pb.GetStatusRequest(session_id="a", history_limit=1001), {"history_limit"}),
    "a negative cursor": (
        "WatchSession",
        pb.WatchSessionRequest(session_id="a", after_sequence=-1),
        {"after_sequence"},
    ),
    "types": (
        "ListEvents",
        pb.ListEventsRequest(session_id="a", event_types=["message.*", "nope", "*"], after_sequence=-1, page_size=1001),
        {"event_types[1]", "event_types[2]", "after_sequence", "page_size"},
    ),
    "a negative page": ("ListSessions", pb.ListSessionsRequest(page_size=-1), {"page_size"}),
    "a filter's title": (
        "Cleanup",
        pb.CleanupRequest(filter={"title_contains": "%" * 100_000}),
        {"filter.title_contains"},
    ),
    "a filter's length": ("ListSessions", pb.ListSessionsRequest(filter={"states": [1] * 40_000}), {"filter.states"}),
    "a blank message": ("SendMessage", pb.SendMessageRequest(session_id="a", text=" "), {"text"}),
    "no answer": (
        "RespondToInteraction",
        pb.RespondToInteractionRequest(session_id="a"),
        {"interaction_id", "answer"},
    ),
}


@pytest.mark.parametrize("name", BAD_FIELDS)
async def test_a_bad_field_is_named_with_its_path(service: Service, name: str) -> None:
    method, request, fields = BAD_FIELDS[name]
    assert set(await invalid(service, method, request)) == fields


async def test_everything_that_is_wrong_is_said_at_once(service: Service) -> None:
    request = execute(prompt="", mode=99, title="x" * 256, options={"max_turns": -1, "cwd": "x"}, wait=duration(-1))
    found = await invalid(service, "Execute", request)
    assert set(found) == {"prompt", "mode", "title", "options.max_turns", "options.cwd", "wait"}


async def test_no_refusal_tells_which_directories_exist_before_the_rest_of_the_request_is_good(
    service: Service, tmp_path: Path
) -> None:
    for cwd in (str(tmp_path), str(tmp_path / "absent")):
        assert set(await invalid(service, "Execute", execute(prompt="", options={"cwd": cwd}))) == {"prompt"}
    absent = execute(session_id=ABSENT, mode=pb.EXECUTE_MODE_RESUME, options={"cwd": str(tmp_path / "absent")})
    assert set(await invalid(service, "Execute", absent)) == {"options.cwd"}


async def test_a_dry_run_is_refused_like_the_real_one(service: Service) -> None:
    for method, request, fields in BAD_FIELDS.values():
        if method == "Execute" and request.ByteSize() < 10_000:
            dry = pb.ExecuteRequest()
            dry.CopyFrom(request)
            dry.validate_only = True
            assert set(await invalid(service, "Execute", dry)) == fields
    assert (
        await refusal_of(service, "Execute", execute(fork_from=ABSENT, validate_only=True))
    ).reason == "SESSION_NOT_FOUND"


@pytest.mark.parametrize("method", OF_ONE_SESSION)
async def test_an_unknown_session_is_not_found_by_any_rpc(service: Service, method: str) -> None:
    fields: dict[str, Any] = {"session_id": ABSENT}
    fields |= {"prompt": "say: x", "mode": pb.EXECUTE_MODE_RESUME} if method == "Execute" else {}
    fields |= {"text": "x"} if method == "SendMessage" else {}
    fields |= {"interaction_id": "x", "deny": {}} if method == "RespondToInteraction" else {}
    fields |= {"turn_id": "x", "field": "prompt"} if method == "ReadField" else {}
    refusal = await refusal_of(service, method, ALL[method](**fields))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.NOT_FOUND, "SESSION_NOT_FOUND")
    assert refusal.resource == ABSENT


@pytest.mark.parametrize("method", [name for name in OF_ONE_SESSION if name != "Execute"])
@pytest.mark.parametrize(
    "session_id", ["../x", "a/b", "\0", "ü" * 100_000, "x" * 3_000_000], ids=["up", "path", "NUL", "long", "longer"]
)
async def test_any_text_may_be_asked_for_as_a_session(service: Service, method: str, session_id: str) -> None:
    fields: dict[str, Any] = {"session_id": session_id}
    fields |= {"text": "x"} if method == "SendMessage" else {}
    fields |= {"interaction_id": "x", "deny": {}} if method == "RespondToInteraction" else {}
    fields |= {"turn_id": "x", "field": "prompt"} if method == "ReadField" else {}
    refusal = await refusal_of(service, method, ALL[method](**fields))
    assert refusal.reason == "SESSION_NOT_FOUND"


@pytest.mark.parametrize("method", [*ALL])
async def test_bytes_that_are_no_message_are_malformed(service: Service, method: str) -> None:
    chance = random.Random(method)
    junk = [b"\xff", b"\x0a\xff", b"\x0a\x02\xc3\x28", b"\x08" * 40, *(chance.randbytes(40) for _ in range(30))]
    reasons = []
    for data in junk:
        try:
            ALL[method].FromString(data)
        except DecodeError:
            refusal = await refused(raw_call(service.channel, method, data))
            assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
            assert refusal.domain == "agentservice.v1"
            reasons.append(refusal.reason)
    assert len(reasons) > 10
    assert set(reasons) == {"MALFORMED_REQUEST"}
    assert (await service.stub.GetServerInfo(pb.GetServerInfoRequest())).api_version == "agentservice.v1"


async def test_fields_from_the_future_are_ignored(service: Service) -> None:
    data = pb.GetServerInfoRequest().SerializeToString() + b"\xfa\x7f\x03abc"
    assert pb.GetServerInfoResponse.FromString(await raw_call(service.channel, "GetServerInfo", data)).api_version


@pytest.mark.parametrize(
    "request_",
    [
        execute(labels={f"{'k' * 70}{number}": "" for number in range(20_000)}),
        execute(clear_options=["ü" * 100] * 10_000),
        execute(attachments=[{}] * 100_000),
        with_options(allowed_tools=["bad tool,"] * 100_000),
        with_options(env={f"1bad{number}": "ü" * 100 for number in range(10_000)}),
        execute(session_id="ü" * 1_000_000, title="ü" * 500_000),
    ],
    ids=["labels", "clear_options", "attachments", "tools", "env", "texts"],
)
async def test_many_and_gigantic_mistakes_get_a_small_answer_soon(service: Service, request_: Any) -> None:
    async with asyncio.timeout(20):
        assert await invalid(service, "Execute", request_)


async def test_many_types_are_too_many(service: Service) -> None:
    types = ["message.user"] * 50_000
    assert set(await invalid(service, "WatchSession", pb.WatchSessionRequest(session_id="a", event_types=types))) == {
        "event_types"
    }


@pytest.mark.parametrize("method", ALL)
async def test_a_request_above_the_limit_is_refused_with_the_limit(service: Service, method: str) -> None:
    refusal = await refused(raw_call(service.channel, method, b"\x0a" * ((4 << 20) + 1)))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "REQUEST_TOO_LARGE")
    assert refusal.metadata == {"max_message_bytes": str(4 << 20)}
    assert str(4 << 20) in refusal.text


async def test_a_request_far_above_the_limit_does_not_harm_the_service(service: Service) -> None:
    refusal = await refused(service.stub.Execute(execute(prompt="x" * (9 << 20))))
    assert refusal.code is grpc.StatusCode.RESOURCE_EXHAUSTED  # gRPC's own word: it did not read the message
    assert await service.stub.GetServerInfo(pb.GetServerInfoRequest())


async def test_what_breaks_inside_is_told_by_number_only(
    service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*args: Any, **kwargs: Any) -> None:
        raise KeyError("a secret of the code")

    monkeypatch.setattr(service.running.registry.queries, "list", broken)
    refusal = await refusal_of(service, "ListSessions", pb.ListSessionsRequest())
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
    incident = refusal.metadata["incident"]
    assert refusal.text == f"internal error, incident {incident}"
    record = next(record for record in caplog.records if incident in record.getMessage())
    assert record.levelno == logging.ERROR
    assert record.exc_info


async def test_page_tokens_belong_to_their_question(service: Service) -> None:
    for _ in range(3):
        await service.execute("say: x", mode=pb.EXECUTE_MODE_CREATE)
    first = await service.stub.ListSessions(pb.ListSessionsRequest(page_size=1))
    token = first.next_page_token
    assert token
    changed = token[:-2] + ("A" if token[-2] != "A" else "B") + token[-1]
    bad = [
        ("ListSessions", pb.ListSessionsRequest(page_token="nonsense")),
        ("ListSessions", pb.ListSessionsRequest(page_token="[" * 100_000)),
        ("ListSessions", pb.ListSessionsRequest(page_token=changed)),
        ("ListSessions", pb.ListSessionsRequest(page_token=token, filter={"title_contains": "x"})),
        ("ListSessions", pb.ListSessionsRequest(page_token=token, order_by=pb.SESSION_ORDER_CREATE_TIME_ASC)),
        ("ListEvents", pb.ListEventsRequest(page_token=token, session_id=first.sessions[0].session_id)),
    ]
    for method, request in bad:
        refusal = await refusal_of(service, method, request)
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_PAGE_TOKEN")
    again = await service.stub.ListSessions(pb.ListSessionsRequest(page_size=3, page_token=token))
    assert first.sessions[0].session_id not in [session.session_id for session in again.sessions]


async def test_a_session_that_is_there_is_not_created(service: Service) -> None:
    done = await service.run("say: hi")
    create = execute(session_id=done.session_id, mode=pb.EXECUTE_MODE_CREATE)
    exists = await refusal_of(service, "Execute", create)
    assert (exists.code, exists.reason) == (grpc.StatusCode.ALREADY_EXISTS, "SESSION_ALREADY_EXISTS")
    assert exists.resource == done.session_id
    message = pb.SendMessageRequest(session_id=done.session_id, text="x")
    calm = await refusal_of(service, "SendMessage", message)
    assert (calm.code, calm.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "SESSION_NOT_ACTIVE")


async def test_a_session_at_work_refuses_another_turn_and_its_deletion(service: Service) -> None:
    session_id = (await service.execute("wait: 60")).session_id
    for request in (execute(session_id=session_id), execute(session_id=session_id, validate_only=True)):
        again = await refusal_of(service, "Execute", request)
        assert (again.code, again.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "SESSION_BUSY")
        assert "PreconditionFailure" in again.kinds
        assert set(again.metadata) == {"turn_id", "phase", "since", "interaction_id"}
        assert again.metadata["phase"] in again.text, "the text says what is in the way, and the metadata says it again"
    active = await refusal_of(service, "DeleteSession", pb.DeleteSessionRequest(session_id=session_id))
    assert (active.code, active.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "SESSION_ACTIVE")
    await service.stub.Cancel(pb.CancelRequest(session_id=session_id, force=True))


async def test_a_request_id_is_used_for_one_thing(service: Service) -> None:
    first = await service.run("say: hi", request_id="a-key")
    same = await service.run("say: hi", request_id="a-key")
    assert (same.session_id, same.turn.turn_id, same.deduplicated) == (first.session_id, first.turn.turn_id, True)
    assert not first.deduplicated
    other = await refusal_of(service, "Execute", execute(prompt="say: ho", request_id="a-key"))
    assert (other.code, other.reason) == (grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED")
    dry = execute(prompt="say: ho", request_id="a-key", validate_only=True)
    assert (await refusal_of(service, "Execute", dry)).reason == "REQUEST_ID_REUSED"


async def test_a_conversation_without_its_files_is_not_resumed(service: Service, tmp_path: Path) -> None:
    cwd = tmp_path / "work"
    cwd.mkdir()
    done = await service.run("say: hi", options=pb.AgentOptions(cwd=str(cwd)))
    shutil.rmtree(cwd)
    gone = await refusal_of(service, "Execute", execute(session_id=done.session_id))
    assert (gone.code, gone.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "WORKSPACE_MISSING")
    cwd.mkdir()
    shutil.rmtree(service.data_dir / "sessions" / done.session.workspace_id / "config" / "projects")
    for request in (execute(session_id=done.session_id), execute(fork_from=done.session_id)):
        lost = await refusal_of(service, "Execute", request)
        assert (lost.code, lost.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "RESUME_REJECTED")


async def test_every_reason_has_a_test_that_meets_it() -> None:
    reasons = {kind.reason for kind in vars(errors).values() if isinstance(kind, type) and hasattr(kind, "reason")}
    assert set(WHERE) | set(NOT_MET) >= reasons
    assert not set(WHERE) & set(NOT_MET)
    for place in WHERE.values():
        file, _, test = place.partition("::")
        assert f"def {test}(" in (Path(__file__).parents[1] / file).read_text(), place


async def test_a_service_that_shuts_down_starts_nothing_and_says_so(tmp_path: Path) -> None:
    async with start_service(tmp_path / "data", drain_timeout=5.0) as service:
        running = await service.execute("slow: 1")
        await service.until(running.session_id, pb.SESSION_PHASE_WORKING)
        drain = asyncio.create_task(service.running.registry.drain(5.0))
        await asyncio.sleep(0)
        refusal = await refused(service.stub.Execute(execute()))
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "SERVER_DRAINING")
        assert refusal.retry_after == 1.0
        assert refusal.pushback_ms == 1000
        assert (await service.stub.GetServerInfo(pb.GetServerInfoRequest())).draining
        assert (await service.rest(running.session_id)).state == pb.SESSION_STATE_COMPLETED
        await drain
