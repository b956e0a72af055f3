"""Access: who may call and what each tenant may ask for, as the operator's access file says."""

from agent_service.access.access import Access

__all__ = ["Access"]
