"""Agent-service: a gRPC service that runs Claude agents and keeps all they say in a durable, numbered log."""
