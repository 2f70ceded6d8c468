"""Numbers as INCRBYFLOAT has them: Redis counts in C's long double, which Python lacks.

On x86 that has 64 significant bits and exponents from -16445 to 16383; on other machines Redis differs. A
number is an integer times a power of two here, always one that a long double can hold, or infinite. It is
rounded as the processor rounds: to the nearest, and to the even one of two that are as near.

In: text as C's strtold reads it. Out: text with up to 17 digits behind the point, as Redis prints it.
CommandError with Redis' sentence where the text is no number, or the sum has no end.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Final, TypeAlias

from fastkv.commands.replies import CommandError

Number: TypeAlias = tuple[int, int] | None
"""An integer of 64 bits with a sign, and the power of two that goes with it; None for what is infinite."""

ZERO: Final = 0, 0

_BITS: Final = 64
_SMALLEST_EXPONENT: Final = -16445
_LARGEST_EXPONENT: Final = 16384
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
    if exponent >= 0:
        size, power = _nearest(digits * base**exponent, 1)
    else:
        size, power = _nearest(digits, base**-exponent)
    if (digits and not size) or size.bit_length() + power > _LARGEST_EXPONENT:
        raise _not_a_float()
    return (-size if match["sign"] == b"-" else size), power


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
    if number is not None and other is not None:
        power = min(number[1], other[1])
        total = (number[0] << number[1] - power) + (other[0] << other[1] - power)
        size, power = _nearest(abs(total) << max(0, power), 1 << max(0, -power))
        if size.bit_length() + power <= _LARGEST_EXPONENT:
            return format_float((-size if total < 0 else size, power))
    raise CommandError("ERR increment would produce NaN or Infinity")


def format_float(number: tuple[int, int]) -> bytes:
    """Print a number that is not infinite, as C's ``%.17Lf`` does, without the zeros at its end."""
    size, power = number
    scaled = _divided(abs(size) * 10**_PLACES << max(0, power), 1 << max(0, -power))
    digits = str(Decimal(scaled)).rjust(_PLACES + 1, "0")  # as in ``parse_float``
    text = f"{digits[:-_PLACES]}.{digits[-_PLACES:]}".rstrip("0").rstrip(".")
    return ("-" + text if size < 0 and scaled else text).encode()


def _exponent(digits: bytes | None, far: int) -> int:
    """An exponent; what is beyond all that matters as something that is, too."""
    if digits is None:
        return 0
    sign, digits = digits[:1] == b"-", digits.lstrip(b"+-").lstrip(b"0")
    exponent = min(int(digits or b"0"), far) if len(digits) <= len(str(far)) else far
    return -exponent if sign else exponent


def _nearest(numerator: int, denominator: int) -> tuple[int, int]:
    """The nearest number of 64 bits to a fraction that is not negative; its exponent may be too large."""
    power = max(numerator.bit_length() - denominator.bit_length() - _BITS, _SMALLEST_EXPONENT)
    numerator, denominator = numerator << max(0, -power), denominator << max(0, power)
    if numerator >= denominator << _BITS:  # one bit too many
        denominator <<= 1
        power += 1
    return _divided(numerator, denominator), power


def _divided(numerator: int, denominator: int) -> int:
    """The integer nearest to a fraction that is not negative, the even one of two."""
    quotient, rest = divmod(numerator, denominator)
    return quotient + (2 * rest > denominator or (2 * rest == denominator and quotient & 1))


def _not_a_float() -> CommandError:
    return CommandError("ERR value is not a valid float")
