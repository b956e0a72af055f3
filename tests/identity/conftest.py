"""A service with an access file, shared by the tests of a file, and what callers of it show."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from agent_service.auth import digest_of, new_token
from tests.identity.issuer import AUDIENCE, ISSUER, Issuer
from tests.rpc import taken_apart
from tests.world import World

Metadata = tuple[tuple[str, str], ...]


def bearer(token: str, *more: tuple[str, str]) -> Metadata:
    """The metadata of a call with a token."""
    return (("authorization", f"Bearer {token}"), *more)


@dataclass
class Office:
    """The people that an access file knows, and the file itself."""

    directory: Path
    issuer: Issuer = field(default_factory=Issuer)
    tokens: dict[str, str] = field(default_factory=dict)

    @property
    def file(self) -> Path:
        """The access file."""
        return self.directory / "access.toml"

    def token_of(self, name: str) -> str:
        """The token of a principal."""
        return self.tokens.setdefault(name, new_token())

    def digest_of(self, name: str) -> str:
        """The digest of that token."""
        return digest_of(self.token_of(name))

    def write(self, text: str) -> None:
        """Replace the access file as editors and ConfigMaps do: by a rename."""
        fresh = self.file.with_suffix(".new")
        fresh.write_text(text)
        fresh.replace(self.file)

    def usual(self) -> str:
        """An access file with principals of two tenants, one of both, one that may only look, and an issuer."""
        jwks = self.issuer.publish(self.directory / "jwks.json")
        return f"""
            [principal.red]
            token = "{self.digest_of("red")}"
            tenant = "red"
            [principal.blue]
            token = "{self.digest_of("blue")}"
            tenant = "blue"
            [principal.both]
            token = "{self.digest_of("both")}"
            tenants = ["red", "blue"]
            [principal.nothing]
            token = "{self.digest_of("nothing")}"
            tenant = "red"
            rpcs = []
            [principal.reader]
            token = "{self.digest_of("reader")}"
            tenant = "red"
            rpcs = ["@read"]
            [jwt.sso]
            issuer = "{ISSUER}"
            audience = "{AUDIENCE}"
            jwks = "{jwks}"
            tenant = "groups[agents-*]"
            name = "email"
        """


async def call(channel: grpc.aio.Channel, method: str, request: bytes = b"", **settings: Any) -> list[bytes]:
    """Call any method of any service with bytes; a stream of one request does for unary ones too."""

    async def requests() -> AsyncIterator[bytes]:
        yield request

    make = channel.stream_stream(method, request_serializer=None, response_deserializer=None)
    return [response async for response in make(requests(), **settings)]


@dataclass
class OfficeWorld:
    """An office and its service."""

    office: Office
    world: World

    def call(self, method: str, request: bytes = b"", metadata: Metadata = ()) -> str:
        """Call a method; "OK", or the status and the reason it failed with."""

        async def made() -> str:
            try:
                await call(self.world.service.channel, method, request, metadata=metadata, timeout=30)
            except grpc.aio.AioRpcError as error:
                refusal = taken_apart(error)
                return f"{refusal.code.name} {refusal.reason}".strip()
            return "OK"

        return self.world.run(made())


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OfficeWorld]:
    """A service with the usual access file."""
    directory = tmp_path_factory.mktemp("office")
    office = Office(directory)
    office.write(office.usual())
    world = World(directory / "data", patience=60, access=office.file)
    yield OfficeWorld(office, world)
    world.close()
