"""TCP (RFC 9293): the table of connections, listening ports, and segments that belong to none of them."""

import os
from array import array

from barenet import fast, late, ticks
from barenet.fast import ACK, CLOSED, FIN, RST, SYN, TIME_WAIT
from barenet.ip import ANY
from micropython import const

PROTOCOL = const(6)
CONNECTIONS = const(64)
BUFFER = const(5840)  # 4 segments: half of what 8 receive frames hold, and two such buffers find room in a heap in use
BUFFER_MIN = const(536)
BUFFER_MAX = const(0xFFFFF)


class TCP:
    """All connections of one interface.

    ip: the IP layer. words, objects: the fast path's context (pool.py). observer: None, or an object with changed(step, connection, before)
    and moved(connection, before, event) for tracing.
    """

    def __init__(self, ip):
        self.ip = ip
        pool = ip.link.pool
        self.words = pool.words
        self.objects = pool.objects
        self.observer = None
        self.hidden = None  # finds connections that segments are not looked up for, once there are some: see ip_options.py
        self.listeners = {}
        self.connections = self.objects[fast.O_CONNECTIONS] = []
        self.tcbs = self.objects[fast.O_TCBS] = []
        self.rcv = self.objects[fast.O_RCV] = []
        self.snd = self.objects[fast.O_SND] = []
        self.keys = self.objects[fast.O_KEYS] = array("I", [0] * (2 * CONNECTIONS))
        self.objects[fast.O_LOOKUP] = bytearray(257)
        self.congestion = self._connection = None  # a congestion control, and the class of connections, once they are loaded
        self.secret = bytearray(os.urandom(34))  # 22 bytes, and behind them what fast.key() has put there
        self.time_waits = None  # the table of time_wait.py, once there are some to put in
        self.challenged = 0
        self.challenges = 0
        self.drops = {
            "short": 0,
            "header length": 0,
            "checksum": 0,
            "not unicast": 0,
            "source": 0,
            "no connection": 0,
            "backlog full": 0,
            "backlog full, cookie sent": 0,
            "out of memory": 0,
            "reset out of window": 0,
            "no ACK": 0,
            "challenge limit": 0,
        }
        ip.handlers[PROTOCOL] = self.input
        ip.errors[PROTOCOL] = self.error
        ip.arp.changed.append(self._mac_changed)

    def use_congestion(self, congestion):
        """Sets the congestion control of all connections: see congestion.py."""
        self.congestion = congestion
        self.words[fast.C_BETA] = congestion.BETA

    def create(self, rcvbuf=BUFFER, sndbuf=BUFFER):
        """Returns a new Connection, CLOSED: its control block is reserved; the buffers follow when it opens.

        rcvbuf, sndbuf: their sizes, bytes, brought into 536..1048575.
        """
        if rcvbuf != BUFFER or sndbuf != BUFFER:
            rcvbuf = min(max(rcvbuf, BUFFER_MIN), BUFFER_MAX)
            sndbuf = min(max(sndbuf, BUFFER_MIN), BUFFER_MAX)
        if self._connection is None:
            if self.congestion is None:
                self.use_congestion(late.load("tcp.congestion"))
            module = late.load("tcp.connection")
            self.objects[fast.O_FREE] = module.NEW
            self._connection = module.Connection
        connection = self._connection(self, rcvbuf, sndbuf)
        if self.observer is not None:
            self.observer.moved(connection, CLOSED, "create")
        return connection

    def listen(self, port, backlog, address=ANY, rcvbuf=BUFFER, sndbuf=BUFFER):
        """Opens a port (0: a free one) for others; returns its Listener. Raises OSError(EADDRINUSE) when somebody listens on it."""
        return late.load("tcp.listener").listen(self, address, port, backlog, rcvbuf, sndbuf)

    def input(self, frame, start, end, source, destination, now):
        """Takes one segment, frame[start:end], that the fast path did not handle."""
        if end - start < 20:
            self.drops["short"] += 1
            return
        header_end = start + (frame[start + 12] >> 4 << 2)
        if header_end < start + 20 or header_end > end:
            self.drops["header length"] += 1
            return
        if not self.ip.is_ours(destination):
            self.drops["not unicast"] += 1
            return
        n = end - start
        if fast.add(frame, fast.add(frame, (PROTOCOL << 8) + (n >> 8 | (n & 0xFF) << 8), 8, 26), n, start) != 0xFFFF:
            self.drops["checksum"] += 1
            return
        flags = frame[start + 13]
        slot = fast.lookup(self.objects, frame, start)
        above = None
        port = frame[start + 2] << 8 | frame[start + 3]
        if slot >= 0:
            connection = self.connections[slot]
            if connection.state != TIME_WAIT or not connection.reopens(frame, start, header_end, flags):
                connection.input(frame, start, end, flags, now)
                return
            above = connection.tcb[fast.SND_NXT]
            connection._end(0, "timeout")
        elif self.time_waits is not None:
            at = self.time_waits.find(frame, start, now)
            if at:
                above = self.time_waits.input(at, self, frame, start, header_end, flags, port in self.listeners, now)
                if above is None:
                    return
        if source[0] == 0 or frame[0] & 1 or self.ip.next_hop(source) is None:
            # Nobody to answer to (RFC 9293 section 3.9.2.3, MUST-57 and MUST-63), or no way there.
            self.drops["source"] += 1
            return
        listener = self.listeners.get(port)
        if listener is None or not listener.input(frame, start, end, header_end, flags, source, destination, above, now):
            self.drops["no connection"] += 1
            if not flags & RST:
                text = end - header_end + (1 if flags & SYN else 0) + (1 if flags & FIN else 0)
                self.reset(frame, start, text, fast.number(frame, start + 8) if flags & ACK else None, source, now)

    def take(self, frame, now):
        """Takes a segment whose headers fast.receive() has looked at; returns False when the layers below must look."""
        known = self.words[fast.C_KNOWN]
        if known != fast.SEVERAL:
            self.connections[known - 1].input(frame, 34, self.words[fast.C_SEGMENT_END], frame[47], now)
            return True
        listener = self.listeners.get(fast.knock(self.words, self.objects, frame, self.ip.link.mac))
        return listener is not None and listener.knock(frame, now)

    def error(self, code, destination, header, now):
        """An ICMP error or a failed neighbour look-up for a segment of ours; `header` is at least its first 8 bytes.

        Returns True when a connection believes it: it quotes a sequence number in flight (RFC 5927 section 4.1).
        """
        local_port = header[0] << 8 | header[1]
        remote = (destination, header[2] << 8 | header[3])
        seq = fast.number(header, 4)
        for connection in self.connections:
            if connection is not None and connection.remote == remote and connection.local[1] == local_port:
                if connection.in_flight(seq):
                    connection.failed(code, now)
                    return True
        return False

    def poll(self, now):
        """Runs expired timers and sends what waited for a free transmit descriptor."""
        words = self.words
        if ticks.reached(now, words[fast.C_NEXT_TIMER]):
            slot = fast.expired(words, self.objects, 0, now)
            while slot >= 0:
                self.connections[slot].expire(now)
                slot = fast.expired(words, self.objects, slot + 1, now)
        if words[fast.C_SETTLE]:
            slot = fast.settle(words, self.objects, 0, now)
            while slot >= 0:
                self.connections[slot].settle(now)
                slot = fast.settle(words, self.objects, slot + 1, now)
            words[fast.C_OUTPUT] = words[fast.C_OUTPUT] or fast.SEVERAL
        if words[fast.C_OUTPUT]:
            words[fast.C_OUTPUT] = 0
            for connection in self.connections:
                if connection is not None and connection.tcb[fast.FLAGS] & (fast.FLAG_OUTPUT | fast.FLAG_ACK_NOW):
                    connection.output(now)

    def reset(self, frame, start, text, ack, source, now):
        """Answers a segment that belongs to no connection with RST (RFC 9293 section 3.10.7.1).

        text: its length in sequence numbers; ack: its acknowledgement number, or None without ACK.
        """
        remote = (source, frame[start] << 8 | frame[start + 1])
        local = (bytes(frame[30:34]), frame[start + 2] << 8 | frame[start + 3])
        if ack is not None:
            self.send_control(self.block(local, remote, 0, 0), source, RST, ack, now)
        else:
            ack = (fast.number(frame, start + 4) + text) & 0xFFFFFFFF
            self.send_control(self.block(local, remote, ack, 0), source, RST | ACK, 0, now)

    def block(self, local, remote, ack, window):
        """Returns a control block for one segment that belongs to no connection. ack, window: what that tells the peer."""
        tcb = array("I", bytearray(4 * fast.TCB_WORDS))
        tcb[fast.TEMPLATE + 3] = fast.IPV4
        tcb[fast.TEMPLATE + 5] = fast.TCP_DF
        tcb[fast.TEMPLATE + 4] = self.ip.identification << 16
        self.ip.identification = self.ip.identification + 1 & 0xFFFF
        tcb[fast.RCV_NXT] = ack
        tcb[fast.RCV_ADV] = (ack + window) & 0xFFFFFFFF
        self.name(tcb, local, remote)
        return tcb

    def name(self, tcb, local, remote):
        """Makes the header template of a control block. local, remote: (address of 4 bytes, port), which then stand in `secret`, as they arrive."""
        fast.key(self.secret, local[0], local[1], remote[0], remote[1])
        fast.address(tcb, self.ip.link.mac, self.secret)

    def send_control(self, tcb, destination, flags, seq, now, way=None):
        """Sends one segment without text, made from a control block, out of fast.output()'s order.

        way: of its IP options (tcp/ip_options.py), or None. Raises OSError(EHOSTUNREACH) without a route.
        """
        ip = self.ip
        mac = ip.neighbour_mac(destination, now) if way is None else None
        frame = bytearray(fast.CONTROL) if mac is None else ip.link.pool.transmit_frame() or ip.link.begin()
        if frame is None:
            return
        if mac is not None:
            fast.copy(tcb, mac, 6, fast.TEMPLATE * 4, 0)
        end = fast.control(self.words, tcb, frame, flags, seq, ip.mtu - 40)
        if mac is not None:
            fast.send(self.words, self.objects, end)
        elif way is None:
            ip.hold(frame[14:end], destination, now)
        else:
            way.send(frame[14:end], now)

    def abort_all(self, now):
        """Resets every connection (the interface goes down, or our address changes). Listening ports stay: they serve the next address."""
        for listener in self.listeners.values():
            listener.clear(now)
        for connection in self.connections:
            if connection is not None:
                connection.abort(now)
        self.objects[fast.O_RING] = None

    def _mac_changed(self, address, mac):
        for connection in self.connections:
            if connection is not None and self.ip.next_hop(connection.remote[0]) == address:
                connection.use_mac(mac)
