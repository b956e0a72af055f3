"""Commands of `agent-service` that need no service: tokens, and the audit log.

Each imports what it runs, so that none waits for what another one needs.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import IO

import click

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,127}")
TOKEN_ADVICE = """
The token is the caller's alone and cannot be shown again. Store it in a file that only the caller can read (umask 077);
agentctl and the Python client take --token-file FILE or AGENT_TOKEN_FILE, others send `authorization: Bearer TOKEN`.

In the service's access file (--access FILE, read again when it changes) the principal is:

{table}
"""


@click.group("audit")
def audit() -> None:
    """Look at the audit log that `serve --audit-log FILE` writes."""


@audit.command("verify")
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path, dir_okay=False))
@click.option("--head", default="", help="a head from the service's log: finds an end that was cut off, and a rewrite")
def audit_verify(files: tuple[Path, ...], head: str) -> None:
    """Find lines that were changed, dropped, swapped or added. Rotated files are named together, the oldest first.

    Exit code 0: all lines are as they were written; 1: they are not. The service writes heads to its own log: at start
    and stop, every 1,000 records and every hour.
    """
    from agent_service.audit import verify

    try:
        found = verify(files, head.strip().lower())
    except OSError as error:
        raise click.FileError(str(error.filename), error.strerror) from error
    for problem in found.problems:
        click.echo(problem)
    if found.problems:
        sys.exit(1)
    if found.first > 1:
        click.echo(f"note: {found.first - 1} records are in older files, which end with head {found.continues}")
    if head:
        click.echo(f"the head that was asked for is record {found.anchored_at}")
    click.echo(f"{found.records} records, as they were written; head {found.head}")


@click.group("policy")
def policy() -> None:
    """Look at the policy of an access file."""


@policy.command("check")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.argument("request", type=click.File("r", encoding="utf-8"))
@click.option("--as", "name", required=True, help="the principal of the file that asks, or a tenant")
@click.option("--tenant", default="", help="the tenant, for a principal of several")
@click.option("--profiles", type=click.Path(path_type=Path, file_okay=False), help="the directory of profiles")
def policy_check(file: Path, request: IO[str], name: str, tenant: str, profiles: Path | None) -> None:
    """Say what the access file FILE would say of REQUEST: an ExecuteRequest, or only its options, in JSON; - for stdin.

    Needs no service, for the CI of the file. Exit code 0: it is allowed, and the lines say what is filled in; 1: it is
    refused, and the lines say what for; 2: the question cannot be asked.
    """
    from agent_service.policy_check import BadQuestion, ask

    try:
        verdict = ask(file, name, tenant, request.read(), profiles)
    except BadQuestion as problem:
        raise click.UsageError(str(problem)) from problem
    for line in verdict.lines:
        click.echo(line)
    whose = f"tenant {verdict.tenant}" if verdict.tenant else "the empty tenant"
    click.echo(f"{verdict.reason}, as {name} for {whose}" if verdict.reason else f"allowed, as {name} for {whose}")
    if verdict.reason:
        sys.exit(1)


@click.command("token")
@click.argument("name")
@click.option("--tenant", default="", help="the tenant that the principal acts for; none: the empty one")
def token(name: str, tenant: str) -> None:
    """Make a token for the principal NAME: the token on standard output, what to do with it on standard error.

    `agent-service token ci > ci.token` keeps it off the screen. Nothing is stored: the service knows a token by the
    digest in its access file.
    """
    from agent_service.auth import digest_of, new_token

    for what, word in (("NAME", name), ("--tenant", tenant)):
        if (word or what == "NAME") and not NAME.fullmatch(word):
            raise click.BadParameter(f"{word!r} is not a name: letters, digits and ._@-, at most 128", param_hint=what)
    made = new_token()
    click.echo(made)
    table = [f"[principal.{_toml_key(name)}]", f'token = "{digest_of(made)}"']
    if tenant:
        table.append(f'tenant = "{tenant}"')
    click.echo(TOKEN_ADVICE.format(table="\n".join(f"    {line}" for line in table)), err=True)


def _toml_key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else f'"{name}"'
