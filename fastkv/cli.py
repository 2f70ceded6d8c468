"""The ``fastkv`` command.

The options of ``serve`` are made from `fastkv.settings.OPTIONS`, and handed on as they were typed:
`Settings` alone reads and bounds them, so that a wrong value reads the same from a flag, a variable and a
file. An error meant for a person becomes one line on stderr and an exit code.
"""

import inspect
import json
import logging
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from fastkv import __version__, health
from fastkv.errors import FastKVError, SettingsError
from fastkv.options import Option, Several, Switch
from fastkv.settings import CONFIG_FLAG, CONFIG_VARIABLE, OPTIONS, Settings


class _Command(TyperCommand):
    """A command whose options are as they were typed; see `_as_typed`."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the options."""
        return _as_typed(super().get_params(ctx))


class _Group(TyperGroup):
    """A group of such commands, whose own options are so, too."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the options."""
        return _as_typed(super().get_params(ctx))


def _as_typed(parameters: list[Any]) -> list[Any]:
    """Keep typer from handing values to pydantic, which would only find that a text is a text.

    Its import would double the time that ``fastkv health`` takes, and its memory would stay with the server.
    """
    for parameter in parameters:
        parameter.process_value = partial(_untouched, parameter)
    return parameters


def _untouched(parameter: Any, context: object, value: Any) -> Any:
    if value is None and getattr(parameter, "multiple", False):
        value = ()
    return value if parameter.callback is None else parameter.callback(context, parameter, value)


# Plain help is the same in a terminal and in a pipe, can be searched, and wraps far less than the boxed
# one at 80 columns.
app = typer.Typer(
    name="fastkv",
    cls=_Group,
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
    if os.getpid() == 1:
        # The first process of a container gets no signal that it does not wait for; so it is found later.
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT))
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


def _health(**typed: Any) -> None:
    """Ask a running server whether it is healthy.

    Exit code 0: it is. 1: it is not, or is not there, or does not answer in time. 2: an option is wrong.

    The server that is asked is the one that serve starts with the same options, variables and file: on its
    Unix socket where it has one and neither --host nor --port is given, else at its first host, and at the
    loopback address where that is 0.0.0.0 or ::.
    """
    url, config = typed["url"], typed["config"]
    try:
        timeout = health.TIMEOUT.default if typed["timeout"] is None else typed["timeout"]
        timeout_seconds = health.TIMEOUT.parse(timeout, health.TIMEOUT.flag)
        token = health.find_token(typed["token"], os.environ)
        if url is None:
            path = None if config is None else Path(config)
            address = health.server_address({name: typed[name] for name in _ASKED}, os.environ, path)
        elif all(typed[name] is None for name in ("config", *_ASKED)):
            address = health.parse_url(url)
        else:
            raise SettingsError("--url: it says all; leave out --host, --port, --unix and --config.")
        health.check(address, token, timeout_seconds)
    except FastKVError as error:
        if not (typed["quiet"] and isinstance(error, health.Unhealthy)):
            typer.echo(f"fastkv: {error}", err=True)
        raise typer.Exit(error.exit_code) from None
    if not typed["quiet"]:
        typer.echo(f"{address} is healthy.")


def _tune_kernel(**typed: Any) -> None:
    """Show, apply, check or undo the kernel settings that suit the server.

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
        typer.echo(f"fastkv: {action} was done, but cannot be told ({error.strerror}).", err=True)
        raise typer.Exit(1) from None
    raise typer.Exit(0 if report.ok else 1)


def _parameter(option: Option) -> inspect.Parameter:
    """Make the parameter of an option: raw text, or None where the flag was not given."""
    kind: Any
    match option.kind:
        case Switch():
            flags, kind, bounds = f"{option.flag}/--no-{option.flag[2:]}", bool | None, ""
        case Several():
            flags, kind, bounds = option.flag, list[str] | None, "may be repeated; "
        case _:
            flags, kind, bounds = option.flag, str | None, f"{option.kind.allowed}; "
    help_text = f"{option.summary} [{bounds}default: {option.shown_default}; {option.variable}]"
    return _keyword(option.name, kind, flags, help_text, option.kind.metavar)


def _keyword(name: str, kind: Any, flag: str, help_text: str, metavar: str) -> inspect.Parameter:
    """Make a parameter that is None where its flag was not given."""
    declared = typer.Option(flag, help=help_text, metavar=metavar, show_default=False)
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind, declared]
    )


def _register(name: str, command: Callable[..., None], parameters: list[inspect.Parameter]) -> None:
    """Give a function the signature that typer reads its options from, and make it a command."""
    # Every function may be given a signature (PEP 362), but the type of a callable does not say so.
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    app.command(name, cls=_Command)(command)


def _health_parameters() -> list[inspect.Parameter]:
    """Make the options of `_health`: those of serve that say where it listens, and its own."""
    timeout = health.TIMEOUT
    timeout_help = f"{timeout.summary} [{timeout.allowed}; default: {timeout.shown_default}]"
    url_help = (
        "Address as serve writes it on its first line: http://HOST:PORT, https://HOST:PORT or unix:PATH."
    )
    token_help = (
        "Token to send; a flag can be seen by every user of the machine. "
        f"[default: none; {health.TOKEN.variable}]"
    )
    return [
        _keyword("url", str | None, "--url", url_help, "URL"),
        *(_parameter(replace(o, summary=_ASKED[o.name])) for o in OPTIONS if o.name in _ASKED),
        _CONFIG,
        _keyword("timeout", str | None, timeout.flag, timeout_help, timeout.kind.metavar),
        _keyword("token", str | None, "--token", token_help, "TOKEN"),
        _keyword("quiet", bool | None, "--quiet", "Say nothing about the health.", ""),
    ]


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
        *(_keyword(name, bool | None, f"--{name}", text, "") for name, text in switches.items()),
        *(_parameter(replace(o, summary=_TUNED[o.name])) for o in OPTIONS if o.name in _TUNED),
        _keyword("root", str | None, "--root", root_help, "DIR"),
        _CONFIG,
    ]


_TUNED = {
    "profile": "recommended: never makes a good value worse. ultrafast: the published list, with its risks.",
    "port": "The server's TCP port, to be reserved.",
    "open_files": "Open files that a process should be allowed.",
    "state_dir": "Where the original settings are kept.",
}
_ASKED = {
    "host": "Address that the server listens on; of several the first is asked.",
    "port": "TCP port that the server listens on.",
    "unix": "Unix socket that the server listens on.",
}
_CONFIG = _keyword("config", str | None, CONFIG_FLAG, f"TOML file with settings. [{CONFIG_VARIABLE}]", "FILE")
_register("serve", _serve, [*map(_parameter, OPTIONS), _CONFIG])
_register("health", _health, _health_parameters())
_register("tune-kernel", _tune_kernel, _tune_parameters())
