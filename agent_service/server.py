"""The server: builds every room from a Config, serves and drains. The only module that wires them together."""

from __future__ import annotations

import asyncio
import importlib.metadata
import logging
import os
import signal
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn
from uuid import uuid4

from agentpb import agent_pb2 as pb

from agent_service.access import Access, LocalToken, open_access
from agent_service.agents.launch import Launch
from agent_service.agents.outlets import Outlets, open_outlets
from agent_service.agents.pool import AgentPool
from agent_service.agents.sdk import CLI_VERSION, SDK_VERSION
from agent_service.agents.secrets import Secrets
from agent_service.agents.walls import open_walls
from agent_service.agents.workspace import Workspaces
from agent_service.api.addresses import Address, Transport, parse_addresses
from agent_service.api.audited import Audited
from agent_service.api.chain import Chain
from agent_service.api.handlers import Handlers
from agent_service.api.identity import Identity
from agent_service.api.limits import fixed_limits
from agent_service.api.listener import Doorway, Listeners, listen
from agent_service.api.tls import TlsFiles
from agent_service.api.writes import Writes
from agent_service.audit import AuditLog, AuditUnwritable
from agent_service.backends import cli_bounds, open_backend
from agent_service.config import Config
from agent_service.errors import CannotServe
from agent_service.host_share import calm_collector, give_memory_back, raise_descriptor_limit
from agent_service.ledger import CLOCK, Ledger
from agent_service.policy import Bounds, Policy, Profiles
from agent_service.processes.choice import Choice, choose_guard
from agent_service.processes.signals import is_ignored, let_children_start_afresh
from agent_service.processes.tags import owner_id
from agent_service.processes.tree import end_leftovers
from agent_service.processes.unreadable import hide
from agent_service.processes.view import Level
from agent_service.registry import SessionRegistry
from agent_service.session.limits import Limits

log = logging.getLogger(__name__)

SWEEP_INTERVAL = 60.0
FEATURES = ("interactions", "fork", "attachments", "structured-output", "long-poll")


@dataclass(frozen=True)
class Running:
    """A running service: its addresses, and the parts that tests and embedders use."""

    addresses: tuple[str, ...]
    model_backend: str
    model_url: str
    registry: SessionRegistry
    pool: AgentPool
    ledger: Ledger
    access: Access
    token: LocalToken | None

    @property
    def address(self) -> str:
        """The first address, with the port that was chosen."""
        return self.addresses[0]


async def serve(config: Config, *, ready: Callable[[Running], None] = lambda running: None) -> int:
    """Serve until the drain that the first signal begins is over, or until a second signal. Returns the exit code."""
    signals: asyncio.Queue[int] = asyncio.Queue()
    _handle_signals(signals)
    hide()
    log.debug("open files: at most %d", raise_descriptor_limit())
    async with running(config, signals=signals) as service:
        calm_collector()
        giving_back = asyncio.create_task(give_memory_back(), name="give memory back")
        ready(service)
        stopped = asyncio.create_task(signals.get())
        broken = asyncio.create_task(service.ledger.wait_failed())
        await asyncio.wait({stopped, broken}, return_when=asyncio.FIRST_COMPLETED)
        for task in (stopped, broken, giving_back):
            task.cancel()
        if service.ledger.failure is not None:
            log.critical("the ledger cannot be written, so the service ends: %s", service.ledger.failure)
            _leave(74)  # EX_IOERR; every acknowledged event is on disk, and no other can be written
        log.info("first signal: draining for up to %g s; a second signal ends at once", config.drain_timeout)
    return 0


def _handle_signals(signals: asyncio.Queue[int]) -> None:
    """Put each SIGINT, SIGTERM and SIGHUP into the queue; a SIGHUP that is ignored, as under nohup, stays ignored."""
    wanted = [signal.SIGINT, signal.SIGTERM]
    if not is_ignored(signal.SIGHUP):
        wanted.append(signal.SIGHUP)
    let_children_start_afresh()
    loop = asyncio.get_running_loop()
    for number in wanted:
        loop.add_signal_handler(number, signals.put_nowait, number)


def _leave(code: int) -> NoReturn:
    """End the process at once, without any clean-up but that of the log."""
    logging.shutdown()
    os._exit(code)


@asynccontextmanager
async def running(config: Config, *, signals: asyncio.Queue[int] | None = None) -> AsyncIterator[Running]:
    """Run a whole service while the block lasts, and drain it at the end. Raises CannotServe, LedgerUnusable."""
    addresses = parse_addresses(config.listen, insecure=config.insecure, access=config.access is not None)
    async with AsyncExitStack() as stack:
        data_dir = _data_directory(config.data_dir)
        ledger = await stack.enter_async_context(Ledger(data_dir))
        access, token = open_access(config.access, config.auth, data_dir)
        if config.access is not None and (count := await ledger.count("")):
            log.warning("%d sessions belong to no tenant; agent-service assign TENANT gives them to one", count)
        around = (
            [await stack.enter_async_context(_audited(config.audit_log, config, access))] if config.audit_log else []
        )
        guard = await choose_guard(config.process_guard)
        _log_guard(guard)
        owner = owner_id(data_dir)
        await end_leftovers(owner, guard.guard)
        backend = await stack.enter_async_context(open_backend(config.model, config.agent_environment))
        instance = str(uuid4())
        workspaces = Workspaces(data_dir)
        default_model = config.default_model or backend.default_model
        await stack.enter_async_context(workspaces.removals)
        outlets = await stack.enter_async_context(_outlets(config, data_dir, backend.environment))
        walls = await open_walls(
            config.sandbox,
            owner=owner,
            guard=guard.guard,
            data_dir=data_dir,
            secret=_secret(config, addresses),
            must_hold=config.access is not None or not all(address.is_local for address in addresses),
        )
        policy = open_policy(config, access, default_model, walls.level, data_dir)
        launch = Launch(
            workspaces=workspaces,
            environment={**backend.environment, **_cli_bounds(config)},
            marker=f"{owner}:{instance[:8]}",
            default_model=default_model,
            grant=policy.grant,
            secrets=_secrets(config.secrets_dir),
            outlets=outlets,
            walls=walls,
        )
        pool = await stack.enter_async_context(
            AgentPool(
                guard=guard.guard,
                launch=launch,
                spawn_limit=config.spawn_limit(),
                start_timeout=config.start_timeout,
                warm_agents=config.warm_agents,
                max_prepared=config.max_prepared,
                max_idle=config.max_idle,
                policy=policy,
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
                policy=policy,
            )
        )
        info = _server_info(config, backend.name, guard, instance)
        info.sandbox = walls.usual
        handlers = Handlers(
            queries=registry.queries,
            execution=registry.execution,
            control=registry.control,
            cancellation=registry.cancellation,
            mass_cancellation=registry.mass_cancellation,
            deletion=registry.deletion,
            preparation=registry.preparation,
            retention=config.retention or 86400.0,
            policy=policy,
            server_info=lambda owner: _current_info(info, registry, pool, access, owner),
        )
        identity = Identity(access)
        chain = Chain(handlers, [*around, identity, Writes(ledger.obstruction)])
        listeners = await listen(addresses, Doorway(chain, identity, _tls_files(config)))
        _leave_token(token, listeners, config.runtime_dir)
        for path in sorted(access.sockets - {listener.place for listener in listeners.all}):
            log.warning("the access file has a principal for the socket %s, which no --listen names", path)
        sweeper = asyncio.create_task(
            _sweep(registry, retention_of(policy, config.retention)), name="retention sweeper"
        )
        access.listen(registry.quotas_changed)
        reloading = asyncio.create_task(access.watch(), name="access file")
        try:
            yield Running(listeners.addresses, backend.name, backend.url, registry, pool, ledger, access, token)
        finally:
            sweeper.cancel()
            reloading.cancel()
            await _drain(registry, listeners, config.drain_timeout, signals)
            if token is not None:
                token.take_away()


@asynccontextmanager
async def _audited(file: Path, config: Config, access: Access) -> AsyncIterator[Audited]:
    """Keep the audit log open while the block lasts."""
    try:
        async with AuditLog(file) as audit:
            strict = config.access is not None
            yield Audited(audit, policy=lambda: access.version, strict=strict, reads=config.audit_reads)
    except AuditUnwritable as error:
        raise CannotServe(str(error)) from error


async def _drain(
    registry: SessionRegistry, listeners: Listeners, timeout: float, signals: asyncio.Queue[int] | None
) -> None:
    """Report NOT_SERVING, drain, stop the servers: `stop` refuses every call at once, so it comes last."""
    await listeners.enter_graceful_shutdown()
    draining = asyncio.create_task(registry.drain(timeout), name="drain")
    waits: set[asyncio.Task[object]] = {draining}
    if signals is not None:
        waits.add(asyncio.create_task(signals.get(), name="second signal"))
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    if not draining.done():
        log.warning("second signal: leaving at once; the next start records the rest as interrupted")
        _leave(1)
    for wait in waits:
        wait.cancel()
    await draining
    await listeners.stop(2.0)


def _tls_files(config: Config) -> TlsFiles:
    return TlsFiles(cert=config.tls_cert, key=config.tls_key, client_ca=config.tls_client_ca)


def _leave_token(token: LocalToken | None, listeners: Listeners, directory: Path | None) -> None:
    if token is not None and directory is not None:
        for listener in listeners.all:
            token.leave(directory, listener.place)


def open_policy(config: Config, access: Access, default_model: str, level: Level, data_dir: Path) -> Policy:
    """Make the policy of a configuration. Raises CannotServe."""
    return Policy(
        access.grant,
        version=lambda: access.version,
        profiles=Profiles(config.profiles),
        default_model=default_model,
        sandbox=level,
        bounds=Bounds(config.execution_timeout, config.queue_timeout, config.retention),
        data_dir=data_dir,
    )


def _data_directory(path: Path) -> Path:
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.chmod(0o700)
    except OSError as error:
        raise CannotServe(f"the data directory {path} cannot be used: {error}") from error
    return path.resolve()


@asynccontextmanager
async def _outlets(config: Config, data_dir: Path, environment: Mapping[str, str]) -> AsyncIterator[Outlets | None]:
    """Open the ways out of agents without a network or without credentials, where there can be such agents."""
    for_all = config.model_gateway == "all"
    if not for_all and config.access is None and config.sandbox != "sealed":
        yield None
        return
    async with open_outlets(data_dir / "tmp", environment, for_all=for_all) as outlets:
        yield outlets


def _secrets(directory: Path | None) -> Secrets:
    if directory is not None and not directory.is_dir():
        raise CannotServe(f"the secrets directory {directory} is not a directory")
    return Secrets(directory.resolve() if directory is not None else None)


def _secret(config: Config, addresses: Sequence[Address]) -> list[Path]:
    """Return what lies beside the data directory and is in no agent's view."""
    who = (config.access, config.tls_cert, config.tls_key, config.secrets_dir, config.runtime_dir)
    sockets = [address.place for address in addresses if address.transport is Transport.UNIX]
    return [Path(path) for path in (*who, config.audit_log, config.profiles, *sockets) if path]


def _log_guard(choice: Choice) -> None:
    for name, reason in choice.refused:
        log.info("process guard %s does not work here: %s", name, reason)
    log.info("process guard: %s", choice.guard.strength)


def _cli_bounds(config: Config) -> dict[str, str]:
    return cli_bounds(api_retries=config.api_retries, api_timeout=config.api_timeout, sdk_version=SDK_VERSION)


def _limits(config: Config) -> Limits:
    return Limits(
        execution_timeout=config.execution_timeout,
        queue_timeout=config.queue_timeout,
        stall_timeout=config.stall_timeout,
        background_timeout=config.background_timeout,
        idle_timeout=config.idle_timeout,
    )


def retention_of(policy: Policy, default: float) -> Callable[[str], float]:
    """Return a tenant's retention, in seconds: its grant's, or `default`; 0 for ever."""

    def retention(tenant: str) -> float:
        own = policy.grant(tenant).retention
        return default if own is None else own

    return retention


async def _sweep(registry: SessionRegistry, retention: Callable[[str], float]) -> None:
    """Delete expired sessions, once a minute."""
    while True:
        CLOCK.follow()
        try:
            if deleted := await registry.deletion.expire(retention):
                log.info("%d sessions were deleted after their time", deleted)
        except Exception:
            log.exception("deleting expired sessions failed; it is tried again")
        await asyncio.sleep(SWEEP_INTERVAL)


def _server_info(config: Config, backend: str, guard: Choice, instance: str) -> pb.GetServerInfoResponse:
    info = pb.GetServerInfoResponse(
        server_version=importlib.metadata.version("agent-service"),
        api_version="agentservice.v1",
        sdk_version=SDK_VERSION,
        cli_version=CLI_VERSION,
        model_backend=backend,
        process_guard=guard.guard.name,
        instance_id=instance,
        features=FEATURES,
        limits=fixed_limits(),
    )
    info.limits.max_sessions, info.limits.max_queued = config.max_sessions, config.max_queued
    info.start_time.GetCurrentTime()
    for name in ("retention", "execution_timeout", "stall_timeout"):
        if value := getattr(config, name):
            getattr(info.limits, name).FromMicroseconds(round(value * 1e6))
    return info


def _current_info(
    info: pb.GetServerInfoResponse, registry: SessionRegistry, pool: AgentPool, access: Access, owner: str
) -> pb.GetServerInfoResponse:
    response = pb.GetServerInfoResponse(
        draining=registry.draining,
        load=pb.ServerLoad(**registry.statistics(owner)),
        pool=pool.statistics(),
        authentication=access.kinds,
    )
    response.MergeFrom(info)
    return response
