"""Options of the command line, as typer wants them but handed on as they were typed.

In: options of `fastkv.settings`, or a flag and its help. Out: parameters, and commands that have them.
Nothing is raised: only who reads the values, as `Settings`, bounds them, so that a wrong one reads the same
from a flag, a variable and a file.
"""

import inspect
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from fastkv.health import ASKED, TOKEN
from fastkv.options import Option, Several, Switch
from fastkv.settings import CONFIG_FLAG, CONFIG_VARIABLE, OPTIONS


class Command(TyperCommand):
    """A command whose options are as they were typed; see `_as_typed`."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the options."""
        return _as_typed(super().get_params(ctx))


class Group(TyperGroup):
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


def new_app(name: str, help_text: str | None = None) -> typer.Typer:
    """Make a group of commands.

    Args:
        name: what it is called by.
        help_text: what it is for; None where a callback says so.
    """
    # Plain help is the same in a terminal and in a pipe, can be searched, and wraps far less than the boxed
    # one at 80 columns.
    return typer.Typer(
        name=name,
        cls=Group,
        help=help_text,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        no_args_is_help=True,
        context_settings={"max_content_width": 120, "help_option_names": ["-h", "--help"]},
    )


def parameter(option: Option) -> inspect.Parameter:
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
    return keyword(option.name, kind, flags, help_text, option.kind.metavar)


def keyword(name: str, kind: Any, flag: str, help_text: str, metavar: str) -> inspect.Parameter:
    """Make a parameter that is None where its flag was not given."""
    declared = typer.Option(flag, help=help_text, metavar=metavar, show_default=False)
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind, declared]
    )


CONFIG = keyword("config", str | None, CONFIG_FLAG, f"TOML file with settings. [{CONFIG_VARIABLE}]", "FILE")


def asking_parameters(timeout: Option) -> list[inspect.Parameter]:
    """Make the parameters that `fastkv.health.read_asking` reads: where a server is, and how it is asked.

    Args:
        timeout: the option for the longest wait.
    """
    timeout_help = f"{timeout.summary} [{timeout.allowed}; default: {timeout.shown_default}]"
    url_help = (
        "Address as serve writes it on its first line: http://HOST:PORT, https://HOST:PORT or unix:PATH."
    )
    token_help = (
        f"Token to send; a flag can be seen by every user of the machine. [default: none; {TOKEN.variable}]"
    )
    return [
        keyword("url", str | None, "--url", url_help, "URL"),
        *(parameter(replace(o, summary=ASKED[o.name])) for o in OPTIONS if o.name in ASKED),
        CONFIG,
        keyword("timeout", str | None, timeout.flag, timeout_help, timeout.kind.metavar),
        keyword("token", str | None, "--token", token_help, "TOKEN"),
    ]


def register(
    app: typer.Typer, name: str, command: Callable[..., None], parameters: list[inspect.Parameter]
) -> None:
    """Give a function the signature that typer reads its options from, and make it a command."""
    # Callable has no such attribute, every function does (PEP 362).
    vars(command)["__signature__"] = inspect.Signature(parameters)
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    app.command(name, cls=Command)(command)
