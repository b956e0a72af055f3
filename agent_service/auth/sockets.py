"""Unix sockets as credentials: who may open the socket's file is the principal that the access file names for it."""

from __future__ import annotations

from collections.abc import Mapping

from agent_service.auth.credentials import Credentials
from agent_service.auth.principal import Principal


class Sockets:
    """Authenticates callers by the Unix socket that they came through."""

    def __init__(self, principals: Mapping[str, Principal]) -> None:
        """Take principals by the path of their socket."""
        self._principals = dict(principals)

    async def principal(self, credentials: Credentials) -> Principal | None:
        """Return the principal of the socket, for a call that shows nothing else."""
        return self._principals.get(credentials.socket) if credentials.socket and credentials.is_empty else None
