"""The ``fastkv`` command.

The options of ``serve`` are made from `fastkv.settings.OPTIONS`, and handed on as they were typed:
`Settings` alone reads and bounds them, so that a wrong value reads the same from a flag, a variable and a
file. An error meant for a person becomes one line on stderr and an exit code.
"""

import inspect
import json
import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from fastkv import __version__, health, start
from fastkv.errors import FastKVError, SettingsError
from fastkv.parameters import CONFIG, Command, asking_parameters, keyword, new_app, parameter, register
from fastkv.settings import OPTIONS, Settings
from fastkv.snapshot.command import app as snapshot_app

app = new_app("fastkv", "An in-memory key-value cache over HTTP, WebSocket and Redis' commands.")


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
        # Late, because no other command but serve needs the core.
        from fastkv import core

        runs = "compiled core" if core.COMPILED else f"readable Python: {core.REASON}"
        typer.echo(f"fastkv {__version__} ({runs})")
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
    """Take the options that come before a command."""


def _serve(**typed: Any) -> None:
    """Start the server; it runs until SIGTERM or Ctrl-C.

    Each option is also a variable (FASTKV_MAX_KEY_BYTES for --max-key-bytes) and a key of the TOML file
    (max_key_bytes). Flags win over the environment, the environment over the file. A SIZE is in bytes, or
    with a unit, which is a power of 1024: 64kb, 512M and 2GiB are sizes, in any case.
    """
    raise typer.Exit(start.serve(typed))


def _health(**typed: Any) -> None:
    """Ask a running server whether it is healthy.

    Exit code 0: it is. 1: it is not, does not run, or does not answer in time. 2: an option is wrong.

    Give the options, variables and file that serve was started with: the request goes to the Unix socket if
    there is one and no host or port is given, else to the first host, where 0.0.0.0 and :: stand
    for the loopback address.
    """
    try:
        address, token, timeout_seconds = health.read_asking(typed, os.environ, health.TIMEOUT)
        health.check(address, token, timeout_seconds)
    except FastKVError as error:
        if not (typed["quiet"] and isinstance(error, health.Unhealthy)):
            typer.echo(f"fastkv: {error}", err=True)
        raise typer.Exit(error.exit_code) from None
    if not typed["quiet"]:
        typer.echo(f"{address} is healthy.")


def _check(**typed: Any) -> None:
    """Verify the entries in a data directory that no server uses.

    Nothing in it is changed. Exit code 0: everything is whole. 1: something is damaged, or there are no
    entries, or a server uses them. 2: an option is wrong.
    """
    # Late, because no other command but serve needs the store.
    from fastkv import offline

    try:
        path = None if typed["config"] is None else Path(typed["config"])
        settings = Settings.load({"data_dir": typed["data_dir"]}, os.environ, path)
        if settings.data_dir is None:
            raise SettingsError("--data-dir: say which directory is to be checked.")
        finding = offline.check(settings.data_dir)
    except FastKVError as error:
        typer.echo(f"fastkv: {error}", err=True)
        raise typer.Exit(error.exit_code) from None
    typer.echo("\n".join(finding.sentences))
    raise typer.Exit(0 if finding.ok else 1)


def _tune_kernel(**typed: Any) -> None:
    """Show, apply, check or undo kernel settings for the server.

    Without --apply, --check, --persist or --revert nothing is changed. A setting that may not be changed, as
    in a container, is no error: the table says where else it can be set. What serve has changed, --revert
    undoes as well.

    Exit code 0: done; with --check: everything is as wanted or better. 1: it is not, or a setting that may be
    changed could not be. 2: an option is wrong.
    """
    # Late: the table's library would slow down every other command.
    from fastkv.kernel.command import Action, run

    try:
        flags = {name: typed[name] for name in _TUNED}
        settings = Settings.load(
            flags, os.environ, None if typed["config"] is None else Path(typed["config"])
        )
        for level, sentence in settings.notes:
            if level >= logging.WARNING:
                typer.echo(f"fastkv: {sentence}", err=True)
        chosen = [action for action in (Action.APPLY, Action.CHECK, Action.REVERT) if typed[action.value]]
        if len(chosen) > 1 or (chosen and chosen != [Action.APPLY] and typed["persist"]):
            raise SettingsError(
                "--apply, --check and --revert exclude each other; --persist goes with --apply."
            )
        action = chosen[0] if chosen else Action.PERSIST if typed["persist"] else Action.SHOW
        report = run(action, settings, Path(typed["root"] or "/"), persist=bool(typed["persist"]))
    except FastKVError as error:
        typer.echo(f"fastkv: {error}", err=True)
        raise typer.Exit(error.exit_code) from None
    try:
        if typed["json"]:
            typer.echo(json.dumps(report.as_json(), indent=2))
        else:
            report.show()
    except BrokenPipeError:  # typer's to handle: the reader has seen enough
        raise
    except OSError as error:
        typer.echo(f"fastkv: {action}: done, but the result cannot be shown ({error.strerror}).", err=True)
        raise typer.Exit(1) from None
    raise typer.Exit(0 if report.ok else 1)


def _tune_parameters() -> list[inspect.Parameter]:
    """Make the options of `_tune_kernel`: those of serve that say what is wanted, and its own."""
    switches = {
        "apply": "Change what is permitted, and read it back.",
        "check": "Change nothing; exit code 0 if everything is as wanted or better, else 1.",
        "revert": "Restore what the settings were, and remove what --persist wrote.",
        "persist": "Write /etc/sysctl.d/60-fastkv.conf, which every boot reads; a later file wins over it.",
        "json": "Print JSON.",
    }
    root_help = (
        "Directory to take for the root of the file system; it has to have a proc/sys. The default of "
        "--state-dir is then var/lib/fastkv below it."
    )
    return [
        *(keyword(name, bool | None, f"--{name}", text, "") for name, text in switches.items()),
        *(parameter(replace(o, summary=_TUNED[o.name])) for o in OPTIONS if o.name in _TUNED),
        keyword("root", str | None, "--root", root_help, "DIR"),
        CONFIG,
    ]


_TUNED = {
    "profile": "recommended: never makes a good value worse. ultrafast: the published list, with its risks.",
    "port": "The server's TCP port, to be reserved.",
    "open_files": "Open files that a process should be allowed.",
    "state_dir": "Where the original settings are kept.",
}
register(app, "serve", _serve, [*map(parameter, OPTIONS), CONFIG])
register(
    app,
    "health",
    _health,
    [
        *asking_parameters(health.TIMEOUT),
        keyword("quiet", bool | None, "--quiet", "Print nothing; the exit code says it.", ""),
    ],
)
register(app, "check", _check, [*(parameter(o) for o in OPTIONS if o.name == "data_dir"), CONFIG])
register(app, "tune-kernel", _tune_kernel, _tune_parameters())
app.add_typer(snapshot_app)


@app.command("help", cls=Command)
def _help(
    command: Annotated[
        list[str] | None,
        typer.Argument(help="The command; none for the list of all.", metavar="COMMAND"),
    ] = None,
) -> None:
    """Show how a command is used, as in: fastkv help serve."""
    main([*(command or ()), "--help"])


@app.command("version", cls=Command)
def _version() -> None:
    """Print the version."""
    _print_version(wanted=True)
