"""What the sessions of a tenant share: what an operator put into tenants/TENANT/config, copied into each session's own.

Each start of an agent replaces the session's copies, so that what one session changes there is no other's. The
originals are in no sandbox's view.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from agent_service.agents import tree_copy, trees
from agent_service.agents.conversations import copy_file

CREDENTIALS = ".credentials.json"
FILES = (CREDENTIALS, "CLAUDE.md", "keybindings.json", "settings.json")
FOLDERS = ("agents", "commands", "hooks", "output-styles", "rules", "skills", "workflows")
"""What the CLI reads from its configuration and does not write by itself."""


def give(tenant: Path, session: Path) -> None:
    """Copy what the tenant shares into a session's configuration. Raises OSError.

    Credentials that the operator has taken away are taken from the session too.
    """
    if not tenant.is_dir():
        return
    trees.remove(session / CREDENTIALS)
    for name in FILES:
        with suppress(FileNotFoundError):
            source = (tenant / name).resolve(strict=True)  # an operator's link is meant to be followed
            trees.remove(session / name)
            copy_file(source, session / name)
    for name in FOLDERS:
        if (tenant / name).is_dir():
            trees.remove(session / name)
            tree_copy.copy((tenant / name).resolve(), session / name)
