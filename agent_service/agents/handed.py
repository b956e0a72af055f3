"""Files handed to the CLI: settings, MCP configuration, system prompt. It reads them at its start and never again."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path


def remove_files(folder: Path) -> None:
    """Remove the files in a folder; the folder stays, as do files that the host does not let go."""
    with suppress(OSError):
        for file in folder.iterdir():
            with suppress(OSError):
                file.unlink()
