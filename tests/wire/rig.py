"""A stack, the frames that go in and out of it, and a clock that only the test moves. Runs in MicroPython.

A test reads like a conversation, in the manner of packetdrill:

    wire = Wire()
    wire.listen(80)
    peer = wire.peer(port=5000, to=80)
    peer.send(SYN, mss=1460, win=65535)
    peer.expect(SYN | ACK, ack=1, mss=1460)
    peer.send(ACK)
    wire.advance(200)
    peer.expect_nothing()

Sequence numbers are counted from each side's initial one, so the SYN is 0 and the first byte 1; what goes over the
wire are whole frames with checksums, and every frame that leaves is checked byte by byte against the headers it must
have. `send` and `expect` fill in what an honest peer would say next (seq) and has got (ack); a test names the
numbers that it is about. Everything is strict: a frame that the test does not expect, an exception in the stack, a
descriptor that was not given back fail the test.
"""

from hashlib import sha256

from barenet import fast, ticks
from barenet.fast import ACK, FIN, PSH, RST, SYN, URG
from barenet.stack import Stack
from barenet.tcp import connection as tcp_connection
from barenet.tcp.names import NAMES

MAC = b"\x02\x00\x00\x00\x00\x02"
PEER_MAC = b"\x02\x00\x00\x00\x00\x01"
OTHER_MAC = b"\x02\x00\x00\x00\x00\x63"
ALL = b"\xff\xff\xff\xff\xff\xff"
OURS = b"\x0a\x4d\x00\x02"  # 10.77.0.2
PEER = b"\x0a\x4d\x00\x01"  # 10.77.0.1
OTHER = b"\x0a\x4d\x00\x63"  # 10.77.0.99
FAR = b"\xc0\x00\x02\x07"  # 192.0.2.7, behind a router
MASK = b"\xff\xff\xff\x00"
ANY = b"\0\0\0\0"
BUFFER = 8760  # six segments
_FLAGS = ((SYN, "SYN"), (FIN, "FIN"), (RST, "RST"), (PSH, "PSH"), (ACK, "ACK"), (URG, "URG"))

_observed = False
_wires = []


def begin(observed):
    """Starts a test; `observed`: every stack has an observer."""
    global _observed
    _observed = observed
    _wires.clear()


def end():
    """Ends a test: nothing may be left over on any wire."""
    for wire in _wires:
        wire.done()
    _wires.clear()


class Observer:
    """Looks at everything, as a trace does, and says nothing."""

    def received(self, frame, length, now):
        assert length <= len(frame)

    def sent(self, frame, length, now):
        assert 14 <= length <= 1514

    def changed(self, step, connection, before):
        assert len(before) >= fast.TCB_WORDS

    def moved(self, connection, before, event):
        NAMES[before]


class Cable:
    """A driver (docs/architecture.md) with a Python list at each end. `stuck`: transmitted frames do not leave."""

    def __init__(self, wire):
        self.wire = wire
        self.mac = MAC
        self.inbox = []
        self.stuck = False
        self.plugged = True
        self.pool = None

    def start(self, pool):
        pool.reset()
        self.pool = pool
        pool.words[fast.C_DMA] = pool.words[fast.C_GATHER] = 1
        self.fill = self.drain = 0

    def stop(self):
        self.pool = None

    def poll(self, now):
        pass

    def dma(self):
        pool = self.pool
        while self.inbox and fast.owned_by_dma(pool.rx_ring, self.fill):
            frame = self.inbox.pop(0)
            pool.frames[self.fill][: len(frame)] = frame
            pool.rx_ring[8 * self.fill] = (len(frame) + fast.FCS) << 16 | 0x0300
            self.fill = (self.fill + 1) % pool.receive

    def refill(self):
        pass

    def transmit(self):
        pool = self.pool
        while not self.stuck and fast.owned_by_dma(pool.tx_ring, self.drain):
            self.wire.frames.append((self.wire.now, self.transmitted()))
            pool.tx_ring[8 * self.drain] = 0
            self.drain = (self.drain + 1) % pool.transmit

    def transmitted(self):
        """Returns the frame that is next in the transmit ring, of which the text may lie in a send buffer."""
        pool = self.pool
        i = 8 * self.drain
        word = pool.tx_ring[i]
        size = pool.tx_ring[i + 1]
        frame = bytes(pool.frames[pool.receive + self.drain][: size & 0x1FFF])
        last = self.drain == pool.transmit - 1
        if word == 0xB0100000:
            assert size < 0x2000 and pool.tx_ring[i + 3] == (pool.words[fast.C_TX_RING] + (0 if last else 4 * i + 32)) & 0xFFFFFFFF
            return frame
        assert word == (0xB0200000 if last else 0xB0000000), hex(word)
        text = bytearray(size >> 16)
        assert len(text) >= 256
        fast.copy(text, pool.tx_ring[i + 3] | pool.tx_ring[i + 4] << 32, len(text), 0, 0)
        return frame + text

    def unstick(self):
        """Lets the frames that are stuck leave."""
        self.stuck = False
        self.transmit()

    def wait(self, ms):
        raise AssertionError("the stack sleeps")

    def link(self):
        return self.plugged

    def status(self):
        return {}

    def filter(self, multicast):
        pass


class Wire:
    """A stack at 10.77.0.2/24 and its cable.

    now: the time, ms; not reduced to ticks. frames: (time, frame) for everything that left and was not expected yet.
    neighbour: the peer's MAC address is known, and the stack is told when it asks again, without the test's doing.
    gateway: 4 bytes; default: none.
    """

    def __init__(self, now=1000, neighbour=True, gateway=ANY, receive=8, transmit=4):
        tcp_connection.sha256 = sha256
        self.now = now
        self.frames = []
        self.neighbours = {}
        self.cable = Cable(self)
        self.stack = Stack(self.cable, receive, transmit, clock=lambda: self.now)
        self.tcp = self.stack.tcp
        self.ip = self.stack.ip
        self.arp = self.stack.arp
        self.words = self.stack.words
        if _observed:
            self.stack.observe(Observer())
        self.stack.start()
        self.stack.configure(OURS, MASK, gateway, [])
        self.settle()
        self.expect_arp(1, OURS)  # the announcement
        if neighbour:
            self.receive(arp(1, PEER_MAC, PEER, ANY + b"\0\0", OURS))
            self.expect_arp(2, PEER, PEER_MAC, PEER_MAC)
            self.neighbours[PEER] = PEER_MAC
        _wires.append(self)

    def iss(self, number):
        """Makes the next connections start with this sequence number."""
        self.choose_iss(lambda: number)

    def choose_iss(self, iss):
        """Lets iss() choose the sequence numbers that the next connections start with."""

        wire = self

        class Chosen:
            def __init__(self, data):
                self.hash = sha256(data)
                self.ends = len(data) == len(wire.tcp.secret)  # and not what a cookie is made of

            def digest(self):
                if not self.ends:
                    return self.hash.digest()
                number = iss() - (wire.now & 0x3FFFFFFF) * 252
                return (number & 0xFFFFFFFF).to_bytes(4, "little") + self.hash.digest()[4:]

        tcp_connection.sha256 = Chosen

    def receive(self, *frames):
        """Lets frames arrive, all before the stack looks."""
        assert not self.frames, "not expected: " + shown(self.frames)
        self.cable.inbox.extend(frames)
        self.settle()

    def advance(self, ms):
        """Lets time pass; the stack is polled whenever it has said that something will be due."""
        end = self.now + ms
        while self.now < end:
            step = end - self.now
            for at in (self.words[fast.C_NEXT_TIMER], self.stack.words[fast.C_SLOW_AT]):
                step = min(step, max(1, ticks.diff(at, self.stack.now())))
            self.now += step
            self.settle()

    def next_frame(self, after=None):
        """Returns the next frame that has left. `after`: it must leave in exactly so many ms, which pass."""
        if after is not None:
            assert not self.frames, "not expected: " + shown(self.frames)
            start = self.now
            self.advance(after)
            if self.frames:
                came = self.frames[0][0] - start
                what = shown(self.frames[:1])
                assert came == after, "came after {} ms, expected after {}: {}".format(came, after, what)
        assert self.frames, "nothing was sent"
        return self.frames.pop(0)[1]

    def expect_frame(self, expected, after=None):
        """The next frame is exactly these bytes."""
        got = self.next_frame(after)
        assert got == expected, "\n sent     {}\n expected {}".format(got.hex(), expected.hex())

    def expect_arp(self, operation, target, to=ALL, target_mac=ANY + b"\0\0", after=None):
        """The next frame is our ARP packet."""
        self.expect_frame(arp(operation, MAC, OURS, target_mac, target, to), after)

    def expect_nothing(self):
        """Nothing has left since the last expected frame."""
        assert not self.frames, "not expected: " + shown(self.frames)

    def drops(self):
        """Returns {(layer, reason): number} for everything that was dropped so far."""
        counters = self.stack.counters()
        del counters["frames"]
        return {(layer, reason): n for layer in counters for reason, n in counters[layer].items() if n}

    def settle(self):
        """Polls until nothing waits: neither a received frame, nor a connection for a free transmit descriptor."""
        self.stack.poll()
        self._answer_arp()
        while self.cable.inbox or (self.words[fast.C_OUTPUT] and not self.cable.stuck):
            self.stack.poll()
            self._answer_arp()

    def _answer_arp(self):
        for entry in list(self.frames):
            frame = entry[1]
            mac = self.neighbours.get(frame[38:42])
            if mac and frame[12:14] == b"\x08\x06" and frame[21] == 1:
                self.frames.remove(entry)
                self.cable.inbox.append(arp(2, mac, frame[38:42], MAC, OURS, MAC))

    def peer(self, port=5000, to=80, address=PEER, mac=PEER_MAC, iss=1000):
        return Peer(self, address, mac, port, to, iss)

    def listen(self, port=80, backlog=5, rcvbuf=BUFFER, sndbuf=BUFFER):
        """Opens a port; returns its Listener."""
        return self.tcp.listen(port, backlog, rcvbuf=rcvbuf, sndbuf=sndbuf)

    def connect(self, peer, rcvbuf=BUFFER, sndbuf=BUFFER):
        """Lets a program connect to the peer; returns its App."""
        self.stack.enter()
        try:
            connection = self.tcp.create(rcvbuf, sndbuf)
            connection.connect((peer.address, peer.port), self.stack.now(), peer.to)
        finally:
            self.stack.leave()
        return App(self, connection)

    def accept(self, listener):
        """Accepts a connection; returns its App, or None."""
        connection = listener.next()
        if connection is None:
            return None
        listener.accept(connection)
        return App(self, connection)

    def done(self):
        """Nothing is left over."""
        if self.stack.errors:
            raise self.stack.last_error
        self.expect_nothing()
        pool = self.stack.pool
        assert all(fast.owned_by_dma(pool.rx_ring, i) for i in range(pool.receive)), "a receive descriptor is lost"
        if not self.cable.stuck:
            assert not any(fast.owned_by_dma(pool.tx_ring, i) for i in range(pool.transmit)), "a transmit frame is lost"
        assert not self.stack.words[fast.C_ENTERED]


class App:
    """The program on the stack's side of a connection."""

    def __init__(self, wire, connection):
        self.wire = wire
        self.connection = connection
        self.tcb = connection.tcb

    @property
    def state(self):
        return NAMES[self.connection.state]

    @property
    def error(self):
        return self.connection.error

    def write(self, data):
        """Writes and lets leave what may; returns how many bytes the send buffer took."""
        return self._call(lambda now: self.connection.write(data, 0, len(data)), True)

    def read(self, n):
        """Reads at most n bytes, and lets the window update leave that may follow."""
        buffer = bytearray(n)
        n = self._call(lambda now: self.connection.read(buffer, n), True)
        return bytes(buffer[:n])

    def shutdown(self):
        self._call(self.connection.shutdown)

    def close(self, reset=False):
        self._call(lambda now: self.connection.close(now, reset))

    def abort(self):
        self._call(self.connection.abort)

    def keepalive(self, idle, interval, count):
        """Keep-alive: ms of silence before the first probe, ms between probes, probes."""
        self.connection.keepalive = idle
        self.connection.keep_interval = interval
        self.connection.keep_count = count
        self._call(self.connection.keep)

    def deleted(self):
        """True when nothing of the connection is kept any more."""
        return self.connection.slot == -1 and self.connection not in self.wire.tcp.connections

    def _call(self, function, output=False):
        stack = self.wire.stack
        stack.enter()
        try:
            result = function(stack.now())
            if output:
                self.connection.output(stack.now())
        finally:
            stack.leave()
        self.wire.settle()
        return result


class Peer:
    """The other side of one connection, driven by the test.

    iss, irs: initial sequence numbers of the peer and of the stack (learnt from its SYN). snd, rcv: the next number
    that each of them sends, counted from there. win: the window that the peer offers.
    """

    def __init__(self, wire, address, mac, port, to, iss):
        self.wire = wire
        self.address = address
        self.mac = mac
        self.port = port
        self.to = to
        self.iss = iss
        self.irs = None
        self.snd = self.rcv = 0
        self.win = 65535

    def frame(self, flags, seq=None, ack=None, text=b"", win=None, mss=None, options=b"", **changes):
        """Returns the frame that send() would send."""
        if seq is None:
            seq = self.snd
        if ack is None:
            ack = self.rcv
        if win is not None:
            self.win = win
        if mss is not None:
            options = bytes((2, 4, mss >> 8, mss & 255))
        if seq == self.snd:
            self.snd += len(text) + (1 if flags & SYN else 0) + (1 if flags & FIN else 0)
        ack = (ack + (self.irs or 0)) & 0xFFFFFFFF if flags & ACK else 0
        urgent = changes.pop("urgent", 0)
        header = segment(self.port, self.to, (seq + self.iss) & 0xFFFFFFFF, ack, flags, self.win, options, urgent=urgent)
        source = changes.pop("source", self.address)
        return packet(6, header + text, source, mac=self.mac, **changes)

    def send(self, flags, seq=None, ack=None, text=b"", win=None, mss=None, options=b"", **changes):
        """Lets a segment arrive. changes: its urgent pointer, and see packet()."""
        self.wire.receive(self.frame(flags, seq, ack, text, win, mss, options, **changes))

    def expect(self, flags, seq=None, ack=None, text=None, length=None, win=None, mss=None, after=None):
        """The next frame is this segment, with exactly these flags. length: if its bytes do not matter."""
        got = Segment(self.wire.next_frame(after), self)
        if self.irs is None and flags & SYN:
            self.irs = got.raw_seq
            got.seq = 0
        if seq is None:
            seq = self.rcv
        if ack is None:
            ack = self.snd
        if text is not None:
            length = len(text)
        elif length is None:
            length = 0
        wrong = []
        if got.flags != flags:
            wrong.append("flags " + flag_names(flags))
        if got.seq != seq:
            wrong.append("seq {}".format(seq))
        if flags & ACK and got.ack != ack:
            wrong.append("ack {}".format(ack))
        if len(got.text) != length:
            wrong.append("length {}".format(length))
        elif text is not None and got.text != text:
            wrong.append("text {}…".format(text[:40]))
        if win is not None and got.win != win:
            wrong.append("win {}".format(win))
        if got.mss != mss:
            wrong.append("mss {}".format(mss))
        assert not wrong, "sent {}, expected {}".format(got, ", ".join(wrong))
        if seq <= self.rcv:
            self.rcv = max(self.rcv, seq + length + (1 if flags & SYN else 0) + (1 if flags & FIN else 0))
        return got

    def expect_nothing(self):
        self.wire.expect_nothing()


class Segment:
    """A frame that the stack has sent, checked and taken apart; seq and ack count from the peer's iss and irs."""

    def __init__(self, frame, peer):
        total = frame[16] << 8 | frame[17]
        end = 14 + total
        assert len(frame) == end or (end < 60 == len(frame) and not any(frame[end:])), "length"
        assert frame[0:6] == peer.mac, "destination MAC " + frame[0:6].hex()
        assert frame[6:14] == MAC + b"\x08\x00", "source MAC or EtherType"
        assert frame[14:16] == b"\x45\x00" and frame[20:24] == b"\x40\x00\x40\x06", "IP header " + frame[14:34].hex()
        assert fast.add(frame, 0, 20, 14) == 0xFFFF, "IP checksum"
        assert frame[26:30] == OURS and frame[30:34] == peer.address, "addresses " + frame[26:34].hex()
        assert fast.add(frame, pseudo(OURS, peer.address, 6, total - 20), total - 20, 34) == 0xFFFF, "TCP checksum"
        assert frame[34] << 8 | frame[35] == peer.to and frame[36] << 8 | frame[37] == peer.port, "ports"
        start = 34 + (frame[46] >> 4 << 2)
        assert 54 <= start <= end and frame[46] & 15 == 0 and frame[52:54] == b"\0\0", "offset, reserved or urgent"
        self.id = frame[18] << 8 | frame[19]
        self.raw_seq = number(frame, 38)
        self.raw_ack = number(frame, 42)
        self.seq = signed(self.raw_seq - (peer.irs or 0))
        self.flags = frame[47]
        self.ack = signed(self.raw_ack - peer.iss) if self.flags & ACK else 0
        self.win = frame[48] << 8 | frame[49]
        self.options = frame[54:start]
        self.mss = frame[56] << 8 | frame[57] if self.options[:2] == b"\x02\x04" else None
        self.text = frame[start:end]

    def __repr__(self):
        return "{} seq={} ack={} win={} length={} mss={}".format(
            flag_names(self.flags), self.seq, self.ack, self.win, len(self.text), self.mss
        )


def established(
    active=True,
    mss=1460,
    win=65535,
    rtt=0,
    iss=0x10000000,
    peer_iss=1000,
    rcvbuf=BUFFER,
    sndbuf=BUFFER,
    now=1000,
    transmit=4,
    port=5000,
):
    """Returns (wire, peer, app) with a connection open between them, `rtt` ms measured in its handshake."""
    wire = Wire(now, transmit=transmit)
    peer, app = another(wire, active, mss, win, rtt, iss, peer_iss, rcvbuf, sndbuf, port)
    return wire, peer, app


def another(
    wire,
    active=True,
    mss=1460,
    win=65535,
    rtt=0,
    iss=0x10000000,
    peer_iss=1000,
    rcvbuf=BUFFER,
    sndbuf=BUFFER,
    port=5000,
):
    """Returns (peer, app) with one more connection open between them."""
    wire.iss(iss)
    peer = wire.peer(port, iss=peer_iss)
    if active:
        app = wire.connect(peer, rcvbuf, sndbuf)
        peer.expect(SYN, mss=1460)
        wire.advance(rtt)
        peer.send(SYN | ACK, win=win, mss=mss)
        peer.expect(ACK)
    else:
        listener = wire.listen(80, rcvbuf=rcvbuf, sndbuf=sndbuf)
        peer.send(SYN, win=win, mss=mss)
        peer.expect(SYN | ACK, mss=1460)
        wire.advance(rtt)
        peer.send(ACK)
        app = wire.accept(listener)
    assert app.state == "ESTABLISHED"
    return peer, app


def opening():
    """Returns (wire, peer, app) with our SYN on its way to the peer."""
    wire = Wire()
    peer = wire.peer()
    app = wire.connect(peer)
    peer.expect(SYN, mss=1460)
    return wire, peer, app


def answered(backlog=5):
    """Returns (wire, peer, listener) with the peer's SYN to our port 80 answered by SYN+ACK."""
    wire = Wire()
    listener = wire.listen(80, backlog)
    peer = wire.peer()
    peer.send(SYN, mss=1460)
    peer.expect(SYN | ACK, seq=0, ack=1, mss=1460)
    return wire, peer, listener


def close_both(peer, app):
    """Lets us close first and the peer with its answer: we are left in TIME_WAIT, or with its entry in the table of many."""
    app.close()
    peer.expect(FIN | ACK)
    peer.send(FIN | ACK)
    peer.expect(ACK)
    assert app.state == "TIME_WAIT" or app.deleted()  # among hundreds


def pattern(start, n):
    """Returns n bytes of a stream whose bytes tell where they belong."""
    return bytes((i * 7 + (i >> 8) * 13) & 255 for i in range(start, start + n))


def segment(source, destination, seq, ack, flags, window, options=b"", reserved=0, urgent=0):
    """Returns a TCP header without checksum; options are padded to full words."""
    options += bytes(-len(options) % 4)
    return (
        bytes((source >> 8, source & 255, destination >> 8, destination & 255))
        + seq.to_bytes(4, "big")
        + ack.to_bytes(4, "big")
        + bytes(
            ((20 + len(options)) << 2 | reserved, flags, window >> 8, window & 255, 0, 0, urgent >> 8, urgent & 255)
        )
        + options
    )


def packet(
    protocol,
    payload,
    source=PEER,
    destination=OURS,
    mac=PEER_MAC,
    to=MAC,
    ttl=64,
    ip_options=b"",
    fragment=b"\x40\x00",
    check=True,
    tail=b"",
):
    """Returns the Ethernet frame of an IPv4 packet. check: fill in the checksums. tail: bytes behind the packet."""
    header = bytearray(20) + ip_options
    header[0] = 0x40 | len(header) >> 2
    total = len(header) + len(payload)
    header[2] = total >> 8
    header[3] = total & 255
    header[4:6] = b"\x12\x34"
    header[6:8] = fragment
    header[8] = ttl
    header[9] = protocol
    header[12:16] = source
    header[16:20] = destination
    frame = bytearray(to + mac + b"\x08\x00" + header + payload + tail)
    if check:
        fix(frame)
    return frame


def fix(frame):
    """Fills in the checksums of an IPv4 packet and of what it carries, as far as the frame has them."""
    start = 14 + ((frame[14] & 15) << 2)
    end = min(len(frame), 14 + (frame[16] << 8 | frame[17]))
    if len(frame) < 34 or start > len(frame):
        return
    put(frame, 24, 14, start - 14, 0)
    at = {6: 16, 17: 6}.get(frame[23])
    if at is not None and start + at + 2 <= end:
        put(frame, start + at, start, end - start, pseudo(frame[26:30], frame[30:34], frame[23], end - start))


def put(frame, at, start, n, seed):
    frame[at] = frame[at + 1] = 0
    check = ~fast.add(frame, seed, n, start) & 0xFFFF
    frame[at] = check & 255
    frame[at + 1] = check >> 8


def pseudo(source, destination, protocol, length):
    return fast.add(source + destination + bytes((0, protocol, length >> 8, length & 255)), 0, 12, 0)


def arp(operation, sender_mac, sender, target_mac, target, to=ALL):
    """Returns the frame of an ARP packet, padded to 60 bytes."""
    return (
        to
        + sender_mac
        + b"\x08\x06"
        + b"\0\x01\x08\0\x06\x04\0"
        + bytes((operation,))
        + sender_mac
        + sender
        + target_mac
        + target
        + bytes(18)
    )


def number(data, at):
    return int.from_bytes(data[at : at + 4], "big")


def signed(n):
    n &= 0xFFFFFFFF
    return n - 0x100000000 if n & 0x80000000 else n


def flag_names(flags):
    return "|".join(name for bit, name in _FLAGS if flags & bit) or "no flags"


def shown(frames):
    return ", ".join("at {} ms: {}".format(at, frame[:80].hex() + "…" * (len(frame) > 80)) for at, frame in frames)
