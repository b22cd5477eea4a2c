"""The other end of the cable, inside the board's own interpreter: what the benchmarks talk to. Runs in MicroPython.

The TAP driver stays as it is; the functions of libc that it calls through ffi are replaced by ffi functions of the same
signature that call back into this module. callgrind does not count below ffi_call (tests/bench/counting.py), so
what happens here is free, as the DMA's and the peer's work is free on a board. The clock is reached the same way: time
passes only as frames pass on a wire of 100 Mbit/s, so every run is the same to the instruction.

Once a connection is open nothing here allocates on the 64-bit interpreter: the heap is the board's, and so is the time
that the board spends searching it.
"""

import gc

import ffi
from barenet import fast
from barenet.driver import tap
from barenet.fast import ACK, FIN, PSH, SYN

HOST = "10.77.0.1"
_MAC = b"\x02\xba\x4e\x00\x00\x02"
_PEER_MAC = b"\x02\x00\x00\x00\x00\x01"
_OURS = b"\x0a\x4d\x00\x02"
_PEER = b"\x0a\x4d\x00\x01"
_HEADER = _MAC + _PEER_MAC + b"\x08\0\x45\0\0\0\x12\x34\x40\0\x40\0\0\0" + _PEER + _OURS  # Ethernet and IP
_ARP_REPLY = _MAC + _PEER_MAC + b"\x08\x06\0\x01\x08\0\x06\x04\0\x02" + _PEER_MAC + _PEER + _MAC + _OURS
_FRAMES = 64
_GAP = 24  # bytes that a frame costs on the wire beside its own: preamble, FCS, gap
_NS_A_BYTE = 80


class Line:
    """The cable and everybody at its far end.

    burst: how many frames wait, at most, when the board polls. memory: count the heap that this end takes (slow).
    """

    def __init__(self, burst, memory=False):
        self.burst = burst
        self.memory = memory
        self.own = 0  # bytes of heap allocated here
        self.calls = 0  # of the TAP driver into libc
        self.ns = 10_000_000_000
        self.frames = [bytearray(1600) for _ in range(_FRAMES)]
        self.lengths = [0] * _FRAMES
        self.made = self.arrived = self.taken = 0  # frames that the peers have sent, the board finds, has read
        self.peers = {}  # port → Peer
        self.all = []
        self.sources = []  # called when the board may find more frames
        self.datagrams = 0  # received from the board
        self.echoes = 0
        self.fill = self.drain = 0
        self.pool = None
        self._kept = []
        tap._read = self._function(self._read, "ipi")
        tap._write = self._function(self._write, "ipi")
        tap._poll = self._function(self._wait, "pii")
        self.clock = self._function(self._now, "")

    def attach(self, stack):
        """Becomes the cable and the clock of a stack that has not started yet."""
        self.pool = stack.pool
        stack.clock = self.clock

    def pending(self):
        """Returns how many frames are on their way to the board and have not arrived yet."""
        return self.made - self.arrived

    def frame(self):
        """Returns room for the next frame to the board."""
        i = self.made % _FRAMES
        assert self.made - self.taken < _FRAMES
        return self.frames[i]

    def put(self, length):
        """Sends what was written where frame() said, padded to the least length of a frame."""
        i = self.made % _FRAMES
        frame = self.frames[i]
        while length < 60:
            frame[length] = 0
            length += 1
        self.lengths[i] = length
        self.made += 1

    def _function(self, method, signature):
        def called():
            if not self.memory:
                return method()
            before = gc.mem_alloc()
            result = method()
            self.own += gc.mem_alloc() - before
            return result

        callback = ffi.callback("i", called, "")
        self._kept.append(callback)
        return ffi.func("i", callback.cfun(), signature)

    def _now(self):
        # Frames arrive while time passes: a stack that reads the clock once a poll finds one burst a poll.
        if self.taken == self.arrived:
            for source in self.sources:
                source()
            n = self.made - self.arrived
            if n > self.burst:
                n = self.burst
            while n:
                self._pass(self.lengths[self.arrived % _FRAMES])
                self.arrived += 1
                n -= 1
        return self.ns // 1_000_000 & 0x3FFFFFFF

    def _pass(self, length):
        self.ns += (length + _GAP) * _NS_A_BYTE

    def _wait(self):
        if self.taken == self.made:
            self.ns += 1_000_000
            for peer in self.all:
                peer.late()
        return 1

    def _read(self):
        self.calls += 1
        if self.taken == self.arrived:
            return -1
        i = self.taken % _FRAMES
        length = self.lengths[i]
        fast.copy(self.pool.frames[self.fill], self.frames[i], length, 0, 0)
        self.taken += 1
        self.fill = (self.fill + 1) % self.pool.receive
        return length

    def _write(self):
        self.calls += 1
        pool = self.pool
        frame = pool.frames[pool.receive + self.drain]
        length = pool.tx_ring[8 * self.drain + 1]
        length = (length & 0x1FFF) + (length >> 16)  # of headers and text
        self.drain = (self.drain + 1) % pool.transmit
        self._pass(length)
        kind = frame[12] << 8 | frame[13]
        if kind == 0x0806 and frame[21] == 1 and frame[41] == _PEER[3]:
            fast.copy(self.frame(), _ARP_REPLY, 42, 0, 0)
            self.put(42)
        elif kind == 0x0800 and frame[23] == 17:
            self.datagrams += 1
        elif kind == 0x0800 and frame[23] == 1 and frame[34] == 0:
            assert fast.add(frame, 0, length - 34, 34) == 0xFFFF
            self.echoes += 1
        elif kind == 0x0800 and frame[23] == 6:
            peer = self.peers.get(frame[36] << 8 | frame[37])
            if peer:
                peer.input(frame, 14 + (frame[16] << 8 | frame[17]))  # which looks at the headers only
        return length

    def datagram(self, header, n):
        """Sends a UDP datagram of n bytes to the board; header: source port, destination port, length, and two zeros."""
        frame = self.frame()
        fast.copy(frame, _HEADER, 34, 0, 0)
        fast.copy(frame, header, 8, 34, 0)
        self.put(finish(frame, 42 + n, 17, 40))

    def echo(self, number, n):
        """Sends an echo request with n bytes of data to the board."""
        frame = self.frame()
        fast.copy(frame, _HEADER, 34, 0, 0)
        frame[34] = 8
        frame[35] = frame[38] = frame[39] = 0
        frame[40] = number >> 8
        frame[41] = number & 255
        length = finish(frame, 42 + n, 1, 36)
        check(frame, 36, 0, 8 + n, 34)  # no pseudo header
        self.put(length)


class Peer:
    """An honest TCP at the far end of one connection after the other, without timers: nothing is ever lost.

    It acknowledges every `every`-th segment with text, sends `stream` bytes as the board's window allows, and ends when
    the board does. timestamps: agree to timestamps, window scaling and SACK, as Linux does.
    """

    def __init__(self, line, port, timestamps=False):
        self.line = line
        self.timestamps = timestamps
        self.size = 1448 if timestamps else 1460
        self.length = 66 if timestamps else 54
        self.header = bytearray(66)
        fast.copy(self.header, _HEADER, 34, 0, 0)
        self.header[46] = (self.length - 34) << 2
        self.header[48] = self.header[49] = 255
        self.header[54:58] = b"\x01\x01\x08\x0a"
        # MSS 1460, SACK permitted, timestamps, window scale 7.
        self.offer = b"\x02\x04\x05\xb4\x04\x02\x08\x0a" + bytes(8) + b"\x01\x03\x03\x07" if timestamps else b"\x02\x04\x05\xb4"
        self.port = 0
        self.begin(port, 0)
        self.every = 2
        self.stream = 0
        self.on_text = None
        self.on_end = None
        line.all.append(self)

    def begin(self, port, board_port):
        """Becomes the peer of a new connection."""
        peers = self.line.peers
        if port != self.port:
            if self.port:
                del peers[self.port]
            peers[port] = self
        self.port = port
        self.board_port = board_port
        header = self.header
        header[34] = port >> 8
        header[35] = port & 255
        header[36] = board_port >> 8
        header[37] = board_port & 255
        self.seq = 1_000_000
        self.rcv = self.edge = 0
        self.scale = 0
        self.unacknowledged = 0

    def connect(self, port, board_port):
        """Sends a SYN to the board."""
        self.begin(port, board_port)
        self.send(SYN, 0)

    def input(self, frame, end):
        """Takes a segment of the board, frame[:end]."""
        flags = frame[47]
        if flags & SYN:
            if not flags & ACK:
                self.begin(self.port, frame[34] << 8 | frame[35])
            self.rcv = number(frame, 38) + 1
            self.edge = self.seq + (frame[48] << 8 | frame[49])
            if self.timestamps:
                self._options(frame)
            self.send(ACK if flags & ACK else SYN | ACK, 0)
            return
        if (frame[34] << 8 | frame[35]) != self.board_port:
            return  # the last ACK of the connection before
        n = end - 34 - (frame[46] >> 4 << 2)
        self.edge = number(frame, 42) + ((frame[48] << 8 | frame[49]) << self.scale)
        if self.timestamps:
            fast.copy(self.header, frame, 4, 62, 58)
        assert number(frame, 38) == self.rcv
        self.rcv += n
        if flags & FIN:
            self.rcv += 1
            self.send(ACK | FIN, 0)
            if self.on_end:
                self.on_end()
        elif n:
            self.unacknowledged += 1
            if self.on_text:
                self.on_text()
            if self.every and self.unacknowledged >= self.every:
                self.send(ACK, 0)

    def _options(self, frame):
        at = 54
        end = 34 + (frame[46] >> 4 << 2)
        while at < end and frame[at]:
            if frame[at] == 1:
                at += 1
                continue
            if frame[at] == 3:
                self.scale = frame[at + 2]
            elif frame[at] == 8:
                fast.copy(self.header, frame, 4, 62, at + 2)
            at += frame[at + 1]

    def late(self):
        """The timer of a delayed ACK."""
        if self.unacknowledged and self.every:
            self.send(ACK, 0)

    def supply(self):
        """Sends of `stream` what the window and one burst take; a source of the Line."""
        line = self.line
        while self.stream and line.made - line.arrived < line.burst:
            n = self.size if self.stream > self.size else self.stream
            if self.seq + n > self.edge:
                return
            self.send(ACK | PSH, n)
            self.stream -= n

    def acknowledge(self, seq):
        """Sends a bare ACK for everything before `seq`."""
        rcv = self.rcv
        self.rcv = seq
        self.send(ACK, 0)
        self.rcv = rcv

    def send(self, flags, n):
        """Sends one segment with n bytes of text."""
        frame = self.line.frame()
        at = self.length
        fast.copy(frame, self.header, at, 0, 0)
        if flags & SYN:
            at = 54 + len(self.offer)
            fast.copy(frame, self.offer, len(self.offer), 54, 0)
            frame[46] = (at - 34) << 2
        store(frame, 38, self.seq)
        if flags & ACK:
            store(frame, 42, self.rcv)
            self.unacknowledged = 0
        if self.timestamps:
            store(frame, 62 if flags & SYN else 58, self.line.ns // 1_000_000)
        frame[47] = flags
        self.line.put(finish(frame, at + n, 6, 50))
        self.seq += n + (1 if flags & (SYN | FIN) else 0)


def finish(frame, length, protocol, at):
    """Fills in lengths, protocol and both checksums of an IPv4 frame, the transport's at frame[at]; returns the length."""
    frame[16] = length - 14 >> 8
    frame[17] = length - 14 & 255
    frame[23] = protocol
    check(frame, 24, 0, 20, 14)
    length -= 34
    # The pseudo header: addresses, protocol and length, as little-endian halfwords.
    seed = fast.add(frame, 0, 8, 26) + (protocol << 8) + (length >> 8 | (length & 255) << 8)
    check(frame, at, seed, length, 34)
    return length + 34


def check(frame, at, seed, n, start):
    frame[at] = frame[at + 1] = 0
    total = fast.add(frame, seed, n, start)
    frame[at] = ~total & 255
    frame[at + 1] = ~total >> 8 & 255


def number(frame, at):
    return frame[at] << 24 | frame[at + 1] << 16 | frame[at + 2] << 8 | frame[at + 3]


def store(frame, at, value):
    frame[at] = value >> 24 & 255
    frame[at + 1] = value >> 16 & 255
    frame[at + 2] = value >> 8 & 255
    frame[at + 3] = value & 255
