"""The settings: every default, unit and bound, once.

Flags, ``FASTKV_*`` variables and the keys of ``conf/fastkv.toml`` derive from the fields of `Settings`: the
field ``max_key_bytes`` is ``--max-key-bytes``, ``FASTKV_MAX_KEY_BYTES`` and ``max_key_bytes``. Enters: what
the three say. Leaves: a frozen `Settings` within its bounds. Raises: `SettingsError`.
"""

import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from fastkv import machine
from fastkv.errors import SettingsError
from fastkv.kernel.profile import PROFILES
from fastkv.kinds import EventClasses, HostNames, Mode, Origins, Secret
from fastkv.options import (
    Choice,
    FilePath,
    Hosts,
    Kind,
    Option,
    Seconds,
    Size,
    SocketPath,
    Switch,
    Whole,
    format_size,
    quote,
)

CONFIG_FLAG = "--config"
CONFIG_VARIABLE = "FASTKV_CONFIG"
# The second forces the readable Python, when fastkv.core is imported.
_NO_SETTINGS = frozenset((CONFIG_VARIABLE, "FASTKV_PURE"))
Note = tuple[int, str]  # a level of logging, and a sentence

_KB, _MB, _GB = 1 << 10, 1 << 20, 1 << 30
_MOST_WORKERS = 256
_MOST_MEMORY_BYTES = 128 * _GB - 1


def _option(kind: Kind, summary: str, default: Any = None, *, auto: str = "", name: str = "") -> Any:
    """Declare a field; the arguments are attributes of `Option`, ``name`` where it is not the field's."""
    metadata = {"kind": kind, "summary": summary, "auto": auto, "name": name}
    return field(default=default, metadata=metadata, repr=not isinstance(kind, Secret))


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All that can be set, checked.

    Each field is described by its option. An automatic one that is None is found out here, except
    ``shards`` and ``segment_bytes``: they stay None, and the store's geometry decides, and ``backlog``, which
    depends on what the kernel allows when the sockets are made. Two fields have none: ``notes``, what is to
    be told of the sources, which are read before it is known what is logged; and ``automatic``, the names of
    the fields that were found out here.

    Raises:
        SettingsError: A value is out of its bounds, or two of them do not go together.
    """

    host: tuple[str, ...] = _option(
        Hosts(),
        "Address to listen on; 0.0.0.0 for all of IPv4, :: for all of both families.",
        auto="127.0.0.1, and ::1 where the machine has it",
    )
    port: int = _option(
        Whole(0, 65535, metavar="PORT"), "TCP port to listen on; 0 takes a free one.", default=7171
    )
    unix: Path | None = _option(SocketPath(), "Unix socket to listen on as well.")
    workers: int = _option(
        Whole(1, _MOST_WORKERS),
        "Worker processes; each serves every key.",
        auto="one for each CPU that the process may use",
    )
    memory_bytes: int = _option(
        Size(_MB, _MOST_MEMORY_BYTES),
        "Memory for entries and their index, shared by the workers.",
        auto="a quarter of the memory that the process may use",
        name="memory",
    )
    shards: int | None = _option(
        Whole(1, 4096, power_of_two=True),
        "Parts of the store, each with a lock of its own.",
        auto="chosen to suit the memory",
    )
    segment_bytes: int | None = _option(
        Size(4 * _KB, 256 * _KB, power_of_two=True),
        "Unit in which memory is handed to shards and evicted.",
        auto="chosen to suit the memory",
    )
    eviction: str = _option(
        Choice(("s3fifo", "none"), metavar="POLICY"),
        "Eviction policy when memory is full: s3fifo, or none (writes fail with 507).",
        default="s3fifo",
    )
    data_dir: Path | None = _option(
        FilePath(metavar="DIR"),
        "Directory that keeps the entries over a restart; on a tmpfs (/dev/shm) it costs no speed.",
    )
    data_dir_change: str = _option(
        Choice(("migrate", "refuse", "replace"), metavar="WHAT"),
        "Where that directory holds another size or an older layout: move its entries, refuse to start, or "
        "begin empty, which also replaces what cannot be read.",
        default="migrate",
    )
    max_key_bytes: int = _option(Size(1, 4 * _KB), "Longest key.", default=_KB)
    max_value_bytes: int = _option(
        Size(1, 512 * _MB), "Longest value; at most a quarter of the memory.", default=_MB
    )
    max_head_bytes: int = _option(
        Size(_KB, _MB), "Longest request line and header section, together.", default=32 * _KB
    )
    max_body_bytes: int = _option(
        Size(_KB, 4 * _GB),
        "Longest request body.",
        auto="room for the longest key and value with every byte as a JSON escape",
    )
    max_message_bytes: int = _option(
        Size(_KB, 4 * _GB),
        "Longest message of a WebSocket, decompressed; past it the connection is closed with 1009. The "
        "commands that wait for EXEC may be as long together.",
        auto="as max_body_bytes",
    )
    max_output_bytes: int = _option(
        Size(64 * _KB, _GB),
        "Unread replies of one connection; past it nothing more is read from that client.",
        default=64 * _KB,
    )
    max_buffer_bytes: int = _option(
        Size(_MB, 128 * _GB),
        "Unread replies and arriving bodies of all connections of a worker; near it bodies wait.",
        default=256 * _MB,
    )
    max_connections: int | None = _option(
        Whole(1, 1 << 30, unit="connections"),
        "Connections of all workers; past it the reply is 503.",
        auto="what the limit of open files allows each worker",
    )
    max_fields: int = _option(Whole(8, 10_000), "Fields of a header section.", default=100)
    max_pipeline: int = _option(
        Whole(1, 1 << 20), "Requests of one connection answered before others have a turn.", default=1024
    )
    max_batch: int = _option(
        Whole(1, 1 << 20),
        "Commands of one pipeline, transaction or batch, and keys of one of them.",
        default=10_000,
    )
    batch_seconds: float = _option(
        Seconds(0.01, 3600),
        "Longest time that a transaction may take; a longer one fails as a whole.",
        default=2.0,
    )
    max_reply_bytes: int = _option(
        Size(_MB, 4 * _GB),
        "Longest reply with several values, and those of one batch together; a single value may be longer.",
        default=64 * _MB,
    )
    max_keys: int = _option(
        Whole(1, 1 << 40),
        "Entries that KEYS looks through, in steps; in a larger store it is refused.",
        default=1_000_000,
    )
    pubsub_memory_bytes: int = _option(
        Size(_MB, _GB),
        "Ring of messages between workers, and as much again in each worker for subscribers that are behind; "
        "the longest message is a quarter of it.",
        default=16 * _MB,
        name="pubsub_memory",
    )
    max_push_bytes: int = _option(
        Size(64 * _KB, _GB),
        "Messages that a subscriber may be behind; past it the connection is closed without progress.",
        default=_MB,
    )
    push_seconds: float = _option(
        Seconds(0.1, 3600),
        "Time for that progress, and for a worker that stands still; publishers wait until then.",
        default=5.0,
    )
    max_channel_bytes: int = _option(
        Size(16, 64 * _KB), "Longest name of a channel or pattern that is subscribed.", default=2 * _KB
    )
    max_subscriptions: int = _option(
        Whole(1, 1 << 20), "Channels and patterns that a connection may subscribe to.", default=10_000
    )
    max_worker_subscriptions: int = _option(
        Whole(1, 1 << 24), "Subscriptions of all connections of a worker.", default=1 << 18
    )
    keyspace_events: str = _option(
        EventClasses(), "Keyspace events that are published, by Redis' letters.", default="AKE"
    )
    event_ping_seconds: float = _option(
        Seconds(0.1, 3600), "Silence after which a stream of events gets a comment.", default=15.0
    )
    first_byte_seconds: float = _option(
        Seconds(0.1, 86400), "Time from the connection to the first byte of a request.", default=10.0
    )
    head_seconds: float = _option(
        Seconds(0.1, 86400), "Time for request line and header section.", default=10.0
    )
    body_seconds: float = _option(
        Seconds(0.1, 86400), "Time for a body, and as much more as min_rate allows.", default=20.0
    )
    idle_seconds: float = _option(Seconds(0.1, 86400), "Time from one request to the next.", default=75.0)
    ping_seconds: float = _option(
        Seconds(0.1, 86400),
        "Silence after which a WebSocket gets a ping.",
        default=30.0,
    )
    pong_seconds: float = _option(Seconds(0.1, 86400), "Time to answer a ping with a pong.", default=20.0)
    deflate: bool = _option(Switch(), "Compress long messages of WebSockets that ask for it.", default=True)
    output_seconds: float = _option(
        Seconds(0.1, 86400), "Time to read a reply, and as much more as min_rate allows.", default=30.0
    )
    min_rate_bytes: int = _option(
        Size(1, _GB),
        "Bytes that buy a body, or the reader of a reply, another second.",
        default=512,
        name="min_rate",
    )
    linger_seconds: float = _option(
        Seconds(0, 3600),
        "Time in which a refused client may go on sending before it is cut off.",
        default=5.0,
    )
    lock_wait_ms: int = _option(
        Whole(1, 60_000, unit="ms", metavar="MS"),
        "Longest wait for a shard; past it the reply is 503.",
        default=1000,
    )
    drain_seconds: float = _option(
        Seconds(0, 3600), "Time that requests under way get to finish when the server stops.", default=5.0
    )
    stuck_seconds: float = _option(
        Seconds(1, 3600),
        "A worker without a heartbeat for this long is killed and replaced; time without a CPU does not "
        "count.",
        default=10.0,
    )
    backlog: int | None = _option(
        Whole(1, 1 << 20, unit="connections"),
        "Connections that may wait to be accepted, on each socket.",
        auto="as many as net.core.somaxconn allows",
    )
    fastopen: int = _option(
        Whole(0, 65535, unit="connections"),
        "Connections under way whose request came in the SYN, where the kernel allows it; 0 for none.",
        default=256,
    )
    keepalive_seconds: int = _option(
        Whole(1, 32767, unit="seconds", metavar="SECONDS"),
        "Silence after which the kernel probes whether a connection's other end is still there.",
        default=60,
    )
    keepalive_interval_seconds: int = _option(
        Whole(1, 32767, unit="seconds", metavar="SECONDS"), "Time between two such probes.", default=10
    )
    keepalive_probes: int = _option(
        Whole(1, 127), "Probes without an answer after which the connection is closed.", default=5
    )
    open_files: int = _option(
        Whole(64, 1 << 30),
        "Open files, one for each connection, that each worker asks for; it gets what the hard limit allows.",
        default=1 << 20,
    )
    tune: bool = _option(
        Switch(), "Apply the kernel profile where it is permitted, before listening.", default=True
    )
    profile: str = _option(
        Choice(PROFILES, metavar="PROFILE"),
        "Kernel settings to apply; fastkv tune-kernel shows and undoes them.",
        default="recommended",
    )
    state_dir: Path | None = _option(
        FilePath(metavar="DIR"),
        "Where the original kernel settings are kept.",
        auto="/var/lib/fastkv for root, else ~/.local/state/fastkv",
    )
    access_log: Path | None = _option(FilePath(), "File that each request is logged to; - for stderr.")
    access_log_format: str = _option(
        Choice(("text", "json"), metavar="FORMAT"), "Common Log Format, or an object a line.", default="text"
    )
    access_log_every: int = _option(
        Whole(1, 1 << 30, unit="requests"),
        "Log only one request of each worker in this many.",
        default=1,
    )
    log_level: str = _option(
        Choice(("debug", "info", "warning", "error", "critical"), metavar="LEVEL"),
        "Least level logged.",
        default="info",
    )
    token: str | None = _option(
        Secret(),
        "Token that every request but those to /health must carry; a flag can be seen by every user of the "
        "machine.",
    )
    token_file: Path | None = _option(
        FilePath(), "File whose first line is the token; SIGHUP reads it again."
    )
    allow_origin: tuple[str, ...] = _option(
        Origins(), "Origin whose pages may speak to the server.", default=()
    )
    allowed_host: tuple[str, ...] = _option(
        HostNames(), "Name under which browsers may find a server on a loopback address.", default=()
    )
    tls_cert: Path | None = _option(
        FilePath(),
        "Certificate and those that sign it, in PEM: TCP is served with TLS; SIGHUP reads it again.",
    )
    tls_key: Path | None = _option(FilePath(), "Private key of the certificate, in PEM, not encrypted.")
    tls_handshake_seconds: float = _option(
        Seconds(0.1, 3600), "A client that takes longer over its TLS handshake is closed.", default=10.0
    )
    max_handshakes: int = _option(
        Whole(1, 1 << 20, unit="handshakes"),
        "TLS handshakes under way of a worker; past it the oldest is closed.",
        default=512,
    )
    unix_mode: str = _option(
        Mode(), "Permissions of the Unix socket; to connect takes write permission.", default="0600"
    )
    notes: tuple[Note, ...] = field(default=(), repr=False, compare=False)
    automatic: frozenset[str] = field(default=frozenset(), repr=False, compare=False)

    def __post_init__(self) -> None:
        for option in OPTIONS:
            object.__setattr__(self, option.field, option.parse(getattr(self, option.field), option.flag))
        found: dict[str, Callable[[], object]] = {
            "host": _loopback_addresses,
            "workers": lambda: min(machine.usable_cpus(), _MOST_WORKERS),
            "memory_bytes": lambda: _quarter(machine.usable_memory_bytes()),
            "state_dir": default_state_directory,
            # Six bytes of JSON, as in \u0000, may stand for one of a key or a value.
            "max_body_bytes": lambda: 6 * (self.max_key_bytes + self.max_value_bytes) + _KB,
            "max_message_bytes": lambda: self.max_body_bytes,
        }
        unset = {name for name in found if getattr(self, name) is None}
        object.__setattr__(self, "automatic", self.automatic | unset)
        for name in found:
            if name in unset:
                object.__setattr__(self, name, found[name]())
        if self.max_value_bytes * 4 > self.memory_bytes:
            raise SettingsError(
                f"--memory {format_size(self.memory_bytes)} is too little for --max-value-bytes "
                f"{format_size(self.max_value_bytes)}: a value may take a quarter of the memory; "
                f"allowed: --memory of at least {format_size(self.max_value_bytes * 4)}, "
                f"or --max-value-bytes of at most {format_size(self.memory_bytes // 4)}."
            )
        if self.token is not None and self.token_file is not None:
            raise SettingsError("--token and --token-file exclude each other; give one of them.")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise SettingsError("--tls-cert and --tls-key go together; give both of them or none.")

    @classmethod
    def load(cls, flags: Mapping[str, Any], env: Mapping[str, str], config: Path | None = None) -> Self:
        """Bring the three sources together: flags win over environment over file over default.

        Every value is checked, also one that another source overrides: whether a file is right does not
        depend on the flags of the day.

        Args:
            flags: Raw values by option name, as in ``{"max_key_bytes": "1kb"}``; None is a flag not given.
            env: The environment; only ``FASTKV_*`` is looked at.
            config: TOML file; where None, ``FASTKV_CONFIG`` names it, and without that there is none.

        Raises:
            SettingsError: A value is wrong, a name is unknown, or the file cannot be read.
        """
        config_source = CONFIG_FLAG
        if config is None and CONFIG_VARIABLE in env:
            config, config_source = Path(env[CONFIG_VARIABLE]), f"{CONFIG_VARIABLE} (environment)"
        values: dict[str, Any] = {}
        notes: list[Note] = []
        for option, raw, source in (
            *_from_file(config, config_source),
            *_from_environment(env, notes),
            *(
                (option, flags[option.name], option.flag)
                for option in OPTIONS
                if flags.get(option.name) is not None
            ),
        ):
            values[option.field] = option.parse(raw, source)
        return cls(**values, notes=tuple(notes))


OPTIONS: tuple[Option, ...] = tuple(
    Option(**{**f.metadata, "field": f.name, "name": f.metadata["name"] or f.name, "default": f.default})
    for f in fields(Settings)
    if f.metadata
)
"""Every setting, in the order of the help and the file."""

_BY_NAME = {option.name: option for option in OPTIONS}

_SERVICE_PORT = re.compile(r"FASTKV_(?:[A-Z0-9_]+_)?PORT")
_SERVICE_LINK = re.compile(
    r"FASTKV_(?:[A-Z0-9_]+_)?"
    r"(?:SERVICE_HOST|SERVICE_PORT(?:_[A-Z0-9_]+)?|PORT_[0-9]+_(?:TCP|UDP)(?:_(?:ADDR|PORT|PROTO))?)"
)


def _from_file(path: Path | None, source: str) -> Iterator[tuple[Option, Any, str]]:
    """Yield what a TOML file sets, each with how a sentence names it; ``source`` named the file itself."""
    if path is None:
        return
    shown = repr(str(path))[1:-1]  # on one line, whatever the name holds
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise SettingsError(
            f"{source}: '{shown}' cannot be read ({error.strerror}); allowed: a TOML file."
        ) from None
    except ValueError:
        raise SettingsError(f"{source}: '{shown}' is not UTF-8 text; allowed: a TOML file.") from None
    import tomllib  # most servers have no such file

    try:
        table = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise SettingsError(f"{source}: '{shown}' is not valid TOML: {error}.") from None
    for key, raw in table.items():
        where = f"{key if key.isidentifier() else quote(key)} in {shown}"
        option = _BY_NAME.get(key)
        if option is None:
            nearest = _nearest(key)
            raise _unknown(where, nearest.name if nearest else None)
        yield option, raw, where


def _from_environment(env: Mapping[str, str], notes: list[Note]) -> Iterator[tuple[Option, str, str]]:
    """Yield what ``FASTKV_*`` variables set, each with how a sentence names it; note what is ignored."""
    links = [variable for variable in sorted(env) if _is_service_link(variable, env[variable])]
    if links:
        why = "Kubernetes and links of Docker set such variables for a service named fastkv."
        notes.append((logging.INFO, f"{', '.join(links)}: ignored; {why}"))
    for variable in sorted(env):
        if not variable.startswith("FASTKV_") or variable in _NO_SETTINGS or variable in links:
            continue
        where = f"{variable if variable.isprintable() else quote(variable)} (environment)"
        name = variable.removeprefix("FASTKV_").lower()
        option = _BY_NAME.get(name)
        if option is None or option.variable != variable:
            # No error: whoever starts the server may have variables of such names for purposes of their own.
            nearest = _nearest(name)
            error = _unknown(where, nearest.variable if nearest else None)
            notes.append((logging.WARNING, f"{error} It is ignored."))
            continue
        yield option, env[variable], where


def _is_service_link(variable: str, value: str) -> bool:
    """True for what Kubernetes, or a link of Docker, tells every container of a service named fastkv.

    Of a second one, named fastkv-x, as well: its variables begin with ``FASTKV_X_``. By its name alone
    ``FASTKV_PORT`` is a setting; that it is none shows in a value that no port has.
    """
    return _SERVICE_LINK.fullmatch(variable) is not None or (
        _SERVICE_PORT.fullmatch(variable) is not None and value.startswith(("tcp://", "udp://"))
    )


def _nearest(name: str) -> Option | None:
    """Return the option whose name is most like a wrong one."""
    import difflib  # only a mistake needs it

    known = {option.field: option for option in OPTIONS} | _BY_NAME
    names = difflib.get_close_matches(name.lower().replace("-", "_"), known, n=1)
    return known[names[0]] if names else None


def _unknown(where: str, nearest: str | None) -> SettingsError:
    hint = f"did you mean {nearest}?" if nearest else "fastkv serve --help lists them all."
    return SettingsError(f"{where}: there is no such setting; {hint}")


def default_state_directory() -> Path:
    """Return where a program of this user keeps what outlives it (XDG Base Directory Specification 0.8)."""
    if os.geteuid() == 0:
        return Path("/var/lib/fastkv")
    given = os.environ.get("XDG_STATE_HOME", "")
    if given.startswith("/"):  # the specification tells to ignore a relative one
        return Path(given, "fastkv")
    try:
        return Path("~/.local/state/fastkv").expanduser()
    except RuntimeError:  # a user without a home, as in a container
        return Path("/var/lib/fastkv")


def _loopback_addresses() -> tuple[str, ...]:
    """Return what the name localhost may stand for on this machine."""
    return ("127.0.0.1", "::1") if machine.has_ipv6_loopback() else ("127.0.0.1",)


def _quarter(memory_bytes: int) -> int:
    """Return a quarter of the memory in whole megabytes (they read better in a log), within the bounds."""
    return min(max(memory_bytes // 4, _MB), _MOST_MEMORY_BYTES) // _MB * _MB
