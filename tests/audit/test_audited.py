"""The audit log of a service: every call that changes something and every refusal, and nothing that is a secret."""

from __future__ import annotations

import errno
import json
import os

import grpc
import pytest
from agentpb import agent_pb2 as pb
from click.testing import CliRunner

from agent_service import errors
from agent_service.__main__ import cli
from agent_service.api.audited import READS, Audited
from agent_service.api.call import Call, Door
from agent_service.audit import AuditLog, verify
from agent_service.audit.log import MAX_NAMELESS
from agent_service.auth import Principal, digest_of, new_token, token_id

SECRET = "a-value-that-is-nobodys-business"


@pytest.fixture
def lines(tmp_path):
    """The records of the log by now."""
    return lambda: [json.loads(line) for line in (tmp_path / "audit.log").read_text().splitlines()]


@pytest.fixture
async def service(start, tmp_path):
    return await start(audit_log=tmp_path / "audit.log")


async def test_every_call_that_changes_something_has_a_line_and_no_read_has(service, lines, options):
    done = await service.run(
        f"say: {SECRET}", options=options(env={"KEY": SECRET}, system_prompt={"text": SECRET}), request_id="r-1"
    )
    await service.status(done.session_id)
    await service.stub.Cancel(pb.CancelRequest(session_id=done.session_id, reason=SECRET))
    await service.stub.Cleanup(pb.CleanupRequest(older_than={"seconds": 0}))
    with pytest.raises(grpc.aio.AioRpcError):
        await service.stub.DeleteSession(pb.DeleteSessionRequest(session_id="no-such-session"))
    execute, cancel, cleanup, delete = lines()[1:]
    assert execute["method"] == "Execute"
    assert {key: execute[key] for key in ("principal", "decision", "session", "turn", "request_id", "seq")} == {
        "principal": "local",
        "decision": "done",
        "session": done.session_id,
        "turn": done.turn.turn_id,
        "request_id": "r-1",
        "seq": 2,
    }
    assert execute["peer"].startswith("ipv4:127.0.0.1:")
    assert (cancel["method"], cancel["session"]) == ("Cancel", done.session_id)
    assert (cleanup["count"], cleanup["sessions"]) == (1, [done.session_id])
    assert (delete["decision"], delete["reason"]) == ("failed", "SESSION_NOT_FOUND")
    assert SECRET not in json.dumps(lines())


async def test_an_answer_says_what_was_allowed(service, lines):
    options = pb.AgentOptions(interactions={"permissions": True})
    started = await service.execute("bash: touch asked", options=options)
    session = await service.until(started.session_id, pb.SESSION_PHASE_AWAITING_PERMISSION)
    interaction = session.pending_interactions[0].interaction_id
    changed = json.dumps({"command": f"touch {SECRET}"})
    await service.stub.RespondToInteraction(
        pb.RespondToInteractionRequest(
            session_id=started.session_id, interaction_id=interaction, allow={"updated_input_json": changed}
        )
    )
    await service.rest(started.session_id)
    (line,) = [each for each in lines() if each.get("method") == "RespondToInteraction"]
    assert line["interaction"] == interaction
    assert {key: line["answer"][key] for key in ("allowed", "tool", "changed")} == {
        "allowed": True,
        "tool": "Bash",
        "changed": True,
    }
    assert len(line["answer"]["input"]) == 64
    assert SECRET not in json.dumps(lines())


async def test_reads_have_lines_when_the_operator_wants_them(start, lines, tmp_path):
    service = await start(audit_log=tmp_path / "audit.log", audit_reads=True)
    await service.stub.GetServerInfo(pb.GetServerInfoRequest())
    assert lines()[-1]["method"] == "GetServerInfo"


def test_the_reads_are_those_of_the_contract():
    assert {"GetStatus", "WatchSession", "ListSessions", "GetServerInfo"} <= READS
    assert not {"Execute", "RespondToInteraction", "Cleanup", "CancelSessions"} & READS


# --- through the link alone ---


class Made(Call):
    """A call without a door."""

    __slots__ = ()
    peer = "ipv4:10.0.0.1:1"
    has_left = False
    door = Door()

    def headers(self):
        raise AssertionError("nobody asks who calls")

    def metadata(self, key):
        return ""

    def time_remaining(self):
        return None

    async def write(self, response):
        raise AssertionError("no stream")


async def go(link, method, error=None, principal=None, request=None):
    """Pass one call through the link; `error` is how it ends."""
    call = Made(method)
    if principal is not None:
        call.principal, call.owner = principal, principal.tenant
    async with link(call):
        call.request = request
        if error is not None:
            raise error


@pytest.fixture
async def log(tmp_path):
    async with AuditLog(tmp_path / "audit.log", clock=lambda: 1.0) as log:
        yield log


def link_of(log, **settings):
    return Audited(log, **{"policy": lambda: "0123456789ab", "strict": False, "reads": False, **settings})


async def test_a_refusal_has_a_line_with_its_rule_whatever_was_called(log, lines):
    who = Principal(name="ci", tenant="payments", via="token", credential="5f8e12")
    rule = {"rule": "tenant.payments.models"}

    class Denied(errors.RequestError):
        code = grpc.StatusCode.PERMISSION_DENIED
        reason = "OPTION_NOT_ALLOWED"

    with pytest.raises(Denied):
        await go(link_of(log), "GetStatus", Denied("no", metadata=rule), who, pb.GetStatusRequest(session_id="s" * 999))
    line = lines()[-1]
    assert {key: line[key] for key in line if key not in {"time", "seq", "chain"}} == {
        "principal": "ci",
        "tenant": "payments",
        "via": "token",
        "credential": "5f8e12",
        "peer": "ipv4:10.0.0.1:1",
        "method": "GetStatus",
        "decision": "refused",
        "reason": "OPTION_NOT_ALLOWED",
        "rule": "tenant.payments.models",
        "policy": "0123456789ab",
        "session": "s" * 200,
    }


async def test_strangers_cannot_fill_the_disk(log, lines, tmp_path):
    class Unknown(errors.RequestError):
        code = grpc.StatusCode.UNAUTHENTICATED
        reason = "CREDENTIALS_MISSING"

    for _ in range(1000):
        with pytest.raises(Unknown):
            await go(link_of(log), "Execute", Unknown("who are you?"))
    assert len(lines()) == 1 + MAX_NAMELESS
    assert "principal" not in lines()[-1]
    await log.__aexit__(None, None, None)
    assert next(each for each in lines() if each.get("count"))["count"] == 1000 - MAX_NAMELESS
    log._descriptor = os.open(tmp_path, os.O_RDONLY)  # the fixture closes it once more


@pytest.fixture
def full(monkeypatch, log):
    """A disk that is full while `full.set` is true; it takes three bytes of a line."""

    class Full:
        set, room = True, 1

    disk, write = Full(), os.write

    def on_disk(descriptor, data):
        if descriptor != log._descriptor or not disk.set:
            return write(descriptor, data)
        if disk.room:
            disk.room -= 1
            return write(descriptor, bytes(data[:3]))
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", on_disk)
    return disk


async def test_without_an_access_file_a_full_disk_stops_nobody_and_the_lines_follow_later(log, lines, full, tmp_path):
    link = link_of(log)
    for _ in range(5):
        await go(link, "Execute")
    assert log.failure is not None
    full.set = False
    await go(link, "Execute")
    assert log.failure is None
    assert len(lines()) == 1 + 6
    assert verify([tmp_path / "audit.log"]).problems == []


async def test_with_an_access_file_nothing_is_changed_without_a_trace(log, lines, full, tmp_path):
    link = link_of(log, strict=True)
    await go(link, "Execute")  # the line that finds the disk full is kept
    with pytest.raises(errors.StoreUnavailable, match="audit log cannot be written"):
        await go(link, "Execute")
    await go(link, "GetStatus")
    full.set = False
    await go(link, "Execute")
    assert [each.get("method") for each in lines()[1:]] == ["Execute", "Execute"]
    assert verify([tmp_path / "audit.log"]).problems == []


async def test_lines_that_nobody_can_take_are_counted(log, lines, full, tmp_path):
    link = link_of(log)
    for _ in range(6000):
        await go(link, "Execute")
    full.set = False
    await go(link, "Execute")
    dropped = [each["count"] for each in lines() if each.get("event") == "dropped"]
    assert sum(dropped) + len(lines()) - len(dropped) == 1 + 6001
    assert dropped
    assert verify([tmp_path / "audit.log"]).problems == []


# --- the command ---


async def test_a_service_that_cannot_write_the_log_does_not_start(start, tmp_path):
    with pytest.raises(errors.CannotServe, match=r"audit log .*/missing/audit\.log cannot be opened: No such file"):
        await start(audit_log=tmp_path / "missing" / "audit.log")


async def test_the_command_finds_what_was_done_to_the_file(tmp_path):
    file = tmp_path / "audit.log"
    async with AuditLog(file) as log:
        log.append({"method": "Execute"})
    whole = CliRunner().invoke(cli, ["audit", "verify", str(file), "--head", log.head.upper()])
    assert (whole.exit_code, whole.output.splitlines()) == (
        0,
        ["the head that was asked for is record 3", f"3 records, as they were written; head {log.head}"],
    )
    file.write_bytes(file.read_bytes().replace(b"Execute", b"Cleanup"))
    broken = CliRunner().invoke(cli, ["audit", "verify", str(file)])
    assert broken.exit_code == 1
    assert broken.output == f"{file}, line 2: is not what was written after the line before it\n"
    assert CliRunner().invoke(cli, ["audit", "verify", str(tmp_path / "none")]).exit_code == 1


async def test_the_head_is_noted_in_the_log_of_the_service(tmp_path, caplog):
    caplog.set_level("INFO")
    async with AuditLog(tmp_path / "audit.log") as log:
        for _ in range(2500):
            log.append({"method": "Execute"})
    told = [record.getMessage() for record in caplog.records if "head" in record.getMessage()]
    assert len(told) == 4, "at the start, twice on the way, at the end"
    assert log.head in told[-1]
    heads = [line.rpartition(" ")[2] for line in told[1:]]
    assert all(verify([tmp_path / "audit.log"], head).problems == [] for head in heads)


async def test_the_log_says_who_called_with_which_credential_and_who_was_turned_away(start, lines, tmp_path):
    token = new_token()
    (tmp_path / "access.toml").write_text(
        f'[principal.ci]\ntoken = "{digest_of(token)}"\ntenant = "payments"\nrpcs = ["@read", "Cancel"]\n'
        '[tenant.default]\nsandbox = "off"\n'
    )
    service = await start(audit_log=tmp_path / "audit.log", access=tmp_path / "access.toml")
    stub, known = service.stub, [("authorization", f"Bearer {token}")]
    for call, request, metadata in (
        (stub.Execute, pb.ExecuteRequest(prompt=SECRET), known),
        (stub.Cancel, pb.CancelRequest(session_id="none"), known),
        (stub.GetStatus, pb.GetStatusRequest(session_id="none"), known),
        (stub.GetStatus, pb.GetStatusRequest(session_id="none"), []),
        (stub.Execute, pb.ExecuteRequest(prompt="x"), [("authorization", "Bearer wrong-and-long-enough")]),
        (stub.ListSessions, pb.ListSessionsRequest(), [*known, ("origin", "http://evil.example")]),
    ):
        with pytest.raises(grpc.aio.AioRpcError):
            await call(request, metadata=metadata)
    denied, cancelled, *strangers, page = lines()[1:]
    assert {key: denied[key] for key in ("principal", "tenant", "via", "credential", "decision", "reason")} == {
        "principal": "ci",
        "tenant": "payments",
        "via": "token",
        "credential": token_id(digest_of(token)),
        "decision": "refused",
        "reason": "RPC_NOT_ALLOWED",
    }
    assert len(denied["policy"]) == 12
    assert (cancelled["method"], cancelled["reason"]) == ("Cancel", "SESSION_NOT_FOUND")
    assert [(each["method"], each["reason"]) for each in strangers] == [
        ("GetStatus", "CREDENTIALS_MISSING"),
        ("Execute", "CREDENTIALS_INVALID"),
    ]
    assert not any("principal" in each for each in [*strangers, page])
    told = json.dumps(lines())
    assert token not in told
    assert SECRET not in told
