"""Programs: which files of hidden places an agent has to see, so that what its options and its PATH name can run.

A directory of PATH is shown, and around it what makes it a tool chain: a virtual environment with the Python that it
was made from, a Node installation, the tree of a version manager. Of an MCP server its program is shown with the same
rule, and of its arguments each file and directory that is named by an absolute path. Homes as a whole never are.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from glob import glob
from pathlib import Path

from agentpb import agent_pb2 as pb

from agent_service.policy import Grant
from agent_service.processes.hidden import Hidden

CREDENTIAL_FILES = ("GOOGLE_APPLICATION_CREDENTIALS", "AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE")
"""Variables of the agents' environment that name files with credentials."""

TRUST_FILES = (
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "NODE_EXTRA_CA_CERTS", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
    *("AWS_CA_BUNDLE", "GIT_SSL_CAINFO", "CLAUDE_CODE_CLIENT_CERT", "CLAUDE_CODE_CLIENT_KEY"),
)
"""Variables that name certificates."""

_SIGNS = ("pyvenv.cfg", "lib/node_modules", "libexec", "versions", "lib/python3", "lib/python3.11")
"""Any of these beside a directory of programs makes a tool chain of what is around it."""


def needed(
    options: pb.AgentOptions, environment: Mapping[str, str], hidden: Hidden, grant: Grant, *, sealed: bool
) -> list[Path]:
    """Return the files and directories in hidden places that an agent has to see. Asks the file system.

    Of a tenant that an access file limits, only what the operator named counts: a PATH or a server of the caller's
    could name any directory.
    """
    path = environment.get("PATH", os.defpath)
    if not grant.limited:
        path = options.env.get("PATH", path)
    found: list[Path] = [Path(plugin) for plugin in options.plugins]
    for server in options.mcp_servers.values():
        if server.HasField("stdio") and (not grant.limited or _is_of_operator(server.stdio, grant)):
            found += _of_server(server.stdio, server.stdio.env.get("PATH", path))
    if not sealed:
        for folder in path.split(os.pathsep):
            found += _around(Path(folder)) if folder.startswith("/") else ()
        for name in (*CREDENTIAL_FILES, *TRUST_FILES):
            found += [Path(environment[name])] if environment.get(name, "").startswith("/") else []
    return list(dict.fromkeys(each for each in found if _may_be_shown(each, hidden, sealed=sealed)))


def _is_of_operator(server: pb.McpStdioServer, grant: Grant) -> bool:
    commands = [(each.stdio.command, list(each.stdio.args)) for each in grant.servers.values()]
    return (server.command, list(server.args)) in commands


def _of_server(server: pb.McpStdioServer, path: str) -> Iterator[Path]:
    program = shutil.which(server.command, path=path)
    if program is not None:
        for each in dict.fromkeys((Path(program), Path(os.path.realpath(program)))):
            yield each
            yield from _around(each.parent)
    yield from (Path(argument) for argument in server.args if argument.startswith("/"))


def _around(folder: Path) -> Iterator[Path]:
    """Yield a directory of programs, and the tool chain that it is the door of."""
    yield folder
    chain = folder.parent
    if not _is_tool_chain(chain):
        return
    yield chain
    base = _base_of(chain)
    if base is not None and _is_tool_chain(base):
        yield base


def _is_tool_chain(folder: Path) -> bool:
    # What this service may not look into, such as root's, is no reason to start no agent: the same of Path would raise.
    return any(os.path.exists(folder / sign) for sign in _SIGNS) or bool(glob("lib/python3.*", root_dir=folder))


def _base_of(environment: Path) -> Path | None:
    """The installation that a virtual environment was made from."""
    try:
        lines = (environment / "pyvenv.cfg").read_text(errors="replace").splitlines()
    except OSError:
        return None
    homes: Iterable[str] = (
        line.partition("=")[2].strip() for line in lines if line.partition("=")[0].strip() == "home"
    )
    return next((Path(home).parent for home in homes if home.startswith("/")), None)


def _may_be_shown(path: Path, hidden: Hidden, *, sealed: bool) -> bool:
    real = Path(os.path.realpath(path))
    if not os.path.exists(real) or any(real.is_relative_to(place) for place in hidden.secret):
        return False
    inside = [place for place in hidden.places if real.is_relative_to(place)]
    if not inside:
        return sealed
    return all(
        real != place and (real.parent != place or os.path.isfile(real) or place != Path("/home")) for place in inside
    )
