"""LAN drivers: emac (the ESP32's Ethernet MAC) and tap (the virtual board's cable).

See docs/architecture.md, "A driver".
"""

from errno import EINVAL

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
            "wrong mac in the board file: %s is no address of one interface such as 02:00:00:00:00:01" % text,
        )
    return octets
