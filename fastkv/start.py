"""Where the ``fastkv`` command begins.

``fastkv serve`` with options that leave nothing to interpret is read here and begun at once: the library that
`fastkv.cli` reads command lines with takes as long to import as half of what a server needs. All else, help
and mistakes above all, is left to it; what both read they read alike.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastkv.errors import FastKVError
from fastkv.options import Several, Switch
from fastkv.settings import CONFIG_FLAG, OPTIONS, Settings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_INTERRUPTED = 128 + signal.SIGINT


def main(args: Sequence[str] | None = None) -> None:
    """Run the command.

    Args:
        args: what follows the program's name; of the process when None.

    Raises:
        SystemExit: always, with the exit code.
    """
    args = sys.argv[1:] if args is None else args
    typed = read_plain(args)
    if typed is None:
        from fastkv import cli

        cli.main(args)
    else:
        try:
            code = serve(typed)
        except KeyboardInterrupt:  # before there was a server to stop
            code = _INTERRUPTED
        sys.exit(code)


def read_plain(args: Sequence[str]) -> dict[str, Any] | None:
    """Read a command line of ``fastkv serve`` in which every option is spelled out and has its value.

    Args:
        args: what follows the program's name.

    Returns:
        What was typed, by name, as `serve` takes it; None for every other command line.
    """
    if not args or args[0] != "serve":
        return None
    switches = {o.flag: (o.name, True) for o in OPTIONS if isinstance(o.kind, Switch)}
    switches |= {f"--no-{flag[2:]}": (name, False) for flag, (name, _) in switches.items()}
    lists = {o.flag: o.name for o in OPTIONS if isinstance(o.kind, Several)}
    texts = {o.flag: o.name for o in OPTIONS if o.flag not in lists.keys() | switches.keys()}
    texts[CONFIG_FLAG] = "config"
    typed: dict[str, Any] = {}
    left = list(reversed(args[1:]))
    while left:
        flag, equals, value = left.pop().partition("=")
        if flag in switches and not equals:
            name, typed[name] = switches[flag]
            continue
        if not equals:
            value = left.pop() if left else "-"
        if value.startswith("-"):
            return None
        if flag in lists:
            typed.setdefault(lists[flag], []).append(value)
        elif flag in texts:
            typed[texts[flag]] = value
        else:
            return None
    return typed


def serve(typed: Mapping[str, Any]) -> int:
    """Serve until SIGTERM or SIGINT.

    Args:
        typed: the options as they were typed, by name; None, or not there, for those that were not.

    Returns:
        The exit code; what went wrong is one line on stderr.
    """
    if os.getpid() == 1:
        # The first process of a container gets no signal that it does not wait for; so it is found later.
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT))
    # Of 40,000 objects that are made until there is a server 800 are garbage: not worth 40 ms of looking.
    gc.disable()
    try:
        config = typed.get("config")
        settings = Settings.load(typed, os.environ, None if config is None else Path(config))
        # Late, so that a wrong setting does not wait for what only a server needs.
        from fastkv.launch import run

        return run(settings)
    except FastKVError as error:
        sys.stderr.write(f"fastkv: {error}\n")
        return error.exit_code
    finally:
        gc.enable()
