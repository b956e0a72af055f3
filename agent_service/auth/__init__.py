"""Identity: from credentials to a Principal. Knows neither gRPC nor what a principal may ask for."""

from agent_service.auth.principal import LOCAL, Principal
from agent_service.auth.tokens import digest_of, new_token, token_id

__all__ = ["LOCAL", "Principal", "digest_of", "new_token", "token_id"]
