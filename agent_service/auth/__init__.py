"""Identity: from credentials to a Principal. Knows neither gRPC nor what a principal may ask for."""

from agent_service.auth.principal import LOCAL, Principal

__all__ = ["LOCAL", "Principal"]
