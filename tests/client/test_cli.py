"""agentctl: what people see, what scripts can rely on, and that no server writes to the terminal what it obeys."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import signal
import sys

import grpc
import pytest
from agent_client.cli.values import duration, pairs
from agentpb import agent_pb2 as pb
from google.rpc import error_details_pb2 as rpc

ESCAPES = "\x1b[31mred\x1b[0m\x1b]0;title\x07 [bold]x[/bold]\r\x9b2J\u202e"


@pytest.fixture
def finished(service, script):
    """A session whose agent used a tool and answered."""
    service.events(
        script.tool_call("Bash", '{"command": "echo hello from a real tool"}'),
        script.tool_result("hello from a real tool"),
        script.text("All done."),
    )
    service.end_turn(result="All done.", num_turns=2, cost_usd=0.0012, duration={"seconds": 1, "nanos": 400_000_000})
    return service


async def test_a_first_run_shows_the_tool_its_output_the_answer_and_one_line_of_facts(finished, agentctl, script):
    done = await agentctl("run", "--allow", "Bash", "bash: echo hello from a real tool")
    assert done.out.splitlines() == [
        "Bash  echo hello from a real tool",
        "  hello from a real tool",
        "All done.",
        f"✓ completed · 2 turns · $0.0012 · 1.4 s · session {script.SESSION}",
    ]
    assert (done.code, done.err) == (0, "")


async def test_info_shows_who_calls_and_what_the_tenant_may(service, agentctl):
    table = {
        "env": [],
        "max_turns": 50,
        "max_ttl": "any",
        "sessions": {"at_work": 2, "kept": "any"},
        "profiles": ["a", "b"],
    }
    caller = pb.Caller(principal="ci", tenant="payments", ceilings_json=json.dumps(table))
    service.answers["GetServerInfo"] = pb.GetServerInfoResponse(caller=caller, policy_version="a1b2", sandbox="sealed")
    lines = (await agentctl("info")).out.splitlines()
    for line in (
        "caller               ci",
        "tenant               payments",
        "policy               a1b2",
        "  env                none",
        "  max_turns          50",
        "  sessions           at_work 2",
        "  profiles           a, b",
    ):
        assert line in lines
    assert not any("max_ttl" in line for line in lines), "what has no limit is not listed"


async def test_every_flag_of_run_reaches_the_service(finished, agentctl):
    flags = (
        "--allow Bash --allow Read --deny Write --model m --cwd /w --system s --fork f --permission-mode acceptEdits"
    )
    flags += (
        " --max-turns 3 --budget 0.5 --title t --label a=b --env K=V --timeout 5m --on-busy enqueue --ask --profile p"
    )
    done = await agentctl(
        "run", *flags.split(), "--option", 'add_dirs=["/x"]', "--option", "effort=high", "-", stdin="hi"
    )
    assert done.code == 0, done
    request = finished.requests["Execute"][0]
    assert (request.prompt, request.fork_from, request.title, request.profile) == ("hi", "f", "t", "p")
    assert (dict(request.labels), request.on_busy) == ({"a": "b"}, pb.ON_BUSY_ENQUEUE)
    assert request.execution_timeout.seconds == 300
    assert request.options == pb.AgentOptions(
        allowed_tools=["Bash", "Read"],
        disallowed_tools=["Write"],
        model="m",
        cwd="/w",
        system_prompt={"text": "s"},
        permission_mode=pb.PERMISSION_MODE_ACCEPT_EDITS,
        max_turns=3,
        max_budget_usd=0.5,
        env={"K": "V"},
        add_dirs=["/x"],
        effort=pb.EFFORT_HIGH,
        interactions={"permissions": True, "questions": True},
    )


async def test_resuming_names_the_session(finished, agentctl, script):
    await agentctl("run", "--resume", script.SESSION, "more")
    request = finished.requests["Execute"][0]
    assert (request.session_id, request.mode) == (script.SESSION, pb.EXECUTE_MODE_RESUME)


async def test_detaching_prints_the_id_and_leaves(service, agentctl, script):
    service.at_rest = False
    assert (await agentctl("run", "--detach", "x")).out == f"{script.SESSION}\n"


async def test_quiet_prints_the_answer_only(finished, agentctl):
    assert (await agentctl("run", "-q", "x")).out == "All done.\n"


async def test_json_is_one_event_a_line(finished, agentctl):
    done = await agentctl("run", "--json", "x")
    events = [json.loads(line) for line in done.out.splitlines()]
    assert [event["type"] for event in events][-1] == "turn.completed"
    assert events[0]["assistant_message"]["content"][0]["tool_use"]["name"] == "Bash"


async def test_pieces_are_not_repeated_by_the_whole_that_follows(service, agentctl, script):
    service.events(script.partial("Hel"), script.partial("lo"), script.text("Hello."))
    service.end_turn()
    assert (await agentctl("run", "-q", "x")).out == "Hello.\n"


async def test_a_whole_makes_up_for_lost_pieces(service, agentctl, script):
    service.events(script.partial("lo"), script.text("Hello"))
    service.end_turn()
    assert (await agentctl("run", "-q", "x")).out == "lo\nHello\n"


async def test_nothing_a_server_sends_controls_the_terminal(service, agentctl, script):
    service.session.title = service.session.cwd = ESCAPES
    service.events(
        script.text(ESCAPES), script.partial(ESCAPES), script.tool_call(ESCAPES, "{}"), script.tool_result(ESCAPES)
    )
    service.end_turn()
    service.answers["ListSessions"] = [pb.ListSessionsResponse(sessions=[service.session])]
    for arguments in (["run", "x"], ["ls"], ["status", "s"], ["export", "s"]):
        done = await agentctl(*arguments)
        assert done.code == 0, done
        assert "[bold]x[/bold]" in done.out, "neither is our own markup read from it"
        assert "\\x1b[31mred\\x1b[0m\\x1b]0;title\\x07" in done.out, "nothing is removed"
        assert "\\u202e" in done.out
        assert not set("\x1b\r\x9b\u202e") & set(done.out)
    service.fail("GetStatus", script.refusal(grpc.StatusCode.NOT_FOUND, "SESSION_NOT_FOUND", ESCAPES))
    assert not set("\x1b\r\x9b") & set((await agentctl("status", "s")).err)


# --- exit codes ---


@pytest.mark.parametrize(
    ("state", "phase", "code", "word"),
    [
        ("ERROR", "FAILED", 1, "✗ failed: it broke"),
        ("ERROR", "TIMED_OUT", 124, "✗ timed out: it broke"),
        ("CANCELLED", "CANCELLED", 6, "■ cancelled"),
    ],
)
async def test_how_a_run_ends_is_its_exit_code(service, agentctl, state, phase, code, word):
    service.turn.state = pb.TurnState.Value(f"TURN_STATE_{state}")
    service.turn.error.message = "it broke"
    service.session.state = pb.SessionState.Value(f"SESSION_STATE_{state}")
    service.session.phase = pb.SessionPhase.Value(f"SESSION_PHASE_{phase}")
    service.end_turn()
    done = await agentctl("run", "x")
    assert done.code == code
    assert word in done.out


@pytest.mark.parametrize(
    ("status", "reason", "code", "advice"),
    [
        ("INVALID_ARGUMENT", "INVALID_FIELD", 2, ""),
        ("NOT_FOUND", "SESSION_NOT_FOUND", 3, "agentctl ls"),
        ("FAILED_PRECONDITION", "SESSION_BUSY", 5, "--on-busy enqueue"),
        ("RESOURCE_EXHAUSTED", "QUEUE_FULL", 5, "--state pending"),
        ("INTERNAL", "INTERNAL", 4, ""),
    ],
)
async def test_a_refusal_is_one_line_with_advice_and_a_code(service, agentctl, script, status, reason, code, advice):
    service.fail("Execute", script.refusal(grpc.StatusCode[status], reason, "the reason why"))
    done = await agentctl("run", "x")
    assert done.code == code
    assert done.err.startswith("agentctl: the reason why")
    assert advice in done.err
    assert done.err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [["run"], ["run", "--timeout", "5x", "x"], ["run", "--label", "a", "x"], ["run", "--option", "nonsense=1", "x"]],
)
async def test_wrong_usage_is_code_2_and_no_traceback(agentctl, arguments):
    done = await agentctl(*arguments)
    assert done.code == 2
    assert "Traceback" not in done.err


async def test_help_tells_the_exit_codes(agentctl):
    done = await agentctl("--help")
    assert "124  time is over" in done.out


# --- the other commands ---


async def test_cancel_prints_the_receipt(service, agentctl):
    receipt = {"outcome": "CANCEL_OUTCOME_TERMINATED", "process_ids": [12, 13], "duration": {"nanos": 200_000_000}}
    service.answers["Cancel"] = pb.CancelResponse(receipt=receipt)
    done = await agentctl("cancel", "s", "--grace", "2s", "--reason", "enough")
    assert done.out == "cancelled · terminated · processes 12, 13 dead · 0.2 s\n"
    assert service.requests["Cancel"][0].grace.seconds == 2


async def test_lists_are_tab_separated_for_scripts(service, agentctl):
    session = {"session_id": "a", "state": "SESSION_STATE_ERROR", "phase": "SESSION_PHASE_TIMED_OUT", "title": "t"}
    service.answers["ListSessions"] = [pb.ListSessionsResponse(sessions=[{**session, "created_by": "ann"}])]
    done = await agentctl("ls", "--state", "error", "--label", "k=v", "--by", "ann")
    columns = done.out.rstrip("\n").split("\t")
    assert (columns[:3], columns[-2:]) == (["a", "error (timed out)", "0"], ["t", "ann"])
    assert service.requests["ListSessions"][0].filter == pb.SessionFilter(
        states=[pb.SESSION_STATE_ERROR], labels={"k": "v"}, created_by="ann"
    )


async def test_status_that_waited_in_vain_is_124(service, agentctl):
    service.answers["GetStatus"] = pb.GetStatusResponse(session=service.session, wait_expired=True)
    assert (await agentctl("status", "s", "--wait", "1s")).code == 124


async def test_status_shows_the_mode_and_the_effort_in_force(service, agentctl):
    assert "mode" not in (await agentctl("status", "s")).out, "the default is not worth a line"
    service.session.permission_mode, service.session.effort = pb.PERMISSION_MODE_ACCEPT_EDITS, "high"
    shown = (await agentctl("status", "s")).out
    assert "mode     accept edits\n" in shown
    assert "effort   high\n" in shown


async def test_what_agents_ask_is_listed_and_answered(service, agentctl):
    rule = {"type": "addRules", "rules": [{"tool_name": "Bash"}], "behavior": "allow"}
    permission = pb.Interaction(
        interaction_id="i1",
        kind="INTERACTION_KIND_PERMISSION",
        tool_name="Bash",
        input_json='{"command": "make"}',
        suggestions=[rule],
    )
    service.session.pending_interactions.append(permission)
    service.answers["ListSessions"] = [pb.ListSessionsResponse(sessions=[service.session])]
    listed = await agentctl("pending")
    assert "Bash asks for permission: make" in listed.out
    assert f"agentctl approve {service.session.session_id} i1" in listed.out
    given = await agentctl("approve", "s", "--remember", "rule", "--input", '{"command": "make -n"}')
    assert given.out == "allowed\n  remembered for this session: allow every use of Bash without asking\n"
    assert (await agentctl("deny", "s", "i1", "--message", "no", "--interrupt")).out == "denied\n"
    allowed, denied = service.requests["RespondToInteraction"]
    assert allowed.allow.updated_input_json == '{"command": "make -n"}'
    assert allowed.allow.updated_permissions[0].rules[0].tool_name == "Bash"
    assert denied.deny == pb.PermissionDeny(message="no", interrupt=True)
    assert (await agentctl("approve", "s", "other", "--remember", "rule")).code == 3


async def test_questions_are_answered_by_text_header_or_number(service, agentctl):
    questions = [
        {"text": "Which colour?", "header": "Colour", "options": [{"label": "red"}, {"label": "blue"}]},
        {"text": "1+1=?", "header": "Sum", "options": [{"label": "two"}]},
    ]
    asked = pb.Interaction(interaction_id="i1", kind="INTERACTION_KIND_QUESTION", questions=questions)
    service.session.pending_interactions.append(asked)
    done = await agentctl("answer", "s", "--answer", "Colour=2", "--answer", "1+1=?=two")
    assert done.out == "answered\n", done
    given = service.requests["RespondToInteraction"][0].allow.answers
    assert dict(given) == {"Which colour?": "blue", "1+1=?": "two"}
    assert (await agentctl("answer", "s", "--answer", "blue")).code == 2


async def test_export_writes_markdown_whose_fences_hold(finished, agentctl, script, tmp_path):
    finished.events(script.tool_result("```\ninner\n```"))
    await agentctl("export", "s", "-o", str(tmp_path / "x.md"))
    written = (tmp_path / "x.md").read_text()
    assert "**Bash**\n\n```\necho hello from a real tool\n```" in written
    assert "````\n```\ninner\n```\n````" in written
    lines = (await agentctl("export", "s", "--format", "jsonl")).out.splitlines()
    assert [json.loads(line)["sequence"] for line in lines] == ["1", "2", "3", "4", "5"]


# --- as a program of its own ---


async def test_an_absent_server_is_said_to_be_absent():
    process = await asyncio.create_subprocess_exec(
        *_program("ls", server="127.0.0.1:1"), stderr=asyncio.subprocess.PIPE
    )
    err = (await asyncio.wait_for(process.communicate(), 20))[1].decode()
    assert (process.returncode, err.count("\n")) == (4, 1)
    assert "agent-service serve" in err


async def test_a_reader_that_has_seen_enough_is_no_failure(finished):
    program = " ".join(f"'{word}'" for word in _program("run", "x", server=finished.address))
    process = await asyncio.create_subprocess_shell(f"{program} | true", stderr=asyncio.subprocess.PIPE)
    assert (await asyncio.wait_for(process.communicate(), 20))[1] == b""


async def test_ctrl_c_without_a_terminal_leaves_the_session_running(service, script):
    service.at_rest = False
    process = await asyncio.create_subprocess_exec(
        *_program("run", "x", server=service.address), stderr=asyncio.subprocess.PIPE
    )
    await asyncio.wait_for(service.watcher_came.wait(), 10)
    process.send_signal(signal.SIGINT)
    _, err = await asyncio.wait_for(process.communicate(), 10)
    assert process.returncode == 130
    assert f"agentctl watch {script.SESSION}" in err.decode()
    assert not service.requests["Cancel"]


async def test_ctrl_c_on_a_terminal_asks_and_can_cancel(service):
    service.at_rest = False
    async with _Terminal("run", "x", server=service.address) as terminal:
        await asyncio.wait_for(service.watcher_came.wait(), 10)
        terminal.type("\x03")
        await terminal.shows("or cancel it?")
        terminal.type("c\n")
        assert await terminal.exit_code() == 6
    assert service.requests["Cancel"][0].reason
    assert service.requests["Execute"][0].options.include_partial_messages


async def test_a_listing_on_a_terminal_shows_whole_ids(service, script):
    service.session.phase = pb.SESSION_PHASE_AWAITING_PERMISSION
    service.session.title = "a long title " * 10
    service.answers["ListSessions"] = [pb.ListSessionsResponse(sessions=[service.session])]
    async with _Terminal("ls", server=service.address) as terminal:
        await terminal.shows(script.SESSION)
        assert await terminal.exit_code() == 0


async def test_a_pending_permission_is_asked_on_the_spot(service):
    asked = pb.Interaction(interaction_id="i1", kind="INTERACTION_KIND_PERMISSION", tool_name="Bash")
    requested = pb.InteractionRequested(interaction=asked)
    service.events(pb.SessionEvent(type="interaction.requested", interaction_requested=requested))
    service.end_turn()
    service.session.pending_interactions.append(asked)
    async with _Terminal("run", "--ask", "x", server=service.address) as terminal:
        await terminal.shows("allow?")
        terminal.type("y\n")
        assert await terminal.exit_code() == 0
    assert service.requests["RespondToInteraction"][0].HasField("allow")


async def test_nobody_is_asked_again_what_was_answered_long_ago(service):
    for number in ("i1", "i2"):
        asked = pb.Interaction(interaction_id=number, kind="INTERACTION_KIND_PERMISSION", tool_name="Bash")
        requested = pb.InteractionRequested(interaction=asked)
        service.events(pb.SessionEvent(type="interaction.requested", interaction_requested=requested))
    service.session.pending_interactions.append(asked)
    service.session.last_sequence = 2
    service.end_turn()
    async with _Terminal("watch", "--ask", "s", server=service.address) as terminal:
        await terminal.shows("allow?")
        terminal.type("y\n")
        assert await terminal.exit_code() == 0
    assert [each.interaction_id for each in service.requests["RespondToInteraction"]] == ["i2"]
    assert len(service.requests["GetStatus"]) == 1, "one look answers for all that is replayed"


async def test_always_is_the_rule_alone_and_other_words_are_no_answer(service):
    suggestions = [
        {"type": "setMode", "mode": "acceptEdits"},
        {"type": "addRules", "behavior": "allow", "rules": [{"tool_name": "Write"}]},
    ]
    asked = pb.Interaction(
        interaction_id="i1", kind="INTERACTION_KIND_PERMISSION", tool_name="Write", suggestions=suggestions
    )
    requested = pb.InteractionRequested(interaction=asked)
    service.events(pb.SessionEvent(type="interaction.requested", interaction_requested=requested))
    service.end_turn()
    service.session.pending_interactions.append(asked)
    async with _Terminal("run", "--ask", "x", server=service.address) as terminal:
        await terminal.shows("1. switch to the mode acceptEdits")
        await terminal.shows("allow?")
        terminal.type("nonsense\n")
        await terminal.shows("allow?", times=2)
        terminal.type("a 7\n")
        await terminal.shows("allow?", times=3)
        terminal.type("a\n")
        assert await terminal.exit_code() == 0
    given = service.requests["RespondToInteraction"][0].allow.updated_permissions
    assert [each.type for each in given] == ["addRules"]


async def test_a_watch_says_what_it_replays(finished, agentctl):
    assert (await agentctl("watch", "s")).out.startswith("· replaying 4 events; the session is at rest\n")
    finished.session.state = pb.SESSION_STATE_RUNNING
    assert (await agentctl("watch", "s", "--after", "3")).out.startswith("· replaying 1 event, then live\n")
    assert "replaying" not in (await agentctl("watch", "s", "--json")).out


async def test_an_mcp_server_that_failed_is_told(service, agentctl):
    servers = [{"name": "db\x1b", "status": "failed"}, {"name": "ok", "status": "connected"}]
    init = pb.SystemMessage(subtype="init", data_json=json.dumps({"mcp_servers": servers}))
    service.events(pb.SessionEvent(type="message.system", system_message=init))
    service.end_turn()
    done = await agentctl("run", "x")
    assert done.out.splitlines()[0] == "· MCP server db\\x1b: failed; its tools are missing"
    assert "ok" not in done.out


@pytest.mark.parametrize(
    ("phase", "ways"),
    [
        ("SESSION_PHASE_WORKING", ["agentctl watch abc", "agentctl cancel abc", "--on-busy enqueue"]),
        ("SESSION_PHASE_AWAITING_PERMISSION", ["agentctl pending", "agentctl cancel abc", "--on-busy interrupt"]),
    ],
)
async def test_a_busy_session_is_told_with_the_ways_out(service, agentctl, script, phase, ways):
    busy = rpc.ResourceInfo(resource_type="agentservice.v1.Session", resource_name="abc")
    refusal = script.refusal(
        grpc.StatusCode.FAILED_PRECONDITION, "SESSION_BUSY", "abc is at work", busy, phase=phase, turn_id="t"
    )
    service.fail("Execute", refusal)
    done = await agentctl("run", "x")
    assert [each for each in ways if each not in done.err] == []
    assert done.err.count("\n") == 1


async def test_an_emoji_that_comes_in_pieces_stays_whole(service, agentctl, script):
    family = "👩\u200d👩\u200d👧"
    service.events(script.partial("a" + family[:2]), script.partial(family[2:]), script.text("a" + family))
    service.end_turn()
    assert (await agentctl("run", "-q", "x")).out == f"a{family}\n"


# --- values ---


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("5m", 300), ("24h", 86400), ("1h30m", 5400), ("2", 2), ("250ms", 0.25)]
)
def test_durations(text, seconds):
    assert duration(text).total_seconds() == seconds


def test_pairs():
    assert pairs(["a=b", "c=d=e", "f="]) == {"a": "b", "c": "d=e", "f": ""}


def _program(*arguments: str, server: str) -> list[str]:
    return [sys.executable, "-c", "from agent_client.cli import main; main()", "--server", server, *arguments]


class _Terminal:
    """agentctl on a terminal of its own."""

    def __init__(self, *arguments: str, server: str) -> None:
        self._arguments = _program(*arguments, server=server)
        self._seen = ""

    async def __aenter__(self) -> _Terminal:
        self._master, slave = pty.openpty()
        self._process = await asyncio.create_subprocess_exec(
            "setsid", "--ctty", *self._arguments, stdin=slave, stdout=slave, stderr=slave
        )
        os.close(slave)
        os.set_blocking(self._master, False)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._process.returncode is None:
            self._process.kill()
            await self._process.wait()
        os.close(self._master)

    def type(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    async def shows(self, words: str, times: int = 1) -> None:
        async with asyncio.timeout(10):
            while self._seen.count(words) < times:
                await asyncio.sleep(0.02)  # a terminal gives no notice
                self._drain()

    async def exit_code(self) -> int:
        code = await asyncio.wait_for(self._process.wait(), 10)
        self._drain()
        return code

    def _drain(self) -> None:
        try:
            self._seen += os.read(self._master, 65536).decode(errors="replace")
        except OSError:
            return
