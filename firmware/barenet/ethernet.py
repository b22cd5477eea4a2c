"""Ethernet II frames (IEEE 802.3 clause 3, RFC 894): 6 bytes destination, 6 bytes source, 2 bytes EtherType, payload."""

from micropython import const

BROADCAST = b"\xff\xff\xff\xff\xff\xff"
HEADER = const(14)
_FRAME_MIN = const(60)  # without FCS
_WAITS = const(200)  # looks for a free transmit descriptor; the longest frame leaves within a few of them


class Ethernet:
    """The layer between the rings and the protocols.

    pool: the Pool that holds the rings; mac: own address, 6 bytes.
    handlers: EtherType → handler(frame, length, now), filled in by the protocols above.
    flush(): hands what was sent so far to the driver; filter(addresses): lets these multicasts through. Both are set by the stack.
    """

    def __init__(self, pool, mac):
        self.pool = pool
        self.mac = bytes(mac)
        self.handlers = {}
        self.flush = self.filter = None
        self.groups = set()
        self.drops = {"short": 0, "not ours": 0, "unknown type": 0, "transmit ring full": 0}

    def input(self, frame, length, now):
        """Takes one received frame, `length` bytes without FCS, to the handler of its EtherType."""
        if length < HEADER:
            self.drops["short"] += 1
            return
        destination = frame[0:6]
        if destination != self.mac and destination != BROADCAST and bytes(destination) not in self.groups:
            self.drops["not ours"] += 1
            return
        handler = self.handlers.get(frame[12] << 8 | frame[13])
        if handler is None:
            self.drops["unknown type"] += 1
            return
        handler(frame, length, now)

    def begin(self):
        """Returns a transmit frame to fill from offset 14, or None (counted) when the ring stays full.

        What is answered in one go may be more than the ring holds, a datagram's fragments or a burst of SYNs: the first of them leave meanwhile.
        """
        for _ in range(_WAITS):
            frame = self.pool.transmit_frame()
            if frame is not None:
                return frame
            self.flush()
        self.drops["transmit ring full"] += 1

    def send(self, frame, destination, ethertype, length):
        """Completes the header of the frame that begin() gave and sends it; `length` counts from the header's first byte."""
        frame[0:6] = destination
        frame[6:12] = self.mac
        frame[12] = ethertype >> 8
        frame[13] = ethertype & 0xFF
        while length < _FRAME_MIN:
            frame[length] = 0  # no left-over bytes of older frames on the wire (RFC 1042's padding is zero)
            length += 1
        self.pool.send(length)
