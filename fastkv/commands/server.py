"""What is not about entries: PING, ECHO, SELECT, TIME, INFO, COMMAND."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastkv import __version__
from fastkv.commands.arguments import printable
from fastkv.commands.keys import check_database
from fastkv.commands.replies import OK, CommandError, Status, size_of
from fastkv.commands.table import COMMANDS, command, find, wrong_number

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastkv.commands.context import Context
    from fastkv.commands.replies import Reply
    from fastkv.commands.table import Command

_PONG = Status(b"PONG")


@command("PING", -1)
def ping(context: Context, words: list[bytes]) -> Reply:
    """Say PONG, or what one is told to say."""
    if len(words) > 2:
        raise wrong_number("PING")
    return words[1] if len(words) == 2 else _PONG


@command("ECHO", 2)
def echo(context: Context, words: list[bytes]) -> Reply:
    """Say what one is told to say."""
    return words[1]


@command("SELECT", 2)
def select(context: Context, words: list[bytes]) -> Reply:
    """Choose database 0."""
    check_database(words[1])
    return OK


@command("TIME", 1)
def time_(context: Context, words: list[bytes]) -> Reply:
    """The Unix time: seconds, and the microseconds of the second."""
    now_ms = context.clock() + context.ahead_ms()
    return [b"%d" % (now_ms // 1000), b"%d" % (now_ms % 1000 * 1000)]


@command("INFO", -1)
def info(context: Context, words: list[bytes]) -> Reply:
    """What the server tells of itself: lines of a name and a value, in sections."""
    stats = context.stats()
    sections: dict[str, dict[str, object]] = {
        "Server": {"redis_version": "7.0.0", "fastkv_version": __version__, "redis_mode": "standalone"},
        "Memory": {"used_memory": stats["bytes"], "maxmemory": stats["memory_bytes"]},
        "Stats": {name: stats[name] for name in sorted(stats)},
        "Keyspace": {"db0": f"keys={stats['entries']}"} if stats["entries"] else {},
    }
    asked = {word.lower() for word in words[1:]}
    every = not asked or not asked.isdisjoint((b"all", b"default", b"everything"))
    return "\r\n".join(
        f"# {name}\r\n" + "".join(f"{field}:{value}\r\n" for field, value in section.items())
        for name, section in sections.items()
        if every or name.lower().encode() in asked
    ).encode()


@command("COMMAND", -1)
def command_(context: Context, words: list[bytes]) -> Reply:
    """What commands there are."""
    if len(words) == 1:
        return [_told(known) for known in COMMANDS.values()]
    subcommand = _SUBCOMMANDS.get(words[1].upper())
    if subcommand is None:
        raise CommandError(f"ERR unknown subcommand '{printable(words[1])}'. Try COMMAND HELP.")
    reply = subcommand(words)
    context.check_reply(size_of(reply))
    return reply


def _told(known: Command | None) -> Reply:
    """A command as Redis describes it: name, arity, flags, first and last key, step."""
    if known is None:
        return None
    flags: list[Reply] = [Status(b"write" if known.writes else b"readonly")] if known.first_key else []
    keys = known.first_key, known.last_key, known.key_step
    return [known.name.lower().encode(), known.arity, flags, *keys]


def _count(words: list[bytes]) -> Reply:
    if len(words) != 2:
        raise wrong_number("COMMAND|COUNT")
    return len(COMMANDS)


def _list(words: list[bytes]) -> Reply:
    if len(words) != 2:
        raise CommandError("ERR syntax error")
    return [name.lower() for name in COMMANDS]


def _info(words: list[bytes]) -> Reply:
    asked = [find(name) for name in words[2:]] if len(words) > 2 else COMMANDS.values()
    return [_told(known) for known in asked]


def _docs(words: list[bytes]) -> Reply:
    asked = [find(name) for name in words[2:]] if len(words) > 2 else COMMANDS.values()
    told: list[Reply] = []
    for known in asked:
        if known is not None:
            summary = (known.handler.__doc__ or "").encode()
            told += [known.name.lower().encode(), [b"summary", summary]]
    return told


_SUBCOMMANDS: dict[bytes, Callable[[list[bytes]], Reply]] = {
    b"COUNT": _count,
    b"LIST": _list,
    b"INFO": _info,
    b"DOCS": _docs,
}
