"""Each option of AgentOptions does something on the real CLI. One that is added without a test here fails."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio
from agentpb import agent_pb2 as pb

from tests.conftest import Service
from tests.interactions.conftest import texts
from tests.options_effect.conftest import Lab, Wire
from tests.test_output_schema import EVERYTHING

ROOT = Path(__file__).parents[2]
AT_ONCE = 4
SERVER = Path(__file__).with_name("mcp_server.py")
SCHEMA = json.dumps({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]})
DELEGATE = "tool: Agent " + json.dumps(
    {
        "description": "d",
        "prompt": "say: from below\nbash: echo beneath",
        "subagent_type": "helper",
        "run_in_background": False,
    }
)
HELPER = {"helper": pb.AgentDefinition(description="helps", prompt="HELPER MARK")}

Effect = Callable[[Lab], Awaitable[None]]
EFFECTS: dict[str, Effect] = {}
ELSEWHERE = {"interactions": "tests/interactions"}
"""Options whose effect other tests show."""


def effect_of(name: str) -> Callable[[Effect], Effect]:
    """Say which option a test is about."""

    def note(test: Effect) -> Effect:
        EFFECTS[name] = test
        return test

    return note


@effect_of("model")
async def _model(lab: Lab) -> None:
    run = await lab.run("request: model", pb.AgentOptions(model="claude-haiku-4-5"))
    assert run.text == run.response.session.model == "claude-haiku-4-5"


@effect_of("fallback_model")
async def _fallback_model(lab: Lab) -> None:
    run = await lab.run(
        "fail: 529", pb.AgentOptions(fallback_model="claude-haiku-4-5", env={"CLAUDE_CODE_MAX_RETRIES": "2"})
    )
    notices = [event.system_message for event in run.events if event.type == "message.system"]
    [switch] = [json.loads(notice.data_json) for notice in notices if notice.subtype == "model_fallback"]
    assert (switch["original_model"], switch["fallback_model"]) == ("offline", "claude-haiku-4-5")


@effect_of("system_prompt")
async def _system_prompt(lab: Lab) -> None:
    own = await lab.said("request: system", system_prompt=pb.SystemPrompt(text="OWN MARK"))
    assert "OWN MARK" in own
    assert "Claude Code" not in own.replace("Claude Agent SDK", "")
    preset = pb.SystemPrompt(preset="claude_code", append="APPENDED MARK")
    whole = await lab.said("request: system", system_prompt=preset)
    assert "APPENDED MARK" in whole
    assert "Claude Code" in whole
    preset.exclude_dynamic_sections = True
    assert len(await lab.said("request: system", system_prompt=preset)) < len(whole)


@effect_of("tools")
async def _tools(lab: Lab) -> None:
    names = json.loads(await lab.said("request: tools", tools=["Bash", "Read"]))
    assert set(names) - {"DeferredToolPlaceholder"} == {"Bash", "Read"}
    assert json.loads(await lab.said("request: tools", tools=["none"])) == []


@effect_of("allowed_tools")
async def _allowed_tools(lab: Lab) -> None:
    prompt = "bash: touch yes\nbash: mkdir no"
    run = await lab.run(prompt, pb.AgentOptions(allowed_tools=["Bash(touch:*)"]))
    assert os.listdir(run.cwd) == ["yes"]
    assert len(run.response.turn.result.permission_denials) == 1


@effect_of("disallowed_tools")
async def _disallowed_tools(lab: Lab) -> None:
    names = json.loads(await lab.said("request: tools", disallowed_tools=["Bash", "Write"]))
    assert "Read" in names
    assert not {"Bash", "Write"} & set(names)


@effect_of("permission_mode")
async def _permission_mode(lab: Lab) -> None:
    write, touch = 'tool: Write {"file_path": "a.txt", "content": "x"}', "bash: mkdir b"

    async def made(mode: pb.PermissionMode.ValueType) -> list[str]:
        run = await lab.run(f"{write}\n{touch}\nresult", pb.AgentOptions(permission_mode=mode))
        assert run.response.session.permission_mode == mode
        return sorted(os.listdir(run.cwd))

    assert await made(pb.PERMISSION_MODE_DEFAULT) == []
    assert await made(pb.PERMISSION_MODE_DONT_ASK) == []
    assert "a.txt" in await made(pb.PERMISSION_MODE_ACCEPT_EDITS)
    assert await made(pb.PERMISSION_MODE_BYPASS_PERMISSIONS) == ["a.txt", "b"]
    plan = await lab.run(f"{write}\nresult", pb.AgentOptions(permission_mode=pb.PERMISSION_MODE_PLAN))
    assert "plan mode" in plan.text
    assert os.listdir(plan.cwd) == []


@effect_of("max_turns")
async def _max_turns(lab: Lab) -> None:
    run = await lab.run("turns: 5", pb.AgentOptions(max_turns=2, allowed_tools=["Bash"]))
    assert run.response.session.phase == pb.SESSION_PHASE_LIMIT_REACHED
    assert run.response.turn.error.reason == "MAX_TURNS"
    assert len(run.results) == 2


@effect_of("max_budget_usd")
async def _max_budget_usd(lab: Lab) -> None:
    run = await lab.run("turns: 1\ntokens: 1000", pb.AgentOptions(max_budget_usd=0.01, allowed_tools=["Bash"]))
    assert run.response.session.phase == pb.SESSION_PHASE_LIMIT_REACHED
    assert run.response.turn.error.reason == "MAX_BUDGET_USD"
    assert run.response.turn.result.cost_usd == run.response.session.total_cost_usd >= 0.02


@effect_of("task_budget_tokens")
async def _task_budget_tokens(lab: Lab) -> None:
    said = await lab.said("request: output_config", task_budget_tokens=50_000, model="claude-opus-4-6")
    assert json.loads(said)["task_budget"]["total"] == 50_000


@effect_of("thinking")
async def _thinking(lab: Lab) -> None:
    enabled = pb.Thinking(mode=pb.THINKING_MODE_ENABLED, budget_tokens=2048)
    run = await lab.run("think: hm\nrequest: thinking", pb.AgentOptions(thinking=enabled, model="claude-haiku-4-5"))
    assert json.loads(run.text).items() >= {"type": "enabled", "budget_tokens": 2048}.items()
    thoughts = [block.thinking.thinking for event in run.events for block in event.assistant_message.content]
    assert "hm" in thoughts
    disabled = pb.Thinking(mode=pb.THINKING_MODE_DISABLED)
    said = await lab.said("request: thinking.type", thinking=disabled, model="claude-haiku-4-5")
    assert said == "disabled"


@effect_of("effort")
async def _effort(lab: Lab) -> None:
    assert await lab.said("request: output_config.effort", effort=pb.EFFORT_LOW, model="claude-opus-4-6") == "low"


@effect_of("output_schema_json")
async def _output_schema_json(lab: Lab) -> None:
    run = await lab.run('json: {"a": 1}', pb.AgentOptions(output_schema_json=SCHEMA))
    assert json.loads(run.response.turn.result.structured_output_json) == {"a": 1}
    never = await lab.run('json: {"a": "no number"}', pb.AgentOptions(output_schema_json=SCHEMA))
    assert never.response.turn.error.reason == "STRUCTURED_OUTPUT_INVALID"
    dialect = pb.AgentOptions(output_schema_json=json.dumps(EVERYTHING))
    whole = await lab.run('json: {"x": 1, "pair": ["a", 1], "code": "a-b", "maybe": null}', dialect)
    assert whole.response.state == pb.SESSION_STATE_COMPLETED, "the agent takes every word of it"
    inherited = pb.AgentOptions(output_schema_json='{"type": "object", "required": ["toString"]}')
    unmet = await lab.run('json: {"x": 1}', inherited)
    assert unmet.response.state == pb.SESSION_STATE_ERROR
    assert unmet.response.turn.error.reason == "STRUCTURED_OUTPUT_INVALID"
    assert "'toString' is a required property" in unmet.response.turn.error.message
    assert unmet.text, "what the model said is kept"
    silent = await lab.run("say: no object", pb.AgentOptions(output_schema_json=SCHEMA))
    assert silent.response.turn.error.reason == "STRUCTURED_OUTPUT_INVALID"


@effect_of("cwd")
async def _cwd(lab: Lab) -> None:
    run = await lab.run("bash: pwd", pb.AgentOptions(cwd=str(lab.folder), allowed_tools=["Bash"]))
    assert run.results == [str(lab.folder)]


@effect_of("add_dirs")
async def _add_dirs(lab: Lab) -> None:
    inside, outside = lab.folder / "inside", lab.folder / "outside"
    prompt = "\n".join(
        "tool: Write " + json.dumps({"file_path": str(folder / "a.txt"), "content": "x"})
        for folder in (inside, outside)
    )
    for folder in (inside, outside):
        folder.mkdir()
    options = pb.AgentOptions(add_dirs=[str(inside)], permission_mode=pb.PERMISSION_MODE_ACCEPT_EDITS)
    await lab.run(prompt, options)
    assert os.listdir(inside) == ["a.txt"]
    assert os.listdir(outside) == []


@effect_of("env")
async def _env(lab: Lab) -> None:
    run = await lab.run("bash: echo $MARK", pb.AgentOptions(env={"MARK": "of mine"}, allowed_tools=["Bash"]))
    assert run.results == ["of mine"]
    assert dict(run.response.session.options.env) == {"MARK": "***"}
    patience = "bash: echo $CLAUDE_CODE_MAX_RETRIES"
    assert (await lab.run(patience, pb.AgentOptions(allowed_tools=["Bash"]))).results == ["0"]
    other = pb.AgentOptions(env={"CLAUDE_CODE_MAX_RETRIES": "2"}, allowed_tools=["Bash"])
    assert (await lab.run(patience, other)).results == ["2"], "the caller's word counts more"


@effect_of("mcp_servers")
async def _mcp_servers(lab: Lab) -> None:
    stdio = pb.McpStdioServer(command=sys.executable, args=[str(SERVER), "stdio"], env={"SHOUT_WITH": "please"})
    servers = {"near": pb.McpServer(stdio=stdio)}
    async with AsyncExitStack() as stack:
        for kind, path in (("http", "mcp"), ("sse", "sse")):
            port = await stack.enter_async_context(mcp_server(kind))
            address = pb.McpHttpServer(url=f"http://127.0.0.1:{port}/{path}")
            servers[kind] = pb.McpServer(http=address) if kind == "http" else pb.McpServer(sse=address)
        prompt = "\n".join(f'tool: mcp__{name}__shout {{"text": "{name}"}}' for name in servers)
        allowed = [f"mcp__{name}" for name in servers]
        run = await lab.run(prompt, pb.AgentOptions(mcp_servers=servers, allowed_tools=allowed))
    assert [json.loads(result)["result"].strip() for result in run.results] == ["NEAR! please", "HTTP!", "SSE!"]


@asynccontextmanager
async def mcp_server(kind: str) -> AsyncIterator[str]:
    """Run the server of this kind; its port."""
    program = await asyncio.create_subprocess_exec(
        *(sys.executable, SERVER, kind), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert program.stdout is not None
    try:
        yield (await program.stdout.readline()).decode().strip()
    finally:
        program.kill()
        await program.wait()


@effect_of("strict_mcp_config")
async def _strict_mcp_config(lab: Lab) -> None:
    lab.file(".mcp.json", json.dumps({"mcpServers": {"of-the-project": {"command": "false"}}}))
    options = pb.AgentOptions(
        cwd=str(lab.folder),
        setting_sources=[pb.SETTING_SOURCE_PROJECT],
        settings_json='{"enableAllProjectMcpServers": true}',
    )
    assert await _init(lab, options, "mcp_servers") == []
    options.strict_mcp_config = False
    servers = await _init(lab, options, "mcp_servers")
    assert [server["name"] for server in servers] == ["of-the-project"]


async def _init(lab: Lab, options: pb.AgentOptions, name: str) -> list[dict[str, str]]:
    """A field of the notice with which the CLI begins a turn."""
    run = await lab.run("say: hi", options)
    [init] = [event.system_message for event in run.events if event.system_message.subtype == "init"]
    found: list[dict[str, str]] = json.loads(init.data_json)[name]
    return found


@effect_of("agents")
async def _agents(lab: Lab) -> None:
    run = await lab.run(DELEGATE, pb.AgentOptions(agents=HELPER, allowed_tools=["Bash"]))
    [call] = [
        block.tool_use.id
        for event in run.events
        for block in event.assistant_message.content
        if block.tool_use.name == "Agent"
    ]
    below = [event for event in run.events if event.parent_tool_use_id]
    assert {event.parent_tool_use_id for event in below} == {call}
    assert "beneath" in run.results
    kinds = [event.type for event in run.events if event.type.startswith("task.")]
    assert kinds[0] == "task.started"
    assert "task.notification" in kinds
    assert "from below" not in run.texts


@effect_of("forward_subagent_text")
async def _forward_subagent_text(lab: Lab) -> None:
    options = pb.AgentOptions(agents=HELPER, allowed_tools=["Bash"], forward_subagent_text=True)
    run = await lab.run(DELEGATE, options)
    [said] = [event for event in run.events if texts([event]) == ["from below"]]
    assert said.parent_tool_use_id


@effect_of("skills")
async def _skills(lab: Lab) -> None:
    for name in ("one", "two"):
        lab.file(f".claude/skills/{name}/SKILL.md", f"---\nname: {name}\ndescription: SKILL {name}\n---\nDo it.\n")
    found = {"cwd": str(lab.folder), "setting_sources": [pb.SETTING_SOURCE_PROJECT]}
    for skills, there in (([], {"one", "two"}), (["one"], {"one"}), (["none"], set())):
        said = await lab.said("request: messages", skills=skills, **found)
        assert {name for name in ("one", "two") if f"SKILL {name}" in said} == there


@effect_of("setting_sources")
async def _setting_sources(lab: Lab) -> None:
    lab.file("CLAUDE.md", "MEMORY MARK")
    assert "MEMORY MARK" not in await lab.said("request: messages", cwd=str(lab.folder))
    project = [pb.SETTING_SOURCE_PROJECT]
    assert "MEMORY MARK" in await lab.said("request: messages", cwd=str(lab.folder), setting_sources=project)


@effect_of("settings_json")
async def _settings_json(lab: Lab) -> None:
    settings = json.dumps({"permissions": {"allow": ["Bash(echo:*)"], "deny": ["Bash(echo no:*)"]}})
    run = await lab.run("bash: echo yes\nbash: echo no", pb.AgentOptions(settings_json=settings))
    assert run.results[0] == "yes"
    assert len(run.response.turn.result.permission_denials) == 1


@effect_of("sandbox")
async def _sandbox(lab: Lab) -> None:
    confined = pb.Sandbox(enabled=True)
    run = await lab.run(
        f"bash: touch {lab.folder}/outside\nresult", pb.AgentOptions(sandbox=confined, allowed_tools=["Bash"])
    )
    assert os.listdir(lab.folder) == []
    if shutil.which("bwrap") is None or shutil.which("socat") is None:
        assert run.response.session.phase == pb.SESSION_PHASE_FAILED
        assert "Sandbox required but unavailable" in run.response.turn.error.message


@effect_of("plugins")
async def _plugins(lab: Lab) -> None:
    lab.file(".claude-plugin/plugin.json", '{"name": "plug", "version": "1.0.0", "description": "d"}')
    lab.file("commands/hello.md", "---\ndescription: hi\n---\nsay: from the plugin\n")
    assert await lab.said("/plug:hello", plugins=[str(lab.folder)]) == "from the plugin"


@effect_of("betas")
async def _betas(lab: Lab) -> None:
    await lab.run("say: hi", pb.AgentOptions(betas=["context-1m-2025-08-07"], model="claude-sonnet-4-5"))
    assert any("context-1m-2025-08-07" in value for value in lab.wire.headers["anthropic-beta"])


@effect_of("client_app")
async def _client_app(lab: Lab) -> None:
    await lab.run("say: hi", pb.AgentOptions(client_app="lab-app/7"))
    assert any("lab-app/7" in value for values in lab.wire.headers.values() for value in values)


@effect_of("include_partial_messages")
async def _include_partial_messages(lab: Lab) -> None:
    async def partials(wanted: bool) -> list[pb.SessionEvent]:
        options = pb.AgentOptions(include_partial_messages=wanted)
        started = await lab.service.execute("slow: 0.5", options=options)
        live = await lab.service.events(started.session_id)
        stored = await lab.service.events(started.session_id)
        assert not any(event.ephemeral for event in stored)
        assert [event for event in live if event.sequence] == stored
        return [event for event in live if event.type == "message.partial"]

    assert await partials(False) == []
    assert "".join(event.partial_message.text for event in await partials(True)).startswith("tick 1 tick 2 ")


@effect_of("include_hook_events")
async def _include_hook_events(lab: Lab) -> None:
    hook = {"matcher": "Bash", "hooks": [{"type": "command", "command": "echo hooked"}]}
    settings = json.dumps({"hooks": {"PreToolUse": [hook]}})
    for wanted in (True, False):
        options = pb.AgentOptions(settings_json=settings, allowed_tools=["Bash"], include_hook_events=wanted)
        run = await lab.run("bash: true", options)
        found = {event.type: event.hook for event in run.events if event.type.startswith("hook.")}
        assert set(found) == ({"hook.started", "hook.response"} if wanted else set())
        if wanted:
            response = found["hook.response"]
            assert (response.hook_event_name, response.output) == ("PreToolUse", "hooked\n")
            assert (response.exit_code, response.outcome) == (0, "success")


@effect_of("enable_file_checkpointing")
async def _enable_file_checkpointing(lab: Lab) -> None:
    for wanted in (True, False):
        lab.file("a.txt", "KEPT MARK")
        path = json.dumps(str(lab.folder / "a.txt"))
        run = await lab.run(
            f'tool: Read {{"file_path": {path}}}\ntool: Write {{"file_path": {path}, "content": "new"}}',
            pb.AgentOptions(
                cwd=str(lab.folder),
                enable_file_checkpointing=wanted,
                permission_mode=pb.PERMISSION_MODE_ACCEPT_EDITS,
            ),
        )
        assert (lab.folder / "a.txt").read_text() == "new"
        session = run.response.session.agent_session_id
        copies = [each.read_text() for each in lab.service.data_dir.glob(f"sessions/*/config/file-history/{session}/*")]
        assert copies == (["KEPT MARK"] if wanted else [])


@effect_of("resume_at_message_uuid")
async def _resume_at_message_uuid(lab: Lab) -> None:
    first = await lab.run("say: one")
    session_id = first.response.session_id
    [answer] = [event.uuid for event in first.events if event.type == "message.assistant"]
    await lab.run("say: two", session_id=session_id)
    back = await lab.run("hello", pb.AgentOptions(resume_at_message_uuid=answer), session_id=session_id)
    assert back.text == "echo (3 messages): hello"
    assert not back.response.session.options.resume_at_message_uuid
    on = await lab.run("hello", session_id=session_id)
    assert on.text == "echo (5 messages): hello"


@effect_of("extra_args")
async def _extra_args(lab: Lab) -> None:
    said = await lab.said("bash: touch x\nresult", extra_args={"permission-prompts": "none"})
    assert "no approval surface" in said


@effect_of("verbatim_prompts")
async def _verbatim_prompts(lab: Lab) -> None:
    assert "echo" not in await lab.said("/help")
    assert await lab.said("/help", verbatim_prompts=True) == "echo (1 messages): /help"


@effect_of("file_mentions")
async def _file_mentions(lab: Lab) -> None:
    """A canary too: the variable that turns them off is one of the CLI's undocumented ones."""
    note = lab.file("note.txt", "NOTE MARK")
    for mention in ("@note.txt", f"@{note}"):
        for wanted in (False, True):
            options = pb.AgentOptions(cwd=str(lab.folder), file_mentions=wanted)
            run = await lab.run(f"request: messages\n{mention}", options)
            assert ("NOTE MARK" in "".join(run.texts)) is wanted
    unset = await lab.run("request: messages\n@note.txt", pb.AgentOptions(cwd=str(lab.folder), tools=["none"]))
    assert "NOTE MARK" not in "".join(unset.texts)


async def _shown(name: str, lab: Lab, places: asyncio.Semaphore) -> None:
    async with places:
        await EFFECTS[name](lab)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def under_way(
    request: pytest.FixtureRequest, shared: tuple[Service, Wire], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[dict[str, asyncio.Task[None]]]:
    """What is selected, a few at once: each run waits more than it works."""
    named = {item.callspec.params.get("name") for item in request.session.items if hasattr(item, "callspec")}
    places = asyncio.Semaphore(AT_ONCE)
    tasks = {
        name: asyncio.create_task(_shown(name, Lab(*shared, tmp_path_factory.mktemp(name)), places))
        for name in EFFECTS
        if name in named
    }
    yield tasks
    for task in tasks.values():
        task.cancel()
    await asyncio.gather(*tasks.values(), return_exceptions=True)


@pytest.mark.parametrize("name", [field.name for field in pb.AgentOptions.DESCRIPTOR.fields])
@pytest.mark.asyncio(loop_scope="module")
async def test_an_option_has_an_effect(name: str, under_way: dict[str, asyncio.Task[None]]) -> None:
    if name in ELSEWHERE:
        assert ROOT.joinpath(ELSEWHERE[name]).is_dir()
        return
    assert name in EFFECTS, f"no test shows what {name} does: write one here"
    await under_way[name]
