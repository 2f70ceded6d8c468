"""Publish and subscribe: SUBSCRIBE, UNSUBSCRIBE, PSUBSCRIBE, PUNSUBSCRIBE, PUBLISH, PUBSUB.

The first four have a reply for each name, so they return `Several`. What was subscribed comes as messages,
beside the replies to whatever else the connection asks: it may go on to use every command.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastkv.commands.arguments import glob_of, printable
from fastkv.commands.replies import CommandError, Several
from fastkv.commands.table import command, wrong_number
from fastkv.pubsub.bounds import CannotPublish, CannotSubscribe

if TYPE_CHECKING:
    from fastkv.commands.context import Context
    from fastkv.commands.replies import Reply
    from fastkv.pubsub.hub import Hub
    from fastkv.pubsub.messages import Subscriber
    from fastkv.steps import Steps


@command("SUBSCRIBE", -2, queued=False)
def subscribe(context: Context, words: list[bytes]) -> Steps[Reply]:
    """Get the messages of channels from now on."""
    return _subscribe(context, words, pattern=False)


@command("PSUBSCRIBE", -2, queued=False)
def psubscribe(context: Context, words: list[bytes]) -> Steps[Reply]:
    """Get the messages of all channels that fit a pattern from now on."""
    return _subscribe(context, words, pattern=True)


@command("UNSUBSCRIBE", -1, queued=False)
def unsubscribe(context: Context, words: list[bytes]) -> Steps[Reply]:
    """Get the messages of channels no longer; of all channels, if none is named."""
    return _unsubscribe(context, words, pattern=False)


@command("PUNSUBSCRIBE", -1, queued=False)
def punsubscribe(context: Context, words: list[bytes]) -> Steps[Reply]:
    """Get what patterns brought no longer; of all patterns, if none is named."""
    return _unsubscribe(context, words, pattern=True)


@command("PUBLISH", 3, writes=True)
def publish(context: Context, words: list[bytes]) -> Reply | Steps[Reply]:
    """Send a message; says how many get it. Waits for subscribers that are behind while there is no room."""
    try:
        count = context.publish(words[1], words[2])
    except CannotPublish as error:
        raise CommandError(f"ERR {error}") from None
    return _publish_in_steps(_hub(context), words) if count is None else count


def _publish_in_steps(hub: Hub, words: list[bytes]) -> Steps[Reply]:
    try:
        return (yield from hub.publish_in_steps(words[1], words[2]))
    except CannotPublish as error:
        raise CommandError(f"ERR {error}") from None


@command("PUBSUB", -2)
def pubsub(context: Context, words: list[bytes]) -> Reply:
    """Which channels have subscribers, how many, and how many patterns have some."""
    hub = _hub(context)
    subcommand = words[1].upper()
    if subcommand == b"CHANNELS":
        if len(words) > 3:
            asked = printable(words[1])
            raise CommandError(
                f"ERR unknown subcommand or wrong number of arguments for '{asked}'. Try PUBSUB HELP."
            )
        names = hub.channels()
        if len(words) == 3:
            names = list(filter(glob_of(words[2]).matches, names))
        context.check_reply(sum(map(len, names)))
        return [*names]
    if subcommand == b"NUMSUB":
        told: list[Reply] = []
        for name in words[2:]:
            told += (name, hub.subscribers(name))
        return told
    if subcommand == b"NUMPAT":
        if len(words) > 2:
            raise wrong_number("PUBSUB|NUMPAT")
        return hub.patterns()
    raise CommandError(f"ERR unknown subcommand '{printable(words[1])}'. Try PUBSUB HELP.")


def _subscribe(context: Context, words: list[bytes], *, pattern: bool) -> Steps[Reply]:
    hub, subscriber = _hub(context), _subscriber(context, words)
    yield from hub.until_ready()
    kind = b"psubscribe" if pattern else b"subscribe"
    told = Several()
    for name in words[1:]:
        try:
            count = hub.subscribe(subscriber, name, pattern=pattern)
        except CannotSubscribe as error:
            told.append(CommandError(f"ERR {error}"))
            break
        told.append([kind, name, count])
    return told


def _unsubscribe(context: Context, words: list[bytes], *, pattern: bool) -> Steps[Reply]:
    hub, subscriber = _hub(context), _subscriber(context, words)
    yield from hub.until_ready()
    kind = b"punsubscribe" if pattern else b"unsubscribe"
    names = words[1:] or hub.subscriptions(subscriber, pattern=pattern)
    told = Several([kind, name, hub.unsubscribe(subscriber, name, pattern=pattern)] for name in names)
    if not told:
        told.append([kind, None, hub.wanted_by(subscriber)])
    # What was published before goes out before the confirmation.
    yield from hub.until_taken(subscriber)
    return told


def _hub(context: Context) -> Hub:
    if context.hub is None:
        raise CommandError("ERR there is nobody here who passes messages on")
    return context.hub


def _subscriber(context: Context, words: list[bytes]) -> Subscriber:
    """Who asks.

    Raises:
        CommandError: if it cannot get messages, or is in the midst of a transaction.
    """
    client = context.client
    name = words[0].upper().decode()
    if client.subscriber is None:
        raise CommandError(f"ERR {name} is for connections that stay: a WebSocket, or GET /subscribe/")
    if client.session is not None and client.session.queue is not None:
        raise CommandError(f"ERR {name} inside MULTI is not allowed")
    return client.subscriber
