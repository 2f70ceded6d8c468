"""Settings: defaults, precedence, and the sentence for each mistake."""

import dataclasses
import logging
import os
from pathlib import Path
from typing import Any

import pytest

from fastkv import machine
from fastkv.errors import SettingsError
from fastkv.settings import OPTIONS, Settings

KB, MB, GB = 1 << 10, 1 << 20, 1 << 30


@pytest.fixture(autouse=True)
def made_up_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Six CPUs, 10 GiB, ::1 and root, whatever the tests run on."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(machine, "usable_cpus", lambda: 6)
    monkeypatch.setattr(machine, "usable_memory_bytes", lambda: 10 * GB)
    monkeypatch.setattr(machine, "has_ipv6_loopback", lambda: True)


def test_the_defaults() -> None:
    assert dataclasses.asdict(Settings()) == {
        "host": ("127.0.0.1", "::1"),
        "port": 7171,
        "unix": None,
        "workers": 6,
        "memory_bytes": 2560 * MB,
        "shards": None,
        "segment_bytes": None,
        "eviction": "s3fifo",
        "data_dir": None,
        "data_dir_change": "migrate",
        "max_key_bytes": 1024,
        "max_value_bytes": MB,
        "max_head_bytes": 32 * KB,
        "max_body_bytes": 6 * (KB + MB) + KB,
        "max_message_bytes": 6 * (KB + MB) + KB,
        "max_output_bytes": 64 * KB,
        "max_buffer_bytes": 256 * MB,
        "max_connections": None,
        "max_fields": 100,
        "max_pipeline": 1024,
        "max_batch": 10_000,
        "batch_seconds": 2.0,
        "max_reply_bytes": 64 * MB,
        "max_keys": 1_000_000,
        "pubsub_memory_bytes": 16 * MB,
        "max_push_bytes": MB,
        "max_channel_bytes": 2 * KB,
        "push_seconds": 5.0,
        "max_subscriptions": 10_000,
        "max_worker_subscriptions": 1 << 18,
        "keyspace_events": "AKE",
        "event_ping_seconds": 15.0,
        "first_byte_seconds": 10.0,
        "head_seconds": 10.0,
        "body_seconds": 20.0,
        "idle_seconds": 75.0,
        "ping_seconds": 30.0,
        "pong_seconds": 20.0,
        "deflate": True,
        "output_seconds": 30.0,
        "min_rate_bytes": 512,
        "linger_seconds": 5.0,
        "lock_wait_ms": 1000,
        "drain_seconds": 5.0,
        "stuck_seconds": 10.0,
        "backlog": None,
        "fastopen": 256,
        "keepalive_seconds": 60,
        "keepalive_interval_seconds": 10,
        "keepalive_probes": 5,
        "open_files": 1 << 20,
        "tune": True,
        "profile": "recommended",
        "state_dir": Path("/var/lib/fastkv"),
        "access_log": None,
        "access_log_format": "text",
        "access_log_every": 1,
        "log_level": "info",
        "token": None,
        "token_file": None,
        "allow_origin": (),
        "allowed_host": (),
        "tls_cert": None,
        "tls_key": None,
        "tls_handshake_seconds": 10.0,
        "max_handshakes": 512,
        "unix_mode": "0600",
        "notes": (),
        "automatic": {"host", "workers", "memory_bytes", "max_body_bytes", "max_message_bytes", "state_dir"},
    }


def test_it_is_known_what_was_found_out() -> None:
    settings = Settings(workers=1, memory_bytes=16 * MB)
    assert not settings.automatic & {"workers", "memory_bytes"}
    assert dataclasses.replace(settings, backlog=5).automatic == settings.automatic
    assert "memory_bytes" in dataclasses.replace(Settings(), backlog=5).automatic
    assert "memory_bytes" in Settings.load({"memory": "auto"}, {}).automatic
    assert Settings.load({}, {}) == Settings()


def test_every_field_has_an_option_and_names_that_derive_from_it() -> None:
    assert [option.field for option in OPTIONS] == [
        field.name for field in dataclasses.fields(Settings) if field.name not in ("notes", "automatic")
    ]
    for option in OPTIONS:
        assert option.name in (option.field, option.field.removesuffix("_bytes"))
        assert option.flag == "--" + option.name.replace("_", "-")
        assert option.variable == "FASTKV_" + option.name.upper()
        assert option.summary.endswith(".")


@pytest.mark.parametrize(
    ("environment", "state_dir"),
    [
        ({"XDG_STATE_HOME": "/somewhere/state"}, "/somewhere/state/fastkv"),
        ({"XDG_STATE_HOME": "relative", "HOME": "/home/x"}, "/home/x/.local/state/fastkv"),
        ({"HOME": "/home/x"}, "/home/x/.local/state/fastkv"),
    ],
)
def test_state_of_a_user_lies_in_the_home(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], state_dir: str
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert Settings().state_dir == Path(state_dir)


def test_settings_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().port = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("usable", "memory_bytes"),
    [(4 * GB + 5 * MB, GB + MB), (16 * MB, 4 * MB), (4096 * GB, 128 * GB - MB)],
)
def test_memory_is_a_quarter_in_whole_megabytes(
    monkeypatch: pytest.MonkeyPatch, usable: int, memory_bytes: int
) -> None:
    monkeypatch.setattr(machine, "usable_memory_bytes", lambda: usable)
    assert Settings().memory_bytes == memory_bytes


def test_workers_have_a_bound_on_a_huge_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "usable_cpus", lambda: 1024)
    assert Settings().workers == 256


# what wins, from the lowest source to the highest: file, environment, flag
@pytest.mark.parametrize(
    ("file", "env", "flag", "port"),
    [
        (None, None, None, 7171),
        (1, None, None, 1),
        (1, "2", None, 2),
        (1, "2", "3", 3),
        (1, None, "3", 3),
        (None, "2", "3", 3),
        (None, None, "0", 0),
    ],
)
def test_flags_win_over_environment_over_file(
    tmp_path: Path, file: int | None, env: str | None, flag: str | None, port: int
) -> None:
    config = tmp_path / "x.toml"
    config.write_text("" if file is None else f"port = {file}")
    assert Settings.load({"port": flag}, {} if env is None else {"FASTKV_PORT": env}, config).port == port


def test_auto_takes_back_what_a_lower_source_says(tmp_path: Path) -> None:
    config = tmp_path / "x.toml"
    config.write_text("workers = 2\nshards = 8\nmax_body_bytes = 1024")
    assert Settings.load({}, {}, config).shards == 8
    env = {"FASTKV_SHARDS": "Auto", "FASTKV_MAX_BODY_BYTES": "auto"}
    settings = Settings.load({"workers": "auto"}, env, config)
    assert (settings.workers, settings.shards) == (6, None)
    assert settings.max_body_bytes == 6 * (KB + MB) + KB


def test_an_empty_path_takes_back_a_socket() -> None:
    assert Settings.load({}, {"FASTKV_UNIX": "x.sock"}).unix == Path("x.sock")
    assert Settings.load({"unix": ""}, {"FASTKV_UNIX": "x.sock"}).unix is None


def test_without_ipv6_the_default_is_the_loopback_address_of_ipv4(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "has_ipv6_loopback", lambda: False)
    assert Settings().host == ("127.0.0.1",)
    for flags, env in (({"host": ["auto"]}, {}), ({"host": "AUTO"}, {}), ({}, {"FASTKV_HOST": "auto"})):
        assert Settings.load(flags, env).host == ("127.0.0.1",)


def test_several_hosts_in_each_source(tmp_path: Path) -> None:
    config = tmp_path / "x.toml"
    for text in ('host = ["127.0.0.1", "::1"]', 'host = "127.0.0.1,::1"'):
        config.write_text(text)
        assert Settings.load({}, {}, config).host == ("127.0.0.1", "::1")
    assert Settings.load({}, {"FASTKV_HOST": "::1, localhost"}).host == ("::1", "localhost")
    assert Settings.load({"host": ["::1", "localhost"]}, {}).host == ("::1", "localhost")


def test_the_environment_can_name_the_file_and_a_flag_another(tmp_path: Path) -> None:
    first, second = tmp_path / "1.toml", tmp_path / "2.toml"
    first.write_text("port = 1")
    second.write_text("port = 2")
    env = {"FASTKV_CONFIG": str(first), "HOME": "/", "fastkv_port": "9"}
    assert Settings.load({}, env).port == 1
    assert Settings.load({}, env, second).port == 2


def test_the_body_has_room_for_escapes_whatever_the_sizes() -> None:
    settings = Settings(max_key_bytes=4096, max_value_bytes=512 * MB)
    assert settings.max_body_bytes == 6 * (4096 + 512 * MB) + KB


SWITCH_ALLOWED = "allowed: true, false, yes, no, on, off, 1 or 0."
NO_SIZE = "is not a size, such as 1000, 64kb, 512M or 2GiB"
HOST_ALLOWED = (
    "allowed: IPv4 and IPv6 addresses and host names, several of them separated by commas, or auto."
)
NO_FILE = "'no.toml' cannot be read (No such file or directory); allowed: a TOML file."
TOO_LITTLE = (
    "--memory {} is too little for --max-value-bytes {}: a value may take a quarter of the memory; "
    "allowed: --memory of at least {}, or --max-value-bytes of at most {}."
)

TOKEN_ALLOWED = "allowed: 1 to 1024 visible ASCII characters."
ORIGIN_ALLOWED = (
    "allowed: scheme://host or scheme://host:port without a path, or * for all, separated by commas."
)
NAME_ALLOWED = (
    "allowed: host names with or without a port, a dot before one for all below it, separated by commas."
)
MODE_ALLOWED = "allowed: three octal digits as text, such as 660, with or without a 0 before them."

MISTAKES: list[tuple[dict[str, Any], dict[str, str], str]] = [
    ({"port": "99999"}, {}, "--port: '99999' is out of range; allowed: 0 to 65535."),
    ({}, {"FASTKV_PORT": "x"}, "FASTKV_PORT (environment): 'x' is not a whole number; allowed: 0 to 65535."),
    ({}, {"FASTKV_PORT": ""}, "FASTKV_PORT (environment): '' is not a whole number; allowed: 0 to 65535."),
    ({"workers": "0"}, {}, "--workers: '0' is out of range; allowed: 1 to 256, or auto."),
    (
        {"memory": "1kb"},
        {},
        "--memory: '1kb' is out of range; allowed: 1mb to less than 128gb, or auto.",
    ),
    (
        {"memory": "2t"},
        {},
        f"--memory: '2t' {NO_SIZE}; allowed: 1mb to less than 128gb, or auto.",
    ),
    (
        {"shards": "12"},
        {},
        "--shards: '12' is not a power of two; allowed: a power of two from 1 to 4096, or auto.",
    ),
    ({"max_key_bytes": "5kb"}, {}, "--max-key-bytes: '5kb' is out of range; allowed: 1 byte to 4kb."),
    ({"lock_wait_ms": "0"}, {}, "--lock-wait-ms: '0' is out of range; allowed: 1 to 60000 ms."),
    (
        {"drain_seconds": "5s"},
        {},
        "--drain-seconds: '5s' is not a number of seconds; allowed: 0 to 3600 seconds.",
    ),
    (
        {"log_level": "loud"},
        {},
        "--log-level: 'loud' is not known; allowed: debug, info, warning, error or critical.",
    ),
    (
        {},
        {"FASTKV_TUNE": "2"},
        "FASTKV_TUNE (environment): '2' is neither true nor false; " + SWITCH_ALLOWED,
    ),
    (
        {"host": ["127.0.0.1", "a b"]},
        {},
        "--host: 'a b' is not an address; " + HOST_ALLOWED,
    ),
    ({"unix": "x" * 200}, {}, f"--unix: '{'x' * 58}… is too long; allowed: a path of at most 107 bytes."),
    ({"port": "1\n2"}, {}, r"--port: '1\n2' is not a whole number; allowed: 0 to 65535."),
    # A wrong value is wrong also where another source wins.
    (
        {"port": "1"},
        {"FASTKV_PORT": "-1"},
        "FASTKV_PORT (environment): '-1' is out of range; allowed: 0 to 65535.",
    ),
    (
        {"memory": "2mb"},
        {},
        TOO_LITTLE.format("2mb", "1mb", "4mb", "512kb"),
    ),
    (
        {"max_value_bytes": "512mb"},
        {"FASTKV_MEMORY": "1.5gb"},
        TOO_LITTLE.format("1536mb", "512mb", "2gb", "384mb"),
    ),
    ({"token": ""}, {}, "--token: the token is empty; " + TOKEN_ALLOWED),
    ({}, {"FASTKV_TOKEN": ""}, "FASTKV_TOKEN (environment): the token is empty; " + TOKEN_ALLOWED),
    *(
        ({"token": token}, {}, f"--token: the token has a character that none may have; {TOKEN_ALLOWED}")
        for token in ("s3 cret", "s3cret\n", "s3cr\u200bet", "s3crét", "\t")
    ),
    ({"token": "s3cret" * 200}, {}, "--token: the token is too long; " + TOKEN_ALLOWED),
    (
        {"token": "s3cret", "token_file": "x"},
        {},
        "--token and --token-file exclude each other; give one of them.",
    ),
    (
        {"token_file": "x"},
        {"FASTKV_TOKEN": "s3cret"},
        "--token and --token-file exclude each other; give one of them.",
    ),
    ({"tls_cert": "x"}, {}, "--tls-cert and --tls-key go together; give both of them or none."),
    ({"tls_key": "x"}, {}, "--tls-cert and --tls-key go together; give both of them or none."),
    *(
        ({"allow_origin": [origin]}, {}, f"--allow-origin: '{origin}' is not an origin; {ORIGIN_ALLOWED}")
        for origin in (
            "example.com",
            "null",
            "https://a/",
            "https://",
            "https://a:99999",
            "https://u@a",
            "https://*.a.b",
        )
    ),
    *(
        ({"allowed_host": [host]}, {}, f"--allowed-host: '{host}' is not a host name; {NAME_ALLOWED}")
        for host in ("http://a.b", "*.a.b", "a.b:x", "a..b", "a b", "..a.b", "a.b/")
    ),
    *(
        ({"unix_mode": mode}, {}, f"--unix-mode: {mode!r} is no mode of a file; {MODE_ALLOWED}")
        for mode in ("888", "66", "01777", "rw", "", 0o660)
    ),
]


@pytest.mark.parametrize(("flags", "env", "sentence"), MISTAKES)
def test_a_mistake_is_one_clear_line(flags: dict[str, Any], env: dict[str, str], sentence: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.load(flags, env)
    assert str(caught.value) == sentence
    assert caught.value.exit_code == 2


FILE_MISTAKES = [
    ("port = 99999", "port in x.toml: 99999 is out of range; allowed: 0 to 65535."),
    ("port = true", "port in x.toml: true is not a whole number; allowed: 0 to 65535."),
    ("workers = 2.0", "workers in x.toml: 2.0 is not a whole number; allowed: 1 to 256, or auto."),
    (
        "tune = 1",
        "tune in x.toml: 1 is neither true nor false; " + SWITCH_ALLOWED,
    ),
    ("prot = 1", "prot in x.toml: there is no such setting; did you mean port?"),
    ("memory_bytes = 1", "memory_bytes in x.toml: there is no such setting; did you mean memory?"),
    ("max-key-bytes = 1", "'max-key-bytes' in x.toml: there is no such setting; did you mean max_key_bytes?"),
    ('"\\n" = 1', "'\\n' in x.toml: there is no such setting; fastkv serve --help lists them all."),
    (
        "[server]\nport = 1",
        "server in x.toml: there is no such setting; fastkv serve --help lists them all.",
    ),
    ("[port]\nx = 1", "port in x.toml: {'x': 1} is not a whole number; allowed: 0 to 65535."),
    (
        "port =",
        "--config: 'x.toml' is not valid TOML: Invalid value (at end of document).",
    ),
]


@pytest.mark.parametrize(("text", "sentence"), FILE_MISTAKES)
def test_a_mistake_in_the_file_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("x.toml").write_text(text)
    with pytest.raises(SettingsError) as caught:
        Settings.load({}, {}, Path("x.toml"))
    assert str(caught.value) == sentence


def test_a_file_that_cannot_be_read_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("binary.toml").write_bytes(b"port = \xff")
    Path("deep.toml").write_text("port = " + "[" * 5000)
    Path("long.toml").write_text("port = " + "9" * 5000)
    for name, start in {
        "no.toml": f"--config: {NO_FILE}",
        ".": "--config: '.' cannot be read (Is a directory); allowed: a TOML file.",
        "binary.toml": "--config: 'binary.toml' is not UTF-8 text; allowed: a TOML file.",
        "deep.toml": "--config: 'deep.toml' is not valid TOML: ",
        "long.toml": "--config: 'long.toml' is not valid TOML: ",
    }.items():
        with pytest.raises(SettingsError) as caught:
            Settings.load({}, {}, Path(name))
        assert str(caught.value).startswith(start)
        assert "\n" not in str(caught.value)
    with pytest.raises(SettingsError) as caught:
        Settings.load({}, {"FASTKV_CONFIG": "no.toml"})
    assert str(caught.value) == f"FASTKV_CONFIG (environment): {NO_FILE}"


def test_settings_made_in_code_are_bounded_too() -> None:
    with pytest.raises(SettingsError, match=r"^--port: 99999 is out of range; allowed: 0 to 65535\.$"):
        Settings(port=99999)
    with pytest.raises(SettingsError, match=r"^--port: None is not a whole number"):
        Settings(port=None)  # type: ignore[arg-type]


UNKNOWN_VARIABLES = {
    "FASTKV_PROT": "did you mean FASTKV_PORT?",
    "FASTKV_memory": "did you mean FASTKV_MEMORY?",
    "FASTKV_ZZZZ": "fastkv serve --help lists them all.",
}


SERVICE_LINKS = {
    "FASTKV_PORT": "tcp://10.0.0.1:7171",
    "FASTKV_PORT_7171_TCP": "tcp://10.0.0.1:7171",
    "FASTKV_PORT_7171_TCP_ADDR": "10.0.0.1",
    "FASTKV_PORT_7171_TCP_PORT": "7171",
    "FASTKV_PORT_7171_TCP_PROTO": "tcp",
    "FASTKV_PORT_7171_UDP": "udp://10.0.0.1:7171",
    "FASTKV_SERVICE_HOST": "10.0.0.1",
    "FASTKV_SERVICE_PORT": "7171",
    "FASTKV_SERVICE_PORT_HTTP": "7171",
    # of a second service, fastkv-web-2
    "FASTKV_WEB_2_PORT": "udp://10.0.0.2:80",
    "FASTKV_WEB_2_PORT_80_UDP_ADDR": "10.0.0.2",
    "FASTKV_WEB_2_SERVICE_HOST": "10.0.0.2",
    "FASTKV_WEB_2_SERVICE_PORT": "80",
}


@pytest.mark.parametrize("config", ["", "port = 1"])
def test_what_tells_of_a_service_is_no_setting(config: str, tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text(config)
    env = SERVICE_LINKS | {"FASTKV_BACKLOG": "7"}
    settings = Settings.load({}, env, path)
    assert settings == Settings(port=1 if config else 7171, backlog=7)
    why = "Kubernetes and links of Docker set such variables for a service named fastkv."
    assert settings.notes == ((logging.INFO, f"{', '.join(SERVICE_LINKS)}: ignored; {why}"),)


def test_a_flag_says_the_port_where_a_service_takes_the_variable() -> None:
    assert Settings.load({"port": "2"}, SERVICE_LINKS).port == 2


@pytest.mark.parametrize("value", ["http://10.0.0.1:7171", "10.0.0.1:7171", " tcp://x", "tcp", "sctp://x"])
def test_any_other_wrong_port_is_a_mistake(value: str) -> None:
    with pytest.raises(SettingsError, match=r"^FASTKV_PORT \(environment\): .* is not a whole number"):
        Settings.load({}, {"FASTKV_PORT": value})


@pytest.mark.parametrize(
    "variable", ["FASTKV_HOST", "FASTKV_MEMORY", "FASTKV_WORKERS", "FASTKV_PORT_X", "FASTKV_SERVICE"]
)
def test_no_other_variable_is_taken_for_a_service(variable: str) -> None:
    if variable.removeprefix("FASTKV_").lower() in {option.name for option in OPTIONS}:
        with pytest.raises(SettingsError, match=variable):
            Settings.load({}, {variable: "tcp://10.0.0.1:7171"})
    else:
        notes = Settings.load({}, {variable: "tcp://10.0.0.1:7171"}).notes
        assert [level for level, _ in notes] == [logging.WARNING]


@pytest.mark.parametrize("variable", UNKNOWN_VARIABLES)
def test_an_unknown_variable_is_noted_and_ignored(variable: str) -> None:
    settings = Settings.load({}, {variable: "1"})
    assert settings == Settings.load({}, {})
    what = f"{variable} (environment): there is no such setting; {UNKNOWN_VARIABLES[variable]} It is ignored."
    assert settings.notes == ((logging.WARNING, what),)


def test_the_token_is_not_in_what_settings_show() -> None:
    settings = Settings(token="s3cret")
    assert "s3cret" not in repr(settings)
    assert "s3cret" not in str(settings)
    with pytest.raises(SettingsError) as caught:
        Settings(token="s3cret\n")
    assert "s3cret" not in str(caught.value)


def test_who_may_speak_in_each_source(tmp_path: Path) -> None:
    config = tmp_path / "x.toml"
    config.write_text('allow_origin = ["HTTPS://A.b:443", "http://[0::1]:80"]\nallowed_host = "A.b:8, .c.d"')
    settings = Settings.load({}, {"FASTKV_TOKEN": "s3cret"}, config)
    assert settings.allow_origin == ("https://a.b", "http://[::1]")
    assert settings.allowed_host == ("a.b:8", ".c.d")
    assert settings.token == "s3cret"
    env = {"FASTKV_ALLOW_ORIGIN": "", "FASTKV_ALLOWED_HOST": "x.y"}
    settings = Settings.load({"unix_mode": "660"}, env, config)
    assert (settings.allow_origin, settings.allowed_host) == ((), ("x.y",))
    assert settings.unix_mode == "0660"
    assert Settings.load({"allow_origin": ["*", "a://b"]}, env, config).allow_origin == ("*", "a://b")
