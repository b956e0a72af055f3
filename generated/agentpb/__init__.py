"""The stubs of proto/agent.proto, written by `make proto` only."""
