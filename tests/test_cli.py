"""The command: its help, its exit codes, and what it prints for a mistake."""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from fastkv import __version__, core
from fastkv.cli import main
from fastkv.errors import StartError
from fastkv.options import Switch
from fastkv.settings import OPTIONS, Settings

Run = Callable[..., tuple[int, str, str]]


class Supervisor(ModuleType):
    """Stands in for `fastkv.launch`: keeps the settings, and ends as it is told."""

    settings: Settings | None = None
    outcome: int | Exception = 0

    def run(self, settings: Settings) -> int:
        self.settings = settings
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


@pytest.fixture
def supervisor(monkeypatch: pytest.MonkeyPatch) -> Supervisor:
    """A supervisor that serves nothing, in an environment without settings."""
    for option in OPTIONS:
        monkeypatch.delenv(option.variable, raising=False)
    monkeypatch.delenv("FASTKV_CONFIG", raising=False)
    fake = Supervisor("fastkv.launch")
    monkeypatch.setitem(sys.modules, "fastkv.launch", fake)
    return fake


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], supervisor: Supervisor) -> Run:
    """Run the command; exit code, stdout and stderr."""

    def call(*args: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as caught:
            main(args)
        out, err = capsys.readouterr()
        return int(caught.value.code or 0), out, err

    return call


@pytest.mark.parametrize("word", ["--version", "version"])
def test_version(run: Run, word: str) -> None:
    runs = "compiled core" if core.COMPILED else f"readable Python: {core.REASON}"
    assert run(word) == (0, f"fastkv {__version__} ({runs})\n", "")


COMMANDS = [
    "",
    *("serve", "health", "check", "tune-kernel", "snapshot", "snapshot save", "snapshot load"),
    *("help", "version"),
]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_in_three_ways(
    run: Run, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    code, out, err = run(*command.split(), "--help")
    assert (code, err) == (0, "")
    assert out.startswith(" ".join(f"Usage: fastkv {command}".split()))
    assert "..." not in out.replace("[ARGS]...", "").replace("[COMMAND]...", "")  # no sentence is cut off
    assert run(*command.split(), "-h") == (0, out, "")
    assert run("help", *command.split()) == (0, out, "")


def test_every_command_is_listed(run: Run) -> None:
    _, out, _ = run("help")
    listed = re.findall(r"^  ([a-z-]+) ", out.partition("Commands:")[2], re.MULTILINE)
    assert sorted(listed) == sorted(command for command in COMMANDS if command and " " not in command)


def test_help_of_no_command_is_exit_2(run: Run) -> None:
    code, out, err = run("help", "nonsense")
    assert (code, out) == (2, "")
    assert "No such command 'nonsense'" in err


def test_without_a_command_there_is_help(run: Run) -> None:
    code, out, err = run()
    assert code == 2
    assert "serve" in out + err


@pytest.mark.parametrize("columns", [80, 120])
def test_help_lists_every_setting_and_fits_the_terminal(
    run: Run, monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    code, out, err = run("serve", "--help")
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) <= columns
    listed = re.findall(r"^  (?:-h, )?(--[a-z-]+)", out, re.MULTILINE)
    assert listed == [*(option.flag for option in OPTIONS), "--config", "--help"]
    words = " ".join(out.split())
    for option in OPTIONS:
        assert f"{option.summary} [" in words
        assert f"default: {option.shown_default}; {option.variable}]" in words
    assert "--tune / --no-tune" in words
    assert "default: 512 bytes;" in words


def test_serve_hands_its_options_to_the_supervisor(run: Run, supervisor: Supervisor) -> None:
    supervisor.outcome = 7
    options = "--port 0 --host ::1 --host 127.0.0.1 --workers 2 --memory 256mb --no-tune --drain-seconds 0.5"
    assert run("serve", *options.split()) == (7, "", "")
    assert supervisor.settings == Settings(
        port=0, host=("::1", "127.0.0.1"), workers=2, memory_bytes=256 << 20, tune=False, drain_seconds=0.5
    )


def test_every_option_can_be_given(run: Run, supervisor: Supervisor) -> None:
    values = {
        "host": "::1",
        "unix": "x.sock",
        "log_level": "debug",
        "memory": "64mb",
        "segment_bytes": "64kb",
    }
    values |= {"max_body_bytes": "2kb", "max_head_bytes": "2kb", "max_output_bytes": "1mb"}
    values |= {"open_files": "64", "profile": "ultrafast", "max_buffer_bytes": "1mb", "max_fields": "8"}
    values |= {"max_message_bytes": "2kb", "max_reply_bytes": "1mb"}
    values |= {"access_log_format": "json", "eviction": "none", "data_dir_change": "refuse"}
    values |= {"pubsub_memory": "1mb", "max_push_bytes": "64kb", "max_channel_bytes": "16"}
    values |= {"keyspace_events": "KEx"}
    values |= {"allow_origin": "https://a.b", "unix_mode": "660"}
    pairs = {"tls_cert": ["--tls-key", "2"], "tls_key": ["--tls-cert", "2"]}
    for option in OPTIONS:
        args = (
            [option.flag] if isinstance(option.kind, Switch) else [option.flag, values.get(option.name, "2")]
        )
        args += pairs.get(option.name, [])
        assert run("serve", *args) == (0, "", ""), option.name


def test_environment_and_file_are_read(
    run: Run, supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = tmp_path / "x.toml"
    config.write_text("port = 1\nworkers = 1\nbacklog = 1")
    monkeypatch.setenv("FASTKV_WORKERS", "2")
    monkeypatch.setenv("FASTKV_BACKLOG", "2")
    assert run("serve", "--config", str(config), "--backlog", "3") == (0, "", "")
    assert supervisor.settings is not None
    assert (supervisor.settings.port, supervisor.settings.workers, supervisor.settings.backlog) == (1, 2, 3)


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["--port", "99999"], "--port: '99999' is out of range; allowed: 0 to 65535."),
        (["--port", "-1"], "--port: '-1' is out of range; allowed: 0 to 65535."),
        (["--port="], "--port: '' is not a whole number; allowed: 0 to 65535."),
        (["--workers", "many"], "--workers: 'many' is not a whole number; allowed: 1 to 256, or auto."),
        (
            ["--config", "no.toml"],
            "--config: 'no.toml' cannot be read (No such file or directory); allowed: a TOML file.",
        ),
    ],
)
def test_a_wrong_setting_is_one_line_and_exit_2(run: Run, args: list[str], sentence: str) -> None:
    assert run("serve", *args) == (2, "", f"fastkv: {sentence}\n")


def test_health_lists_its_options_and_fits_the_terminal(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    code, out, err = run("health", "--help")
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 80
    listed = re.findall(r"^  (?:-h, )?(--[a-z-]+)", out, re.MULTILINE)
    assert " ".join(listed) == "--url --host --port --unix --config --timeout --token --quiet --help"
    words = " ".join(out.split())
    for option in OPTIONS:
        assert (f"default: {option.shown_default}; {option.variable}]" in words) == (option.flag in listed)
    for shown in ("[0.01 to 3600 seconds; default: 2]", "[FASTKV_CONFIG]"):
        assert shown in words


NO_PORT = (
    "--port: 0 takes a free port when the server starts; "
    "give the one that its first line names, with --port or --url."
)
NO_URL = "is not the address of a server; allowed: http://HOST:PORT, https://HOST:PORT or unix:PATH."


@pytest.mark.parametrize(
    ("args", "env", "sentence"),
    [
        ("--port 99999", {}, "--port: '99999' is out of range; allowed: 0 to 65535."),
        (
            "",
            {"FASTKV_PORT": "x"},
            "FASTKV_PORT (environment): 'x' is not a whole number; allowed: 0 to 65535.",
        ),
        (
            "",
            {"FASTKV_WORKERS": "0"},
            "FASTKV_WORKERS (environment): '0' is out of range; allowed: 1 to 256, or auto.",
        ),
        (
            "--config no.toml",
            {},
            "--config: 'no.toml' cannot be read (No such file or directory); allowed: a TOML file.",
        ),
        ("--port 0", {}, NO_PORT),
        ("--timeout 0", {}, "--timeout: '0' is out of range; allowed: 0.01 to 3600 seconds."),
        ("--timeout 1s", {}, "--timeout: '1s' is not a number of seconds; allowed: 0.01 to 3600 seconds."),
        ("--url localhost:7171", {}, f"--url: 'localhost:7171' {NO_URL}"),
        *(
            (
                f"--url http://localhost {more}",
                {},
                "--url: it says all; leave out --host, --port, --unix and --config.",
            )
            for more in ("--host a", "--port 1", "--unix x", "--config x")
        ),
    ],
)
def test_a_wrong_option_of_health_is_one_line_and_exit_2(
    run: Run, monkeypatch: pytest.MonkeyPatch, args: str, env: dict[str, str], sentence: str
) -> None:
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert run("health", *args.split()) == (2, "", f"fastkv: {sentence}\n")
    assert run("health", *args.split(), "--quiet") == (2, "", f"fastkv: {sentence}\n")


def test_a_failed_start_is_one_line_and_exit_1(run: Run, supervisor: Supervisor) -> None:
    supervisor.outcome = StartError("127.0.0.1:7171 is in use.")
    assert run("serve") == (1, "", "fastkv: 127.0.0.1:7171 is in use.\n")


def test_a_bug_keeps_its_traceback(supervisor: Supervisor) -> None:
    supervisor.outcome = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError):
        main(["serve"])


@pytest.mark.parametrize(
    "args", [["serve", "--prot", "1"], ["serve", "--port"], ["serve", "extra"], ["start"]]
)
def test_an_unknown_word_is_exit_2(run: Run, args: list[str]) -> None:
    code, out, err = run(*args)
    assert (code, out) == (2, "")
    assert "Traceback" not in err
