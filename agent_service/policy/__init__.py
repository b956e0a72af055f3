"""Policy: what a tenant may ask for, and what a request may not."""

from agent_service.policy.document import DEFAULT, McpTable, Seconds, Table, TenantTable, check_names
from agent_service.policy.durations import Bounds
from agent_service.policy.grant import Grant, SessionQuota
from agent_service.policy.managed import FLAG as MANAGED_SETTINGS
from agent_service.policy.managed import managed_settings
from agent_service.policy.policy import Policy
from agent_service.policy.profiles import Profiles
from agent_service.policy.tables import grant, table_json

__all__ = [
    "DEFAULT",
    "MANAGED_SETTINGS",
    "Bounds",
    "Grant",
    "McpTable",
    "Policy",
    "Profiles",
    "Seconds",
    "SessionQuota",
    "Table",
    "TenantTable",
    "check_names",
    "grant",
    "managed_settings",
    "table_json",
]
