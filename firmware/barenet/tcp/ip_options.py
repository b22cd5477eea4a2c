"""TCP connections whose segments have IP options (RFC 9293 section 3.9.2.1). Loaded for the first of them.

Such a connection is hidden from the fast path, which knows headers of five words only: its entry is taken out of the table in which
segments are looked up, but while one of its own is taken, and FLAG_LOOP leaves what it sends to plain Python.
"""

from barenet import fast, ip_options
from barenet.fast import CLOSED, ESTABLISHED, FLAGS, SND_MSS, STATE
from barenet.tcp import PROTOCOL
from barenet.tcp.connection import LOOKUP_MOST, tidy


class Way(ip_options.Way):
    """The way of one connection's segments. received: it is the way back of a segment, not what the program has set."""

    def __init__(self, ip, given, received):
        super().__init__(ip, given)
        self.received = received

    def begin(self, connection):
        """Hides an open connection from the fast path."""
        tcp = connection.tcp
        part = self.ip.part("ip_options")
        if part.segments is None:
            tcp.hidden = part.segments = _Segments(tcp)
            self.ip.handlers[PROTOCOL] = part.segments.input
        key = tcp.keys[2 * connection.slot : 2 * connection.slot + 2]
        if key[1]:
            connection.key = key
        connection.unlist()

    def segment(self, packet, now):
        """Sends a packet that fast.output() has made; one that finds no room or no route is lost."""
        try:
            self.send(packet, now)
        except OSError:
            pass

    def send(self, packet, now):
        """Sends a packet that is complete but for the options. Raises as IP.output()."""
        # A copy, for the packet may lie in the transmit frame that is filled anew.
        send = self.through(self._output)
        send(6, bytes(packet[16:20]), b"", bytes(packet[20:]), now, bytes(packet[12:16]), packet[8], packet[1])


class _Segments:
    """Stands before TCP.input(): shows a hidden connection while a segment of its own is taken."""

    def __init__(self, tcp):
        self.tcp = tcp

    def input(self, frame, start, end, source, destination, now):
        """See TCP.input()."""
        tcp = self.tcp
        hidden = None
        if end - start >= 20:
            hidden = self.find(frame[start + 2] << 8 | frame[start + 3], (source, frame[start] << 8 | frame[start + 1]))
        if hidden is not None:
            slot = hidden.slot
            tcp.keys[2 * slot] = hidden.key[0]
            tcp.keys[2 * slot + 1] = hidden.key[1]
            if fast.index(tcp.objects, slot) > LOOKUP_MOST:
                tidy(tcp)
        try:
            tcp.input(frame, start, end, source, destination, now)
        finally:
            if hidden is not None:
                hidden.unlist()

    def find(self, port, remote):
        """Returns the hidden connection of this port of ours and the peer's (address, port), or None."""
        for connection in self.tcp.connections:
            if connection is not None and connection.way is not None and connection.remote == remote:
                if connection.local[1] == port and connection.state != CLOSED:
                    return connection


def use(connection, way):
    """Gives a connection, open or not, the way that its segments take from now on; the MSS makes room for it (RFC 9293 section 3.7.1)."""
    more = way.size - connection.options_size
    connection.way = way
    connection.options_size = way.size
    connection.tcb[FLAGS] |= fast.FLAG_LOOP
    if connection.state == CLOSED:
        return
    way.begin(connection)
    tcb = connection.tcb
    tcb[SND_MSS] -= more
    if more > 0 and tcb[STATE] >= ESTABLISHED:
        fast.forget_flight(tcb)


def set(connection, given):
    """Sets the options (bytes) that a program wants; b"" for none. They go before a route that was received (MUST-52). Raises OSError(EINVAL)."""
    way = connection.way
    if way is None and not given or way is not None and way.given == given and not way.received:
        return
    use(connection, Way(connection.tcp.ip, given, False))


def back(tcp, frame):
    """Returns the way back of the segment in `frame`; None when it has no source route, or one whose last hop we cannot reach."""
    ip = tcp.ip
    given = ip.part("ip_options").returned(frame)
    return Way(ip, given, True) if given and ip.next_hop(given[3:7]) is not None else None


def arrived(connection, frame):
    """Keeps the way back of a segment for a connection that the peer has opened (MUST-53); a later one replaces it (SHLD-24)."""
    way = connection.way
    if way is None and connection.local[1] not in connection.tcp.listeners or way is not None and not way.received:
        return
    new = back(connection.tcp, frame)
    if new is not None and (way is None or way.given != new.given):
        use(connection, new)
