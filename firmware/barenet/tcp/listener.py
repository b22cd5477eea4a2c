"""Listening ports: the passive open, and the cookies that stand in for it where the backlog is full. Loaded by the first listen()."""

from barenet import fast, late, ticks
from barenet.errors import EADDRINUSE
from barenet.fast import ACK, RST, STATE, SYN, SYN_RECEIVED
from barenet.ip import ANY
from barenet.tcp.connection import PLENTY, free_port, spare, take_back
from micropython import const

_COOKIES_MS = const(130_000)  # as long as a cookie may be good after the last one that was sent
_RESERVE = const(4096)  # bytes of heap that are the program's, however many strangers connect,
_PIECE = const(640)  # and of which so many lie in one piece
_BESIDE = const(1024)  # what a connection takes beside its buffers, with the socket that accept() makes


def listen(tcp, address, port, backlog, rcvbuf, sndbuf):
    """See `TCP.listen`."""
    if port == 0:
        port = free_port(tcp, ANY, (ANY, 0))
    if port in tcp.listeners:
        raise OSError(EADDRINUSE)
    listener = tcp.listeners[port] = Listener(tcp, address, port, backlog, rcvbuf, sndbuf)
    return listener


class Listener:
    """A listening port. `backlog` bounds the connections that are open or opening but not yet accepted."""

    def __init__(self, tcp, address, port, backlog, rcvbuf, sndbuf):
        self.tcp = tcp
        self.address = address
        self.port = port
        self.backlog = max(1, backlog)
        self.rcvbuf = rcvbuf
        self.sndbuf = sndbuf
        self.local = None  # our end of the last connection, and its peer's address, which the next ones share
        self.source = None
        self.accepted = self.host = None  # the peer's address of the last one that was accepted
        self.pending = []  # connections that are opening, or open and not accepted yet
        self.cookies_until = None  # cookies are on their way

    def next(self):
        """Returns the Connection of a peer that has waited longest for accept(), or None."""
        for connection in self.pending:
            if connection.tcb[STATE] != SYN_RECEIVED:
                return connection
        return None

    def accept(self, connection):
        """The program takes what next() has returned. Returns (host, port) of its peer, the host as a dotted quad."""
        self.pending.remove(connection)
        connection.listener = None
        address, port = connection.remote
        if address != self.accepted:
            self.accepted = address
            self.host = "%d.%d.%d.%d" % tuple(address)
        return self.host, port

    def full(self):
        """True when nobody more can be let in until the program accepts; a backlog full of opening connections is cookies' work."""
        return len(self.pending) - self.opening() >= self.backlog

    def opening(self):
        """Returns how many connections are not open yet."""
        return sum(connection.tcb[STATE] == SYN_RECEIVED for connection in self.pending)

    def ready(self, connection):
        """A handshake is complete: connections are accepted in this order."""
        self.pending.remove(connection)
        self.pending.append(connection)

    def gone(self, connection):
        """A connection ended before it was accepted. One with an error still in the queue is dropped, as accept(2) would fail on it."""
        if connection in self.pending and not connection.readable():
            self.pending.remove(connection)
            connection.delete()

    def close(self, now):
        """Stops listening; connections nobody accepted are reset (RFC 9293 section 3.10.4)."""
        if self.tcp.listeners.get(self.port) is self:
            del self.tcp.listeners[self.port]
        self.clear(now)

    def clear(self, now):
        """Resets the connections nobody has accepted yet."""
        pending = self.pending
        self.pending = []
        for connection in pending:
            connection.listener = None
            connection.close(now, True)

    def knock(self, frame, now):
        """Takes a SYN that fast.knock() has looked at; returns False when input() must take it."""
        ip = self.tcp.ip
        if self.address != ANY or ip.address == ANY or len(self.pending) >= self.backlog or self.tcp.hidden is not None:
            return False
        remote = (bytes(frame[26:30]), frame[34] << 8 | frame[35])
        if not remote[1] or not 0 < remote[0][0] < 224 or remote[0][0] == 127 or remote[0] in (ip.address, ip.broadcast):
            return False
        if self.local is None or self.local[0] != ip.address:
            self.local = (ip.address, self.port)
        self._passive(remote, frame, now)
        return True

    def input(self, frame, start, end, header_end, flags, source, destination, above, now):
        """Takes a segment that belongs to no connection; returns False when it is not for this listener either.

        above: see Connection.open_passive().
        """
        if self.address != ANY and self.address != destination:
            return False
        flags &= ACK | RST | SYN
        if flags == ACK:
            return self._cookie(frame, start, end, source, destination, now)
        if flags != SYN:
            return False
        local = self.local
        if local is None or local[0] != destination:
            local = self.local = (destination, self.port)
        if source != self.source:
            self.source = source
        remote = (self.source, frame[start] << 8 | frame[start + 1])
        if self.full():
            self.tcp.drops["backlog full"] += 1  # the peer repeats its SYN
        elif remote[1] == 0:
            self.tcp.drops["no connection"] += 1
        elif len(self.pending) >= self.backlog:
            self._send_cookie(local, remote, frame, start, header_end, now)
        else:
            self._passive(remote, frame, now, start, above)
        return True

    def _send_cookie(self, local, remote, frame, start, header_end, now):
        """Answers a SYN for which the backlog has no place: nothing is kept of it (RFC 4987)."""
        cookies = late.load("tcp.cookies")
        self.tcp.drops["backlog full, cookie sent"] += 1
        self.cookies_until = ticks.add(now, _COOKIES_MS)
        irs = fast.number(frame, start + 4)
        tcb = self.tcp.block(local, remote, (irs + 1) & 0xFFFFFFFF, min(self.rcvbuf, 0xFFFF))
        fast.syn(tcb, frame, start, header_end)
        iss = cookies.make(self.tcp.secret, irs, tcb[fast.SND_MSS], now)
        way = late.load("tcp.ip_options").back(self.tcp, frame) if frame[14] != 0x45 else None
        self.tcp.send_control(tcb, remote[0], SYN | ACK, iss, now, way)

    def _cookie(self, frame, start, end, source, destination, now):
        """Takes an ACK for a listening port when it answers a cookie; returns whether it did."""
        if self.cookies_until is None:
            return False
        if ticks.reached(now, self.cookies_until):
            self.cookies_until = None
            return False
        cookies = late.load("tcp.cookies")
        local = self.local = (destination, self.port)
        remote = (source, frame[start] << 8 | frame[start + 1])
        irs = (fast.number(frame, start + 4) - 1) & 0xFFFFFFFF
        iss = (fast.number(frame, start + 8) - 1) & 0xFFFFFFFF
        self.tcp.block(local, remote, 0, 0)  # its addresses stand in `secret` now
        mss = cookies.check(self.tcp.secret, irs, iss, now)
        if mss == 0:
            return False
        if self.full():
            self.tcp.drops["backlog full"] += 1  # the peer repeats what it has sent
            return True
        connection = self._open_passive(remote, frame)
        if connection is not None:
            connection.open_cookie(irs, iss, mss, now)
            connection.input(frame, start, end, ACK, now)
        return True

    def _passive(self, remote, frame, now, start=34, above=None):
        connection = self._open_passive(remote, frame)
        if connection is None:
            return
        try:
            connection.open_passive(frame, start, now, above)
        except (OSError, MemoryError):
            self.tcp.drops["out of memory"] += 1
            connection.drop()

    def _open_passive(self, remote, frame):
        """Returns a connection with its place among those that are opening, None without memory for it."""
        tcp = self.tcp
        connection = None
        n = self.rcvbuf + self.sndbuf
        try:
            bytearray(1)  # where the heap is locked nobody's buffers are taken: they could not come again
            plenty = spare(tcp, _BESIDE + n, max(n, PLENTY), False)
            try:
                connection = self._create(plenty)
            except MemoryError:
                if not take_back(tcp):
                    raise
                connection = self._create(plenty)
            fast.key(tcp.secret, self.local[0], self.port, remote[0], remote[1])
            connection.place(remote, self.rcvbuf if plenty else 0)
            if frame[14] != 0x45:
                late.load("tcp.ip_options").arrived(connection, frame)
            if plenty and not connection.tcb[fast.RCV_RING_SIZE]:
                connection.set_ring(fast.RCV_SIZE, self.rcvbuf)
            connection.listener = self
            connection.tcb[fast.FLAGS] |= fast.FLAG_PASSIVE
            self.pending.append(connection)
            return connection
        except (OSError, MemoryError):
            tcp.drops["out of memory"] += 1
            if connection is not None:
                connection.drop()
            return None

    def _create(self, plenty):
        """Returns a connection that leaves the program memory, and in pieces of a size that is of use. Raises MemoryError."""
        if plenty:
            return self.tcp.create(self.rcvbuf, self.sndbuf)
        if not spare(self.tcp, _BESIDE, _RESERVE):
            raise MemoryError
        connection = self.tcp.create(self.rcvbuf, self.sndbuf)
        bytearray(_PIECE)
        return connection
