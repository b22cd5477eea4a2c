"""Bad frames by the thousand, in a heap as small as a board's. Runs in MicroPython.

Frames of every protocol, good ones and ones near an open connection, are damaged: bits flipped, cut, lengthened,
lengths and option lists made nonsense, half of the time with right checksums, so that the damage reaches the layer
it is meant for. After each batch nothing may have been raised, no descriptor lost, no memory kept, and a good packet
must be served.
"""

import gc

import rig
from barenet import fast, late
from rig import ACK, ANY, FAR, FIN, MAC, OTHER, OURS, PEER, PEER_MAC, PSH, RST, SYN, URG, Wire, arp, packet, pattern, segment

BATCH = 100
# What some frame brings in stays, and is no leak.
LATE = ("icmp_errors", "fragments", "ip_options", "tcp.cookies", "tcp.ip_options", "tcp.time_wait")
FULL = 1514


class Random:
    """A linear congruential generator (Numerical Recipes' constants): the same numbers every time."""

    def __init__(self, seed):
        self.state = seed

    def below(self, n):
        self.state = (self.state * 1664525 + 1013904223) & 0xFFFFFFFF
        return (self.state >> 8) % n

    def one(self, choices):
        return choices[self.below(len(choices))]


class Fuzz:
    def __init__(self, seed):
        self.random = Random(seed)
        self.buffer = bytearray(1500)
        self.wire = Wire(receive=4, transmit=4)
        self.wire.stack.objects[fast.O_TRANSMIT] = self._transmit
        self.sent = 0
        self.listener = self.wire.listen(80, 2, 1024, 1024)
        self.connect()

    def connect(self):
        """Makes sure that there is an open connection to aim at."""
        wire = self.wire
        self.peer = wire.peer(5000 + self.random.below(3), 81)
        wire.iss(self.random.one((0x10000000, 0xFFFFFF00, 0x7FFFFFF0)))
        self.peer.irs = None
        self.app = wire.connect(self.peer, 1024, 1024)
        self.peer.irs = self.app.tcb[fast.ISS]
        self.peer.rcv = 1
        wire.receive(self.peer.frame(SYN | ACK, mss=1460))
        assert self.app.state == "ESTABLISHED"

    def _transmit(self):
        # What leaves is counted, not kept.
        pool = self.wire.stack.pool
        cable = self.wire.cable
        while fast.owned_by_dma(pool.tx_ring, cable.drain):
            size = pool.tx_ring[8 * cable.drain + 1]
            length = (size & 0x1FFF) + (size >> 16)
            assert 42 <= length <= FULL, length
            assert pool.frames[pool.receive + cable.drain][6:12] == MAC
            pool.tx_ring[8 * cable.drain] = 0
            cable.drain = (cable.drain + 1) % pool.transmit
            self.sent += 1

    def frame(self):
        """Returns a good frame of some protocol, often one for the open connection."""
        random = self.random
        kind = random.below(16)
        if kind == 0:
            return arp(1 + random.below(2), PEER_MAC, PEER, MAC, OURS)
        if kind == 1:
            return packet(1, random.one((b"\x08\0", b"\0\0", b"\x03\x01", b"\x05\0")) + bytes(6 + random.below(60)))
        if kind == 2:
            n = 8 + random.below(300)
            ports = random.one((b"\0\x35", b"\0\x44", b"\x30\x39")) + random.one((b"\0\x44", b"\0\x07", b"\xc0\0"))
            return packet(17, ports + bytes((n >> 8, n & 255, 0, 0)) + bytes(random.below(256) for _ in range(n - 8)))
        if kind == 3:
            return packet(random.below(256), bytes(random.below(100)))
        flags = random.one((ACK, ACK | PSH, ACK, ACK | PSH, SYN, SYN | ACK, FIN | ACK, RST, RST | ACK, ACK | URG))
        if random.below(11) == 0:
            flags = random.below(256)
        port = random.one((80, 81, 81, 81, 81, 82))
        tcb = self.app.tcb
        near = random.one((0, 0, 1, -1, 1459, 1460, 8760, 65535, 0x3FFFFFFF, -0x40000000, random.below(1 << 30)))
        seq = (tcb[fast.RCV_NXT] + near) & 0xFFFFFFFF
        near = random.one((0, 0, 0, 1, -1, 100, 65535, 0x7FFFFFFF, random.below(1 << 30)))
        ack = (tcb[random.one((fast.SND_UNA, fast.SND_NXT, fast.FACK))] + near) & 0xFFFFFFFF
        window = random.one((0, 0, 1, 536, 8760, 65535))
        options = self.options() if random.below(3) == 0 else b""
        text = pattern(0, random.one((0, 0, 0, 1, 3, 100, 536, 1000)))
        header = segment(5000 + random.below(3), port, seq, ack, flags, window, options)
        return packet(6, header + text, ip_options=self.ip_options())

    def ip_options(self):
        """Returns IP options, often none: an end, or a source route that came here, leads on, or makes no sense."""
        random = self.random
        kind = random.below(12)
        if kind > 3:
            return bytes(4 * (kind & 1))
        hops = b"".join(random.one((PEER, OTHER, OURS, FAR, ANY, OTHER, OTHER)) for _ in range(random.below(4)))
        route = bytes((random.one((131, 137)), 3 + len(hops), 4 + len(hops))) + hops + b"\0"
        if kind == 0:
            route = bytearray(route)
            route[random.below(len(route))] = random.below(256)
        return bytes(route)

    def options(self):
        """Returns up to 40 bytes that look more or less like TCP options."""
        random = self.random
        options = b""
        while len(options) < 36 and random.below(6):
            options += bytes((random.below(10), random.below(12)))
            options += bytes(random.below(256) for _ in range(random.below(5)))
        return options[:40]

    def damage(self, frame):
        """Returns a damaged copy of a frame."""
        random = self.random
        frame = bytearray(frame)
        how = random.below(12)  # some stay as they are
        if how == 0:
            frame = frame[: random.below(len(frame) + 1)]
        elif how == 1:
            frame += bytes(random.below(256) for _ in range(random.below(60)))
        elif how == 2:
            frame = bytearray(random.below(256) for _ in range(random.below(100)))
        elif how < 7:
            headers = min(len(frame), 80)
            for _ in range(1 + random.below(4)):
                frame[random.below(headers)] = random.one((0, 1, 0x45, 0x7F, 0x80, 0xFF, random.below(256)))
        elif how == 7:
            frame[random.below(len(frame))] ^= 1 << random.below(8)
        elif how == 8 and len(frame) > 50:
            frame[random.one((14, 16, 17, 20, 46, 47))] = random.below(256)
        frame = frame[:FULL]
        if len(frame) > 34 and random.below(2):
            rig.fix(frame)
        return frame

    def program(self):
        """Does what a program does with its connections, now and then."""
        random = self.random
        app = self.app
        while True:
            other = self.wire.accept(self.listener)
            if other is None:
                break
            other.close()
        what = random.below(20)
        if what < 8:
            app._call(lambda now: app.connection.write(self.buffer, 0, random.below(1500)), True)
        elif what < 18:
            app._call(lambda now: app.connection.read(self.buffer, 1500), True)
        elif what == 18:
            app.shutdown()
        if app.state == "CLOSED" or random.below(5 if app.state == "FIN_WAIT_2" else 20) == 0:
            self.reconnect()

    def reconnect(self):
        """Ends the connection and opens another, whose buffers are empty."""
        self.app.close()
        self.app.abort()
        self.wire.advance(1)
        for connection in self.wire.tcp.connections:
            if connection is not None and connection.remote[1] in (5000, 5001, 5002) and connection.local[1] == 81:
                connection.abort(self.wire.stack.now())
                connection.delete()
        self.connect()

    def check(self):
        """Nothing raised, nothing lost, and good packets are served."""
        wire = self.wire
        if wire.stack.errors:
            raise wire.stack.last_error
        pool = wire.stack.pool
        assert all(fast.owned_by_dma(pool.rx_ring, i) for i in range(pool.receive)), "a receive descriptor is lost"
        assert not any(fast.owned_by_dma(pool.tx_ring, i) for i in range(pool.transmit)), "a transmit frame is lost"
        for good in (arp(1, PEER_MAC, PEER, ANY + b"\0\0", OURS), packet(1, b"\x08\x00\xf7\xff\0\0\0\0")):
            before = self.sent
            wire.receive(good)
            assert self.sent > before, "a good packet is not served"

    def run(self, frames):
        """Lets so many damaged frames arrive; returns the least memory that was in use in each half of the run."""
        first = second = 1 << 30
        for batch in range(frames // BATCH):
            for _ in range(BATCH):
                self.wire.receive(self.damage(self.frame()))
                if self.random.below(10) == 0:
                    self.program()
                    self.wire.advance(self.random.one((1, 40, 200, 1000)))
            self.check()
            self.wire.frames.clear()
            if batch % 10 == 9:
                used = self.used()
                if batch < frames // BATCH // 2:
                    first = min(first, used)
                else:
                    second = min(second, used)
        return first, second

    def used(self):
        """Returns the heap in use when what time can end has ended, with a fresh connection."""
        self.reconnect()
        for _ in range(3):
            self.wire.advance(70000)
        self.check()
        assert not self.listener.opening(), "a half-open connection holds its place in the backlog"
        self.wire.arp.flush()
        gc.collect()
        return gc.mem_alloc()


def run(seed, frames, observed=False):
    rig.begin(observed)
    fuzz = Fuzz(seed)
    for name in LATE:
        late.load(name)
    first, second = fuzz.run(frames)
    drops = fuzz.wire.drops()
    print("{} frames in, {} out, heap {} then {}, drops {}".format(frames, fuzz.sent, first, second, len(drops)))
    assert second <= first + 1000, "memory leaks: {} bytes in use, then {}".format(first, second)
