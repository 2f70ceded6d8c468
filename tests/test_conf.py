"""conf/fastkv.toml shows every setting, its default, its bounds and its help, and nothing else."""

import tomllib
from pathlib import Path

import pytest

from fastkv.errors import SettingsError
from fastkv.kinds import Secret
from fastkv.settings import OPTIONS, Settings

CONF = Path(__file__).parent.parent / "conf/fastkv.toml"


def blocks() -> list[list[str]]:
    """The file's paragraphs after the head, one for each setting."""
    return [block.splitlines() for block in CONF.read_text().strip().split("\n\n")[1:]]


def test_every_setting_is_there_in_order_with_its_help_and_bounds() -> None:
    expected = []
    for option in OPTIONS:
        lines = [f"# {option.summary}", f"# Allowed: {option.allowed}."]
        if option.auto:
            lines.append(f"# Automatic: {option.auto}.")
        expected.append(lines)
    assert [block[:-1] for block in blocks()] == expected
    names = [block[-1].removeprefix("# ").split(" = ")[0] for block in blocks()]
    assert names == [option.name for option in OPTIONS]


def test_only_what_has_no_plain_default_is_commented_out() -> None:
    commented = [block[-1].startswith("# ") for block in blocks()]
    assert commented == [option.default is None for option in OPTIONS]


def test_the_values_are_the_defaults() -> None:
    values = tomllib.loads("\n".join(block[-1].removeprefix("# ") for block in blocks()))
    for option in OPTIONS:
        if isinstance(option.kind, Secret):
            # There is no text for none: one that is left empty by mistake must not open the server.
            with pytest.raises(SettingsError):
                option.parse(values[option.name], option.name)
            continue
        assert option.parse(values[option.name], option.name) == option.default


def test_the_file_changes_nothing() -> None:
    assert Settings.load({}, {}, CONF) == Settings()
