"""The agenda of expiry: what is remembered of segments, in order and bounded."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from fastkv.store.agenda import Agenda
from fastkv.store.layout import OFFSET_BITS

if TYPE_CHECKING:
    import pytest


def pack(deadline_ms: int, offset: int) -> int:
    return deadline_ms << OFFSET_BITS | offset


def test_records_come_in_the_order_of_their_deadlines_whenever_they_were_seen() -> None:
    rng = random.Random(2)
    plan = Agenda().take(7, 1)
    left: list[int] = []
    for _ in range(300):
        seen = [
            pack(rng.randrange(1 << 45), rng.randrange(1 << OFFSET_BITS)) for _ in range(rng.randint(0, 9))
        ]
        plan.fresh += seen
        plan.arrange()
        left = sorted([*left, *seen])
        for _ in range(min(rng.randint(0, 9), len(left))):
            first = left.pop(0)
            assert plan.first_ms == first >> OFFSET_BITS
            assert plan.take() == first & (1 << OFFSET_BITS) - 1
        assert len(plan) == len(left)
        assert plan.first_ms == (left[0] >> OFFSET_BITS if left else 0)


def test_a_segment_that_was_taken_into_use_anew_has_an_empty_plan() -> None:
    agenda = Agenda()
    plan = agenda.take(7, 1)
    plan.fresh.append(pack(5, 1))
    plan.arrange()
    agenda.keep(7, plan)
    assert agenda.take(7, 1) is plan
    agenda.keep(7, plan)
    anew = agenda.take(7, 2)
    assert (len(anew), anew.location, anew.stamp) == (0, 0, 2)


def test_it_is_bounded_and_what_is_not_finished_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastkv.store.agenda._MOST_DEADLINES", 10)
    agenda = Agenda()
    plans = [agenda.take(segment, 1) for segment in range(3)]
    for plan in plans[:2]:
        plan.fresh += [pack(i, i) for i in range(1, 8)]
        plan.arrange()
    plans[2].fresh += [pack(i, i) for i in range(1, 8)]
    for segment, plan in enumerate(plans):
        agenda.keep(segment, plan)
    assert [agenda.take(segment, 1) is plan for segment, plan in enumerate(plans)] == [True, False, True]
    agenda.keep(1, plans[1])  # there is room again
    agenda.clear()
    assert len(agenda.take(1, 1)) == 0
