"""Two tenants on one service: neither learns that the other exists, whatever it calls with whatever ids."""

from __future__ import annotations

import pytest

from tests.tenants.machine import NO_REFERENCES, PROBES, Tenants, isolation, references, run


@pytest.fixture(scope="module")
def tenants(tmp_path_factory):
    tenants = Tenants(tmp_path_factory.mktemp("tenants"))
    yield tenants
    tenants.close()


def test_no_tenant_learns_of_another_in_any_order_of_calls(tenants):
    machine = isolation(tenants)
    run(machine, examples=12, steps=25)
    assert machine.calls > 200


def test_every_field_of_the_contract_that_names_something_is_tried_with_anothers_id():
    tried = {f"{probe.method}.{path}" for probe in PROBES for path in probe.fields}
    assert tried | NO_REFERENCES.keys() == set(references())
