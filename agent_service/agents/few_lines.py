"""FewLines: a log of what one agent's tools try, which they could otherwise fill at will."""

from __future__ import annotations

import logging

MOST = 20
"""Lines about one agent."""


class FewLines:
    """Writes the first lines about one agent, and then says that it writes no more."""

    def __init__(self, log: logging.Logger) -> None:
        """Write to `log`."""
        self._log = log
        self._written = 0

    def warning(self, text: str, *arguments: object) -> None:
        """Write a line, unless there were too many."""
        self._written += 1
        if self._written <= MOST:
            self._log.warning(text, *arguments)
        if self._written == MOST:
            self._log.warning("further lines of this kind about the same agent are left out")
