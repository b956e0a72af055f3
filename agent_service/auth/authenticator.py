"""Authenticator: from the credentials of a call to its principal, by the first kind of credential that knows them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from agent_service.auth.credentials import Credentials
from agent_service.auth.principal import Principal
from agent_service.errors import CredentialsInvalid, CredentialsMissing


class Kind(Protocol):
    """One kind of credentials."""

    async def principal(self, credentials: Credentials) -> Principal | None:
        """Return the principal; None when these are no credentials of this kind, or not valid ones.

        Raises IdentityUnavailable when it cannot be told.
        """


@dataclass(frozen=True)
class Authenticator:
    """Authenticates calls. `kinds` are asked in turn, by the names that GetServerInfo has."""

    kinds: Sequence[tuple[str, Kind]]
    advice: str
    """What to send, for callers that sent nothing."""

    @property
    def names(self) -> tuple[str, ...]:
        """The kinds of credentials that are accepted."""
        return tuple(name for name, _ in self.kinds)

    async def authenticate(self, credentials: Credentials) -> Principal:
        """Return the principal. Raises CredentialsMissing, CredentialsInvalid, IdentityUnavailable."""
        for _, kind in self.kinds:
            principal = await kind.principal(credentials)
            if principal is not None:
                if principal.expires is not None and principal.expires <= time.time():
                    break
                return principal
        if credentials.is_empty:
            raise CredentialsMissing(f"this call needs a credential: {self.advice}")
        raise CredentialsInvalid("the credential is not valid here: it is unknown, malformed or expired")
