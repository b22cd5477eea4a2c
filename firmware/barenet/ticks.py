"""Milliseconds that wrap: the arithmetic of `now`.

A tick is a number of milliseconds modulo 2**30, as `time.ticks_ms()` gives on a board. It wraps every 12.4 days, so two
ticks can be compared only while they are less than 6.2 days (2**29 ms) apart; longer times must be counted in seconds
by their owner. Every intermediate value fits a 31-bit small int, so nothing here allocates.
"""

from micropython import const

_HALF = const(1 << 29)
_MASK = const((1 << 30) - 1)

PERIOD = 1 << 30


def diff(a, b):
    """Return the milliseconds from tick `b` to tick `a`, negative when `a` is the earlier one: -2**29 to 2**29 - 1."""
    # Flipping the top bit and taking it off again extends the sign without leaving the small ints.
    return (((a - b) & _MASK) ^ _HALF) - _HALF


def add(t, ms):
    """Return the tick `ms` milliseconds after tick `t`; `ms` may be negative, and lies between -2**29 and 2**29 - 1."""
    return ((t - _HALF + ms) & _MASK) ^ _HALF


def reached(now, at):
    """Return True when `now` is at or after the tick `at`."""
    return ((now - at) & _MASK) < _HALF
