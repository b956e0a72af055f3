"""What the service knows of the agent's settings, compared with the real agent: a canary for each new CLI."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest

from agent_service.agents.sdk import bundled_cli
from agent_service.options.output_check import problem_of
from agent_service.options.settings_check import known_settings, settings_problem

BATTERY: list[Any] = [7.5, "some text", [7], {"some": 7}, None, True, -1, []]
"""Values of which every setting refuses some."""


async def refused_by_the_agent(settings: dict[str, Any], folder: Path) -> dict[str, str]:
    """Path → message of what the real CLI refuses in a settings file; it voids the whole file then."""
    file = folder / "settings.json"
    file.write_text(json.dumps(settings))
    (folder / "home").mkdir(exist_ok=True)
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder / "home"), "ANTHROPIC_API_KEY": "none"}
    environment |= {"ANTHROPIC_BASE_URL": "http://127.0.0.1:9", "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1"}
    arguments = ["--output-format", "stream-json", "--input-format", "stream-json", "--verbose"]
    process = await asyncio.create_subprocess_exec(
        bundled_cli(),
        *arguments,
        "--setting-sources",
        "",
        "--settings",
        str(file),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        cwd=folder,
        env=environment,
        limit=1 << 24,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    for number, subtype in enumerate(("initialize", "get_settings")):
        request = {"type": "control_request", "request_id": str(number), "request": {"subtype": subtype}}
        process.stdin.write(json.dumps(request).encode() + b"\n")
    answer: dict[str, Any] = {}
    while line := await process.stdout.readline():
        frame = json.loads(line)
        if frame.get("type") == "control_response" and frame["response"]["request_id"] == "1":
            answer = frame["response"]["response"]
            break
    process.stdin.close()
    await process.communicate()
    assert answer, "the CLI gave no settings"
    return {error["path"]: error["message"] for error in answer.get("errors", ())}


def sample(schema: dict[str, Any]) -> Any:
    """A value that meets a part of the schema of settings, and does as little as possible."""
    if "$ref" in schema:
        return sample(known_settings()["definitions"][schema["$ref"].rsplit("/", 1)[1]])
    if "anyOf" in schema:
        return sample(schema["anyOf"][0])
    if "enum" in schema:
        return schema["enum"][0]
    match schema.get("type"):
        case "boolean":
            return False
        case "integer" | "number":
            return schema.get("minimum", schema.get("maximum", 1))
        case "array":
            return [sample(schema["items"])] if "items" in schema else []
        case "object":
            wanted = list(schema.get("properties", {}).items())[: schema.get("maxProperties")]
            return {name: sample(inner) for name, inner in wanted}
        case _:
            return schema.get("const", "07:00" if "pattern" in schema else "x")


@pytest.mark.parametrize("value", BATTERY, ids=map(json.dumps, BATTERY))
async def test_what_the_agent_refuses_is_refused_at_once(value: Any, tmp_path: Path) -> None:
    # With a sandbox that it does not understand it does not start at all, and says why.
    settings = dict.fromkeys(known_settings()["properties"].keys() - {"sandbox"}, value)
    refused = await refused_by_the_agent(settings, tmp_path)
    assert refused, "some of them refuse it"
    known = {name: problem_of(schema_of(name), value) for name in settings}
    assert [path for path in refused if not known[path.split(".")[0]]] == []


def schema_of(name: str) -> dict[str, Any]:
    return {**known_settings()["properties"][name], "definitions": known_settings()["definitions"]}


@pytest.mark.parametrize("part", range(4))
async def test_what_is_accepted_is_no_reason_for_the_agent_to_drop_the_rest(part: int, tmp_path: Path) -> None:
    # With a part of them at a time: each may meet another's.
    names = sorted(known_settings()["properties"])[part::4]
    settings = {name: sample(known_settings()["properties"][name]) for name in names}
    settings["permissions"] = {"deny": ["Bash"]}
    assert settings_problem(json.dumps(settings)) == ""
    assert await refused_by_the_agent(settings, tmp_path) == {}
