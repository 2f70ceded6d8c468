"""Random damage, a few hundred times; ``make damage`` does it ten thousand times."""

from __future__ import annotations

import damage


def test_no_wrong_value_comes_out_of_a_damaged_arena() -> None:
    counts = damage.main(250, seed=5)
    assert counts["UNVERIFIED"] > 100
    assert min(counts["CLEAN"], counts["REFUSED"], counts["dropped"]) > 0
    # The damage is not so great that nothing could be wrong.
    assert counts["found"] > counts["keys"] // 2
