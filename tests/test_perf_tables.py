"""The figures in the documents are those that were measured."""

import re

import pytest

from perf.report import RESULTS, load, summary
from perf.tables import PAGE, TABLES, render, table


def test_the_page_shows_the_results() -> None:
    page = PAGE.read_text()
    assert render(page) == page


def test_every_table_is_shown_and_every_result_is_in_a_table() -> None:
    assert set(re.findall(r"<!-- table: ([\w-]+) -->", PAGE.read_text())) == set(TABLES)
    assert {path.stem for path in RESULTS.glob("*.json")} == {name for name, _ in TABLES.values()}


@pytest.mark.parametrize("name", sorted({name for name, _ in TABLES.values()}))
def test_a_result_says_where_it_comes_from(name: str) -> None:
    assert {"machine", "python", "commit", "versions", "rows"} <= set(load(RESULTS / f"{name}.json"))


def test_a_summary_has_the_median_and_the_quartiles() -> None:
    assert summary([5.0, 1.0, 2.0, 3.0, 4.0]) == {"n": 5, "median": 3.0, "lower": 2.0, "upper": 4.0}
    assert summary([7.0]) == {"n": 1, "median": 7.0, "lower": 7.0, "upper": 7.0}


def test_a_table_is_markdown() -> None:
    assert table(["a", "b"], [[1, "x"], [2, "y"]]) == "| a | b |\n| --- | --- |\n| 1 | x |\n| 2 | y |\n"
