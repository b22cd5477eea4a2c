"""What a program's UDP socket stands on. Loaded for the first of them."""

from barenet import fast
from barenet.errors import EACCES, EADDRINUSE, EADDRNOTAVAIL, EDESTADDRREQ, EINVAL, EMSGSIZE, ENOMEM
from barenet.ip import ANY
from micropython import const

_RECORD = const(8)  # in the receive buffer each datagram follows its length, source address and source port
_RCVBUF_MIN = const(256)


class Endpoint:
    """A port, perhaps a peer, and a bounded queue of received datagrams.

    The queue is a ring of `rcvbuf` bytes, allocated when the endpoint gets its port; each datagram takes its length and
    8 bytes. A datagram that does not fit is dropped and counted. Nothing is allocated for a datagram that arrives or is
    taken.
    """

    def __init__(self, udp, rcvbuf):
        self.udp = udp
        self.address = ANY
        self.port = 0
        self.remote = None
        self.remote_port = 0
        self.broadcast = False  # SO_BROADCAST
        self.ttl = 64
        self.tos = 0
        self.group_ttl = 1  # IP_MULTICAST_TTL
        self.loop = True  # IP_MULTICAST_LOOP
        self.error = 0
        self.dropped = 0
        # Who sent the datagram that was taken last.
        self.sender = bytearray(4)
        self.sender_port = 0
        self._record = bytearray(_RECORD)
        self._ring = None
        self._size = max(rcvbuf, _RCVBUF_MIN)
        self._head = 0
        self._used = 0

    def bind(self, address=ANY, port=0):
        """Take a local port, an ephemeral one if `port` is 0, on all our addresses or on one.

        Raises OSError(EADDRINUSE) when the port has an owner, OSError(EADDRNOTAVAIL) when the address is not ours,
        OSError(ENOMEM) when there is no room for the receive buffer, OSError(EINVAL) when this endpoint has a port.
        """
        udp = self.udp
        if self.port:
            raise OSError(EINVAL, "this socket is already bound")
        if not 0 <= port < 65536:
            raise OSError(EINVAL, "a UDP port lies between 0 and 65535")
        if address != ANY and not udp.ip.is_ours(address):
            raise OSError(EADDRNOTAVAIL, "this is not an address of this board: bind to '0.0.0.0'")
        if port in udp.ports:
            raise OSError(EADDRINUSE, "UDP port {} is in use: close its socket or choose another".format(port))
        port = port or udp.free_port()
        self._ring = _allocate(self._size)
        self.address = address
        self.port = port
        udp.ports[port] = self

    def connect(self, remote, port):
        """Fix the peer (RFC 1122 section 4.1.3.5).

        `send` needs no destination any more, and only the peer's datagrams and errors are received.

        Raises OSError(EACCES) for a broadcast address without SO_BROADCAST, OSError(EINVAL) for port 0.
        """
        if not 0 < port < 65536:
            raise OSError(EINVAL, "a UDP port lies between 1 and 65535")
        self._may_send_to(remote)
        if not self.port:
            self.bind()
        self.remote = bytes(remote)
        self.remote_port = port
        self.error = 0

    def send(self, data, destination, port, now):
        """Send `data` (bytes-like) as one datagram.

        It goes to the address `destination` and `port`, or to the peer if `destination` is None.

        Returns False when the transmit ring is full. Raises a pending error of the peer (OSError(ECONNREFUSED) after a
        port unreachable), OSError(EACCES) for a broadcast without SO_BROADCAST, OSError(EDESTADDRREQ) without
        destination and peer, and what `UDP.send` raises.
        """
        self.raise_error()
        if destination is None:
            destination = self.remote
            port = self.remote_port
            if destination is None:
                raise OSError(EDESTADDRREQ, "this socket is not connected: use sendto() or connect() it first")
        else:
            self._may_send_to(destination)
        if not self.port:
            self.bind()
        source = None if self.address == ANY else self.address
        ttl = self.group_ttl if destination[0] & 0xF0 == 0xE0 else self.ttl
        return self.udp.send(self.port, destination, port, data, now, source, ttl, self.tos, self.loop)

    def readable(self):
        """Return True when `take` would return a datagram or raise."""
        return self._used > 0 or self.error != 0

    def next_length(self):
        """Return the number of bytes in the oldest waiting datagram, or -1 when none waits."""
        if not self._used:
            return -1
        self._copy_out(0, self._record, 2)
        return self._record[0] << 8 | self._record[1]

    def take(self, buffer, n, peek=False):
        """Copy the oldest datagram to the start of `buffer`, at most `n` bytes of it; the rest is lost.

        Allocates nothing. Returns the number of bytes copied, or -1 when no datagram waits; the sender is then in
        `sender` and `sender_port`. With `peek` the datagram also stays. Raises a pending error of the peer when no
        datagram waits.
        """
        if not self._used:
            self.raise_error()
            return -1
        record = self._record
        self._copy_out(0, record, _RECORD)
        length = record[0] << 8 | record[1]
        fast.copy(self.sender, record, 4, 0, 2)
        self.sender_port = record[6] << 8 | record[7]
        n = min(n, length)
        self._copy_out(_RECORD, buffer, n)
        if not peek:
            length += _RECORD
            self._head = (self._head + length) % self._size
            self._used -= length
        return n

    def receive_into(self, buffer, n, peek=False):
        """Do as `take` does, but return (length, source, port), or None when no datagram waits."""
        n = self.take(buffer, n, peek)
        return None if n < 0 else (n, bytes(self.sender), self.sender_port)

    @property
    def rcvbuf(self):
        """The size of the receive buffer in bytes (SO_RCVBUF). It does not become smaller than what waits in it."""
        return self._size

    @rcvbuf.setter
    def rcvbuf(self, size):
        size = max(size, _RCVBUF_MIN, self._used)
        if self._ring is not None:
            ring = _allocate(size)
            self._copy_out(0, ring, self._used)
            self._ring = ring
            self._head = 0
        self._size = size

    def raise_error(self):
        """Raise the pending error as an OSError, if there is one, and forget it."""
        if self.error:
            code = self.error
            self.error = 0
            raise OSError(code)

    def close(self):
        """Give the port and the memory back. Safe to call twice."""
        if self.port:
            del self.udp.ports[self.port]
        self.port = 0
        self._ring = None
        self._used = self._head = 0

    def receive(self, frame, start, end, source, port, destination, now):
        """Queue a datagram; see the top of udp.py."""
        if self.remote is not None and (port != self.remote_port or source != self.remote):
            # What comes from a broadcast's or a group's members is an answer, too.
            if port != self.remote_port or not self._is_group(self.remote):
                self.udp.drops["peer"] += 1
                return False
        if self.address != ANY and destination != self.address and not self._is_group(destination):
            self.udp.drops["port"] += 1
            return False
        length = end - start
        if self._size - self._used < _RECORD + length:
            self.udp.drops["full"] += 1
            self.dropped += 1
            return True
        record = self._record
        record[0] = length >> 8
        record[1] = length & 255
        fast.copy(record, source, 4, 2, 0)
        record[6] = port >> 8
        record[7] = port & 255
        self._copy_in(record, 0, _RECORD)
        self._copy_in(frame, start, length)
        return True

    def failed(self, code, destination, port, now):
        """Keep an error of the peer for the next `send` or `take` (RFC 1122 section 4.1.3.3)."""
        if port == self.remote_port and destination == self.remote and code != EMSGSIZE:
            self.error = code

    def _is_group(self, address):
        return address[0] >= 224 or self.udp.ip.is_broadcast(address)

    def _may_send_to(self, address):
        if not self.broadcast and self.udp.ip.is_broadcast(address):
            raise OSError(EACCES, "set SO_BROADCAST before sending to a broadcast address")

    def _copy_in(self, source, start, n):
        size = self._size
        at = (self._head + self._used) % size
        first = min(n, size - at)
        fast.copy(self._ring, source, first, at, start)
        fast.copy(self._ring, source, n - first, 0, start + first)
        self._used += n

    def _copy_out(self, skip, target, n):
        size = self._size
        at = (self._head + skip) % size
        first = min(n, size - at)
        fast.copy(target, self._ring, first, 0, at)
        fast.copy(target, self._ring, n - first, first, 0)


def _allocate(size):
    try:
        return bytearray(size)
    except MemoryError:
        raise OSError(ENOMEM, "no room for a receive buffer of {} bytes: set a smaller SO_RCVBUF".format(size))
