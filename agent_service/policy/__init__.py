"""Policy: what a tenant may ask for, and what a request may not."""

from agent_service.policy.document import DEFAULT, McpTable, TenantTable, check_names
from agent_service.policy.durations import Bounds
from agent_service.policy.grant import Grant, SessionQuota
from agent_service.policy.policy import Policy
from agent_service.policy.profiles import Profiles
from agent_service.policy.tables import grant, table_json

__all__ = [
    "DEFAULT",
    "Bounds",
    "Grant",
    "McpTable",
    "Policy",
    "Profiles",
    "SessionQuota",
    "TenantTable",
    "check_names",
    "grant",
    "table_json",
]
