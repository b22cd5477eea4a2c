"""LAN drivers: emac (the ESP32's Ethernet MAC) and tap (the virtual board's cable).

See docs/architecture.md, "A driver".
"""

import gc
import sys
from errno import EINVAL

# What is loaded only to be used once, and forgotten then, because a board is short of RAM.
_LATE = ("bring_up", "rmii_clock", "link", "phy", "psram", "registers", "doctor", "trial", "symptoms", "tables")

mdio_claimed = False  # somebody reads or writes a PHY's register now; the look at the link, which a timer starts, waits


def mac_address(text):
    """Returns the 6 bytes of a MAC address as the board file has it.

    Raises OSError(EINVAL) when it is none of one interface.
    """
    try:
        octets = bytes(int(x, 16) for x in text.split(":"))
    except (AttributeError, ValueError):
        octets = b""
    if len(octets) != 6 or octets[0] & 1:
        raise OSError(
            EINVAL,
            "wrong mac in the board file: %s is not one like 02:00:00:00:00:01" % text,
        )
    return octets


def borrow(module, name, *arguments):
    """Calls a function of one of the modules that are loaded late, and forgets those that were not there before."""
    there = [late for late in _LATE if "barenet.driver." + late in sys.modules]
    try:
        return _call(module, name, arguments)
    finally:
        drop(there)


def _call(module, name, arguments):
    # A function of its own, because what a function has evaluated is not free before it ends.
    gc.collect()  # finds what drop() could not free because of a stale word on the C stack
    return getattr(__import__("barenet.driver." + module, None, None, (name,)), name)(*arguments)


def drop(kept=()):
    """Forgets the modules that are loaded late, except those named."""
    for late in _LATE:
        if late not in kept:
            for names, name in (sys.modules, "barenet.driver." + late), (globals(), late):
                if name in names:
                    names[name] = None  # a dict forgets the value of a deleted entry only when it uses the entry again
                    del names[name]
    gc.collect()  # what is allocated next goes where they were, else the free memory ends up in pieces
