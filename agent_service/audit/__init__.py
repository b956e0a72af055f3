"""The audit log: who did what and what was refused, in lines of JSON whose hashes form a chain."""

from agent_service.audit.log import AuditLog, AuditUnwritable
from agent_service.audit.verify import Verified, verify

__all__ = ["AuditLog", "AuditUnwritable", "Verified", "verify"]
