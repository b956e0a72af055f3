"""Config: all that an operator can set, with its default and its one line of help. Frozen; unpacked only in server."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MAX_DURATION = 10 * 365 * 86400.0
"""Seconds of any duration; what follows from longer ones has no place in a timestamp."""
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_duration(text: str) -> float:
    """Seconds of a text such as `90`, `90s`, `5m`, `24h` or `500ms`; ValueError says what is accepted."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?", text.strip())
    if match is None:
        raise ValueError(f"{text!r} is no duration; accepted are texts such as 90s, 5m, 24h or 500ms")
    seconds = float(match[1]) * _UNITS[match[2] or "s"]
    if seconds > MAX_DURATION:
        raise ValueError(f"{text!r} is more than 10 years")
    return seconds


def _option(default: Any, help_text: str, **metadata: Any) -> Any:
    return field(default=default, metadata={"help": help_text, **metadata})


@dataclass(frozen=True, kw_only=True)
class Config:
    """The configuration of one service. Durations are seconds; 0 means none."""

    listen: tuple[str, ...] = _option(
        ("127.0.0.1:50051",),
        "HOST:PORT to serve on, with tls: or mtls: before it for TLS, or unix:/PATH; may be repeated, and has commas "
        "in the variable; port 0 picks a free one",
    )
    data_dir: Path = _option(Path("data"), "directory of the ledger, the transcripts and the sessions' files")
    secrets_dir: Path | None = _option(
        None, "directory of the secrets that options name as secret://NAME: TENANT/NAME, or default/NAME", path=True
    )
    model_gateway: str = _option(
        "sealed", "agents that have no credentials and reach the model by the service", choices=("sealed", "all")
    )
    model: str = _option("claude", "where answers come from", choices=("claude", "offline", "auto"))
    default_model: str = _option("", "model of sessions that name none; empty: the agent's own default")
    auth: str = _option(
        "local",
        "who may call without --access: whoever has the token that the service makes, or all",
        choices=("local", "none"),
    )
    access: Path | None = _option(None, "TOML file: who may call, and what each tenant may ask for", file=True)
    tls_cert: Path | None = _option(
        None, "PEM file: certificate of tls: and mtls: listeners, with its chain", file=True
    )
    tls_key: Path | None = _option(None, "PEM file: the certificate's private key", file=True)
    tls_client_ca: Path | None = _option(None, "PEM file: authorities of the clients of mtls: listeners", file=True)
    insecure: bool = _option(False, "listen beyond loopback without TLS, or without an access file")
    max_sessions: int = _option(8, "sessions at work at once", minimum=1)
    max_queued: int = _option(1000, "turns that may wait for a place", minimum=0)
    start_limit: int = _option(0, "agents started at the same moment; 0: as many as cores", minimum=0)
    # About 100 MB each; fewer are kept where fewer are asked for, none where memory is short.
    warm_agents: int = _option(4, "agents kept connected before they are asked for, at most", minimum=0)
    max_prepared: int = _option(
        32, "agents that callers may have connected ahead of their sessions, at most", minimum=0
    )
    max_idle: int = _option(32, "finished sessions whose process waits for their next turn; 0: no limit", minimum=0)
    idle_timeout: float = _option(300.0, "how long a finished session's process waits for its next turn", duration=True)
    execution_timeout: float = _option(
        0.0, "longest a turn may run unless it says otherwise; 0: no limit", duration=True
    )
    queue_timeout: float = _option(0.0, "longest a turn may wait unless it says otherwise; 0: no limit", duration=True)
    stall_timeout: float = _option(1200.0, "longest an agent at work may be silent; 0: no limit", duration=True)
    background_timeout: float = _option(3600.0, "longest background tasks may go on after the result", duration=True)
    start_timeout: float = _option(60.0, "longest an agent may take to start", duration=True)
    retention: float = _option(86400.0, "how long sessions at rest are kept; 0: for ever", duration=True)
    profiles: Path | None = _option(
        None, "directory of named options that callers may choose, one TOML file each", path=True
    )
    drain_timeout: float = _option(30.0, "how long running turns may go on after the first signal", duration=True)
    api_retries: int = _option(4, "how often the agent tries a failed API request again", minimum=0)
    api_timeout: float = _option(120.0, "longest wait for the API's response to begin", duration=True)
    process_guard: str = _option(
        "auto", "how process trees are held", choices=("auto", "pidns", "cgroup", "subreaper", "process-group")
    )
    audit_log: Path | None = _option(None, "file of the audit log: who changed what, and what was refused", file=True)
    audit_reads: bool = _option(False, "have calls that only read in the audit log as well")
    sandbox: str = _option(
        "auto", "what agents see of this host, unless a policy says it", choices=("auto", "off", "workspace", "sealed")
    )
    log_level: str = _option(
        "info", "least important log lines to write", choices=("debug", "info", "warning", "error")
    )
    agent_environment: Mapping[str, str] = field(default_factory=dict)
    runtime_dir: Path | None = None
    """Where clients on this host look for the token; None leaves no copy of it."""

    def spawn_limit(self) -> int:
        """Return how many agents may be starting at the same moment."""
        return self.start_limit or os.cpu_count() or 1
