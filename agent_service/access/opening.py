"""Opening: from what the operator has configured to the rules in force."""

from __future__ import annotations

import logging
from pathlib import Path

from agent_service.access.access import Access
from agent_service.access.local_token import FILE, LocalToken
from agent_service.access.rules import local_rules
from agent_service.errors import CannotServe

log = logging.getLogger(__name__)

HEADER = '-H "authorization: Bearer $(cat {})"'
"""The argument by which grpcurl and curl send the token of a file."""


def open_access(file: Path | None, auth: str, data_dir: Path) -> tuple[Access, LocalToken | None]:
    """Return the rules in force, and the local token where that is what callers need. Raises CannotServe.

    `auth` is "local" or "none", and counts without an access file.
    """
    if file is not None:
        access = Access(file=file)
        log.info("access file %s: version %s; accepted are: %s", file, access.version, ", ".join(access.kinds))
        return access, None
    if auth == "none":
        log.warning(
            "--auth none: NOBODY IS ASKED FOR A CREDENTIAL. Whoever reaches the service runs commands with it, its own "
            "agents included: they can approve what they ask for, and see, cancel and delete every session."
        )
        return Access(), None
    try:
        token = LocalToken(data_dir)
    except OSError as error:
        raise CannotServe(f"the token {data_dir / FILE} cannot be made: {error}") from error
    header = HEADER.format(token.file)
    advice = (
        f"the token of {token.file}, which agentctl and the Python client find by themselves; grpcurl takes {header}"
    )
    return Access(local_rules(token.text, advice)), token
