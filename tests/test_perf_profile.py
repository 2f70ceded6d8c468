"""Flame graphs: read back and trimmed as they are, and recorded of a real worker where that is permitted."""

import re
import shutil
from pathlib import Path
from xml.etree import ElementTree as ET

import psutil
import pytest

from perf import flame, profile
from perf.flame import Frame

# A stack of each sample, and how many of them; the last could not be followed to its beginning.
STACKS = {
    ("start (a.py:1)", "loop (b.c:2)", "read (libc.so.6)"): 500,
    ("start (a.py:1)", "loop (b.c:2)", "work (a.py:30)"): 30,
    ("start (a.py:1)", "loop (b.c:2)", "work (a.py:30)", "<dict> (a.py:40)"): 1_000,
    ("start (a.py:1)", "loop (b.c:2)", "work (a.py:31)"): 4,
    ("start (a.py:1)", "loop (b.c:2)", "0x7f00 (libc.so.6)"): 2,
    ("start (a.py:1)", "loop (b.c:2)", "0x7f01 (libc.so.6)"): 3,
    ("0x1 (b.so)", "lost (b.c:3)"): 6,
}


def drawn(stacks: dict[tuple[str, ...], int]) -> str:
    """A flame graph of stacks, as inferno writes it."""
    total = sum(stacks.values())
    found: dict[tuple[str, ...], tuple[int, int]] = {(): (0, total)}
    first = 0
    for stack, samples in stacks.items():
        for depth in range(1, len(stack) + 1):
            start, so_far = found.get(stack[:depth], (first, 0))
            found[stack[:depth]] = start, so_far + samples
        first += samples
    groups = []
    for stack, (start, samples) in found.items():
        y, name = 52 + 16 * len(stack), (stack or ("all",))[-1].replace("<", "&lt;").replace(">", "&gt;")
        percent = f"{100 * samples / total:.2f}%" if stack else "100%"
        groups.append(
            f"<g><title>{name} ({samples:,} samples, {percent})</title>"
            f'<rect x="{100 * start / total:.4f}%" y="{y}" width="{100 * samples / total:.4f}%" height="15"'
            f' fill="rgb(1,2,3)" fg:x="{start}" fg:w="{samples}"/>'
            f'<text x="0.2500%" y="{y}.50">{name}</text></g>'
        )
    return (
        '<svg width="1200" height="200" viewBox="0 0 1200 200" xmlns="http://www.w3.org/2000/svg"'
        ' xmlns:fg="http://github.com/jonhoo/inferno"><rect x="0" y="0" width="100%" height="200"/>'
        '<text id="title" y="24.00">py-spy record</text><text id="matched" x="1190" y="190.00"> </text>'
        f'<svg id="frames" x="10" width="1180" total_samples="{total}">{"".join(groups)}</svg></svg>'
    )


def test_frames_are_read_back() -> None:
    found = flame.frames(drawn(STACKS))
    assert Frame("<dict> (a.py:40)", 116, 530, 1000) in found
    assert {frame.name for frame in found} == {name for stack in STACKS for name in stack}


def test_samples_of_a_function_itself_are_those_that_were_in_nothing_it_called() -> None:
    assert flame.self_samples(flame.frames(drawn(STACKS))) == {
        "<dict> (a.py)": 1000, "work (a.py)": 34, "read (libc.so.6)": 500, "without a symbol (libc.so.6)": 5,
        "lost (b.c)": 6,
    }  # fmt: skip


def test_what_is_the_same_in_nearly_all_samples_is_cut_off_and_the_rest_moves_up() -> None:
    before = {frame.name: frame for frame in flame.frames(drawn(STACKS))}
    picture = flame.trimmed(drawn(STACKS), "a <title>")
    ET.fromstring(picture)
    assert ">a &lt;title&gt;</text>" in picture
    assert 'height="184.00" viewBox="0 0 1200 184.00"' in picture
    assert 'width="100%" height="184.00"' in picture
    assert 'id="matched" x="1190" y="174.00"' in picture
    after = {frame.name: frame for frame in flame.frames(picture)}
    assert after == {
        name: frame._replace(y=frame.y - 16) for name, frame in before.items() if frame.y > 52 + 16
    }
    assert picture.count('height="15"') == len(after) + 1  # that for all of them


def test_a_picture_that_differs_from_the_start_stays_as_it_is() -> None:
    picture = drawn({("one (a.py:1)",): 1, ("two (a.py:2)",): 1})
    assert flame.frames(flame.trimmed(picture, "a title")) == flame.frames(picture)


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ("Permission Denied: Try running again with elevated permissions", "kernel.yama.ptrace_scope=0"),
        ("Error: Failed\nCaused by:\n    0: Operation not permitted (os error 1)", "SYS_PTRACE"),
        ("Error: No such process\nand more", "py-spy could not record: Error: No such process"),
        ("", "it did not say why"),
    ],
)
def test_why_it_could_not_is_said_in_a_sentence(said: str, sentence: str) -> None:
    assert sentence in profile.why(said)
    assert "\n" not in profile.why(said)


@pytest.mark.parametrize("missing", ["wrk", "py-spy"])
def test_what_is_missing_is_named(missing: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    which = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name, **more: None if name == missing else which("true"))
    with pytest.raises(RuntimeError, match=f"^{missing} is not installed"):
        profile.profile("hot", 1, 1, 100, tmp_path / "flame.svg")


@pytest.mark.skipif(not shutil.which("wrk"), reason="wrk is not installed")
@pytest.mark.skipif(not profile.py_spy(), reason="py-spy is not installed")
@pytest.mark.parametrize("workload", profile.WORKLOADS)
def test_a_worker_is_recorded(workload: str, tmp_path: Path) -> None:
    out = tmp_path / "flame.svg"
    before = set(psutil.Process().children(recursive=True))
    try:
        table = profile.profile(workload, 200, 1, 100, out)
    except RuntimeError as error:
        if "py-spy may not" in str(error):
            pytest.skip(str(error))
        raise
    finally:
        assert set(psutil.Process().children(recursive=True)) <= before
    ET.fromstring(out.read_text())
    names = " ".join(frame.name for frame in flame.frames(out.read_text()))
    assert "data_received (" in names  # of the core, or in Python
    assert "libc" in names  # frames of C
    assert f"one worker, {workload}:" in out.read_text()
    assert re.match(r"\d+ samples", table)
