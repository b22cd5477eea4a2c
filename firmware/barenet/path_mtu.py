"""Path-MTU discovery (RFC 1191): what routers say about packets of ours that were too large for the next link.

Loaded when the first such message comes. What was learnt stands in `IP.paths` for 10 minutes, for eight destinations at most.

A message is believed only when it quotes a packet that we may have sent (RFC 5927 section 7): DF set, larger than what the router claims to
carry, of a UDP port that is open, an echo request that waits, or a TCP segment in flight, which its protocol decides. Claims below 552
bytes, smaller than any path that a DF packet meets in practice, only serve attacks and are ignored.
"""

from barenet import ticks
from barenet.errors import EMSGSIZE
from micropython import const

_LEAST = const(552)
_PLATEAUS = (1492, 1006, _LEAST)  # RFC 1191 section 7.1, for routers that do not say
_AGE = const(600_000)  # RFC 1191 section 6.3
_DESTINATIONS = const(8)


class Part:
    """The path MTUs of the IP layer `ip`.

    next_hop_mtu: what the message that ip.errors is being told of would set, for the handler.
    """

    name = "path_mtu"

    def __init__(self, ip):
        self.ip = ip
        self.drops = {"not ours": 0, "no limit": 0, "too small": 0}
        self.next_hop_mtu = 0
        self._learnt = []  # (destination, tick), the oldest first

    def error(self, frame, start, destination, header, handler, now):
        """Takes the ICMP message "fragmentation needed" at frame[start:], which quotes a packet to `destination`.

        handler(code, destination, header, now): of its protocol; True when it believes that this packet was sent.
        """
        quote = start + 8
        total = frame[quote + 2] << 8 | frame[quote + 3]
        current = self.ip.path_mtu(destination)
        mtu = frame[start + 6] << 8 | frame[start + 7]
        for plateau in _PLATEAUS:
            if mtu == 0 and plateau < min(total, current):
                mtu = plateau
        self.next_hop_mtu = mtu
        if mtu == 0 or mtu >= total or mtu >= current:
            self.drops["no limit"] += 1
        elif mtu < _LEAST:
            self.drops["too small"] += 1
        elif frame[quote + 6] & 0x40 and handler(EMSGSIZE, destination, header, now) is True:
            self._forget(destination)
            if len(self._learnt) == _DESTINATIONS:
                self._forget(self._learnt[0][0])
            self._learnt.append((destination, now))
            self.ip.paths[destination] = mtu
        else:
            self.drops["not ours"] += 1

    def poll(self, now):
        """Forgets what was learnt 10 minutes ago: the path may have changed."""
        while self._learnt and not 0 <= ticks.diff(now, self._learnt[0][1]) < _AGE:
            self._forget(self._learnt[0][0])

    def _forget(self, destination):
        self.ip.paths.pop(destination, None)
        self._learnt = [entry for entry in self._learnt if entry[0] != destination]
