"""Requests as clients write them, and wrong ones: for both paths of requests to answer."""

import random
from collections.abc import Sequence

import orjson
from cases import CASES
from fake import MAX_KEY_BYTES, MAX_VALUE_BYTES

from fuzz.grammar import mutate

Dice = random.Random

TOKEN = "s3cret-T0ken"
PRESENTED = b"Authorization: Bearer " + TOKEN.encode()
"""What a client that has the token sends."""

_SEED = b"\0\0"
_LONGEST_KEY = b"k" * MAX_KEY_BYTES
_KEYS: Sequence[bytes] = (
    b"a", b"b", b"name", b"%61", b"a+b", b"a%20b", b"a%2Bb", b"%C3%A4", b"quo%22te", b"a=b=c", b"%00",
    b"a.b/c:d", b"%6b" * MAX_KEY_BYTES, _LONGEST_KEY, _LONGEST_KEY[:-1] + b"%41", b"a" * 16, b"b" * 17,
    b"e%cc%81",
)  # fmt: skip
_ODD_KEYS: Sequence[bytes] = (
    b"", b"k" + _LONGEST_KEY, b"%zz", b"%4", b"%", b"%FF", b"%ed%a0%80", b'"', b"\xc3\xa4", b"a?b", b"a&b",
    b"a&key=b", b"a&x=1", b"a#b", b"{a}", b"..", b"a&_token=" + TOKEN.encode(),
    b"%6b" * (MAX_KEY_BYTES + 1), b"k" * 2000,
)  # fmt: skip
_FIELDS: Sequence[bytes] = (
    b"User-Agent: curl/8.5.0", b"Accept: */*", b"Accept-Encoding: gzip, deflate",
    b"Connection: keep-alive", b"connection: Keep-Alive", b"CONNECTION:keep-alive",
    b"Sec-Fetch-Site: none", b"Sec-Fetch-Site: same-origin", b"Sec-Fetch-Mode: cors", b"Cookie: a=b",
    PRESENTED, b"Origin: http://a", b"Content-Type: application/json", b"Content-Type: text/plain",
    b"Content-Type:text/html; charset=utf-8", b"Content-Encoding: gzip", b"TTL: 60", b"X-TTL:\t7\t",
    b"ttl: 0012", b"X-\xe4: \xfc", b"If: x", b"!#$%&'*+: x", b"X-Forwarded-For: 1.2.3.4",
    b"Keep-Alive: timeout=5", b"X:", b"Accept-Language: *", b"Tt: 1", b"Hos: b",
)  # fmt: skip
_ODD_FIELDS: Sequence[bytes] = (
    b"Connection: close", b"Connection: keep-alive, close", b"Connection: upgrade", b"Connection:",
    b"Connection: keep-alive, x", b"Upgrade: websocket", b"Expect: 100-continue", b"Expect: x",
    b"Range: bytes=0-1", b"If-None-Match: *", b"If-Match: *", b'If-Match: "1"', b"if-modified-since: x",
    b"If-: x", b"Content-Range: bytes 0-1/2", b"Transfer-Encoding: chunked", b"Transfer-Encoding: x",
    b"Origin: http://b", b"Origin: null", b"Origin: http://let.in", b"Sec-Fetch-Site: cross-site",
    b"Sec-Fetch-Site: none, same-site", b"Authorization: Bearer wrong", b"Authorization:",
    b"Authorization: Bearer " + TOKEN.upper().encode(), b"Host: b", b"TTL: 0", b"TTL: 1.5", b"TTL: -1",
    b"TTL: 1e3", b"TTL: 10000000001", b"TTL:", b"TTL: 00000000000000000001", b"Content-Type: no",
    b"Content-Type: a/b; c=\"d", b"Content-Encoding: identity", b"Content-Encoding: gzip,,br",
    b"Content-Type: " + b"t/" + b"x" * 300, b"Content-Length: 1", b" folded", b"X : y", b":", b"X",
    b"X: \0", b"X: \x7f", b"X: a\rb", b"X: a\nb", b"X: " + b"y" * 1000, b"\xe4: x",
    b"Access-Control-Request-Method: GET", b"Upstash-Encoding: base64",
)  # fmt: skip
_HOSTS: Sequence[bytes] = (b"Host: a", b"host:127.0.0.1:7171", b"HOST: localhost", b"Host: [::1]:80")
_ODD_HOSTS: Sequence[bytes] = (
    b"Host: evil.example", b"Host:", b"Host: a b", b"Host: a,b", b"Host: a:65536", b"Host: a@b",
    b"X: no host",
)  # fmt: skip
_STRINGS: Sequence[str] = (
    "", "plain", 'with "quotes"', "süß 漢字 \U0001f600", "a\\b\n\t\b\f\r", "\x7f", "\0\x1f", "/", "x" * 15,
    "x" * 16, "x" * 300, "é" * 33, "x" * MAX_VALUE_BYTES, "\U0001f600" * 40, "HTTP/1.1 200 OK\r\n\r\n",
)  # fmt: skip
_ODD_BODIES: Sequence[bytes] = (
    b"", b"{}", b"[]", b"null", b"1", b'"a"', b"{", b'{"key":"a"}', b'{"value":"a"}',
    b'{"key":"","value":"1"}', b'{"key":1,"value":"1"}', b'{"key":"a","value":1}',
    b'{"key":"a","value":null}', b'{"key":"a","value":"1"}x', b'{"key":"a","value":"1",}',
    b'{"key":"a" "value":"1"}', b'{"key":"a","value":"\xff"}', b'{"key":"a","value":"\n"}',
    b'{"key":"a","value":"\\x"}', b'{"key":"a","value":"\\ud800"}',
    b'{"key":"a","value":"\\udc00\\ud800"}', b'{"key":"a","value":"\xed\xa0\x80"}',
    b'\xef\xbb\xbf{"key":"a","value":"1"}', b'{"k\\u0065y":"a","value":"1"}',
    b'{"key":"a","value":"1","x":[1e999,{}]}', b'{"key":"a","value":"1","ttl":null}',
    b'{"key":"a","value":"1","ttl":true}',
)  # fmt: skip
_TTLS: Sequence[bytes] = (b"1", b"7", b"60", b"86400", b"10000000000")
_ODD_TTLS: Sequence[bytes] = (
    b"0", b"-1", b"1.5", b"1e3", b"1E-3", b"01", b'"1"', b"10000000001", b"1e400", b"0.0001",
    b"99999999999999999999", b"",
)  # fmt: skip


def _pick(dice: Dice, usual: Sequence[bytes], odd: Sequence[bytes], oddness: float) -> bytes:
    return dice.choice(odd if dice.random() < oddness else usual)


def _numbered(dice: Dice) -> bytes:
    """One of many keys, of which some are frequent."""
    return b"k%d" % dice.randrange(dice.choice((20, 200, 5000)))


def _fields(dice: Dice, oddness: float, own: Sequence[bytes]) -> list[bytes]:
    fields = [] if dice.random() < oddness else [*own]
    fields += [_pick(dice, _FIELDS, _ODD_FIELDS, oddness) for _ in range(dice.choice((0, 0, 1, 2, 4)))]
    if dice.random() < 0.2:
        fields.append(b"X-Request-Id: %d" % dice.randrange(10**9))
    if dice.random() < oddness / 20:
        fields += [b"X-Many: %d" % number for number in range(dice.choice((97, 99, 100, 101)))]
    fields.insert(dice.randrange(len(fields) + 1), _pick(dice, _HOSTS, _ODD_HOSTS, oddness))
    return fields


def _string(dice: Dice) -> bytes:
    """A string in JSON, with escapes that are needed and some that are not."""
    text = dice.choice(_STRINGS)
    if dice.random() < 0.1:
        return b'"%b"' % "".join(f"\\u{ord(each):04X}" for each in text if ord(each) < 0xD800).encode()
    return orjson.dumps(text)


def _item(dice: Dice, oddness: float) -> bytes:
    """The body of a PUT in JSON."""
    if dice.random() < oddness:
        body = dice.choice(_ODD_BODIES)
        return mutate(_SEED + body, 3000, dice.randrange(1 << 32))[2:] if dice.random() < 0.3 else body
    key = b'"%b"' % _numbered(dice) if dice.random() < 0.7 else _string(dice)
    members = [b'"key":' + key, b'"value":' + _string(dice)]
    if dice.random() < 0.2:
        members.append(b'"ttl":' + _pick(dice, _TTLS, _ODD_TTLS, oddness))
    if dice.random() < 0.05:
        members.append(dice.choice((b'"value":"again"', b'"key":"again"', b'"ttl":5', b'"other":{"key":[]}')))
    dice.shuffle(members)
    space = dice.choice((b"", b"", b" ", b"\r\n\t"))
    return b"{%b%b%b}" % (space, (b"," + space).join(members), space)


_NAMES: Sequence[bytes] = (b"GET", b"get", b"MGET", b"SET", b"set", b"INCR", b"DEL")
_ODD_COMMANDS: Sequence[bytes] = (
    b"[]", b"[", b"null", b'["GET"]', b'["PING"]', b'["GET",null]', b'["GET","a"', b'["GET","a"],',
    b'["SET","a","b","NX"]', b'["SET","a","b","EX",0]', b'["SET","a","b","PXAT",1]', b'["DEL","a","b"]',
    b'["INCRBY","a",5]', b'["GET",1.50]', b'["SET","a",true]', b'["GET","\xff"]', b'{"a":["GET"]}',
    b'["MGET","no","no"]', b'["APPEND","a","b"]', b'["GETDEL","a"]', b'["SET","","b"]',
)  # fmt: skip


def _command(dice: Dice, oddness: float) -> bytes:
    """A command as JSON."""
    if dice.random() < oddness:
        body = dice.choice(_ODD_COMMANDS)
        return mutate(_SEED + body, 3000, dice.randrange(1 << 32))[2:] if dice.random() < 0.3 else body
    name = dice.choice(_NAMES)
    words = [b'"%b"' % name, b'"%b"' % _numbered(dice) if dice.random() < 0.8 else _string(dice)]
    if name.upper() == b"MGET":
        words += [b'"%b"' % _numbered(dice) for _ in range(dice.randrange(4))]
    if name.upper() == b"SET":
        words.append(_string(dice) if dice.random() < 0.6 else b"%d" % dice.randrange(-5, 100))
        if dice.random() < 0.3:
            words += [dice.choice((b'"EX"', b'"px"')), dice.choice((b"7", b'"60"', b"86400"))]
    space = dice.choice((b"", b"", b" ", b"\r\n\t"))
    return b"%b[%b]" % (space, (space + b"," + space).join(words))


def _commands(dice: Dice, version: bytes, fields: list[bytes], oddness: float) -> bytes:
    """A request that runs a command, or several."""
    if dice.random() < 0.3:
        fields.append(
            dice.choice((b"Upstash-Encoding: base64", b"upstash-encoding:Base64", b"Upstash-Encoding: x"))
        )
    if dice.random() < 0.6:
        return _framed(dice, b"POST / %b" % version, fields, _command(dice, oddness), oddness)
    body = b"[%b]" % b",".join(_command(dice, oddness) for _ in range(dice.choice((1, 2, 5, 20))))
    return _framed(dice, b"POST /pipeline %b" % version, fields, body, oddness)


def _framed(dice: Dice, line: bytes, fields: list[bytes], body: bytes, oddness: float) -> bytes:
    """A request with a body, which says how long that is, or lies."""
    size = len(body)
    if dice.random() < oddness:
        length = dice.choice(
            (b"%d" % (size + dice.randrange(20)), b"0%d" % size, b"+%d" % size, b"%d" % max(size - 1, 0),
            b"0x10", b"", b"%d,%d" % (size, size), b"%d " % size, b"9" * 19, b"9" * 20, b"-1", b"1048576")
        )  # fmt: skip
    else:
        length = b"%d" % size
    fields.insert(dice.randrange(len(fields) + 1), b"Content-Length: " + length)
    return b"%b\r\n%b\r\n\r\n%b" % (line, b"\r\n".join(fields), body)


def request(dice: Dice, oddness: float, own: Sequence[bytes] = ()) -> bytes:
    """Make a request.

    Args:
        dice: What chooses.
        oddness: How often each part of it is unusual or wrong, 0 to 1.
        own: Field lines of the client.
    """
    key = _numbered(dice) if dice.random() < 0.6 else _pick(dice, _KEYS, _ODD_KEYS, oddness)
    version = _pick(dice, (b"HTTP/1.1",), (b"HTTP/1.0", b"HTTP/1.2", b"HTTP/2.0", b"http/1.1"), oddness / 4)
    fields = _fields(dice, oddness, own)
    kind = dice.random()
    if kind < 0.25:
        method, target = dice.choice((b"PUT", b"PUT", b"POST")), b"/put"
        return _framed(dice, b"%b %b %b" % (method, target, version), fields, _item(dice, oddness), oddness)
    place = dice.choice((b"/kv/", b"/kv/", b"/kv?key="))
    if kind < 0.4:
        target = place + key
        if dice.random() < 0.2:
            target += b"?ttl=" + _pick(dice, _TTLS, _ODD_TTLS, oddness)
        value = dice.choice(_STRINGS).encode() + dice.choice((b"", b"", b"\xff", b"v"))
        return _framed(dice, b"PUT %b %b" % (target, version), fields, value, oddness)
    if kind < 0.6:
        return _commands(dice, version, fields, oddness)
    if kind < 0.7:
        method, target = b"DELETE", dice.choice((b"/delete?key=", place)) + key
    elif kind < 0.98:
        method, target = (
            dice.choice((b"GET", b"GET", b"GET", b"HEAD")),
            dice.choice((b"/get?key=", place)) + key,
        )
    else:
        target = dice.choice(
            (b"/version", b"/", b"/health", b"/get", b"/put", b"*", b"/set/a/b", b"/nowhere", b"/kv")
        )
        method = dice.choice((b"GET", b"HEAD", b"POST", b"OPTIONS", b"PATCH", b"get"))
    if dice.random() < 0.05 or (dice.random() < oddness and dice.random() < 0.3):
        return _framed(
            dice, b"%b %b %b" % (method, target, version), fields, dice.choice((b"", b"body")), oddness
        )
    return b"%b %b %b\r\n%b\r\n\r\n" % (method, target, version, b"\r\n".join(fields))


def wild(dice: Dice) -> bytes:
    """A case of the parser's, or a request, with pieces of others in it."""
    data = dice.choice(CASES).data if dice.random() < 0.5 else request(dice, 0.1)
    return mutate(_SEED + data, 4000, dice.randrange(1 << 32))[2:] if dice.random() < 0.7 else data


_ODDNESS: Sequence[float] = (0, 0, 0.002, 0.02, 0.1)


def stream(dice: Dice, own: Sequence[bytes] = ()) -> bytes:
    """Make what one client sends: a pipeline of requests, of which the last may be anything.

    Args:
        dice: What chooses.
        own: Field lines of the client.
    """
    oddness = dice.choice(_ODDNESS)
    requests = [request(dice, oddness, own) for _ in range(dice.choice((1, 2, 4, 8, 8, 16, 40)))]
    if dice.random() < 0.1:
        requests.append(wild(dice))
    return b"".join(requests)


def pieces(dice: Dice, data: bytes) -> Sequence[bytes]:
    """Cut a stream in reads: whole most often, else in a few pieces, and seldom in very many."""
    chance = dice.random()
    if chance < 0.5 or len(data) < 2:
        return [data] if data else []
    if chance < 0.51:
        return [data[at : at + 1] for at in range(min(len(data), 300))] + [data[300:]] * (len(data) > 300)
    bounds = sorted({dice.randrange(1, len(data)) for _ in range(dice.randrange(1, 5))})
    return [data[start:end] for start, end in zip([0, *bounds], [*bounds, len(data)], strict=True)]
