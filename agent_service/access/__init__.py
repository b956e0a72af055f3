"""Access: who may call and what each tenant may ask for, as the operator's access file says."""

from agent_service.access.access import Access, Stamp, stamp_of
from agent_service.access.local_token import LocalToken
from agent_service.access.opening import HEADER, open_access
from agent_service.access.rates import Rates
from agent_service.access.rpcs import GROUPS, READING, RPCS, expand
from agent_service.access.rules import AccessFileInvalid, Rules, local_rules, read_rules

__all__ = [
    "GROUPS",
    "HEADER",
    "READING",
    "RPCS",
    "Access",
    "AccessFileInvalid",
    "LocalToken",
    "Rates",
    "Rules",
    "Stamp",
    "expand",
    "local_rules",
    "open_access",
    "read_rules",
    "stamp_of",
]
