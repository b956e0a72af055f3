"""Connection: one client's channel, with the certificates it uses and the credentials it sends, kept up to date."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
from agentpb import agent_pb2_grpc

from agent_client import certificates, errors, failures, forks
from agent_client.channel import ChannelOptions, open_channel, proxy_of
from agent_client.credentials import Hidden, Token, TokenWanted, bearer
from agent_client.targets import is_local

Metadata = list[tuple[str, str]]
Files = str | os.PathLike[str] | None

AUTHORIZATION = "authorization"
TENANT = "agent-tenant"
# Calls on a channel whose certificates have changed end by themselves, however long they watch.
NO_END = 10 * 365 * 86400.0


@dataclass(frozen=True, kw_only=True)
class Access:
    """What a caller said about its credentials; None leaves it to the environment."""

    token: TokenWanted = field(default_factory=TokenWanted)
    ca: Files = None
    cert: Files = None
    key: Files = None
    tenant: str | None = None
    insecure: bool = False
    ready: grpc.ChannelCredentials | None = None
    """Made by the caller: then no variable and no file is looked at."""


class Connection:
    """The way to one service. Opens with the first use, again when a certificate's file has changed."""

    def __init__(
        self,
        target: str,
        access: Access,
        metadata: Mapping[str, str] | Sequence[tuple[str, str]] = (),
        channel_options: ChannelOptions | None = None,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        """Find out what is to be sent. Raises ValueError for credentials that do not fit together."""
        environment = environment if access.ready is None else {}
        encrypted, self.target = certificates.split_target(target)
        self._files = certificates.chosen(access.ca, access.cert, access.key, encrypted, environment)
        self._ready = access.ready
        self._insecure = access.insecure
        self._options = channel_options
        self._own = [*(metadata.items() if isinstance(metadata, Mapping) else metadata)]
        tenant = environment.get("AGENT_TENANT", "") if access.tenant is None else access.tenant
        if tenant:
            self._own.append((TENANT, tenant))
        # A certificate, an authorization of the caller's own, or ready credentials say enough; a second would confuse.
        discover = not (access.ready or (self._files and self._files.cert))
        self._token = None
        if not any(key.lower() == AUTHORIZATION for key, _ in self._own):
            self._token = Token(self.target, access.token, discover=discover, environment=environment)
        self._channel: grpc.aio.Channel | None = None
        self._stub: Any = None
        self._retired: dict[asyncio.Task[None], grpc.aio.Channel] = {}

    def stub(self) -> Any:
        """Return the stub to call now. Raises OSError and ValueError for certificates that cannot be used."""
        forks.use_grpc()
        if self._channel is None:
            self._open(self._files.load() if self._files else self._ready)
        elif self._files is not None and self._files.changed():
            # Files that are half written are tried again with the next call.
            with contextlib.suppress(OSError, ValueError):
                credentials = self._files.load()
                self._retire(self._channel)
                self._open(credentials)
        return self._stub

    def metadata(self) -> Metadata:
        """Return what goes with a call. Raises ValueError when a credential would be readable on its way."""
        token = self._token.text() if self._token else Hidden()
        sent = [*self._own, (AUTHORIZATION, bearer(token))] if token else self._own
        if any(key.lower() == AUTHORIZATION for key, _ in sent) and not self._is_private():
            raise ValueError(
                f"a credential is not sent to {self.target} in plain text, where others can read it on its way: name "
                f"the service's certificate authority (ca=, agentctl --ca, AGENT_CA), write tls:{self.target} if the "
                "system trusts its certificate, or say insecure=True (agentctl --insecure)"
            )
        return sent

    def renewed(self, error: grpc.aio.AioRpcError, sent: Metadata) -> bool:
        """Tell whether a call that was refused with `sent` has another token to try: a restarted service made one."""
        if error.code() is not grpc.StatusCode.UNAUTHENTICATED or self._token is None:
            return False
        refused = next((value for key, value in sent if key == AUTHORIZATION), "")
        return self._token.renew(Hidden(refused.removeprefix("Bearer ")))

    def failure(self, error: grpc.aio.AioRpcError) -> errors.AgentServiceError:
        """Make the exception that fits a failed call, with what to do about credentials."""
        found = failures.from_rpc_error(
            error,
            self.target,
            proxy_of(self.target, self._options),
            encrypted=self._files is not None or self._ready is not None,
            certified=bool(self._files and self._files.cert),
        )
        if isinstance(found, errors.Unauthenticated):
            found.advice = self._token.where() if self._token else "the authorization came with metadata="
        return found

    async def close(self) -> None:
        """Close the channels; the next call opens another."""
        channels = [*self._retired.values(), *([self._channel] if self._channel is not None else [])]
        for task in self._retired:
            task.cancel()
        self._retired, self._channel = {}, None
        if not forks.broken():
            for channel in channels:
                await channel.close(None)

    def _open(self, credentials: grpc.ChannelCredentials | None) -> None:
        self._channel = open_channel(self.target, credentials, self._options)
        self._stub = agent_pb2_grpc.AgentServiceStub(self._channel)

    def _is_private(self) -> bool:
        return self._insecure or self._files is not None or self._ready is not None or is_local(self.target)

    def _retire(self, channel: grpc.aio.Channel) -> None:
        """Let the calls of a channel end by themselves; close it then."""
        task = asyncio.create_task(channel.close(NO_END), name="retired channel")
        self._retired[task] = channel
        task.add_done_callback(lambda done: self._retired.pop(done, None))
