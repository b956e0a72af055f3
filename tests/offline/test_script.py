"""What the offline model decides to answer, with no server and no CLI."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import agent_service.offline as offline
from agent_service.offline.conversation import InvalidRequest
from agent_service.offline.directives import DIRECTIVES, parse
from agent_service.offline.script import Reply, next_reply
from agent_service.offline.steps import Cut, Echo, Fail, Say, Silence, Think, Tick, Tokens, UseTool
from agent_service.offline.wire import Drop, stream, whole

TRUE = UseTool("Bash", {"command": "true"})
REMINDER = {"type": "text", "text": "<system-reminder>\nsay: not this\n</system-reminder>\n"}
STEER = (
    "The user sent a new message while you were working:\nsay: steered\n\n"
    "This is how Claude Code surfaces messages the user sends mid-turn"
)
NOTICE = (
    "[SYSTEM NOTIFICATION - NOT USER INPUT]\n<task-notification>\n<summary>it ended</summary>\n</task-notification>"
)


def text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def user(*content: str | dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": [text(part) if isinstance(part, str) else part for part in content]}


def said(words: str) -> dict[str, Any]:
    return {"role": "assistant", "content": [text(words)]}


def used(name: str = "Bash") -> dict[str, Any]:
    return {"role": "assistant", "content": [{"type": "tool_use", "id": "t1", "name": name, "input": {}}]}


def result(content: str = "out", *, is_error: bool = False) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": "t1", "content": content, "is_error": is_error}


def system(words: str) -> dict[str, Any]:
    return {"role": "system", "content": words}


def reply(*messages: dict[str, Any], **more: Any) -> Reply:
    return next_reply({"model": "offline", "messages": list(messages), **more})


def answer(*messages: dict[str, Any]) -> list[Any]:
    return list(reply(*messages).steps)


@pytest.mark.parametrize(
    ("line", "step"),
    [
        ("say: hello: you", Say("hello: you")),
        (r'say-json: "a\nb\u0000\ud800"', Say("a\nb\0\ud800")),
        ("think: hm", Think("hm")),
        ("bash: echo a | cat", UseTool("Bash", {"command": "echo a | cat"})),
        ("background: sleep 1", UseTool("Bash", {"command": "sleep 1", "run_in_background": True})),
        ('tool: mcp__x__y {"a": 1}', UseTool("mcp__x__y", {"a": 1})),
        ("tool: ExitPlanMode", UseTool("ExitPlanMode", {})),
        ('json: {"a": [1]}', UseTool("StructuredOutput", {"a": [1]})),
        ("slow: 0.5", Tick(5)),
        ("tokens: 7", Tokens(7)),
        ("wait: 2", Silence(2.0)),
        ("fail: 401", Fail(401)),
        ("fail: 529 1.5", Fail(529, "1.5")),
        ("fail-once: 429 2", Fail(429, "2", once=True)),
        ("cut", Cut()),
        ("cut-once", Cut(once=True)),
        ("anything else", Echo("anything else")),
        ("say", Echo("say")),
        ("cut: now", Echo("cut: now")),
    ],
)
def test_a_line_is_a_step(line: str, step: object) -> None:
    assert parse(line) == [step]


def test_turns_are_as_many_calls_of_a_tool() -> None:
    assert parse("turns: 3") == [TRUE, TRUE, TRUE]


def test_neighbouring_lines_of_plain_text_are_one_echo() -> None:
    assert parse("a\n\nb\nsay: c\nd") == [Echo("a\n\nb"), Say("c"), Echo("d")]


@pytest.mark.parametrize(
    "line",
    [
        *("say:", "say-json: [1]", "tool: a b", "tool: x {", "tool: x []", "json: 1", f"json: {'[' * 100_000}"),
        *("slow: x", "slow: nan", "wait: -1", "tokens: 0", "tokens: 1e3", f"tokens: {'9' * 10_000}", "turns: many"),
        *("fail:", "fail: x", "fail: 200", "fail: 500 a", "fail: 500 1 2", "ask: what?", "ask: q | a | a"),
    ],
)
def test_a_directive_that_cannot_be_followed_is_answered_with_what_is_accepted(line: str) -> None:
    (step,) = parse(line)
    assert isinstance(step, Say)
    assert step.text.startswith("offline model: cannot follow")
    assert DIRECTIVES[line.partition(":")[0]].argument in step.text


def test_every_directive_is_documented() -> None:
    assert offline.__doc__ is not None
    for name, directive in DIRECTIVES.items():
        assert directive.usage(name) in offline.__doc__
        assert directive.usage(name) in offline.help_text()


def test_a_question_has_the_shape_the_tool_expects() -> None:
    assert parse("ask: Which one? | red | blue") == [
        UseTool(
            "AskUserQuestion",
            {
                "questions": [
                    {
                        "question": "Which one?",
                        "header": "Which one?",
                        "options": [
                            {"label": "red", "description": "red"},
                            {"label": "blue", "description": "blue"},
                        ],
                        "multiSelect": False,
                    }
                ]
            },
        )
    ]


def test_a_message_ends_with_a_tool_and_the_next_begins_after_it() -> None:
    prompt = user("say: a\nbash: true\nbash: true\nsay: b")
    assert answer(prompt) == [Say("a"), TRUE]
    assert answer(prompt, used(), user(result())) == [TRUE]
    assert answer(prompt, used(), user(result()), used(), user(result())) == [Say("b")]


def test_a_program_that_is_over_says_done() -> None:
    assert answer(user("bash: true"), used(), user(result())) == [Say("done")]


def test_a_message_sent_in_pieces_is_passed_once() -> None:
    prompt = user("say: a\nbash: true\nsay: b")
    assert answer(prompt, said("a"), used(), user(result())) == [Say("b")]


def test_what_the_cli_adds_is_no_part_of_the_prompt() -> None:
    command = user(text("<local-command-stdout>say: x</local-command-stdout>"), text("<command-name>/x</command-name>"))
    assert answer(command, user(REMINDER, "hello"), system("say: y")) == [Say("echo (2 messages): hello")]


def test_a_new_prompt_is_a_new_program() -> None:
    assert answer(user("say: a"), said("a"), user("say: b")) == [Say("b")]


def test_the_prompt_of_a_failed_turn_is_not_run_again() -> None:
    assert answer(user("fail: 500\n", "say: b")) == [Say("b")]
    assert answer(user("bash: true\nfail: 500"), used(), user(result(), "say: b")) == [Say("b")]


def test_a_prompt_may_have_several_blocks() -> None:
    assert answer(user("say: a", {"type": "image", "source": {}}, "say: b")) == [Say("a"), Say("b")]


def test_an_interrupted_turn_is_over() -> None:
    prompts = user("[Request interrupted by user]\n", "say: b")
    assert answer(user("slow: 9\nbash: true"), said("tick 1 "), prompts) == [Say("b")]
    refused = user(result(), "[Request interrupted by user for tool use]\n", "say: b")
    assert answer(user("bash: sleep 9\nsay: x"), used(), refused) == [Say("b")]


def test_a_turn_that_was_interrupted_or_failed_does_not_come_back_with_a_notification() -> None:
    notice = f"<system-reminder>\n{NOTICE}\n</system-reminder>"
    assert answer(user("fail: 500\n", notice)) == [Say("noted: it ended")]
    assert answer(user("slow: 9\n", "[Request interrupted by user]\n", notice)) == [Say("noted: it ended")]


ORDER = pytest.mark.parametrize(
    "form", ["{}", "<system-reminder>\n{}\n</system-reminder>"], ids=["plain, to 2.1.330", "reminder, from 2.1.331"]
)


@ORDER
def test_an_answer_that_broke_off_and_was_kept_goes_on_where_it_broke(form: str) -> None:
    go_on = form.format("Your response above was cut off mid-stream. Resume directly from where it stops")
    assert answer(user("say: a\nfail: 529\nsay: b"), said("a"), user(go_on)) == [Fail(529), Say("b")]
    assert answer(user("say: a\nfail-once: 529\nsay: b"), said("a"), user(go_on)) == [Say("b")]
    assert answer(user("say: a\ncut\n", go_on)) == [Cut()]


@ORDER
def test_an_answer_nobody_could_see_is_followed_by_one_that_can_be_seen(form: str) -> None:
    order = form.format("[Your previous response had no visible output. Please continue]")
    assert answer(user("think: a\n", order)) == [Say("done")]


@pytest.mark.parametrize(
    "steered",
    [
        (user(result()), system(STEER)),
        (user(result(f"out\n\n<system-reminder>\n{STEER}\n</system-reminder>")),),
        (user(result(), f"<system-reminder>\n{STEER}\n</system-reminder>"),),
    ],
    ids=["system", "inside the result", "beside the result"],
)
def test_what_steers_a_turn_is_added_to_its_program(steered: tuple[dict[str, Any], ...]) -> None:
    assert answer(user("bash: true\nsay: a\nresult"), used(), *steered) == [Say("a"), Say("out"), Say("steered")]


def test_what_steers_a_turn_that_was_answered_is_all_there_is_to_do() -> None:
    assert answer(user("say: a"), said("a"), system(STEER)) == [Say("steered")]


def test_a_background_task_that_ended_is_noted_unless_there_is_more_to_do() -> None:
    notice = f"<system-reminder>\n{NOTICE}\n</system-reminder>"
    assert answer(user("say: a"), said("a"), user(notice)) == [Say("noted: it ended")]
    assert answer(user("bash: true\nsay: a"), used(), user(result()), system(NOTICE)) == [Say("a")]


def test_structured_output_is_given_again_while_it_is_refused() -> None:
    prompt, output = user('json: {"a": 1}\nsay: b'), UseTool("StructuredOutput", {"a": 1})
    assert answer(prompt, used("StructuredOutput"), user(result("no", is_error=True))) == [output]
    assert answer(prompt, used("StructuredOutput"), user(result())) == [Say("b")]
    enforced = user("[structured-output-enforce] You MUST call the StructuredOutput tool")
    assert answer(prompt, used("StructuredOutput"), user(result()), said("b"), enforced) == [output]
    assert answer(user("say: b"), said("b"), enforced) == [Say("done")]


def test_a_summary_for_compaction_is_text_only() -> None:
    asked = user("CRITICAL: Respond with TEXT ONLY. Do NOT call any tools.\n\nbash: true")
    (step,) = answer(user("the start"), said("ok"), asked)
    assert step == Say("<summary>The conversation began with: the start</summary>")


def test_recall_result_and_request_say_what_was_sent() -> None:
    conversation = [
        user(REMINDER, "first\nline"),
        said("x"),
        user("bash: true\nresult\nrecall"),
        used(),
        user(result()),
    ]
    assert answer(*conversation) == [Say("out"), Say("first\nline")]
    asked = user("request: thinking.type\nrequest: tools\nrequest: no.such")
    sent = reply(asked, thinking={"type": "adaptive"}, tools=[{"name": "Bash", "input_schema": {}}])
    assert list(sent.steps) == [Say("adaptive"), Say('["Bash"]'), Say("null")]
    assert answer(user("result")) == [Say("(no tool result)")]


def test_what_fails_once_is_left_out_of_the_second_attempt() -> None:
    body = {"model": "m", "messages": [user("fail-once: 529\nsay: a\ncut")]}
    first, second = next_reply(body), next_reply(body, repeated=True)
    assert first.key == second.key
    assert first.failure == Fail(529, once=True)
    assert second.steps == (Say("a"), Cut())


def test_tokens_are_a_quarter_of_the_characters() -> None:
    answered = reply(user(REMINDER, "tokens: 5"))
    assert (answered.input_tokens, answered.output_tokens) == (3, 5)


def test_a_stream_and_an_object_say_the_same() -> None:
    answered = reply(user('think: t\nsay: \U0001f600 b\nslow: 0.2\ntokens: 2\ntool: X {"a": 1}'))
    events = [
        json.loads(line[6:])
        for part in stream(answered)
        if isinstance(part, bytes)
        for line in part.decode().split("\n")
        if line.startswith("data: ")
    ]
    object_ = json.loads(list(whole(answered))[-1])  # type: ignore[arg-type]

    streamed: dict[int, str] = {}
    for event in events:
        if event["type"] == "content_block_delta" and event["delta"]["type"] != "signature_delta":
            piece = next(value for key, value in event["delta"].items() if key != "type")
            streamed[event["index"]] = streamed.get(event["index"], "") + piece
    kept = [next(b[key] for key in ("text", "thinking", "input") if key in b) for b in object_["content"]]
    assert [*list(streamed.values())[:-1], json.loads(streamed[4])] == kept
    assert events[-2]["delta"]["stop_reason"] == object_["stop_reason"] == "tool_use"
    assert events[-2]["usage"] == object_["usage"]


def test_a_cut_stream_has_begun() -> None:
    *parts, last = stream(reply(user("say: a\ncut\nsay: b")))
    assert last == Drop()
    assert b"this is cut" in parts[-1]  # type: ignore[operator]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"model": "m"},
        {"messages": [user("a")]},
        {"model": 1, "messages": [user("a")]},
        {"model": "m", "messages": []},
        {"model": "m", "messages": ["a"]},
        {"model": "m", "messages": [{"role": "x", "content": "a"}]},
        {"model": "m", "messages": [{"role": [], "content": "a"}]},
        {"model": "m", "messages": [{"role": "user", "content": 1}]},
        {"model": "m", "messages": [{"role": "user", "content": ["a"]}]},
    ],
)
def test_what_is_no_request_is_refused(body: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        next_reply(body)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters()) | st.sampled_from(["text", "tool_result"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["type", "text", "content", "id", "tool_use_id", "name"]) | st.text(), inner)
    ),
    max_leaves=12,
)
MESSAGES = st.lists(st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "system"]), "content": JSON}))


@settings(deadline=None)
@given(messages=MESSAGES)
def test_any_request_is_answered_or_refused(messages: list[dict[str, Any]]) -> None:
    try:
        answered = next_reply({"model": "m", "messages": messages})
    except InvalidRequest:
        return
    assert b"".join(part for part in stream(answered) if isinstance(part, bytes))


@settings(deadline=None)
@given(prompt=st.text(st.characters() | st.sampled_from("\n:|{}")) | st.sampled_from(sorted(DIRECTIVES)))
def test_any_prompt_is_a_program(prompt: str) -> None:
    for name in ("", *DIRECTIVES):
        parse(f"{name}: {prompt}")
