"""Numbers as INCRBYFLOAT has them: Redis counts in C's long double, which Python lacks.

On x86 that has 64 significant bits and exponents from -16445 to 16383; on other machines Redis differs. A
number is a ``Fraction`` here, always one that a long double can hold, or infinite. It is rounded as the
processor rounds: to the nearest, and to the even one of two that are as near.

In: text as C's strtold reads it. Out: text with up to 17 digits behind the point, as Redis prints it.
CommandError with Redis' sentence where the text is no number, or the sum has no end.
"""

from __future__ import annotations

import re
from decimal import Decimal
from fractions import Fraction
from typing import Final, TypeAlias

from fastkv.commands.replies import CommandError

Number: TypeAlias = Fraction | None
"""A number; None for one that is infinite."""

_BITS: Final = 64
_SMALLEST_EXPONENT: Final = -16445
_LARGEST: Final = Fraction((1 << _BITS) - 1) * (1 << 16384 - _BITS)
# What is longer, Redis does not read.
_LONGEST_TEXT: Final = 5 * 1024 - 1
# Powers of ten beyond any long double, whatever digits stand before them.
_FAR: Final = 2 * _LONGEST_TEXT + 5000
_PLACES: Final = 17

_match_number = re.compile(
    rb"(?P<sign>[+-]?)(?:"
    rb"(?P<infinite>inf(?:inity)?)"
    rb"|0x(?P<hex>[0-9a-f]+\.?[0-9a-f]*|\.[0-9a-f]+)(?:p(?P<binary>[+-]?[0-9]+))?"
    rb"|(?P<digits>[0-9]+\.?[0-9]*|\.[0-9]+)(?:e(?P<exponent>[+-]?[0-9]+))?"
    rb")",
    re.IGNORECASE,
).fullmatch


def parse_float(text: bytes) -> Number:
    """Read a number.

    Args:
        text: decimal or hexadecimal, with an exponent if need be; or ``inf``.

    Returns:
        The nearest long double.

    Raises:
        CommandError: if it is no number, or none that a long double comes near.
    """
    match = _match_number(text) if len(text) <= _LONGEST_TEXT else None
    if match is None:
        raise _not_a_float()
    if match["infinite"]:
        return None
    if match["hex"]:
        whole, _, fraction = match["hex"].partition(b".")
        exponent = _exponent(match["binary"], 4 * _FAR) - 4 * len(fraction)
        digits, base = int(whole + fraction, 16), 2
    else:
        whole, _, fraction = match["digits"].partition(b".")
        exponent = _exponent(match["exponent"], _FAR) - len(fraction)
        digits, base = int(Decimal((whole + fraction).decode())), 10  # int() alone takes 4300 digits
    if not digits:
        return Fraction(0)
    exact = Fraction(digits * base**exponent) if exponent >= 0 else Fraction(digits, base**-exponent)
    number = _rounded(exact)
    if not number or number > _LARGEST:
        raise _not_a_float()
    return -number if match["sign"] == b"-" else number


def add(number: Number, other: Number) -> bytes:
    """Add two numbers.

    Args:
        number: one.
        other: the other.

    Returns:
        The sum, as Redis prints it.

    Raises:
        CommandError: if it is infinite.
    """
    total = None if number is None or other is None else _rounded(number + other)
    if total is None or abs(total) > _LARGEST:
        raise CommandError("ERR increment would produce NaN or Infinity")
    return format_float(total)


def format_float(number: Fraction) -> bytes:
    """Print a number, as C's ``%.17Lf`` does, without the zeros at its end."""
    scaled = round(abs(number) * 10**_PLACES)
    digits = str(Decimal(scaled)).rjust(_PLACES + 1, "0")  # as in ``parse_float``
    text = f"{digits[:-_PLACES]}.{digits[-_PLACES:]}".rstrip("0").rstrip(".")
    return ("-" + text if number < 0 and scaled else text).encode()


def _exponent(digits: bytes | None, far: int) -> int:
    """An exponent; what is beyond all that matters as something that is, too."""
    if digits is None:
        return 0
    sign, digits = digits[:1] == b"-", digits.lstrip(b"+-").lstrip(b"0")
    exponent = min(int(digits or b"0"), far) if len(digits) <= len(str(far)) else far
    return -exponent if sign else exponent


def _rounded(exact: Fraction) -> Fraction:
    """The nearest number with the bits of a long double; its exponent may be larger than that of any."""
    if not exact:
        return exact
    size = abs(exact)
    exponent = size.numerator.bit_length() - size.denominator.bit_length()
    if size < (Fraction(1 << exponent) if exponent >= 0 else Fraction(1, 1 << -exponent)):
        exponent -= 1
    unit = max(exponent - _BITS + 1, _SMALLEST_EXPONENT)
    scale = Fraction(1 << unit) if unit >= 0 else Fraction(1, 1 << -unit)
    return round(exact / scale) * scale


def _not_a_float() -> CommandError:
    return CommandError("ERR value is not a valid float")
