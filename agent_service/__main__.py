"""`agent-service`: environment, TOML file and flags become a Config. The environment is read here and nowhere else.

Each command imports what it runs, so that none waits for what another one needs.
"""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import logging
import os
import sys
import tomllib
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agent_service import commands
from agent_service.config import Config, parse_duration
from agent_service.output import Output, open_output

if TYPE_CHECKING:
    from agent_service.server import Running

log = logging.getLogger(__name__)

PREFIX = "AGENT_SERVICE_"
PASSED_ON = ("PATH", "LANG", "LC_ALL", "TZ", "TERM", "SSL_CERT_FILE", "SSL_CERT_DIR", "NODE_EXTRA_CA_CERTS")
PASSED_ON_PREFIXES = (
    "ANTHROPIC_",
    "CLAUDE_CODE_",
    "AWS_",
    "GOOGLE_",
    "GCLOUD_",
    "CLOUD_ML_",
    "AZURE_",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
)
NOT_PASSED_ON = ("CLAUDE_CODE_ENTRYPOINT", "CLAUDE_CODE_SSE_PORT", "CLAUDE_CODE_SESSION_ID")
"""What would make the CLI believe that it runs inside another one."""


class Duration(click.ParamType[float]):
    """Seconds, written 90s, 5m, 24h."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Parse a text; numbers of a TOML file are seconds."""
        try:
            seconds = float(value) if isinstance(value, int | float) else parse_duration(value)
        except (TypeError, ValueError) as error:
            self.fail(str(error), param, ctx)
        if not 0 <= seconds < float("inf"):
            self.fail(f"{value} is no duration; it must not be negative, nor without end (0 is for none)", param, ctx)
        return seconds


class Listed(click.types.StringParamType):
    """One text of several: the flag is repeated, the variable has commas."""

    envvar_list_splitter = ","


def _config_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command one option per field of Config: a flag, a variable and a TOML key each."""
    for field in reversed(dataclasses.fields(Config)):
        if "help" in field.metadata:
            command = _config_option(field)(command)
    return command


def _config_option(field: dataclasses.Field[Any]) -> Callable[..., Any]:
    flag = f"--{field.name.replace('_', '-')}"
    settings: dict[str, Any] = {
        "envvar": PREFIX + field.name.upper(),
        "default": field.default,
        "help": field.metadata["help"],
        "show_default": True,
        "show_envvar": True,
        "type": _type_of(field),
    }
    if field.metadata.get("duration"):
        settings["default"], settings["show_default"] = field.default, f"{field.default:g} s"
    if isinstance(field.default, bool):
        settings |= {"is_flag": True, "type": None}
    if isinstance(field.default, tuple):
        settings["multiple"] = True
    return click.option(flag, **settings)


def _type_of(field: dataclasses.Field[Any]) -> click.ParamType[Any]:
    if isinstance(field.default, tuple):
        return Listed()
    if field.metadata.get("file"):
        return click.Path(path_type=Path, dir_okay=False)
    if field.metadata.get("duration"):
        return Duration()
    if choices := field.metadata.get("choices"):
        return click.Choice(choices)
    if isinstance(field.default, int):
        return click.IntRange(min=field.metadata.get("minimum"))
    if isinstance(field.default, Path) or field.metadata.get("path"):
        return click.Path(path_type=Path, file_okay=False)
    return click.STRING


def _read_toml(context: click.Context, param: click.Parameter, path: Path | None) -> Path | None:
    """Make the file's keys the defaults, below variables and flags."""
    if path is None:
        return None
    try:
        values = tomllib.loads(path.read_text())
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise click.BadParameter(f"{path}: {error}") from None
    fields = {field.name: field for field in dataclasses.fields(Config) if "help" in field.metadata}
    if unknown := sorted(set(values) - set(fields)):
        raise click.BadParameter(f"{path}: unknown keys {', '.join(unknown)}; known are {', '.join(sorted(fields))}")
    lists = {name for name, field in fields.items() if isinstance(field.default, tuple)}
    values |= {name: [values[name]] for name in lists & set(values) if isinstance(values[name], str)}
    context.default_map = {**(context.default_map or {}), **values}
    return path


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(package_name="agent-service")
def cli() -> None:
    """Run Claude agents from any backend: a gRPC service around the Claude Agent SDK."""


@cli.command("serve")
@click.option(
    "--config",
    "config_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    envvar=PREFIX + "CONFIG",
    is_eager=True,
    callback=_read_toml,
    help="TOML file whose keys are the names of these options, with _ for -",
)
@_config_options
def serve_command(config_file: Path | None, **values: Any) -> None:
    """Serve agentservice.v1. Logs go to stderr.

    When ready, prints one line for each address: agent-service listening on HOST:PORT.

    The first SIGTERM, SIGINT or SIGHUP drains, the second one ends at once. A SIGHUP that is ignored at the start, as
    nohup has it, stays ignored.
    """
    # A busy loop hands the interpreter over only this often; the ledger's threads would wait for it five times as long.
    sys.setswitchinterval(0.001)
    config = Config(
        **values, agent_environment=agent_environment(os.environ), runtime_dir=runtime_directory(os.environ)
    )
    output = open_output(config.log_level)
    # What is imported stays. To look through it for garbage again and again would take a fifth of the start.
    gc.disable()
    try:
        code = _serve(config, output)
    finally:
        gc.enable()
        output.stdout.flush()
    sys.exit(code)


def _serve(config: Config, output: Output) -> int:
    from agent_service.errors import CannotServe, StoreUnavailable
    from agent_service.ledger import LedgerUnusable
    from agent_service.processes.guards import GuardUnavailable
    from agent_service.server import serve

    try:
        return asyncio.run(serve(config, ready=lambda running: _announce(running, output)))
    except (CannotServe, LedgerUnusable, GuardUnavailable) as error:
        output.stderr.put(f"agent-service: {error}")
        return 78  # EX_CONFIG
    except StoreUnavailable as error:
        output.stderr.put(f"agent-service: {error}")
        return 74  # EX_IOERR


_DATA_DIR = click.option(
    "--data-dir",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    default=Path("data"),
    envvar=PREFIX + "DATA_DIR",
    show_default=True,
    show_envvar=True,
    help="directory of the ledger, the transcripts and the sessions' files",
)


@cli.command("fsck")
@_DATA_DIR
def fsck_command(data_dir: Path) -> None:
    """Look for contradictions in a data directory, also while it is in use.

    Prints one line each. Exit code 0: the ledger is sound; 1: it is not. Lines that begin with "note:" say what is
    sound but should be known.
    """
    from agent_service import maintenance as upkeep

    found = upkeep.check(data_dir)
    for problem in found.problems:
        click.echo(problem)
    for note in found.notes:
        click.echo(f"note: {note}")
    if found.problems:
        sys.exit(1)
    click.echo(f"{found.sessions} sessions, no contradictions")


@cli.command("backup")
@_DATA_DIR
@click.argument("destination", type=click.Path(path_type=Path, exists=False))
def backup_command(data_dir: Path, destination: Path) -> None:
    """Copy a data directory to DESTINATION, which must not exist, also while it is in use.

    The copy is a data directory: point --data-dir at it, or move it to where the old one was.
    """
    from agent_service import maintenance as upkeep
    from agent_service.ledger import LedgerUnusable

    try:
        problems = upkeep.backup(data_dir, destination)
    except (OSError, LedgerUnusable) as error:
        click.echo(f"agent-service: cannot copy {data_dir} to {destination}: {error}", err=True)
        sys.exit(74)  # EX_IOERR
    for problem in problems:
        click.echo(f"left out: {problem}", err=True)
    click.echo(f"{data_dir} is copied to {destination}")


@cli.command("assign")
@_DATA_DIR
@click.argument("tenant", metavar="TENANT")
def assign_command(data_dir: Path, tenant: str) -> None:
    """Give the sessions that belong to no tenant to TENANT, while no service uses the data directory.

    Sessions made before there was an access file belong to no tenant: only callers without a tenant see them. Their
    request ids go with them. A session whose id TENANT uses for another one stays. Exit code 0: all were given; 1: not.
    """
    from agent_service import maintenance as upkeep
    from agent_service.ledger import LedgerUnusable

    if not commands.NAME.fullmatch(tenant) or tenant in ("default", "operator"):
        raise click.BadParameter(f"{tenant!r} is not the name of a tenant", param_hint="TENANT")
    try:
        assigned = upkeep.assign_sessions(data_dir, tenant)
    except (OSError, LedgerUnusable) as error:
        click.echo(f"agent-service: cannot assign the sessions of {data_dir}: {error}", err=True)
        sys.exit(78)  # EX_CONFIG
    click.echo(f"{assigned.given} sessions were given to tenant {tenant}")
    for session_id in assigned.left:
        click.echo(f"left: session {session_id}, as tenant {tenant} has another one of this id", err=True)
    if assigned.left:
        sys.exit(1)


@cli.command("accept-ledger")
@_DATA_DIR
def accept_command(data_dir: Path) -> None:
    """Let the next start go on with the ledger that is there, although sessions or parts of them are missing.

    For a start that was refused because the ledger is missing, is another one, or is older than it was: after a backup
    was put back on purpose, or when what is missing is gone for good.
    """
    from agent_service import maintenance as upkeep

    try:
        upkeep.accept_ledger(data_dir)
    except OSError as error:
        click.echo(f"agent-service: cannot write to {data_dir}: {error}", err=True)
        sys.exit(74)  # EX_IOERR
    click.echo(f"the next start takes the ledger in {data_dir} as it is")


@cli.command("offline-model")
@click.option(
    "--listen", default="127.0.0.1:0", show_default=True, help="HOST:PORT to serve on; port 0 picks a free one"
)
@click.option(
    "--key",
    default="",
    envvar=PREFIX + "OFFLINE_KEY",
    show_envvar=True,
    help="API key to ask for; without one, every process that reaches the port is answered",
)
def offline_model_command(listen: str, key: str) -> None:
    """Run the offline model alone: a scripted stand-in for the Claude API, for anybody's tests.

    Point ANTHROPIC_BASE_URL at it, and ANTHROPIC_API_KEY at its key, or at any text when it has none. When ready,
    prints one line: offline model listening on http://HOST:PORT.
    """
    host, _, port = listen.rpartition(":")
    if not port.isdecimal():
        raise click.BadParameter(f"{listen!r} is not HOST:PORT", param_hint="--listen")
    from agent_service import offline

    asyncio.run(offline.serve_forever(host.strip("[]") or "127.0.0.1", int(port), key=key))


cli.add_command(commands.audit)
cli.add_command(commands.policy)
cli.add_command(commands.token)


def agent_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of the service's environment that agents get: access to Claude, and nothing else."""
    return {
        key: value
        for key, value in environment.items()
        if (key in PASSED_ON or key.startswith(PASSED_ON_PREFIXES)) and key not in NOT_PASSED_ON
    }


def runtime_directory(environment: Mapping[str, str]) -> Path | None:
    """Return where clients on this host look for the token of a service; None where there is no home either."""
    if base := environment.get("XDG_RUNTIME_DIR"):
        return Path(base) / "agent-service"
    home = os.path.expanduser("~")
    return Path(home) / ".local" / "state" / "agent-service" if os.path.isabs(home) else None


def _announce(running: Running, output: Output) -> None:
    for address in running.addresses:
        output.stdout.put(f"agent-service listening on {address}")
    source, command, advice = _source(running), _first_command(running), _advice(running)
    if os.isatty(2):
        output.stderr.put(f"\n  Answers come from {source}\n  In a second shell, type:\n\n    {command}\n{advice}")
    else:
        log.info("answers come from %s In a second shell, type: %s", source, command)


def _advice(running: Running) -> str:
    """Return what other clients than ours have to send, as a paragraph."""
    from agent_service.access import HEADER

    if running.token is None:
        return ""
    return (
        f"\n  Other clients send the service's token, as in grpcurl {HEADER.format(_from_here(running.token.file))}\n"
    )


def _source(running: Running) -> str:
    if running.model_backend == "claude":
        return "Claude, with the credentials in the environment."
    return (
        "the offline model, a script that does what the prompt says. It is not Claude; set ANTHROPIC_API_KEY and start "
        "again for that."
    )


def _first_command(running: Running) -> str:
    """Return the command to try next, as it works in the directory that the service was started in."""
    agentctl = _from_here(Path(sys.executable).with_name("agentctl"))
    server = "" if running.address == "127.0.0.1:50051" else f" --server {running.address}"
    offline_run = running.model_backend == "offline"
    prompt = "bash: echo hello from a real tool" if offline_run else "Say hello with echo in a shell"
    return f'{agentctl}{server} run --allow Bash "{prompt}"'


def _from_here(path: Path) -> Path:
    """The path as it works in the directory that the service was started in."""
    with suppress(FileNotFoundError):  # that directory may have been removed
        return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    return path


def main() -> None:
    """Run the command line."""
    cli(prog_name="agent-service")


if __name__ == "__main__":
    main()
