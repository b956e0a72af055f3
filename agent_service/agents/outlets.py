"""Outlets: the ways out of an agent's walls: the model gateway, and the egress proxy where it has no network.

An outlet is made with the agent's start parameters, so that its sockets are there when the walls are built; it is
opened before the process starts and closed when it has ended.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Literal

from agent_service.agents.egress import Egress
from agent_service.agents.few_lines import FewLines
from agent_service.agents.upstream import Upstream, without_credentials
from agent_service.backends import provider_in_use
from agent_service.processes import loopback
from agent_service.processes.peers import first_of, holds, peer_of
from agent_service.processes.table import Process, is_alive
from agent_service.processes.tree import ProcessTree

if TYPE_CHECKING:
    from agent_service.agents.gateway import Gateway, GatewaySocket  # an HTTP library, for services with walls only

log = logging.getLogger(__name__)

EGRESS_PORT = 3128
MODEL_PORT = 3129
"""Ports on the loopback of an agent without a network: nobody else has one there."""

MAX_PATH = 107
"""Bytes of a Unix socket's path."""

HANDOVER_TIMEOUT = 30.0
"""Seconds that the start of an agent may take until its ports are there."""

ModelBy = Literal["socket", "port"]
"""How the CLI reaches the gateway: by ANTHROPIC_UNIX_SOCKET, which is undocumented, or by a port on its loopback."""


class Outlets:
    """Makes the outlets of agents."""

    def __init__(
        self,
        directory: Path,
        *,
        gateway: Gateway | None = None,
        gateway_for_all: bool = False,
        model_by: ModelBy = "socket",
    ) -> None:
        """Make sockets in `directory`, which only the service may enter.

        Agents without a network reach the model by `gateway`; with `gateway_for_all`, the others do too.
        """
        self._directory = directory
        self._gateway = gateway
        self._for_all = gateway_for_all
        self._model_by = model_by

    def make(self, name: str, egress: Sequence[str], *, network: bool) -> Outlet | None:
        """Return the outlet of one agent; None when it needs none. `name` is no other living agent's. Makes files."""
        gateway = self._gateway if self._for_all or not network else None
        if gateway is None and (network or not egress):
            return None
        by = self._model_by if not network else "socket"
        return Outlet(self._directory / name, gateway=gateway, model_by=by, egress=() if network else tuple(egress))


@asynccontextmanager
async def open_outlets(directory: Path, environment: Mapping[str, str], *, for_all: bool) -> AsyncIterator[Outlets]:
    """Open the gateway to the API that `environment` leads to; see Outlets."""
    async with AsyncExitStack() as stack:
        if len(os.fsencode(directory / "12345678.model")) > MAX_PATH:
            directory = Path(stack.enter_context(TemporaryDirectory(prefix="agent-service-", dir=_short_place())))
        if signed_by := provider_in_use(environment):
            log.warning(
                "the model comes by %s, whose requests the agent signs itself: its credentials are inside every agent, "
                "and sealed agents reach it only where their egress names its hosts",
                signed_by,
            )
            yield Outlets(directory)
            return
        from agent_service.agents.gateway import Gateway

        gateway = await stack.enter_async_context(Gateway(Upstream.of(environment)))
        yield Outlets(directory, gateway=gateway, gateway_for_all=for_all)


def _short_place() -> str | None:
    """Return where a path is short; None for the directory of temporary files, where an agent may rename around it."""
    places = ("/run", f"/run/user/{os.geteuid()}")
    return next((place for place in places if os.access(place, os.W_OK | os.X_OK)), None)


class Outlet:
    """The sockets and ports of one agent."""

    def __init__(self, base: Path, *, gateway: Gateway | None, model_by: ModelBy, egress: tuple[str, ...]) -> None:
        """Make the sockets; their paths begin with `base`. Raises OSError."""
        self._gateway = gateway
        self._model_by = model_by
        self._egress = Egress(egress) if egress else None
        self._served: GatewaySocket | None = None
        self._taking: asyncio.Task[None] | None = None
        self._listeners: dict[Path, socket.socket] = {}
        self._model = base.with_name(f"{base.name}.model")
        self._handover = base.with_name(f"{base.name}.ports")
        try:
            if gateway is not None and model_by == "socket":
                self._listen(self._model)
            if self._ports:
                self._listen(self._handover)
        except OSError:
            self._remove()
            raise

    def _listen(self, path: Path) -> None:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listeners[path] = listener
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        listener.bind(os.fspath(path))
        path.chmod(0o666)  # an agent may have another user; the directory keeps everybody else out
        listener.listen()

    @property
    def _ports(self) -> list[int]:
        by_port = self._gateway is not None and self._model_by == "port"
        return [EGRESS_PORT] * (self._egress is not None) + [MODEL_PORT] * by_port

    @property
    def sockets(self) -> tuple[Path, ...]:
        """The Unix sockets that must be there inside the walls."""
        return tuple(self._listeners)

    @property
    def programs(self) -> tuple[Path, ...]:
        """What must be readable inside the walls, besides the agent's own."""
        return (Path(loopback.__file__), Path(sys.base_prefix)) if self._ports else ()

    def environment(self, given: Mapping[str, str]) -> dict[str, str]:
        """Return an agent's environment with the ways out that it has here."""
        environment = dict(given)
        if self._gateway is not None:
            environment = without_credentials(given) | {"ANTHROPIC_BASE_URL": self._gateway.shown_url}
            if self._model_by == "socket":
                environment["ANTHROPIC_UNIX_SOCKET"] = str(self._model)
            else:
                environment["ANTHROPIC_BASE_URL"] = f"http://127.0.0.1:{MODEL_PORT}"
        if self._ports:
            environment["NO_PROXY"] = environment["no_proxy"] = "127.0.0.1,localhost,::1"
        if self._egress is not None:
            proxy = f"http://127.0.0.1:{EGRESS_PORT}"
            environment |= dict.fromkeys(("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"), proxy)
        return environment

    def command(self, argv: Sequence[str]) -> list[str]:
        """Return the command to run inside the walls in place of the agent's own."""
        if not self._ports:
            return list(argv)
        python = [os.path.realpath(sys.executable), "-I", "-S", loopback.__file__]
        return [*python, str(self._handover), *map(str, self._ports), "--", *argv]

    async def open(self, tree: Callable[[], ProcessTree | None], program: str) -> None:
        """Begin to answer; of the processes of `tree`, the one that runs `program` first may reach the model."""
        self._is_theirs = _Owner(tree, program)
        if (listener := self._listeners.get(self._model)) is not None:
            assert self._gateway is not None
            self._served = await self._gateway.serve(listener, self._is_theirs)
        if (listener := self._listeners.get(self._handover)) is not None:
            self._taking = asyncio.create_task(self._take(listener), name=f"ports of {self._handover.name}")

    async def _take(self, listener: socket.socket) -> None:
        """Take the ports that the agent's launcher made, and serve on them; only then does the launcher go on."""
        loop = asyncio.get_running_loop()
        listener.setblocking(False)
        async with asyncio.timeout(HANDOVER_TIMEOUT):
            channel, _ = await loop.sock_accept(listener)
        with channel:
            channel.settimeout(HANDOVER_TIMEOUT)
            _, descriptors, _, _ = await asyncio.to_thread(socket.recv_fds, channel, 1, len(self._ports))
            for port, descriptor in zip(self._ports, descriptors, strict=True):
                handed = socket.socket(fileno=descriptor)
                if port == MODEL_PORT:
                    assert self._gateway is not None
                    self._served = await self._gateway.serve(handed, self._is_theirs)
                else:
                    assert self._egress is not None
                    await self._egress.open(handed)
            await asyncio.to_thread(channel.sendall, b"\1")

    async def close(self) -> None:
        """Stop answering, and remove the sockets."""
        if self._taking is not None:
            self._taking.cancel()
            await asyncio.wait([self._taking])
            if not self._taking.cancelled() and (error := self._taking.exception()) is not None:
                log.warning("an agent did not hand over the ports of its network: %r", error)
        if self._served is not None:
            await self._served.close()
        if self._egress is not None:
            await self._egress.close()
        self._remove()

    def _remove(self) -> None:
        for path, listener in self._listeners.items():
            listener.close()
            with suppress(OSError):
                path.unlink()


class _Owner:
    """Knows the agent's own process among all that can reach its sockets."""

    def __init__(self, tree: Callable[[], ProcessTree | None], program: str) -> None:
        self._tree = tree
        self._program = program
        self._process: Process | None = None
        self._log = FewLines(log)

    def __call__(self, connection: socket.socket) -> bool:
        tree = self._tree()
        if self._process is None and tree is not None:
            self._process = first_of(tree, self._program)
            if self._process is None:
                log.warning(
                    "the processes of an agent cannot be looked into, so that its model gateway answers none of them"
                )
        if self._process is None or not is_alive(self._process):
            return False
        if connection.family == socket.AF_UNIX:
            return peer_of(connection) == self._process.pid
        return holds(self._process.pid, connection)
