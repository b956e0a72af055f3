"""What an agent that has ended is said to have died of."""

from __future__ import annotations

import signal

import pytest
from claude_agent_sdk import ProcessError

from agent_service.agents.agent import classify


@pytest.mark.parametrize("code", [-signal.SIGKILL, 128 + signal.SIGKILL, 128 + signal.SIGTERM])
def test_who_was_killed_may_be_tried_again(code: int) -> None:
    assert classify(ProcessError("ended", exit_code=code), stderr_tail="").retryable


@pytest.mark.parametrize("code", [None, 0, 1, 127, 128, 255])
def test_who_gave_up_would_do_so_again(code: int | None) -> None:
    failed = classify(ProcessError("ended", exit_code=code), stderr_tail="first\nlast words")
    assert not failed.retryable
    assert failed.reason == "AGENT_EXITED"
    assert str(failed).endswith(": last words")
