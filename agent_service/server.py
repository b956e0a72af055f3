"""The server: builds everything from a Config, serves, drains. The only place that wires."""

from __future__ import annotations

import asyncio
import gc
import importlib.metadata
import ipaddress
import logging
import os
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

import grpc
import grpc.aio
from agentpb import agent_pb2 as pb
from agentpb import agent_pb2_grpc
from claude_agent_sdk import __version__ as sdk_version
from claude_agent_sdk._cli_version import __cli_version__ as cli_version
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from agent_service.agents.pool import AgentPool
from agent_service.agents.workspace import Workspaces
from agent_service.api.grpc import SERVICE, StatusInterceptor
from agent_service.api.handlers import AgentService
from agent_service.config import Config
from agent_service.ledger import Ledger
from agent_service.processes.choice import Choice, choose_guard
from agent_service.processes.tags import owner_id
from agent_service.processes.tree import sweep
from agent_service.registry.registry import SessionRegistry
from agent_service.session.session import Limits

log = logging.getLogger(__name__)

MAX_MESSAGE_BYTES = 4 << 20
MAX_PENDING_CALLS = 20_000
SWEEP_INTERVAL = 60.0
FEATURES = ("interactions", "fork", "attachments", "structured-output", "long-poll")


class CannotServe(Exception):
    """The service cannot start as configured; the text says what to change."""


@dataclass(frozen=True)
class Running:
    """A service that serves: its address, and what tests and embedders may want to touch."""

    address: str
    model_backend: str
    model_url: str
    registry: SessionRegistry
    pool: AgentPool
    ledger: Ledger


async def serve(config: Config, *, ready: Callable[[Running], None] = lambda running: None) -> int:
    """Serve until the second signal, or until the first one's drain is over; the exit code."""
    signals: asyncio.Queue[int] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, signals.put_nowait, number)
    async with running(config, signals=signals) as service:
        calm_collector()
        ready(service)
        stopped = asyncio.create_task(signals.get())
        broken = asyncio.create_task(service.ledger.wait_failed())
        await asyncio.wait({stopped, broken}, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        broken.cancel()
        if service.ledger.failure is not None:
            log.critical("the ledger cannot be written, so the service ends: %s", service.ledger.failure)
            os._exit(74)  # EX_IOERR: nothing that was told is lost, nothing untold can be kept
        log.info("first signal: draining for up to %g s; a second signal ends at once", config.drain_timeout)
    return 0


def calm_collector() -> None:
    """Look for circular garbage less often: hardly any is made, and a look costs more the more sessions there are.

    What is there at the start is never looked at again, the little garbage among it included: a look takes 0.1 s.
    """
    gc.freeze()
    gc.set_threshold(20_000, 25, 100)
    gc.enable()


@asynccontextmanager
async def running(config: Config, *, signals: asyncio.Queue[int] | None = None) -> AsyncIterator[Running]:
    """A whole service while the block lasts; at its end it drains. Raises CannotServe, LedgerUnusable."""
    _check_address(config)
    async with AsyncExitStack() as stack:
        data_dir = _data_directory(config.data_dir)
        ledger = await stack.enter_async_context(Ledger(data_dir))
        guard = await choose_guard(config.process_guard)
        _log_guard(guard)
        owner = owner_id(data_dir)
        await sweep(owner, guard.guard)
        model = await _model(config, stack)
        instance = str(uuid4())
        workspaces = Workspaces(data_dir)
        pool = await stack.enter_async_context(
            AgentPool(
                guard=guard.guard,
                workspaces=workspaces,
                environment={**model.environment, **_bounds(config)},
                marker=f"{owner}:{instance[:8]}",
                spawn_limit=config.spawn_limit(),
                start_timeout=config.start_timeout,
                warm_agents=config.warm_agents,
                max_idle=config.max_idle,
                default_model=config.default_model or model.default,
            )
        )
        registry = await stack.enter_async_context(
            SessionRegistry(
                ledger,
                pool,
                workspaces,
                limits=_limits(config),
                max_sessions=config.max_sessions,
                max_queued=config.max_queued,
            )
        )
        info = _server_info(config, model.backend, guard, instance)
        service = AgentService(
            registry, retention=config.retention or 86400.0, server_info=lambda: _with_pool(info, pool)
        )
        server, health_servicer, address = await _listen(config, service)
        sweeper = asyncio.create_task(_sweep(registry, config.retention), name="retention sweeper")
        try:
            yield Running(address, model.backend, model.url, registry, pool, ledger)
        finally:
            sweeper.cancel()
            await _drain(registry, server, health_servicer, config.drain_timeout, signals)


async def _drain(
    registry: SessionRegistry,
    server: grpc.aio.Server,
    health_servicer: health.aio.HealthServicer,
    timeout: float,
    signals: asyncio.Queue[int] | None,
) -> None:
    """NOT_SERVING, then the drain, then the end: `server.stop` refuses everything at once, so it comes last."""
    await health_servicer.enter_graceful_shutdown()
    draining = asyncio.create_task(registry.drain(timeout), name="drain")
    waits: set[asyncio.Task[object]] = {draining}
    if signals is not None:
        waits.add(asyncio.create_task(signals.get(), name="second signal"))
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    if not draining.done():
        log.warning("second signal: leaving at once; the next start records the rest as interrupted")
        os._exit(1)
    for wait in waits:
        wait.cancel()
    await draining
    await server.stop(2.0)


async def _listen(config: Config, service: AgentService) -> tuple[grpc.aio.Server, health.aio.HealthServicer, str]:
    server = grpc.aio.server(
        interceptors=[StatusInterceptor()],
        options=[
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
            ("grpc.so_reuseport", 0),
            # Calls that come faster than they are taken up, as when thousands of watchers come back, wait. The
            # library's own limit is 1,000; beyond that it cancels at random.
            ("grpc.server.max_pending_requests", MAX_PENDING_CALLS),
            ("grpc.server.max_pending_requests_hard_limit", MAX_PENDING_CALLS),
            # Clients of other languages ping every 30 s by default; the library's own limit would send them away.
            ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.keepalive_time_ms", 60_000),
            ("grpc.keepalive_timeout_ms", 20_000),
        ],
    )
    agent_pb2_grpc.add_AgentServiceServicer_to_server(service, server)
    health_servicer = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health_servicer, server)
    for name in ("", SERVICE):
        await health_servicer.set(name, health_pb2.HealthCheckResponse.SERVING)
    reflection.enable_server_reflection((SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    host, _, port_text = config.listen.rpartition(":")
    try:
        port = server.add_insecure_port(config.listen)
    except RuntimeError as error:
        raise CannotServe(f"cannot listen on {config.listen}: {error}; is the port taken?") from error
    await server.start()
    return server, health_servicer, f"{host}:{port or port_text}"


def _check_address(config: Config) -> None:
    host, separator, port = config.listen.rpartition(":")
    if not separator or not port.isdecimal() or int(port) > 65535:
        raise CannotServe(f"listen must be HOST:PORT, such as 127.0.0.1:50051, not {config.listen!r}")
    if not _is_loopback(host.strip("[]")) and not config.insecure:
        raise CannotServe(
            f"{host or 'every address'} is reachable from other machines, and nobody is authenticated yet: "
            "listen on 127.0.0.1, or say --insecure if something in front of the service decides who may call it"
        )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False


def _data_directory(path: Path) -> Path:
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.chmod(0o700)
    except OSError as error:
        raise CannotServe(f"the data directory {path} cannot be used: {error}") from error
    return path.resolve()


def _log_guard(choice: Choice) -> None:
    for name, reason in choice.refused:
        log.info("process guard %s does not work here: %s", name, reason)
    log.info("process guard: %s", choice.guard.strength)


class _Model(NamedTuple):
    """Where answers come from: the backend's name, and what the agents' environment says of it."""

    backend: str
    environment: Mapping[str, str]
    url: str = ""
    default: str = ""
    """What it is asked for by who names no model."""


async def _model(config: Config, stack: AsyncExitStack) -> _Model:
    environment = dict(config.agent_environment)
    credentials = has_credentials(environment)
    if config.model == "claude" and not credentials:
        raise CannotServe(
            "no credentials for Claude were found: set ANTHROPIC_API_KEY (or ANTHROPIC_AUTH_TOKEN, "
            "CLAUDE_CODE_OAUTH_TOKEN, CLAUDE_CODE_USE_BEDROCK, CLAUDE_CODE_USE_VERTEX), or try the service with "
            "--model offline, which needs none"
        )
    if config.model == "claude" or (config.model == "auto" and credentials):
        return _Model("claude", environment)
    from agent_service.offline import OFFLINE_MODEL_NAME, OfflineModel  # a web server, which nobody else needs

    offline = await stack.enter_async_context(OfflineModel())
    kept = {key: value for key, value in environment.items() if not key.startswith(_CREDENTIAL_PREFIXES)}
    its = {"ANTHROPIC_BASE_URL": offline.url, "ANTHROPIC_API_KEY": "offline"}
    return _Model("offline", {**kept, **its}, offline.url, OFFLINE_MODEL_NAME)


_CREDENTIAL_PREFIXES = ("ANTHROPIC_", "CLAUDE_CODE_", "AWS_", "GOOGLE_", "CLOUD_ML_", "HTTP", "http", "ALL_PROXY")
_CREDENTIALS = (
    "ANTHROPIC_API_KEY",
    "ANTHROPIC_AUTH_TOKEN",
    "CLAUDE_CODE_OAUTH_TOKEN",
    "CLAUDE_CODE_USE_BEDROCK",
    "CLAUDE_CODE_USE_VERTEX",
    "CLAUDE_CODE_USE_FOUNDRY",
)


def has_credentials(environment: Mapping[str, str]) -> bool:
    """Whether the agents' environment says how to reach Claude."""
    return any(environment.get(name) for name in _CREDENTIALS)


def _bounds(config: Config) -> dict[str, str]:
    """What keeps the CLI's own patience within bounds, and it to itself."""
    return {
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "CLAUDE_CODE_EMIT_SESSION_STATE_EVENTS": "1",
        "CLAUDE_CODE_ENTRYPOINT": "sdk-py",
        "CLAUDE_AGENT_SDK_VERSION": sdk_version,
        "CLAUDE_CODE_MAX_RETRIES": str(config.api_retries),
        "API_TIMEOUT_MS": str(round(config.api_timeout * 1000)),
        "CLAUDE_BYTE_STREAM_IDLE_TIMEOUT_MS": "60000",
        # The CLI's runtime would collect garbage 0.5 s after each turn: 0.15 CPU-seconds, a third of what a whole short
        # session costs, taken from those that start meanwhile. Collecting because it needs memory is not touched.
        "BUN_GC_TIMER_INTERVAL": "10000",
    }


def _limits(config: Config) -> Limits:
    return Limits(
        execution_timeout=config.execution_timeout,
        queue_timeout=config.queue_timeout,
        stall_timeout=config.stall_timeout,
        background_timeout=config.background_timeout,
        idle_timeout=config.idle_timeout,
    )


async def _sweep(registry: SessionRegistry, retention: float) -> None:
    """Delete what has been kept for long enough, once a minute."""
    while True:
        try:
            if deleted := await registry.deletion.expire(retention):
                log.info("%d sessions were deleted after their time", deleted)
        except Exception:
            log.exception("the retention sweep failed; it is tried again")
        await asyncio.sleep(SWEEP_INTERVAL)


def _server_info(config: Config, backend: str, guard: Choice, instance: str) -> pb.GetServerInfoResponse:
    info = pb.GetServerInfoResponse(
        server_version=importlib.metadata.version("agent-service"),
        api_version="agentservice.v1",
        sdk_version=sdk_version,
        cli_version=cli_version,
        model_backend=backend,
        process_guard=guard.guard.name,
        instance_id=instance,
        features=FEATURES,
        limits=pb.ServerLimits(
            max_sessions=config.max_sessions,
            max_queued=config.max_queued,
            max_message_bytes=MAX_MESSAGE_BYTES,
            max_string_bytes=256 << 10,
            max_batch_events=256,
        ),
    )
    info.start_time.GetCurrentTime()
    for name in ("retention", "execution_timeout", "stall_timeout"):
        if value := getattr(config, name):
            getattr(info.limits, name).FromMicroseconds(round(value * 1e6))
    return info


def _with_pool(info: pb.GetServerInfoResponse, pool: AgentPool) -> pb.GetServerInfoResponse:
    response = pb.GetServerInfoResponse()
    response.CopyFrom(info)
    response.pool.CopyFrom(pool.statistics())
    return response
