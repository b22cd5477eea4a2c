"""ARP (RFC 826): the MAC addresses of our neighbours, with the limits of RFC 1122 section 2.3.2.

Entries age; packets that wait for an address are kept, a few of them; an address that does not answer is reported to the layer above.
"""

from barenet import ethernet, fast, ticks
from micropython import const

ETHERTYPE = const(0x0806)
_PACKET = const(28)
_REQUEST = const(1)
_REPLY = const(2)
_FIXED = b"\x00\x01\x08\x00\x06\x04"  # Ethernet, IPv4, their address lengths
_ZERO = b"\x00\x00\x00\x00"
LINK_LOCAL = b"\xa9\xfe"

AGE = const(60_000)  # ms until an unconfirmed entry is asked for again
RETRY = const(1_000)  # ms between requests (RFC 1122 2.3.2.1: at most one a second)
TRIES = const(3)
ENTRIES = const(16)
PENDING = const(6)  # packets that wait for an address, over all neighbours


class _Neighbour:
    def __init__(self):
        self.mac = None
        self.confirmed = 0
        self.asked = 0
        self.tries = 0
        self.pending = []


class ARP:
    """The neighbour cache.

    link: the Ethernet layer. address: own IPv4 address, set by the IP layer.
    changed: callbacks (address, mac) for a neighbour whose MAC address is new. failed: callback (address, packet, now) for each packet
    that waited in vain; a packet is the bytes from the IP header on. conflict: callback (address, now) when another host uses our address, or
    the one that is being probed for, `probing` (see acd.py).
    """

    def __init__(self, link):
        self.link = link
        self.address = _ZERO
        self.cache = {}
        self.changed = []
        self.failed = None
        self.conflict = None
        self.probing = None
        self.drops = {"malformed": 0, "not for us": 0, "pending queue full": 0, "no answer": 0, "conflict": 0}
        link.handlers[ETHERTYPE] = self.input

    def lookup(self, address, now):
        """Returns the MAC address of a neighbour, or None while it is unknown. Asks again for an entry that has aged."""
        entry = self.cache.get(address)
        if entry is None or entry.mac is None:
            return None
        if ticks.diff(now, entry.confirmed) > AGE and (entry.tries == 0 or ticks.diff(now, entry.asked) >= RETRY):
            if entry.tries >= TRIES:
                del self.cache[address]
                return None
            # Ask the old address alone first, so that a busy connection is not interrupted (RFC 1122 2.3.2.1, unicast poll).
            self._request(address, entry, now, entry.mac)
        return entry.mac

    def resolve(self, address, packet, now):
        """Starts asking for a neighbour and keeps `packet` (bytes from the IP header on) until it answers or fails.

        Returns False when no more packets can wait (counted).
        """
        entry = self.cache.get(address)
        if entry is None:
            self._make_room()
            entry = self.cache[address] = _Neighbour()
        waiting = 0
        for other in self.cache.values():
            waiting += len(other.pending)
        if waiting >= PENDING:
            self.drops["pending queue full"] += 1
            return False
        entry.pending.append(packet)
        if entry.tries == 0:
            self._request(address, entry, now, ethernet.BROADCAST)
        return True

    def ask(self, address, now):
        """Starts asking for a neighbour that no packet waits for."""
        if address not in self.cache:
            self._make_room()
            entry = self.cache[address] = _Neighbour()
            self._request(address, entry, now, ethernet.BROADCAST)

    def poll(self, now):
        """Asks again for addresses that have not answered, and gives up on them after TRIES requests."""
        late = None
        for address in self.cache:  # not items(): its tuples would allocate at every poll
            entry = self.cache[address]
            if entry.mac is None and ticks.diff(now, entry.asked) >= RETRY:
                if entry.tries < TRIES:
                    self._request(address, entry, now, ethernet.BROADCAST)
                else:
                    late = address
        if late is not None:
            pending = self.cache.pop(late).pending
            self.drops["no answer"] += len(pending)
            if self.failed is not None:
                for packet in pending:
                    self.failed(late, packet, now)

    def announce(self, now):
        """Tells the neighbours our address (gratuitous ARP, RFC 5227 section 2.3)."""
        self._send(_REQUEST, ethernet.BROADCAST, _ZERO + b"\x00\x00", self.address)

    def flush(self):
        """Forgets all neighbours (the cable was pulled, or our address changed)."""
        self.cache.clear()
        self._changed()

    def input(self, frame, length, now):
        if length < ethernet.HEADER + _PACKET or bytes(frame[14:20]) != _FIXED:
            self.drops["malformed"] += 1
            return
        operation = frame[20] << 8 | frame[21]
        sender_mac = bytes(frame[22:28])
        sender = bytes(frame[28:32])
        target = bytes(frame[38:42])
        if operation not in (_REQUEST, _REPLY) or sender_mac[0] & 1 or sender_mac != bytes(frame[6:12]):
            self.drops["malformed"] += 1
            return
        ours = self.address != _ZERO and target == self.address
        if sender != _ZERO and sender in (self.address, self.probing) or sender == _ZERO and target == self.probing:
            if sender_mac != self.link.mac:
                self.drops["conflict"] += 1
                if self.conflict is not None:
                    self.conflict(target if sender == _ZERO else sender, now)
            return
        if sender[0] and sender[0] < 224:
            entry = self.cache.get(sender)
            if entry is None and ours and operation == _REQUEST:
                # Who asks for us is about to talk to us (RFC 826, packet reception).
                self._make_room()
                entry = self.cache[sender] = _Neighbour()
            if entry is not None:
                self._learn(sender, entry, sender_mac, now)
        if not ours:
            self.drops["not for us"] += 1
        elif operation == _REQUEST:
            self._send(_REPLY, sender_mac, sender_mac, sender)

    def _learn(self, address, entry, mac, now):
        new = entry.mac != mac
        entry.mac = mac
        entry.confirmed = now
        entry.tries = 0
        if new:
            self._changed()
            for callback in self.changed:
                callback(address, mac)
        pending = entry.pending
        entry.pending = []
        for packet in pending:
            frame = self.link.begin()
            if frame is None:
                return
            frame[14 : 14 + len(packet)] = packet
            self.link.send(frame, mac, 0x0800, 14 + len(packet))

    def _changed(self):
        words = self.link.pool.words
        words[fast.C_NEIGHBOURS] = words[fast.C_NEIGHBOURS] + 1 & 0xFFFF

    def _request(self, address, entry, now, destination):
        entry.asked = now
        entry.tries += 1
        self._send(_REQUEST, destination, _ZERO + b"\x00\x00", address)

    def _send(self, operation, destination, target_mac, target):
        frame = self.link.begin()
        if frame is None:
            return
        frame[14:20] = _FIXED
        frame[20] = 0
        frame[21] = operation
        frame[22:28] = self.link.mac
        frame[28:32] = self.address
        frame[32:38] = target_mac
        frame[38:42] = target
        if self.address[:2] == LINK_LOCAL:
            destination = ethernet.BROADCAST  # RFC 3927 section 2.5
        self.link.send(frame, destination, ETHERTYPE, ethernet.HEADER + _PACKET)

    def _make_room(self):
        if len(self.cache) < ENTRIES:
            return
        oldest = None
        for address, entry in self.cache.items():
            if oldest is None or ticks.diff(entry.confirmed, self.cache[oldest].confirmed) < 0:
                oldest = address
        self.drops["pending queue full"] += len(self.cache.pop(oldest).pending)
