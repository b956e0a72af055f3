"""AgentOptions → the SDK's options: checked, merged and translated here and nowhere else; what is not exposed, and why.

Which options a caller may use is the operator's policy, not decided here.
"""

from __future__ import annotations

from agent_service.options.answers import check_allow
from agent_service.options.checks import check, check_clear, check_directories
from agent_service.options.merging import MAX_OPTIONS_BYTES, merge, redacted, too_large
from agent_service.options.notices import warnings
from agent_service.options.translation import NOT_EXPOSED, PLACED_ELSEWHERE, to_sdk

__all__ = [
    "MAX_OPTIONS_BYTES",
    "NOT_EXPOSED",
    "PLACED_ELSEWHERE",
    "check",
    "check_allow",
    "check_clear",
    "check_directories",
    "merge",
    "redacted",
    "to_sdk",
    "too_large",
    "warnings",
]
