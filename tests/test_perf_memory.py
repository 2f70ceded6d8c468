"""What is measured of memory is what is said: entries before the first eviction, within the budget."""

import random

from perf.memory import MIB, SHAPES, by_purpose, fixed, in_store


def test_a_store_is_filled_up_to_its_first_eviction() -> None:
    row = in_store(fixed(16, 64), 8 * MIB)
    assert row["payload_bytes"] == 80 * row["entries"]
    assert row["mapped_bytes"] == 8 * MIB
    # At 256 MiB it is 2.4 million; a small arena has larger tables in proportion.
    assert row["entries"] >= 2_400_000 * 8 // 256 * 9 // 10


def test_each_byte_of_a_budget_has_its_purpose() -> None:
    first, later = by_purpose(fixed(16, 64), 4 * MIB)
    for row in (first, later):
        spent, entries = row["bytes"], row["entries"]
        assert sum(spent.values()) == 4 * MIB
        assert [spent[each] // entries for each in ("keys", "values", "heads", "checksums")] == [
            16,
            64,
            12,
            4,
        ]
        assert spent["slots"] == 8 * entries
        assert spent["padding"] == 0
    assert first["bytes"]["ghosts"] == 0 < later["bytes"]["ghosts"]


def test_shapes_are_what_they_are_called() -> None:
    for shape in SHAPES:
        pairs = shape.pairs()
        some = [next(pairs) for _ in range(200)]
        assert len({key for key, _ in some}) == 200
        assert {len(key) for key, _ in some} == {shape.key_bytes}
        assert some[0][1].isalpha()
        if shape.name.count("/") == 1 and shape.name.split("/")[1].isdigit():
            assert {len(value) for _, value in some} == {int(shape.name.split("/")[1])}
    mixed = SHAPES[-1]
    assert all(16 <= mixed.value_bytes(random.Random(i)) <= 4096 for i in range(500))
