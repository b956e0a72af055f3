"""AgentOptions → the SDK's options: checked, merged and translated here and nowhere else; what is not exposed, and why.

Which options a caller may use is the operator's policy, not decided here.
"""

from __future__ import annotations

from agent_service.options.answers import DESTINATION, check_allow
from agent_service.options.checks import check, check_clear, check_directories
from agent_service.options.live import may_choose_mode, missing_directories
from agent_service.options.merging import MAX_OPTIONS_BYTES, NEVER_INHERITED, lay_over, merge, redact, too_large
from agent_service.options.missing import MAX_WARNINGS, missing
from agent_service.options.notices import warnings
from agent_service.options.output_check import check_output
from agent_service.options.paths import quoted
from agent_service.options.references import SCHEME, Reference, filled, is_reference, references
from agent_service.options.remembered import CLEAR, effect, permissions, remember, takes_away
from agent_service.options.strict_json import LOST_KEYS, parse_object
from agent_service.options.translation import (
    ALONE,
    EFFORTS,
    NOT_EXPOSED,
    OWN_SETTINGS,
    PERMISSION_MODES,
    PLACED_ELSEWHERE,
    to_sdk,
)
from agent_service.options.words import (
    MAX_DURATION_SECONDS,
    duration_problem,
    is_http_url,
    is_one_rule,
    is_uuid,
    seconds_of,
)

__all__ = [
    "ALONE",
    "CLEAR",
    "DESTINATION",
    "EFFORTS",
    "LOST_KEYS",
    "MAX_DURATION_SECONDS",
    "MAX_OPTIONS_BYTES",
    "MAX_WARNINGS",
    "NEVER_INHERITED",
    "NOT_EXPOSED",
    "OWN_SETTINGS",
    "PERMISSION_MODES",
    "PLACED_ELSEWHERE",
    "SCHEME",
    "Reference",
    "check",
    "check_allow",
    "check_clear",
    "check_directories",
    "check_output",
    "duration_problem",
    "effect",
    "filled",
    "is_http_url",
    "is_one_rule",
    "is_reference",
    "is_uuid",
    "lay_over",
    "may_choose_mode",
    "merge",
    "missing",
    "missing_directories",
    "parse_object",
    "permissions",
    "quoted",
    "redact",
    "references",
    "remember",
    "seconds_of",
    "takes_away",
    "to_sdk",
    "too_large",
    "warnings",
]
