"""barenet: a TCP/IP stack in MicroPython for an ESP32 with a LAN8720 PHY.

    import barenet
    lan = barenet.up()      # brings the interface up, waits for an address, installs the socket module
    import socket           # ours
"""

import sys

# Machine code first: it needs executable RAM, and of that a heap that grows leaves some hundred bytes.
from barenet import fast, fast_icmp, fast_udp  # noqa: F401
from barenet.lan import LAN

__version__ = "0.1.0"


def install():
    """Makes barenet's socket module the one that `import socket` and `import usocket` give, in every library imported from now on."""
    from barenet import socket

    sys.modules["socket"] = sys.modules["usocket"] = socket
    return socket


def up(timeout=15, **options):
    """Brings the interface up, installs the socket module and waits for an address, at most `timeout` seconds.

    options: see LAN. Returns the LAN, connected or not: ask isconnected(). Raises OSError when the hardware does not come up.
    """
    lan = LAN(**options)
    lan.active(True)
    install()
    lan.wait(timeout)
    return lan


def stop():
    """Takes the interface down, if it was ever up: after this no DMA writes into memory. Tools call it before a soft reset."""
    if LAN._one is not None:
        LAN._one.active(False)
