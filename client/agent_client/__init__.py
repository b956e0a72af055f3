"""A client of the agent service: AgentClient (async), SyncAgentClient, and `agentctl` on the command line.

async with AgentClient() as client:
    print((await client.run("What is 6 times 7?")).text)
"""

from agent_client import forks  # noqa: F401  # the first import: it imports grpc without its handlers for forks
from agent_client.client import AgentClient
from agent_client.errors import AgentServiceError, ForkedAfterUse, RunCancelled, RunFailed
from agent_client.handle import SessionHandle
from agent_client.options import agent_options
from agent_client.results import RunResult
from agent_client.sync import SyncAgentClient, SyncSessionHandle
from agent_client.watching import SessionWatch

__all__ = [
    "AgentClient",
    "AgentServiceError",
    "ForkedAfterUse",
    "RunCancelled",
    "RunFailed",
    "RunResult",
    "SessionHandle",
    "SessionWatch",
    "SyncAgentClient",
    "SyncSessionHandle",
    "agent_options",
]
