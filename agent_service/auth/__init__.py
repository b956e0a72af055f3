"""Identity: from credentials to a Principal. Knows neither gRPC nor what a principal may ask for."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from agent_service.auth.authenticator import Authenticator, Kind
from agent_service.auth.certificates import Certificates, name_of, names_of
from agent_service.auth.claims import Claim
from agent_service.auth.credentials import NOTHING, Credentials, bearer_of
from agent_service.auth.principal import ANONYMOUS, LOCAL, RIGHTS, Principal
from agent_service.auth.sockets import Sockets
from agent_service.auth.sources import check_source
from agent_service.auth.tokens import DIGEST, Tokens, digest_of, new_token, token_id

if TYPE_CHECKING:
    from agent_service.auth.jwt import Issuer, Jwt
    from agent_service.auth.keysets import KeySet

__all__ = [
    "ANONYMOUS",
    "DIGEST",
    "LOCAL",
    "NOTHING",
    "RIGHTS",
    "Authenticator",
    "Certificates",
    "Claim",
    "Credentials",
    "Issuer",
    "Jwt",
    "KeySet",
    "Kind",
    "Principal",
    "Sockets",
    "Tokens",
    "bearer_of",
    "check_source",
    "digest_of",
    "name_of",
    "names_of",
    "new_token",
    "token_id",
]

_LATER = {"Issuer": "jwt", "Jwt": "jwt", "KeySet": "keysets"}


def __getattr__(name: str) -> Any:
    """Import PyJWT when an access file has an issuer: it takes 2 MB and 19 ms."""
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LATER[name]}"), name)
