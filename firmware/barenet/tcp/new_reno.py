"""Congestion control by RFC 5681 section 3.1: one MSS a round trip, half of it after a loss. See congestion.py."""

from barenet import fast

BETA = 512


def grow(tcb, now):
    """Sets GROW_AT at the end of a round trip."""
    tcb[fast.GROW_AT] = 0
