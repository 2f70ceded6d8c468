"""The figures in the documents are those that were measured."""

import json
import re
from pathlib import Path

import pytest
from perf_sample import sample

from perf import tables
from perf.charts import CHARTS, FOLDER
from perf.markdown import table
from perf.report import RESULTS, load, summary
from perf.tables import PAGES, TABLES, charts, render


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_shows_the_results(page: Path) -> None:
    text = page.read_text()
    assert render(text, page.parent) == text


def test_the_charts_show_the_results() -> None:
    assert {path: path.read_text() for path in FOLDER.glob("*")} == charts()


@pytest.mark.parametrize(("kind", "made"), [("table", TABLES), ("chart", CHARTS)])
def test_all_that_can_be_made_is_shown(kind: str, made: dict[str, object]) -> None:
    shown = "".join(page.read_text() for page in PAGES)
    assert set(re.findall(rf"<!-- {kind}: ([\w-]+) -->\n", shown)) == set(made)


def test_every_result_is_in_a_table() -> None:
    # Only that of `make bench` may be missing.
    sources = {name for name, _ in TABLES.values()}
    assert {path.stem for path in RESULTS.glob("*.json")} | {"bench"} == sources


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_a_result_says_where_it_comes_from(path: Path) -> None:
    assert {"machine", "python", "commit", "versions", "rows"} <= set(load(path))


@pytest.fixture
def rooms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a page and without results."""
    (tmp_path / "docs").mkdir()
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    monkeypatch.setattr(tables, "FOLDER", tmp_path / "docs/charts")
    monkeypatch.setattr(tables, "PAGES", (tmp_path / "README.md", tmp_path / "docs/page.md"))
    place = "Before.\n<!-- table: cpu-short -->\n<!-- end -->\n<!-- chart: latency -->\nold\n<!-- end -->\n"
    for page in tables.PAGES:
        page.write_text(place)
    return tmp_path


def test_without_a_result_the_places_say_so(rooms: Path) -> None:
    tables.main()
    for page in tables.PAGES:
        assert page.read_text().count("Not measured yet: `make bench`.") == 2
        assert "old" not in page.read_text()
    assert not (rooms / "docs/charts").exists()


def test_with_a_result_tables_and_charts_are_made_from_it(rooms: Path) -> None:
    (rooms / "bench.json").write_text(json.dumps(sample()))
    tables.main()
    for page, link in zip(tables.PAGES, ("docs/charts/latency.svg", "charts/latency.svg"), strict=True):
        text = page.read_text()
        assert "| fastkv | 7.40 | 9.62 |" in text
        assert f"]({link})" in text
        assert "commit 0000000" in text
    drawn = rooms / "docs/charts"
    assert {path.stem for path in drawn.iterdir()} == set(CHARTS)
    before = {path: path.read_bytes() for path in drawn.iterdir()}
    tables.main()
    assert {path: path.read_bytes() for path in drawn.iterdir()} == before


def test_what_a_new_run_has_not_is_not_shown_any_more(rooms: Path) -> None:
    (rooms / "bench.json").write_text(json.dumps(sample()))
    tables.main()
    (rooms / "bench.json").write_text(json.dumps({**sample(), "latency": []}))
    tables.main()
    assert not (rooms / "docs/charts/latency.svg").exists()
    assert (rooms / "docs/charts/cpu-hot.svg").exists()
    assert all("has nothing of that" in page.read_text() for page in tables.PAGES)


def test_a_summary_has_the_median_and_the_quartiles() -> None:
    assert summary([5.0, 1.0, 2.0, 3.0, 4.0]) == {"n": 5, "median": 3.0, "lower": 2.0, "upper": 4.0}
    assert summary([7.0]) == {"n": 1, "median": 7.0, "lower": 7.0, "upper": 7.0}


def test_a_table_is_markdown() -> None:
    assert table(["a", "b"], [[1, "x"], [2, "y"]]) == "| a | b |\n| --- | --- |\n| 1 | x |\n| 2 | y |\n"
