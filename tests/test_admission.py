"""Places go to tenants in fair shares, and within a tenant to whoever came first."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from agent_service.session.admission import Admission, Place


class Line:
    """Turns that ask for places, by name; `given` has their names in the order in which they got one."""

    def __init__(self, places: int, at_work: Callable[[str], int | None] = lambda owner: None) -> None:
        self.admission = Admission(places, at_work)
        self.given: list[str] = []

    def enter(self, owner: str, name: str) -> Place:
        """Ask for a place."""
        place = self.admission.enter(owner)
        if place.done():
            self.given.append(name)
        else:
            place.add_done_callback(lambda done: self.given.append(name) if done.result() else None)
        return place


async def settle() -> None:
    """Let callbacks run."""
    await asyncio.sleep(0)


async def test_a_tenant_alone_is_served_in_the_order_of_its_calls() -> None:
    line = Line(2)
    for number in range(5):
        line.enter("a", str(number))
    for _ in range(3):
        line.admission.leave("a")
        await settle()
    assert line.given == ["0", "1", "2", "3", "4"]
    assert not line.admission.has_room("a")


async def test_a_tenant_with_a_thousand_turns_does_not_hold_up_the_first_of_another() -> None:
    line = Line(1)
    for number in range(1000):
        line.enter("many", f"m{number}")
    line.enter("few", "f0")
    line.enter("few", "f1")
    for holder in ("many", "few", "many", "few", "many"):
        line.admission.leave(holder)
        await settle()
    assert line.given == ["m0", "f0", "m1", "f1", "m2", "m3"]


async def test_tenants_come_to_equal_shares() -> None:
    line = Line(4)
    for number in range(20):
        line.enter("a", f"a{number}")
    for number in range(20):
        line.enter("b", f"b{number}")
        line.enter("c", f"c{number}")
    for _ in range(2):
        line.admission.leave("a")
        await settle()
    assert line.given == ["a0", "a1", "a2", "a3", "b0", "c0"]
    for _ in range(2):
        line.admission.leave("a")
        await settle()
    assert line.given[-2:] == ["a4", "b1"], "of equal ones, the one that has waited for a place longest"


async def test_a_tenants_own_bound_holds_although_there_are_places_and_a_higher_one_counts_at_once() -> None:
    bounds: dict[str, int | None] = {"a": 1}
    line = Line(3, bounds.get)
    line.enter("a", "a0")
    line.enter("a", "a1")
    assert (line.admission.room("a"), line.admission.room("b")) == (0, 2)
    line.enter("b", "b0")
    assert line.given == ["a0", "b0"]
    bounds["a"] = 2
    line.admission.admit()
    await settle()
    assert line.given == ["a0", "b0", "a1"]


async def test_leaving_the_queue_leaves_nothing_behind() -> None:
    line = Line(1)
    line.enter("a", "a0")
    waiting = line.enter("b", "b0")
    line.admission.withdraw(waiting, "b")
    assert waiting.result() is False
    line.admission.leave("a")
    line.admission.withdraw(waiting, "b")
    assert line.admission.has_room("b")
    assert (line.admission._waiting, dict(line.admission._running), line.admission._served) == ({}, {}, {})
