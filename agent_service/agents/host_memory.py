"""Host memory: how much this host or container has left."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

_CGROUP = Path("/sys/fs/cgroup")
PLENTY = 1 << 30


class Memory(NamedTuple):
    """Bytes available without swapping, and bytes in all."""

    available: int
    total: int

    @property
    def short(self) -> bool:
        """Whether idle processes should be ended: less than a tenth and less than 1 GiB are left."""
        return self.available < min(self.total // 10, PLENTY)


def memory() -> Memory:
    """Return the memory of the host, or of this process's cgroup where that is less; unlimited if neither is known."""
    try:
        fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        host = Memory(_kilobytes(fields["MemAvailable"]), _kilobytes(fields["MemTotal"]))
    except (OSError, KeyError, ValueError):
        return Memory(PLENTY, PLENTY)
    group = _cgroup()
    return group if group is not None and group.available < host.available else host


def _kilobytes(text: str) -> int:
    return int(text.split()[0]) << 10


def _cgroup() -> Memory | None:
    """Return what the cgroup's limit leaves; cached files count as available."""
    try:
        limit = int((_CGROUP / "memory.max").read_text())
        used = int((_CGROUP / "memory.current").read_text())
        stat = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
        return Memory(limit - used + int(stat["inactive_file"]), limit)
    except (OSError, KeyError, ValueError):
        return None
