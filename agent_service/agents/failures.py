"""Failures: SDK exceptions and exit codes as reasons of SessionError."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from typing import Any

from claude_agent_sdk import CLINotFoundError, ProcessError, ResultError

from agent_service.processes.view import OutOfBounds, SandboxUnavailable


class AgentFailed(Exception):
    """An agent did not start, or ended by itself: `reason` as in SessionError.reason, and what its process said."""

    def __init__(self, reason: str, message: str, *, retryable: bool = False, stderr_tail: str = "") -> None:
        """Keep the parts of the session's error."""
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.retryable = retryable
        self.stderr_tail = stderr_tail


def classify(error: BaseException, *, stderr_tail: str) -> AgentFailed:
    """Return the reason why an agent did not start, or ended by itself."""
    text = str(error)
    if isinstance(error, ResultError) and "No conversation found" in text:
        return AgentFailed(
            "RESUME_REJECTED", "the conversation's transcript is missing; start a new session", stderr_tail=stderr_tail
        )
    if isinstance(error, ResultError):
        return AgentFailed("AGENT_REFUSED", text, stderr_tail=stderr_tail)
    if isinstance(error, ProcessError):
        return AgentFailed(
            "AGENT_EXITED",
            f"the agent's process ended with exit code {error.exit_code}"
            + (f": {_last_line(stderr_tail)}" if stderr_tail else ""),
            retryable=_died_by_signal(error.exit_code),
            stderr_tail=stderr_tail,
        )
    if isinstance(error, OutOfBounds):
        return AgentFailed("POLICY_DENIED", text)
    if isinstance(error, SandboxUnavailable):
        return AgentFailed("SANDBOX_UNAVAILABLE", text)
    if isinstance(error, CLINotFoundError | OSError):
        return AgentFailed(
            "AGENT_UNAVAILABLE", f"the agent's process could not be started: {text}", stderr_tail=stderr_tail
        )
    return AgentFailed("AGENT_FAILED", text or type(error).__name__, retryable=True, stderr_tail=stderr_tail)


def refused_settings(answer: Mapping[str, Any], file: str) -> AgentFailed | None:
    """The failure when the CLI's answer to `get_settings` says that it has dropped those in `file`; else None.

    One value that it dislikes voids them all, deny rules included, and it goes on without them.
    """
    for error in answer.get("errors") or ():
        if error.get("file") == file:
            text = f"the agent does not take the settings: {error.get('path')}: {error.get('message')}"
            return AgentFailed("AGENT_REFUSED", text)
    return None


def _died_by_signal(exit_code: int | None) -> bool:
    """Asyncio reports signal n as -n, process guards as 128+n; greater numbers are exit codes."""
    return exit_code is not None and (exit_code < 0 or 128 < exit_code < 128 + signal.NSIG)


def _last_line(text: str) -> str:
    return text.rsplit("\n", 1)[-1][:500]
