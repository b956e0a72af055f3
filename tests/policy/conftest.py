"""A service whose rules tests change while it runs: one for all tests of a module."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from tests.conftest import Service, start_service
from tests.policy.rules import Rules


@pytest.fixture(scope="module")
def module_rules() -> Iterator[Rules]:
    """The rules of the services that a module starts."""
    made = Rules()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("agent_service.server.open_access", lambda *configured: (made, None))
        yield made


@pytest.fixture
def rules(module_rules: Rules) -> Rules:
    """The same, without an access file."""
    module_rules.set(None)
    return module_rules


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def ruled(module_rules: Rules, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    """A service under `rules`, with the profiles of the directory beside its data.

    It has no sandbox: what its rules must hold would be held by that already.
    """
    directory = tmp_path_factory.mktemp("ruled")
    (directory / "profiles").mkdir()
    async with start_service(directory / "data", profiles=directory / "profiles", sandbox="off") as service:
        yield service
