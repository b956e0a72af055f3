"""Identity: from credentials to a Principal. Knows neither gRPC nor what a principal may ask for."""

from agent_service.auth.authenticator import Authenticator, Kind
from agent_service.auth.certificates import Certificates, name_of, names_of
from agent_service.auth.claims import Claim
from agent_service.auth.credentials import NOTHING, Credentials, bearer_of
from agent_service.auth.jwt import Issuer, Jwt
from agent_service.auth.keysets import KeySet, check_source
from agent_service.auth.principal import ANONYMOUS, LOCAL, RIGHTS, Principal
from agent_service.auth.sockets import Sockets
from agent_service.auth.tokens import DIGEST, Tokens, digest_of, new_token, token_id

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
