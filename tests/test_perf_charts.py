"""Charts: what they say is readable, in both modes, and the same for the same figures."""

import json
import re
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from browser import dump, needs_chromium
from hypothesis import given
from hypothesis import strategies as st
from perf_sample import SERVERS, sample

from perf.charts import CHARTS
from perf.plots import Bar, Series, apart, dots, linear_ticks, lines, log_ticks, stacked_bars
from perf.svg import LINE, WIDTH

SVG = "{http://www.w3.org/2000/svg}"
POSITIVE = st.floats(min_value=1e-6, max_value=1e9)

# What the benchmark has, and what is hardest to draw: long names, equal values, one row, values far apart.
DRAWN = {
    **{name: draw(sample()) for name, (_, _, draw) in CHARTS.items()},
    "one bar": stacked_bars("One", "µs", ("user", "system"), [Bar("fastkv", [1.0, 2.0], own=True)], 100.0),
    "one row": dots("One", "ms", ["p50", "p99"], [("a panel", [Series("fastkv", [1.0, None], own=True)])]),
    "equal lines": lines(
        "Equal", "µs", "connections", ["1", "64"],
        [Series(f"{at}th of those", [7, 7], own=False) for at in range(9)],
    ),
    "far apart": dots(
        "Far", "ms", ["p50", "p99", "p99.9"],
        [("wide", [Series("a name of thirty letters, wide W", [0.001, 50, 98765.43], own=True)])],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CHARTS)
def test_the_same_figures_give_the_same_bytes(name: str) -> None:
    assert CHARTS[name][2](sample()) == DRAWN[name]


@pytest.mark.parametrize("name", DRAWN)
def test_a_picture_has_a_name_and_a_description(name: str) -> None:
    root = ET.fromstring(DRAWN[name])
    assert root.get("role") == "img"
    assert root.findtext(f"{SVG}title")
    assert re.search(r"\d\.\d", root.findtext(f"{SVG}desc") or "")


@pytest.mark.parametrize("name", CHARTS)
def test_every_server_is_named(name: str) -> None:
    words = {text.text for text in ET.fromstring(DRAWN[name]).iter(f"{SVG}text")}
    assert set(SERVERS) <= words


def test_names_are_escaped() -> None:
    picture = stacked_bars("<a> & b", "µs", ("user", "system"), [Bar("<c>", [1, 2], own=False)], 10)
    assert "<c>" in {text.text for text in ET.fromstring(picture).iter(f"{SVG}text")}


def widths(picture: str) -> list[float]:
    """Of the bars, without those of the legend."""
    bars = [bar for bar in ET.fromstring(picture).iter(f"{SVG}rect") if "bar" in (bar.get("class") or "")]
    return [float(bar.get("width") or 0) for bar in bars[2:]]


def test_bars_are_as_long_as_their_values() -> None:
    bars = [Bar("a", [10, 30], own=True), Bar("b", [20, 20], own=False)]
    made = widths(stacked_bars("", "µs", ("user", "system"), bars, 100))
    assert made[1] == pytest.approx(made[0] * 3, abs=0.3)
    assert made[2] == made[3] == pytest.approx(made[0] * 2, abs=0.3)


def test_what_is_longer_than_the_axis_is_torn_and_nothing_else() -> None:
    bars = [Bar("a", [1, 3], own=True), Bar("b", [20, 80], own=False)]
    torn, whole = (stacked_bars("", "µs", ("user", "system"), bars, limit) for limit in (10, 100))
    assert torn.count('class="tear"') == 1
    assert ">100.00<" in torn
    assert "torn" in torn
    assert 'class="tear"' not in whole
    assert "torn" not in whole
    assert max(sum(widths(torn)[2:]), sum(widths(whole)[2:])) <= WIDTH


@given(POSITIVE)
def test_linear_ticks_hold_the_value(highest: float) -> None:
    ticks = linear_ticks(highest)
    assert ticks[0] == 0
    assert ticks[-1] >= highest * (1 - 1e-6)
    assert 3 <= len(ticks) <= 6


@given(POSITIVE, st.floats(min_value=1, max_value=1e6))
def test_log_ticks_hold_the_values(lowest: float, times: float) -> None:
    ticks = log_ticks(lowest, lowest * times)
    assert len(ticks) >= 2
    assert ticks[0] <= lowest * (1 + 1e-6)
    assert ticks[-1] >= lowest * times * (1 - 1e-6)
    assert max(b / a for a, b in pairwise(ticks)) < (2.6 if times < 100 else 10.1)
    assert len(ticks) <= 10


@given(st.lists(st.floats(min_value=0, max_value=300), min_size=1, max_size=15))
def test_labels_keep_apart_in_their_order(wanted: list[float]) -> None:
    places = apart(wanted, 300, 18)
    assert max(places) <= 300
    ordered = [place for _, place in sorted(zip(wanted, places, strict=True))]
    assert all(b - a >= 18 - 1e-6 for a, b in pairwise(sorted(places)))
    assert ordered == sorted(ordered)


def test_a_label_that_has_room_stands_where_it_wants() -> None:
    assert apart([50, 10, 90], 100, LINE) == [50, 10, 90]


@pytest.mark.parametrize("mode", [0, 1], ids=["light", "dark"])
def test_words_and_shapes_stand_out_from_the_background(mode: int) -> None:
    # WCAG 2.2: 4.5 for text (1.4.3), 3 for graphics (1.4.11).
    colours = dict(re.findall(r"--(\w+):#(\w+)", re.findall(r"svg\{(.*?)\}", DRAWN["latency"])[mode]))

    def luminance(colour: str) -> float:
        wide = colour if len(colour) == 6 else "".join(digit * 2 for digit in colour)
        parts = (int(wide[at : at + 2], 16) / 255 for at in (0, 2, 4))
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    def contrast(one: str, other: str) -> float:
        low, high = sorted((luminance(colours[one]), luminance(colours[other])))
        return (high + 0.05) / (low + 0.05)

    assert min(contrast("ink", "back"), contrast("quiet", "back")) >= 4.5
    assert min(contrast("own", "back"), contrast("other", "back")) >= 3


_LOOK = """<!doctype html><meta charset="utf-8"><body>%s<pre></pre><script>
const faults = []
for (const picture of document.querySelectorAll("svg")) {
  const {width, height} = picture.viewBox.baseVal
  const boxes = [...picture.querySelectorAll("text")].map(text => {
    const box = text.getBBox()
    return {said: text.textContent, x: box.x, y: box.y, w: box.width, h: box.height}
  })
  for (const box of boxes)
    if (box.x < 0 || box.y < 0 || box.x + box.w > width || box.y + box.h > height)
      faults.push(["clipped", box.said])
  boxes.forEach((one, at) => boxes.slice(at + 1).forEach(other => {
    const across = Math.min(one.x + one.w, other.x + other.w) - Math.max(one.x, other.x)
    const down = Math.min(one.y + one.h, other.y + other.h) - Math.max(one.y, other.y)
    if (across > 0 && down > 3) faults.push(["overlap", one.said, other.said])
  }))
}
const texts = document.querySelectorAll("text").length
document.querySelector("pre").textContent = JSON.stringify({faults, texts})
</script>"""


@needs_chromium
def test_in_a_browser_no_words_are_clipped_or_on_top_of_others(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text(_LOOK % "".join(DRAWN.values()))
    shown = re.search(r"<pre>(.*?)</pre>", dump(f"file://{page}"))
    assert shown
    found = json.loads(shown[1])
    assert found["texts"] > 100
    assert found["faults"] == []
