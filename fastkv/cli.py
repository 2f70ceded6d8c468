"""The ``fastkv`` command.

The options of ``serve`` are made from `fastkv.settings.OPTIONS`, and handed on as they were typed:
`Settings` alone reads and bounds them, so that a wrong value reads the same from a flag, a variable and a
file. An error meant for a person becomes one line on stderr and an exit code.
"""

import inspect
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from fastkv import __version__
from fastkv.errors import FastKVError
from fastkv.options import Hosts, Option, Switch
from fastkv.settings import CONFIG_FLAG, CONFIG_VARIABLE, OPTIONS, Settings

# Plain help is the same in a terminal and in a pipe, can be searched, and wraps far less than the boxed
# one at 80 columns.
app = typer.Typer(
    name="fastkv",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    context_settings={"max_content_width": 120},
)


def main(args: Sequence[str] | None = None) -> None:
    """Run the command.

    Args:
        args: What follows the program's name; of the process when None.

    Raises:
        SystemExit: Always, with the exit code.
    """
    app(args=None if args is None else list(args), prog_name="fastkv")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"fastkv {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version.", metavar=""
        ),
    ] = False,
) -> None:
    """An in-memory key-value cache over HTTP."""


def _serve(**typed: Any) -> None:
    """Serve until told to stop.

    Each option is also a variable (FASTKV_MAX_KEY_BYTES for --max-key-bytes) and a key of the TOML file
    (max_key_bytes). Flags win over the environment, the environment over the file. A SIZE is in bytes, or
    with kb, mb or gb, which are powers of 1024.
    """
    config = typed.pop("config")
    try:
        settings = Settings.load(typed, os.environ, None if config is None else Path(config))
        # Late, so that --help and a wrong setting do not wait for what only a server needs.
        from fastkv.supervisor import run

        code = run(settings)
    except FastKVError as error:
        typer.echo(f"fastkv: {error}", err=True)
        code = error.exit_code
    raise typer.Exit(code)


def _parameter(option: Option) -> inspect.Parameter:
    """Make the parameter of an option: raw text, or None where the flag was not given."""
    kind: Any
    match option.kind:
        case Switch():
            flags, kind, bounds = f"{option.flag}/--no-{option.flag[2:]}", bool | None, ""
        case Hosts():
            flags, kind, bounds = option.flag, list[str] | None, "may be repeated; "
        case _:
            flags, kind, bounds = option.flag, str | None, f"{option.kind.allowed}; "
    help_text = f"{option.summary} [{bounds}default: {option.shown_default}; {option.variable}]"
    declared = typer.Option(flags, help=help_text, metavar=option.kind.metavar, show_default=False)
    return inspect.Parameter(
        option.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind, declared]
    )


def _register_serve() -> None:
    """Give `_serve` the signature that typer reads its options from, and make it a command."""
    config = typer.Option(CONFIG_FLAG, help=f"TOML file with settings. [{CONFIG_VARIABLE}]", metavar="FILE")
    parameters = [_parameter(option) for option in OPTIONS]
    parameters.append(
        inspect.Parameter(
            "config", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[str | None, config]
        )
    )
    _serve.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    _serve.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    app.command("serve")(_serve)


_register_serve()
