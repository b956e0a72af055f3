"""Policy: what a tenant may ask for."""

from agent_service.policy.document import DEFAULT, McpTable, TenantTable, check_names
from agent_service.policy.grant import Grant, SessionQuota
from agent_service.policy.tables import grant, table_json

__all__ = ["DEFAULT", "Grant", "McpTable", "SessionQuota", "TenantTable", "check_names", "grant", "table_json"]
