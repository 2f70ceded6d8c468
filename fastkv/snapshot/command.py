"""``fastkv snapshot``: saves all entries of a server to a file, and loads them.

In: options as they were typed. Out: one line on stdout, a progress bar on stderr where that is a terminal,
and an exit code: 0, 1 with one line on stderr for what went wrong, 2 for a wrong option.
"""

import inspect
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from fastkv.errors import FastKVError, SettingsError
from fastkv.health import ASKED, read_asking
from fastkv.options import Option, Seconds
from fastkv.parameters import asking_parameters, keyword, new_app, register
from fastkv.settings import Settings

TIMEOUT = Option(
    field="timeout",
    name="timeout",
    kind=Seconds(0.01, 3600),
    default=30.0,
    auto="",
    summary="Longest wait for the next bytes of an answer.",
)

app = new_app("snapshot", "Save all entries to a file, or load them.")


def _save(**typed: Any) -> None:
    """Save all entries of a running server or a data directory to FILE.

    No server may use the data directory. An older FILE is replaced at once when the new one is complete;
    until then, and if anything fails, it stays as it is. Each entry is saved as it was at some time while
    the command ran. How long entries have still to live is saved with them; their versions (ETags) are not.

    Exit code 0: it is saved. 1: it is not; stderr says why. 2: an option is wrong.
    """
    with _outcome(typed) as (path, stop):
        from fastkv.snapshot.copying import amount, save

        with _peer(typed, writing=False) as peer:
            chain = save(peer, path, _progress(typed, stop))
        _say(typed, f"Saved {amount(chain.entries)} of {peer} in {path} ({chain.file_bytes:,} bytes).")


def _load(**typed: Any) -> None:
    """Put all entries of FILE into a running server or a data directory.

    No server may use the data directory. What is there under the same keys is replaced, and everything else
    stays. Entries whose time to live has passed meanwhile are left out. The whole file is verified before the
    first entry is put.

    Exit code 0: it is loaded. 1: it is not, or not all of it; stderr says why. 2: an option is wrong.
    """
    with _outcome(typed) as (path, stop):
        from fastkv.snapshot.copying import amount, load

        with _peer(typed, writing=True) as peer:
            loaded, expired = load(peer, path, _progress(typed, stop), verify=typed["verify"] is not False)
        late = f"; {expired:,} more had expired" if expired else ""
        _say(typed, f"Loaded {amount(loaded)} of {path} into {peer}{late}.")


class _Stop:
    """Handles the signals that ask for the end: what was begun is tidied up, as after Ctrl-C.

    What waits is interrupted. But an exception is lost where it is raised in a finaliser or in the callback
    of a weak reference, which may run at any time; so each step checks too.
    """

    def __init__(self) -> None:
        self._asked = False

    def __call__(self, _number: int, _frame: object) -> NoReturn:
        self._asked = True
        raise KeyboardInterrupt

    def check(self) -> None:
        """Raise KeyboardInterrupt if the end was asked for."""
        if self._asked:
            raise KeyboardInterrupt


@contextmanager
def _outcome(typed: dict[str, Any]) -> Iterator[tuple[Path, _Stop]]:
    """Turn errors into a line and an exit code.

    Yields:
        The path of the snapshot, and what knows whether to stop.
    """
    stop = _Stop()
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        for number, handler in before.items():
            if handler != signal.SIG_IGN:  # as in the background, and with nohup
                signal.signal(number, stop)
        if not typed["file"]:
            raise SettingsError("FILE: it is missing; give the path of the snapshot.")
        yield Path(typed["file"]), stop
    except FastKVError as error:
        typer.echo(f"fastkv: {error}", err=True)
        raise typer.Exit(error.exit_code) from None
    except KeyboardInterrupt:
        typer.echo("fastkv: stopped before the end.", err=True)
        raise typer.Exit(1) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _peer(typed: dict[str, Any], *, writing: bool) -> Iterator[Any]:
    """Who has the entries."""
    if typed["data_dir"] is not None:
        if any(typed[name] is not None for name in (*ASKED, "url", "timeout", "token")):
            raise SettingsError(
                "--data-dir: no server is asked; leave out where it is, --timeout and --token."
            )
        config = None if typed["config"] is None else Path(typed["config"])
        settings = Settings.load({"data_dir": typed["data_dir"]}, os.environ, config)
        assert settings.data_dir is not None
        from fastkv.snapshot.copying import amount
        from fastkv.snapshot.local import opened

        with opened(settings.data_dir, settings, writing=writing) as local:
            if local.damaged:
                left_out = amount(local.damaged)
                typer.echo(f"fastkv: left out of {local}, because damaged: {left_out}.", err=True)
            yield local
        return
    address, token, timeout_seconds = read_asking(typed, os.environ, TIMEOUT)
    from fastkv.snapshot.remote import Remote

    with closing(Remote(address, token, timeout_seconds)) as remote:
        yield remote


def _progress(typed: dict[str, Any], stop: _Stop) -> Any:
    """Bars on a terminal, nothing anywhere else; each step ends the command if that was asked for."""
    shown = not typed["quiet"] and sys.stderr.isatty()

    @contextmanager
    def progress(label: str, length: int) -> Iterator[Callable[[int], object]]:
        if not shown:
            yield lambda _: stop.check()
            return
        with typer.progressbar(length=length, label=f"{label:9}", file=sys.stderr) as bar:

            def step(count: int) -> None:
                stop.check()
                bar.update(count)

            yield step
            bar.update(max(length - bar.pos, 0))  # what was counted before may have gone meanwhile

    return progress


def _say(typed: dict[str, Any], line: str) -> None:
    if not typed["quiet"]:
        typer.echo(line)


def _parameters(file_help: str) -> list[inspect.Parameter]:
    file = typer.Argument(metavar="FILE", help=file_help, show_default=False)
    return [
        inspect.Parameter("file", inspect.Parameter.KEYWORD_ONLY, annotation=Annotated[str, file]),
        *asking_parameters(TIMEOUT),
        keyword(
            "data_dir",
            str | None,
            "--data-dir",
            "Data directory to be opened here; no server may use it, and none is asked.",
            "DIR",
        ),
        keyword("quiet", bool | None, "--quiet", "Say nothing but what goes wrong.", ""),
    ]


register(app, "save", _save, _parameters("The snapshot to be written."))
register(
    app,
    "load",
    _load,
    [
        *_parameters("The snapshot to be read."),
        keyword(
            "verify",
            bool | None,
            "--verify/--no-verify",
            "Verify the whole file before the first entry is put; each block is verified anyway. "
            "[default: verify]",
            "",
        ),
    ],
)
