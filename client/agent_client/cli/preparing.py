"""prepare: agents connected ahead of runs that will come."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any

import typer

from agent_client.cli.app import Json, command, print_json
from agent_client.cli.connecting import connect
from agent_client.cli.values import common_options, duration, json_options, shows_partials
from agent_client.render import console
from agent_client.visible import visible_line

_LIMITS = {
    "memory": "the host's memory allows no more",
    "max_warm": "the service prepares no more (--max-prepared)",
    "quota": "the tenant may have no more at work",
    "options": "agents of these options cannot be prepared",
}


@command("prepare")
async def prepare(
    count: Annotated[int, typer.Option(help="How many runs will come.")] = 1,
    hold: Annotated[
        timedelta | None, typer.Option(parser=duration, metavar="DURATION", help="How long unused agents are held.")
    ] = None,
    allow: Annotated[list[str] | None, typer.Option(metavar="TOOL", help="As with run. *")] = None,
    deny: Annotated[list[str] | None, typer.Option(metavar="TOOL", help="As with run. *")] = None,
    model: Annotated[str | None, typer.Option(help="As with run.")] = None,
    cwd: Annotated[str | None, typer.Option(help="As with run.")] = None,
    system: Annotated[str | None, typer.Option(help="As with run.")] = None,
    permission_mode: Annotated[str | None, typer.Option(help="As with run.")] = None,
    profile: Annotated[str, typer.Option(metavar="NAME", help="As with run.")] = "",
    env: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="As with run. *")] = None,
    option: Annotated[list[str] | None, typer.Option(metavar="NAME=JSON", help="As with run. *")] = None,
    as_json: Json = False,
) -> None:
    """Connect agents ahead of runs with the same options; tell how many there are. Repeat it to hold them longer."""
    arguments: dict[str, Any] = {
        **common_options(allow, deny, model, cwd, system, permission_mode, env),
        "include_partial_messages": shows_partials(as_json),
    }
    async with connect() as client:
        response = await client.prepare_agents(
            count, hold=hold, profile=profile, **(arguments | json_options(option or ()))
        )
    if as_json:
        print_json(response)
        return
    limit = _LIMITS.get(response.limited_by, visible_line(response.limited_by))
    console().print(f"{response.ready} ready, {response.starting} starting" + (f"; {limit}" if limit else ""))
