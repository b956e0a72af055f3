"""Agent-service: a gRPC service that runs Claude agents and keeps their events in a durable, numbered log.

The rooms, from the callers down to the disk; each imports only from rooms below it (docs/architecture.md):

- `server`        builds everything from a Config, serves and drains; `maintenance` checks and copies a data directory
- `api`           what callers reach: RPCs, validation, errors as google.rpc.Status
- `registry`      all sessions: execute, control, delete, watch, recover
- `session`       one session: its turns, its states, what it asks of people
- `agents`        the processes that answer: pool, warm agents, transport, workspaces
- `ledger`        the record: sessions, turns and events, durable before they are visible
- `options`       AgentOptions: checked, merged, translated for the SDK
- `events`        frames of the CLI as SessionEvents, and SessionEvents as bytes
- `processes`     process trees: how they are guarded, found and ended
- `offline`       a scripted stand-in for the model's API
- `backends`      which model answers, and the environment that tells agents so
- `errors`, `config`, `output`
"""
