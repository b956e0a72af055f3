"""All sessions: `SessionRegistry` is made of parts, and each part answers some of the RPCs."""

from agent_service.registry.cancel import Cancellation
from agent_service.registry.cancel_many import MassCancellation
from agent_service.registry.capacity import MAX_PENDING_TURNS
from agent_service.registry.control import Control
from agent_service.registry.deletion import Deletion
from agent_service.registry.execute import MAX_LABELS, Checked, Execution
from agent_service.registry.fields import PIECE
from agent_service.registry.prepare import Preparation
from agent_service.registry.queries import Queries
from agent_service.registry.registry import SessionRegistry
from agent_service.registry.status_cache import CachedStatus
from agent_service.registry.watcher import Wanted, check_sequence

__all__ = [
    "MAX_LABELS",
    "MAX_PENDING_TURNS",
    "PIECE",
    "CachedStatus",
    "Cancellation",
    "Checked",
    "Control",
    "Deletion",
    "Execution",
    "MassCancellation",
    "Preparation",
    "Queries",
    "SessionRegistry",
    "Wanted",
    "check_sequence",
]
