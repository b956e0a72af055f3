"""Identity: the link of the chain that tells who calls, for which tenant, and whether it may call this RPC.

The order is: the origin, the credential, the tenant, the RPC, the rate. Nothing of the request is parsed before.
"""

from __future__ import annotations

import asyncio
import logging
import time

from agent_service.access import Access
from agent_service.api.call import Call
from agent_service.auth import ANONYMOUS, Principal
from agent_service.errors import CredentialsInvalid, CredentialsMissing, RateLimited, RequestError, RpcNotAllowed

log = logging.getLogger(__name__)

OPEN = frozenset({"GetServerInfo", "ServerReflectionInfo"})
"""What a caller without credentials may ask on loopback; of GetServerInfo it sees the versions."""
ABOUT_THE_CALLER = frozenset({"GetServerInfo", "ServerReflectionInfo"})
"""What is about no tenant's sessions."""
ALWAYS = frozenset({"ServerReflectionInfo"})
"""What every principal may call."""
BATCH = 100
"""Open calls that are looked at again before others have their turn."""


class Identity:
    """Admits calls, and ends those that are open once their principal may not go on."""

    def __init__(self, access: Access) -> None:
        """Admit by the rules of `access`."""
        self._access = access
        self._open: set[_Admission] = set()
        self._looking: asyncio.Task[None] | None = None
        access.listen(self._rules_changed)

    def __call__(self, call: Call) -> _Admission:
        """Return the context in which a call is answered."""
        return _Admission(self, call)

    async def admit(self, call: Call) -> None:
        """Set the principal and the tenant of a call. Raises RequestError."""
        headers = call.headers()
        call.principal = ANONYMOUS  # until it has shown who it is
        if headers.origin:
            raise RpcNotAllowed("calls from web pages (metadata origin) are not accepted")
        call.credentials = headers.credentials
        version = None
        while version != self._access.version:  # an issuer's keys take a while, and the rules may change meanwhile
            version = self._access.version
            call.principal = await self._principal(call)
        if call.principal is not ANONYMOUS:
            call.owner = self._allowed(call.principal, call.method, headers.tenant)
            self._count(call)

    async def _principal(self, call: Call) -> Principal:
        try:
            return await self._access.authenticate(call.credentials)
        except CredentialsMissing:
            if call.method in OPEN and call.door.loopback:
                return ANONYMOUS
            raise

    def _allowed(self, principal: Principal, method: str, tenant: str) -> str:
        """The tenant that a principal calls for. Raises RpcNotAllowed."""
        if principal.rpcs is not None and method not in principal.rpcs and method not in ALWAYS:
            raise RpcNotAllowed(f"{principal.name} may not call {method}; it may call {_listed(principal.rpcs)}")
        if method in ABOUT_THE_CALLER and not tenant:
            return principal.tenant
        return self._access.tenant_of(principal, tenant)

    def _count(self, call: Call) -> None:
        if call.method != "Execute":
            return
        rate = self._access.grant(call.owner).execute_rate
        wait = self._access.rates.take(call.owner, rate) if rate else 0.0
        if wait:
            raise RateLimited("the tenant may start no more turns for now", retry_after=wait)

    def enter(self, admission: _Admission) -> None:
        """Keep an admitted call in view."""
        self._open.add(admission)

    def leave(self, admission: _Admission) -> None:
        """Forget a call that is over."""
        self._open.discard(admission)

    def _rules_changed(self) -> None:
        if self._looking is not None:
            self._looking.cancel()  # what it has not looked at yet is looked at by the next one
        self._looking = asyncio.create_task(self._look_again(), name="look again at who calls")

    async def _look_again(self) -> None:
        """End the open calls whose principal the new rules do not know, or not for what the call does."""
        for index, admission in enumerate(list(self._open)):
            if index % BATCH == BATCH - 1:
                await asyncio.sleep(0)
            try:
                await self._check_again(admission.call)
            except RequestError as error:
                admission.end(error)

    async def _check_again(self, call: Call) -> None:
        if call.principal is ANONYMOUS:
            return
        principal = await self._access.authenticate(call.credentials)
        if principal.name != call.principal.name:
            raise CredentialsInvalid("the credential stands for another principal now")
        if self._allowed(principal, call.method, call.owner if call.owner != principal.tenant else "") != call.owner:
            raise RpcNotAllowed("the principal acts for another tenant now")


class _Admission:
    """One call, from its admission to its end."""

    __slots__ = ("_ended", "_identity", "_task", "_timer", "call")

    def __init__(self, identity: Identity, call: Call) -> None:
        self._identity = identity
        self.call = call
        self._ended: RequestError | None = None
        self._task: asyncio.Task[object] | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> None:
        await self._identity.admit(self.call)
        self._task = asyncio.current_task()
        expires = self.call.principal.expires
        if expires is not None:
            error = CredentialsInvalid("the credential has expired")
            self._timer = asyncio.get_running_loop().call_later(max(0.0, expires - time.time()), self.end, error)
        self._identity.enter(self)

    def end(self, error: RequestError) -> None:
        """End the call with an error, wherever it waits; what it has done is done."""
        if self._task is not None and self._ended is None:
            self._ended = error
            self._task.cancel()

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._identity.leave(self)
        if self._timer is not None:
            self._timer.cancel()
        if self._ended is None or self._task is None or not isinstance(error, asyncio.CancelledError):
            return
        if self._task.uncancel() == 0:  # otherwise the caller has left as well
            raise self._ended from None


def _listed(rpcs: frozenset[str]) -> str:
    return ", ".join(sorted(rpcs)) or "nothing"
