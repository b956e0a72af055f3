"""Principal: an authenticated caller."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Principal:
    """An authenticated caller. A tenant owns sessions; a principal acts for a tenant."""

    name: str
    """Its name in the access file, or as its credential says it; written into `created_by` and the audit log."""
    tenant: str = ""
    """The tenant that it acts for unless a call names another."""
    tenants: tuple[str, ...] = ()
    """The tenants that a call may name; "*" for any. Empty: `tenant` alone."""
    rpcs: frozenset[str] | None = None
    """The names of the RPCs that it may call; None for all."""
    rights: frozenset[str] = frozenset()
    """Rights beyond RPCs, such as "answer_for_others"."""
    via: str = "none"
    """The kind of its credential, such as "local token", "token", "certificate", "jwt", "unix socket" or "none"."""
    credential: str = ""
    """What the audit log calls the credential: six hexadecimal digits of a token's hash, a serial, a jti."""
    expires: float | None = None
    """When the credential expires, in seconds of the epoch; None: not by itself."""


RIGHTS = frozenset({"answer_for_others", "other_owners"})
"""The rights that there are: to answer in the name of somebody else, and to see what other tenants use."""

LOCAL = Principal(name="local", rights=RIGHTS)
"""The principal of the local token, and of every call where no credential is asked for: of the empty tenant, with
every right."""

ANONYMOUS = Principal(name="", rpcs=frozenset())
"""A caller without credentials, where something is open to it."""
