"""AgentOptions → the SDK's options: checked, merged and translated here and nowhere else; what is not exposed, and why.

What a caller may ask for is not decided here but in `policy`.
"""

from __future__ import annotations

from agent_service.options.checks import check, check_clear
from agent_service.options.merging import merge, redacted, too_large
from agent_service.options.notices import warnings
from agent_service.options.translation import NOT_EXPOSED, PLACED_ELSEWHERE, to_sdk

__all__ = [
    "NOT_EXPOSED",
    "PLACED_ELSEWHERE",
    "check",
    "check_clear",
    "merge",
    "redacted",
    "to_sdk",
    "too_large",
    "warnings",
]
