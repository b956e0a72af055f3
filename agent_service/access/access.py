"""Access: the rules in force. Without an access file every caller is the local principal, and nothing is limited."""

from __future__ import annotations

from agent_service.policy import Grant


class Access:
    """The rules in force."""

    def __init__(self) -> None:
        """Begin with the rules that hold without an access file."""
        self._grants: dict[str, Grant] = {}

    @property
    def version(self) -> str:
        """The first 12 hexadecimal digits of the access file's SHA-256; "" without a file."""
        return ""

    def grant(self, tenant: str) -> Grant:
        """What a tenant may ask for."""
        return self._grants.setdefault(tenant, Grant.dev(tenant))
