"""Preparation: what PrepareAgents does: agents connected ahead of sessions that Execute would start."""

from __future__ import annotations

from agentpb import agent_pb2 as pb

from agent_service.agents.pool import AgentPool
from agent_service.options import seconds_of
from agent_service.policy import Policy
from agent_service.registry.execute import Execution

DEFAULT_HOLD = 60.0
"""Seconds for which unused agents are held when a request does not say."""


class Preparation:
    """Has the pool connect agents for options that the tenant may ask for."""

    def __init__(self, execution: Execution, pool: AgentPool, policy: Policy) -> None:
        """Let `execution` say what may be started, and `policy` how much of it a tenant may have at once."""
        self._execution = execution
        self._pool = pool
        self._policy = policy

    def prepare(
        self, request: pb.PrepareAgentsRequest, session: pb.ExecuteRequest, owner: str
    ) -> pb.PrepareAgentsResponse:
        """Prepare for sessions like `session`. Raises what Execute would raise for its options."""
        options = self._execution.options_of_new(session, owner)
        hold = seconds_of(request.hold) if request.HasField("hold") else DEFAULT_HOLD
        quota = self._policy.grant(owner).sessions.at_work
        prepared = self._pool.prepare(options, owner, request.count, hold, quota)
        return pb.PrepareAgentsResponse(**prepared._asdict())
