"""RunResult: a finished turn and its session."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Self

from agentpb import agent_pb2 as pb

from agent_client.errors import RunCancelled, RunFailed

AT_REST = frozenset({pb.SESSION_STATE_COMPLETED, pb.SESSION_STATE_ERROR, pb.SESSION_STATE_CANCELLED})


@dataclass(frozen=True)
class RunResult:
    """A finished turn and its session, with short names for what is asked for most."""

    session: pb.Session
    turn: pb.Turn

    @property
    def session_id(self) -> str:
        """The session, to give it another turn."""
        return self.session.session_id

    @property
    def ok(self) -> bool:
        """True when the run succeeded."""
        return self.turn.state == pb.TURN_STATE_COMPLETED

    @property
    def text(self) -> str:
        """The final text."""
        return self.turn.result.result

    @property
    def structured_output(self) -> Any:
        """The final object, when an `output_schema` was asked for; None otherwise."""
        text = self.turn.result.structured_output_json
        return json.loads(text) if text else None

    @property
    def cost_usd(self) -> float:
        """US dollars of this turn."""
        return self.turn.result.cost_usd

    @property
    def num_turns(self) -> int:
        """Model turns taken."""
        return self.turn.result.num_turns

    @property
    def duration(self) -> timedelta:
        """Wall time from the start of the agent's work to its end."""
        if self.turn.HasField("start_time") and self.turn.HasField("end_time"):
            return self.turn.end_time.ToDatetime() - self.turn.start_time.ToDatetime()
        return self.turn.result.duration.ToTimedelta()

    @property
    def why(self) -> str:
        """The reason of a run that failed or was stopped; empty when it succeeded."""
        if self.ok:
            return ""
        return self.turn.error.message or ("cancelled" if self.cancelled else self.session.error.message)

    @property
    def cancelled(self) -> bool:
        """True when somebody stopped the run."""
        return self.turn.state == pb.TURN_STATE_CANCELLED

    def check(self) -> Self:
        """Return itself if the run succeeded; raise RunFailed, or RunCancelled, otherwise."""
        if self.ok:
            return self
        raise RunCancelled(self) if self.cancelled else RunFailed(self)
