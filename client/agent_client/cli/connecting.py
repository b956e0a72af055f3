"""The options that say which service agentctl talks to and as whom; they may stand before or after the command."""

from __future__ import annotations

import copy
import inspect
import os
from collections.abc import Callable, Mapping
from typing import Annotated, Any, get_type_hints

import typer

from agent_client.client import DEFAULT_TARGET, AgentClient

# A service that has never answered is probably not there: the channel's own retries, 3 s, are patience enough.
FIRST_CONTACT = 0.0

Server = Annotated[
    str | None,
    typer.Option(
        "--server",
        metavar="HOST:PORT",
        help=f"The service (AGENT_SERVER; default {DEFAULT_TARGET}); also tls:HOST:PORT and unix:PATH.",
    ),
]


def options(
    server: Server = None,
    token_file: Annotated[
        str | None, typer.Option("--token-file", metavar="FILE", help="A file with the token (AGENT_TOKEN_FILE).")
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(
            "--token",
            metavar="TOKEN",
            help="The token itself (AGENT_TOKEN). Every user of this host can read it in the list of processes; "
            "--token-file is better. An empty one sends none.",
        ),
    ] = None,
    ca: Annotated[
        str | None, typer.Option("--ca", metavar="FILE", help="Use TLS and trust these authorities (AGENT_CA).")
    ] = None,
    cert: Annotated[
        str | None, typer.Option("--cert", metavar="FILE", help="The certificate to show (AGENT_CERT).")
    ] = None,
    key: Annotated[str | None, typer.Option("--key", metavar="FILE", help="Its private key (AGENT_KEY).")] = None,
    tenant: Annotated[
        str | None, typer.Option("--tenant", metavar="NAME", help="The tenant to act for (AGENT_TENANT).")
    ] = None,
    insecure: Annotated[
        bool | None, typer.Option("--insecure", help="Send the token in plain text, also to other hosts.")
    ] = None,
) -> None:
    """Without a token, agentctl takes the one that a service on this host leaves for its callers."""
    _given.clear()
    remember(locals())


_given: dict[str, Any] = {}
_PARAMETERS = inspect.signature(options, eval_str=True).parameters


def remember(values: Mapping[str, Any]) -> None:
    """Keep the options that were given; one after the command goes before one in front of it."""
    _given.update({name: values[name] for name in _PARAMETERS if values.get(name) is not None})


def with_options(body: Callable[..., Any], call: Callable[..., Any]) -> None:
    """Give `call`, the command that runs `body`, the options as well; its help shows --server, agentctl's all."""
    signature = inspect.signature(body, eval_str=True)
    added = [_keyword(each) for each in _PARAMETERS.values()]
    call.__signature__ = signature.replace(parameters=[*signature.parameters.values(), *added])  # type: ignore[attr-defined]
    call.__annotations__ = get_type_hints(body, include_extras=True) | {each.name: each.annotation for each in added}


def take(values: dict[str, Any]) -> dict[str, Any]:
    """Remember the options among a command's arguments, and return the other arguments."""
    remember(values)
    return {name: value for name, value in values.items() if name not in _PARAMETERS}


def connect() -> AgentClient:
    """Make the client of a command."""
    chosen = dict(_given)
    target = chosen.pop("server", None) or os.environ.get("AGENT_SERVER") or DEFAULT_TARGET
    return AgentClient(target, first_contact_for=FIRST_CONTACT, **chosen)


def _keyword(parameter: inspect.Parameter) -> inspect.Parameter:
    kind, option = parameter.annotation.__origin__, copy.copy(parameter.annotation.__metadata__[0])
    option.hidden = parameter.name != "server"
    return parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=Annotated[kind, option])
