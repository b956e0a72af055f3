"""Removals: what is to be removed is moved out of the way at once, and removed for as long as it takes.

What an agent left goes by one rename into a directory of its own (DATA/removing). From then on no session, no start and
no backup meets it. A removal that fails is remembered by being there, over a restart too, and tried again with growing
pauses.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self
from uuid import uuid4

from agent_service.agents import trees

log = logging.getLogger(__name__)

AT_ONCE = 5.0
"""Seconds that a caller waits for a removal; what is left then is removed afterwards."""
SLICE = 2.0
"""Seconds that one removal may take before the others have their turn."""
FIRST_PAUSE, LONGEST_PAUSE = 60.0, 6 * 3600.0
"""Seconds until the next try after the first removal that failed, and after many."""
SHORTEST_PAUSE = 0.05
"""Seconds between two looks, whatever is due."""
LAST_PATIENCE = 1.0
"""Seconds that the end of the service waits for removals."""


class Removals:
    """Removes files and directories that agents left; the files of others wait for none of them."""

    def __init__(self, folder: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Keep what is being removed in `folder`, which is made when it is needed."""
        self._folder = folder
        self._clock = clock
        self._put_off: dict[str, tuple[float, float]] = {}  # when a removal is tried again, and its last pause
        self._wake: Callable[[], object] = lambda: None
        self._at_work: set[str] = set()
        self._stopping = False
        self._task: asyncio.Task[None] | None = None

    def remove(self, path: Path) -> int:
        """Remove a file or a directory, if it is there; the bytes that were freed by now. Blocks for some seconds.

        Raises OSError when the host lets it neither go nor be moved. What was moved is removed sooner or later.
        """
        moved = self._move(path)
        if moved is None:
            return trees.remove(path, patience=AT_ONCE)
        return self._try(moved, AT_ONCE)

    def discard(self, path: Path) -> None:
        """Move a file or a directory out of the way; it is removed soon. Never raises, and takes no time."""
        if self._move(path) is not None:
            self._wake()
            return
        try:
            trees.remove(path, patience=AT_ONCE)
        except OSError as error:
            log.warning("%s cannot be removed: %s; it is tried again at the next start", path, error)

    def left(self) -> list[str]:
        """Names of what is not removed yet."""
        return sorted(entry.name for entry in self._folder.iterdir()) if self._folder.is_dir() else []

    def retry(self) -> float:
        """Try what is left and due, each for a while; seconds until the next is due. Blocks."""
        names = set(self.left())
        self._put_off = {name: when for name, when in list(self._put_off.items()) if name in names}
        for name in names:
            if self._due(name) <= self._clock() and name not in self._at_work and not self._stopping:
                self._try(self._folder / name, SLICE)
        waiting = [self._due(name) for name in self.left() if name not in self._at_work]
        return max(0.0, min(waiting, default=float("inf")) - self._clock())

    def _due(self, name: str) -> float:
        return self._put_off.get(name, (0.0, 0.0))[0]

    def _move(self, path: Path) -> Path | None:
        """Move it into the folder; None when it is not there, or the host does not let it be moved."""
        moved = self._folder / uuid4().hex[:12]
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            trees.move(path, moved)
        except OSError:
            return None
        return moved

    def _try(self, moved: Path, patience: float) -> int:
        self._at_work.add(moved.name)
        try:
            return trees.remove(moved, patience=patience)
        except trees.TookTooLong:
            self._wake()
        except OSError as error:
            pause = self._put_off_longer(moved.name)
            log.warning("%s cannot be removed: %s; next try in %d s", moved, error, pause)
            self._wake()
        finally:
            self._at_work.discard(moved.name)
        return 0

    def _put_off_longer(self, name: str) -> float:
        """Leave it alone for twice as long as before; the seconds."""
        _, before = self._put_off.get(name, (0.0, 0.0))
        pause = min(2 * before or FIRST_PAUSE, LONGEST_PAUSE)
        self._put_off[name] = (self._clock() + pause, pause)
        return pause

    async def __aenter__(self) -> Self:
        """Go on with what an earlier run left, and from now on with what fails."""
        loop, wake = asyncio.get_running_loop(), asyncio.Event()
        self._wake = lambda: loop.call_soon_threadsafe(wake.set)
        self._task = asyncio.create_task(self._run(wake), name="removals")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop; what is left is for the next start, but for what is removed in a moment."""
        assert self._task is not None
        self._stopping = True
        self._wake()
        await asyncio.wait([self._task])
        self._wake = lambda: None
        await asyncio.to_thread(self._finish)

    def _finish(self) -> None:
        deadline = self._clock() + LAST_PATIENCE
        for name in self.left():
            if name not in self._put_off and (rest := deadline - self._clock()) > 0:
                self._try(self._folder / name, rest)

    async def _run(self, wake: asyncio.Event) -> None:
        while not self._stopping:
            wake.clear()
            try:
                pause = await asyncio.to_thread(self.retry)
            except Exception:
                log.exception("removing what agents left failed; it is tried again")
                pause = FIRST_PAUSE
            try:
                await asyncio.sleep(SHORTEST_PAUSE)
                await asyncio.wait_for(wake.wait(), min(pause, LONGEST_PAUSE))
            except TimeoutError:
                continue
