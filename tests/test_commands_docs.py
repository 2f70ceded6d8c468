"""docs/commands.md is the table of commands, and the list of differences is that of the tests."""

import re
from pathlib import Path

from commands_cases import DIFFERENCES

import fastkv.commands.execute  # noqa: F401 - fills the table
from fastkv.commands.table import COMMANDS

DOCUMENT = (Path(__file__).parent.parent / "docs/commands.md").read_text()


def test_the_table_of_the_document_is_that_of_the_program() -> None:
    rows = re.findall(r"^\| `([A-Z]+)[^`]*` \| (-?\d+) \|", DOCUMENT, re.MULTILINE)
    assert len(rows) == len({name for name, _ in rows})
    assert {name: int(arity) for name, arity in rows} == {
        command.name: command.arity for command in COMMANDS.values()
    }


def test_the_differences_of_the_document_are_those_of_the_tests() -> None:
    told = re.findall(r"^- \*\*(.+)\.\*\* (.+)$", DOCUMENT.split("## Differences")[1], re.MULTILINE)
    assert told == [(case.name.capitalize(), case.reason) for case in DIFFERENCES]
