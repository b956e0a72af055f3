"""What was asked for and is not there is said: a warning in the log and in the session."""

from __future__ import annotations

import json
import sys

from agentpb import agent_pb2 as pb

from tests.conftest import Service

SERVER = """
import json, sys
tools = [{"name": "good", "description": "d", "inputSchema": {"type": "object", "properties": {}}}] + %s
for line in sys.stdin:
    call = json.loads(line)
    results = {
        "initialize": {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}},
                       "serverInfo": {"name": "s", "version": "1"}},
        "tools/list": {"tools": tools},
    }
    if "id" in call:
        print(json.dumps({"jsonrpc": "2.0", "id": call["id"], "result": results.get(call["method"], {})}), flush=True)
"""
BAD_TOOL = '[{"name": "bad", "description": "d", "inputSchema": {"properties": {}}}]'


def server(*command: str) -> pb.McpServer:
    """An MCP server that is a program."""
    return pb.McpServer(stdio=pb.McpStdioServer(command=command[0], args=command[1:]))


async def warnings_of(service: Service, session_id: str) -> list[tuple[str, str]]:
    """Code and field of the warnings in a session's log."""
    events = await service.events(session_id, event_types=["warning"])
    return [(event.warning.code, event.warning.field) for event in events]


async def test_a_server_that_does_not_start_is_a_warning_and_one_that_does_is_none(service: Service) -> None:
    servers = {"dead": server("/nonexistent"), "fine": server(sys.executable, "-c", SERVER % "[]")}
    response = await service.run("say: x", options=pb.AgentOptions(mcp_servers=servers))
    assert response.state == pb.SESSION_STATE_COMPLETED
    assert await warnings_of(service, response.session_id) == [("MCP_SERVER_FAILED", 'options.mcp_servers["dead"]')]
    [text] = response.session.warnings
    assert "dead" in text
    again = await service.run("say: y", session_id=response.session_id)
    assert list(again.session.warnings) == [text]
    assert len(await warnings_of(service, response.session_id)) == 1
    mended = await service.run("say: z", session_id=response.session_id, clear_options=["mcp_servers"])
    assert not mended.session.warnings


async def test_one_bad_tool_takes_all_of_its_server_along_and_that_is_said(service: Service) -> None:
    servers = {"half": server(sys.executable, "-c", SERVER % BAD_TOOL)}
    response = await service.run("say: x", options=pb.AgentOptions(mcp_servers=servers))
    assert await warnings_of(service, response.session_id) == [
        ("MCP_SERVER_WITHOUT_TOOLS", 'options.mcp_servers["half"]')
    ]
    assert "inputSchema" in response.session.warnings[0]


async def test_skills_and_tools_that_the_agent_does_not_have_are_named(service: Service) -> None:
    options = pb.AgentOptions(
        skills=["no-such-skill"],
        tools=["Bash", "Agent", "NoSuchTool"],
        agents={"helper": pb.AgentDefinition(description="d", prompt="p")},
    )
    response = await service.run("say: x", options=options)
    assert await warnings_of(service, response.session_id) == [
        ("SKILL_MISSING", "options.skills[0]"),
        ("TOOL_MISSING", "options.tools[2]"),
    ]


async def test_settings_that_the_agent_skipped_are_said(service: Service) -> None:
    settings = json.dumps({"permissions": {"deny": ["lower(x)"]}})
    response = await service.run("say: x", options=pb.AgentOptions(settings_json=settings))
    assert await warnings_of(service, response.session_id) == [("SETTINGS_NOT_IN_EFFECT", "options.settings_json")]
    again = await service.run("say: y", session_id=response.session_id)
    assert len(again.session.warnings) == 1


async def test_a_session_that_has_what_it_asked_for_has_no_warnings(service: Service) -> None:
    response = await service.run("say: x", options=pb.AgentOptions(permission_mode=pb.PERMISSION_MODE_PLAN))
    assert not response.session.warnings
    assert await warnings_of(service, response.session_id) == []
