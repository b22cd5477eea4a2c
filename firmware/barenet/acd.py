"""Address-conflict detection (RFC 5227): is an address free, and what to do when another host uses ours.

Loaded for each claim of an address and each conflict, and unloaded when that is over.

A claim sends three ARP probes and then listens. The RFC's times, which add up to 4 to 7 s, are kept for link-local addresses. For a lease of
DHCP they are shortened to a second in total: the server has looked before, hosts on Ethernet answer within milliseconds, and a person waits.
A fixed address is used at once; its announcement makes a host that has it, too, answer. Announcements are two, two seconds apart.

In use, an address is defended by one announcement in 10 s (section 2.4 (b)); at the next conflict within that time a lease is declined and a
link-local address given up. A fixed address is kept (section 2.4 (c)).
"""

import os

from barenet import ethernet, late, ticks
from barenet.arp import ETHERTYPE, LINK_LOCAL
from micropython import const

_PROBES = const(3)
_ANNOUNCE_INTERVAL = const(2_000)
_DEFEND_INTERVAL = const(10_000)
_QUICK = const(250)  # ms between the probes for a lease, and from the last of them to the verdict


class Part:
    """What is going on about one address of the IP layer `ip`."""

    name = "acd"

    def __init__(self, ip):
        self.ip = ip
        self.arp = ip.arp
        self.drops = {}
        self._done = None
        self._probes = 0
        self._at = None
        self._address = None
        self._announce_at = None
        self._defended = None

    def claim(self, address, done, now, quick=True):
        """Finds out whether `address` is free, then calls done(free, now). Ends an earlier claim without calling its done()."""
        self.arp.probing = self._address = address
        self._done = done
        self._quick = quick
        self._probes = 0
        self._announce_at = None
        self._at = now if quick else ticks.add(now, _random(1_000))
        self.poll(now)

    def conflict(self, stack, address, now):
        """Another host uses `address`, which is ours or which we claim: defends it, or makes the stack give it up."""
        if address == self.arp.probing:
            self._verdict(False, now)
        elif self._defended is None or not 0 <= ticks.diff(now, self._defended) < _DEFEND_INTERVAL:
            self._defended = now
            self.arp.announce(now)
        elif stack.dhcp.lease is not None:
            stack.dhcp.checked(False, now)
        elif address[:2] == LINK_LOCAL:
            self.ip.part("link_local").conflict(now)

    def poll(self, now):
        """Does what is due."""
        arp = self.arp
        if arp.probing is not None:
            if ticks.reached(now, self._at):
                if self._probes == _PROBES:
                    self._verdict(True, now)
                else:
                    self._probe(now)
        elif self._announce_at is not None:
            if self.ip.address != self._address:
                self._announce_at = None
            elif ticks.reached(now, self._announce_at):
                self._announce_at = None
                arp.announce(now)
        elif self._defended is None or not 0 <= ticks.diff(now, self._defended) < _DEFEND_INTERVAL:
            self.ip.late.remove(self)
            late.drop("acd")

    def _verdict(self, free, now):
        self.arp.probing = None
        if free:
            # The first announcement leaves when the address is configured.
            self._announce_at = ticks.add(now, _ANNOUNCE_INTERVAL)
        done = self._done
        self._done = None  # who asked may be unloaded before we are
        done(free, now)

    def _probe(self, now):
        self._probes += 1
        if self._quick:
            wait = _QUICK
        else:
            wait = 2_000 if self._probes == _PROBES else 1_000 + _random(1_000)
        self._at = ticks.add(now, wait)
        link = self.arp.link
        frame = link.begin()
        if frame is not None:
            frame[14:22] = b"\0\1\x08\0\6\4\0\1"
            frame[22:28] = link.mac
            frame[28:38] = bytes(10)
            frame[38:42] = self._address
            link.send(frame, ethernet.BROADCAST, ETHERTYPE, 42)


def _random(longest):
    return int.from_bytes(os.urandom(2), "big") % (longest + 1)
