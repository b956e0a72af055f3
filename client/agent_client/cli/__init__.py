"""agentctl: the agent service on the command line."""

from __future__ import annotations

import sys

from agent_client.cli import answering, many, preparing, running, sessions  # noqa: F401  # each adds its commands to the app
from agent_client.cli.app import app
from agent_client.cli.streams import degrade_visibly

# As help lists them: what a newcomer needs first comes first.
_ORDER = ["run", "watch", "status", "ls", "count", "cancel", "cancel-all", "rm", "cleanup", "info"]
_ORDER += ["prepare", "send", "interrupt", "pending", "approve", "deny", "answer", "export"]
app.registered_commands.sort(key=lambda each: _ORDER.index(each.name or ""))

__all__ = ["app", "main"]


def main() -> None:
    """Run agentctl."""
    for stream in (sys.stdout, sys.stderr):
        degrade_visibly(stream)
    app()
