"""Link-local addresses (RFC 3927): 169.254.x.y while no DHCP server answers.

Loaded when that happens and the board's configuration wants it ("link_local": true), and unloaded when a server has answered or the cable
was pulled. DHCP goes on asking meanwhile.
"""

from barenet import late, ticks
from barenet.ip import ANY
from micropython import const

_MASK = b"\xff\xff\0\0"
_TRIES = const(3)  # DISCOVERs without an answer: some 7 s
_CONFLICTS = const(10)  # after so many there is one attempt a minute (RFC 3927 section 9)
_RATE_LIMIT = const(60_000)
_ADDRESSES = const(65024)  # 169.254.1.0 to 169.254.254.255


class Part:
    """The search for a free address for the IP layer `ip`; start() says for which stack."""

    name = "link_local"

    def __init__(self, ip):
        self.ip = ip
        self.drops = {"conflict": 0}
        # The same board tries the same addresses in the same order each time (section 2.1).
        self._seed = int.from_bytes(ip.link.mac[2:], "big") & 0x3FFFFFFF
        self._address = None
        self._retry_at = None
        self._stack = None

    def start(self, stack, now):
        """Looks for an address of the stack when its DHCP client has asked often enough."""
        self._stack = stack
        if stack.dhcp.tries > _TRIES and self.ip.address == ANY and self._retry_at is None:
            self._retry_at = now

    def conflict(self, now):
        """Gives the address in use up, because another host has it, too, and looks for another."""
        self._stack.configure(ANY, ANY, ANY, [])
        self._lost(now)

    def poll(self, now):
        """Does what is due."""
        if self.ip.address not in (ANY, self._address) or not self._stack.link_up:
            if self.ip.address == self._address:
                self._stack.configure(ANY, ANY, ANY, [])
            self.ip.late.remove(self)
            late.drop("link_local")
        elif self._retry_at is not None and ticks.reached(now, self._retry_at) and self.ip.arp.probing is None:
            self._claim(now)

    def _claim(self, now):
        # Tried again if this claim does not end, because an offer of DHCP is looked at.
        self._retry_at = ticks.add(now, _RATE_LIMIT)
        self._seed = (self._seed * 1103515245 + 12345) & 0x3FFFFFFF
        host = 256 + (self._seed >> 8) % _ADDRESSES
        self._address = bytes((169, 254, host >> 8, host & 255))
        self.ip.part("acd").claim(self._address, self._claimed, now, False)

    def _claimed(self, free, now):
        if not free:
            self._lost(now)
        elif self.ip.address == ANY and self in self.ip.late:
            self._retry_at = None
            self._stack.configure(self._address, _MASK, ANY, [])

    def _lost(self, now):
        self.drops["conflict"] += 1
        self._retry_at = ticks.add(now, _RATE_LIMIT) if self.drops["conflict"] >= _CONFLICTS else now
