"""What agents ask is shown whole, "always" is said before it is given, and answers reach the question they are for."""

from __future__ import annotations

import json

import pytest
from agent_client.asking import effect, question
from agentpb import agent_pb2 as pb

RULE = {"type": "addRules", "behavior": "allow", "rules": [{"tool_name": "Bash", "rule_content": "npm test:*"}]}
MODE = {"type": "setMode", "mode": "acceptEdits", "destination": "localSettings"}
PLACES = {"type": "addDirectories", "directories": ["/srv"], "destination": "session"}


def _permission(tool: str, suggestions: tuple[object, ...] = (), **fields: object) -> pb.Interaction:
    return pb.Interaction(
        interaction_id="i1",
        kind=pb.INTERACTION_KIND_PERMISSION,
        tool_name=tool,
        input_json=json.dumps(fields),
        suggestions=suggestions,
    )


@pytest.fixture
def asked(service):
    """Let the session ask something."""

    def ask(interaction: pb.Interaction) -> pb.Interaction:
        service.session.pending_interactions.append(interaction)
        service.answers["ListSessions"] = [pb.ListSessionsResponse(sessions=[service.session])]
        return interaction

    return ask


# --- what is shown ---


@pytest.mark.parametrize(
    ("tool", "fields", "shown"),
    [
        ("Bash", {"command": "ls", "run_in_background": True}, ["asks for permission: ls", "run_in_background: true"]),
        ("Bash", {"command": "ls", "dangerouslyDisableSandbox": True}, ["dangerouslyDisableSandbox: true"]),
        ("Bash", {"command": "ls\nrm -rf /"}, ["│ ls", "│ rm -rf /"]),
        ("Write", {"file_path": "/x", "content": "a\nb"}, ["/x", "content: (2 lines, 3 characters)", "│ b"]),
        ("Edit", {"file_path": "/x", "old_string": "old", "new_string": "new"}, ["old_string: old", "new_string: new"]),
        ("mcp__a__b", {"x": {"y": [1]}, "z": "text"}, ['x: {"y": [1]}', "z: text"]),
        ("mcp__a__b", {"on": "true", "off": True}, ['on: "true"', "off: true"]),
        ("mcp__a__b", {"x": "a\n  y: fake"}, ["│   y: fake"]),
        ("Bash", {"command": "curl https://docs.example\x1b]:x@127.0.0.1:9/x"}, ["docs.example\\x1b]:x@127.0.0.1:9/x"]),
    ],
)
async def test_the_whole_input_is_shown(agentctl, asked, tool, fields, shown):
    asked(_permission(tool, **fields))
    out = (await agentctl("pending")).out
    assert [each for each in shown if each not in out] == []


async def test_a_long_input_is_folded_with_its_length_and_can_be_seen_whole(agentctl, asked):
    asked(_permission("Write", file_path="/x", content="\n".join(f"line {n}" for n in range(100)), more="y" * 900))
    folded = (await agentctl("pending")).out
    assert "(100 lines, 789 characters)" in folded
    assert "… 88 more lines" in folded
    assert "… (400 more characters)" in folded
    assert "line 99" not in folded
    assert "line 99" in (await agentctl("pending", "--full")).out


async def test_a_key_that_comes_twice_is_seen_twice(agentctl, asked):
    asked(_permission("Bash")).input_json = '{"command": "ls", "command": "rm"}'
    asked_again = question(pb.Interaction(tool_name="Bash", input_json='{"command": "ls", "command": "rm"}'))
    assert "permission: ls\n  command: rm" in asked_again


async def test_run_and_export_show_it_too(service, agentctl, script):
    service.events(script.tool_call("Write", json.dumps({"file_path": "/x", "content": "evil"})))
    service.end_turn()
    assert "content: evil" in (await agentctl("run", "x")).out
    assert "content: evil" in (await agentctl("export", "s")).out


# --- always ---


@pytest.mark.parametrize(
    ("update", "words"),
    [
        (RULE, "allow Bash(npm test:*) without asking"),
        ({**RULE, "rules": [{"tool_name": "Bash"}]}, "allow every use of Bash without asking"),
        ({**RULE, "type": "removeRules"}, "no longer allow Bash(npm test:*) without asking"),
        ({**RULE, "behavior": "deny"}, "deny Bash(npm test:*) without asking"),
        (MODE, "switch to the mode acceptEdits: every change of files is made without asking"),
        ({"type": "setMode", "mode": "other"}, "switch to the mode other: a mode that agentctl does not know"),
        (PLACES, "let the agent use these directories, too: /srv"),
    ],
)
def test_what_a_suggestion_does_is_said_in_words(update, words):
    assert effect(pb.PermissionUpdate(**update)) == words


async def test_each_suggestion_is_shown_before_it_is_given(agentctl, asked):
    asked(_permission("Bash", (RULE, MODE), command="npm test"))
    out = (await agentctl("pending")).out
    assert "1. allow Bash(npm test:*) without asking\n" in out
    assert "2. switch to the mode acceptEdits" in out
    assert "--remember rule" in out


@pytest.mark.parametrize(
    ("choice", "types"),
    [
        ("rule", ["addRules"]),
        ("all", ["addRules", "setMode", "addDirectories"]),
        ("2", ["setMode"]),
        ("3,1", ["addRules", "addDirectories"]),
    ],
)
async def test_the_rule_alone_is_remembered_unless_more_is_chosen(service, agentctl, asked, choice, types):
    asked(_permission("Bash", (RULE, MODE, PLACES), command="npm test"))
    assert (await agentctl("approve", "s", "--remember", choice)).code == 0
    given = service.requests["RespondToInteraction"][0].allow.updated_permissions
    assert [each.type for each in given] == types
    assert {each.destination for each in given} == {"session"}, "the service takes no other"


@pytest.mark.parametrize("choice", ["4", "0", "mode", "rule"])
async def test_what_cannot_be_remembered_is_told_with_what_can(service, agentctl, asked, choice):
    asked(_permission("Bash", (MODE,), command="npm test"))
    done = await agentctl("approve", "s", "--remember", choice)
    assert (done.code, "1. switch to the mode acceptEdits" in done.err) == (2, True), done
    assert not service.requests["RespondToInteraction"]


async def test_what_is_remembered_is_shown_and_can_be_forgotten(service, agentctl, script):
    service.session.remembered_permissions.add(**RULE)
    shown = (await agentctl("status", "s")).out
    assert "1. allow Bash(npm test:*) without asking" in shown
    assert "--clear remembered_permissions" in shown
    service.end_turn()
    await agentctl("run", "--resume", script.SESSION, "--clear", "remembered_permissions", "x")
    assert service.requests["Execute"][0].clear_options == ["remembered_permissions"]


# --- questions ---

QUESTIONS = [
    {"text": "Which colour?", "header": "Colour", "options": [{"label": "red"}, {"label": "blue"}]},
    {
        "text": "Which sizes?",
        "header": "Sizes",
        "multi_select": True,
        "options": [{"label": "S"}, {"label": "M, wide"}],
    },
]


@pytest.mark.parametrize(
    ("given", "answers"),
    [
        (["Colour=2", "Sizes=1"], {"Which colour?": "blue", "Which sizes?": "S"}),
        (["1=RED", "2=1,2"], {"Which colour?": "red", "Which sizes?": "S, M, wide"}),
        (["Which colour?=green", "2=S", "2=M, wide"], {"Which colour?": "green", "Which sizes?": "S, M, wide"}),
        (["1=red", "2=S, XXL"], {"Which colour?": "red", "Which sizes?": "S, XXL"}),
    ],
)
async def test_answers_reach_their_questions_in_the_contracts_form(service, agentctl, asked, given, answers):
    asked(pb.Interaction(interaction_id="i1", kind="INTERACTION_KIND_QUESTION", questions=QUESTIONS))
    done = await agentctl("answer", "s", *[word for each in given for word in ("--answer", each)])
    assert done.code == 0, done
    assert dict(service.requests["RespondToInteraction"][0].allow.answers) == answers


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["Colour=red"], "no answer to 'Which sizes?'"),
        (["Colour=red", "Sizes= "], "no answer to 'Which sizes?'"),
        (["Colour=red", "1=blue", "2=S"], "takes one answer"),
        (["Shape=round"], "names no question"),
    ],
)
async def test_what_answers_nothing_is_refused_with_the_questions(service, agentctl, asked, given, told):
    asked(pb.Interaction(interaction_id="i1", kind="INTERACTION_KIND_QUESTION", questions=QUESTIONS))
    done = await agentctl("answer", "s", *[word for each in given for word in ("--answer", each)])
    assert (done.code, told in done.err) == (2, True), done
    assert not service.requests["RespondToInteraction"]


async def test_the_client_takes_a_list_where_several_may_be_chosen(client, service):
    await client.allow("s", "i1", answers={"Which sizes?": ["S", "M"], "Which colour?": "red"})
    given = service.requests["RespondToInteraction"][0].allow.answers
    assert dict(given) == {"Which sizes?": "S, M", "Which colour?": "red"}
