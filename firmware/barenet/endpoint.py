"""What a program's UDP socket stands on. Loaded for the first of them."""

from array import array

from barenet import fast, fast_udp, ticks
from barenet.arp import AGE
from barenet.errors import EACCES, EADDRINUSE, EADDRNOTAVAIL, EDESTADDRREQ, EINVAL, EMSGSIZE, ENOMEM
from barenet.fast_udp import (
    E_CONTEXT,
    E_DROPPED,
    E_EXPIRES,
    E_HEAD,
    E_LOCAL,
    E_MOST,
    E_NEXT,
    E_PORT,
    E_REMOTE,
    E_REMOTE_PORT,
    E_RING,
    E_SIZE,
    E_SLOT,
    E_USED,
)
from barenet.ip import ANY, HEADER, as_word
from micropython import const

_RECORD = const(8)  # as long as the UDP header: see the top of fast_udp.py
_RCVBUF_MIN = const(256)

_NOBODY = object()
_record = bytearray(_RECORD)


class Endpoint:
    """A port, perhaps a peer, and a bounded queue of received datagrams.

    The queue is a ring of `rcvbuf` bytes, allocated when the endpoint gets its port; each datagram takes its length, in
    whole words, and 8 bytes. A datagram that does not fit is dropped and counted. Nothing is allocated for a datagram that arrives or is
    taken.

    words: array('I'), named in fast_udp.py. target: what the program calls the destination that fast_udp.push() sends to. source: what it calls the sender of the datagram that was taken last; 0 after another.
    rcvbuf: size of the receive buffer in bytes. way: of its datagrams, when they have IP options (ip_options.py). owner: what stands in UDP.ports for it (ancillary.py).
    """

    way = None
    owner = None
    address = ANY
    port = 0
    remote = None
    remote_port = 0
    broadcast = False  # SO_BROADCAST
    ttl = 64
    tos = 0
    group_ttl = 1  # IP_MULTICAST_TTL
    loop = True  # IP_MULTICAST_LOOP
    error = 0
    ring = None
    target = _NOBODY
    source = 0
    pull = fast_udp.pull
    text = fast_udp.text

    def __init__(self, udp, rcvbuf):
        self.udp = udp
        self.objects = udp.ip.link.pool.objects
        self.words = array("I", bytes(4 * fast_udp.E_WORDS))
        fast.point(self.words, E_CONTEXT, udp.ip.link.pool.words)
        self.rcvbuf = max(rcvbuf, _RCVBUF_MIN)

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
        ring = self.ring = _allocate(self.rcvbuf)
        self.address = address
        self.port = port
        words = self.words
        words[E_SIZE] = len(ring)
        words[E_PORT] = _halfword(port)
        words[E_LOCAL] = as_word(address)
        udp.ports[port] = self.owner or self
        chain(udp)

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
        self.words[E_REMOTE] = as_word(remote)
        self.words[E_REMOTE_PORT] = _halfword(port)
        self.error = 0
        self.forget()

    def send(self, data, destination, port, now, target=None):
        """Send `data` (bytes-like) as one datagram.

        It goes to the address `destination` and `port`, or to the peer if `destination` is None. What goes to the same
        destination next may leave by fast_udp.push(), if `target` is what the program calls it.

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
        ip = self.udp.ip
        context = ip.link.pool.words
        queued = context[fast.C_FRAMES_OUT]
        send = self.udp.send if self.way is None else self.way.through(self.udp.send)
        sent = send(self.port, destination, port, data, now, source, ttl, self.tos, self.loop)
        self.forget()
        if sent and self.way is None and context[fast.C_FRAMES_OUT] != queued:
            neighbour = ip.arp.cache.get(ip.next_hop(destination))
            if neighbour is not None and neighbour.tries == 0 and fast_udp.learn(context, self.words):
                self.words[E_MOST] = ip.path_mtu(destination) - HEADER - _RECORD
                self.words[E_EXPIRES] = ticks.add(neighbour.confirmed, AGE)
                self.target = _NOBODY if target is None else target
        return sent

    def readable(self):
        """Return True when a datagram or an error of the peer waits."""
        return self.words[E_USED] > 0 or self.error != 0

    def next_length(self):
        """Return the number of bytes in the oldest waiting datagram, or -1 when none waits."""
        words = self.words
        if not words[E_USED]:
            return -1
        ring = self.ring
        size = words[E_SIZE]
        at = (words[E_HEAD] + 4) % size
        return (ring[at + 2] << 8 | ring[at + 3]) - _RECORD

    def sender(self):
        """Return (address, port) of the sender of the datagram that was taken last."""
        record = bytes(memoryview(self.words)[fast_udp.E_RECORD : fast_udp.E_RECORD + 2])
        return record[2:6], record[0] << 8 | record[1]

    def resize(self, size):
        """Set the size of the receive buffer in bytes (SO_RCVBUF). It does not become smaller than what waits in it.

        Raises OSError(ENOMEM) when there is no room for it.
        """
        words = self.words
        used = words[E_USED]
        size = max(size, _RCVBUF_MIN, used)
        if self.ring is not None:
            ring = _allocate(size)
            first = min(used, words[E_SIZE] - words[E_HEAD])
            fast.copy(ring, self.ring, first, 0, words[E_HEAD])
            fast.copy(ring, self.ring, used - first, first, 0)
            self.ring = ring
            words[E_SIZE] = len(ring)
            words[E_HEAD] = 0
            chain(self.udp)
        self.rcvbuf = size

    def raise_error(self):
        """Raise the pending error as an OSError, if there is one, and forget it."""
        if self.error:
            code = self.error
            self.error = 0
            raise OSError(code)

    def forget(self):
        """Let the next datagram go through `send`: a setting has changed."""
        self.target = _NOBODY

    def stop(self):
        """Forget what waits, and receive nothing more."""
        self.words[E_SIZE] = self.words[E_USED] = self.words[E_SLOT] = 0
        self.ring = None
        chain(self.udp)

    def close(self):
        """Give the port and the memory back. Safe to call twice."""
        if self.port:
            del self.udp.ports[self.port]
        self.port = 0
        self.forget()
        self.stop()

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
        length = end - start + _RECORD
        words = self.words
        if words[E_SIZE] - words[E_USED] < length:
            self.udp.drops["full"] += 1
            words[E_DROPPED] += 1
            return True
        record = _record
        record[0] = port >> 8
        record[1] = port & 255
        fast.copy(record, source, 4, 2, 0)
        record[6] = length >> 8
        record[7] = length & 255
        self._copy_in(record, 0, _RECORD)
        self._copy_in(frame, start, end - start)
        words[E_USED] = _words(words[E_USED])
        return True

    def failed(self, code, destination, port, now):
        """Keep an error of the peer for the next call (RFC 1122 section 4.1.3.3)."""
        self.forget()
        if port == self.remote_port and destination == self.remote and code != EMSGSIZE:
            self.error = code

    def _is_group(self, address):
        return address[0] >= 224 or self.udp.ip.is_broadcast(address)

    def _may_send_to(self, address):
        if not self.broadcast and self.udp.ip.is_broadcast(address):
            raise OSError(EACCES, "set SO_BROADCAST before sending to a broadcast address")

    def _copy_in(self, source, start, n):
        words = self.words
        size = words[E_SIZE]
        at = (words[E_HEAD] + words[E_USED]) % size
        first = min(n, size - at)
        fast.copy(self.ring, source, first, at, start)
        fast.copy(self.ring, source, n - first, 0, start + first)
        words[E_USED] += n


def _words(n):
    return n + 3 & ~3


def _halfword(port):
    return port >> 8 | (port & 255) << 8


def chain(udp):
    """Show the fast path the endpoints that have a port and stand in UDP.ports themselves."""
    pool = udp.ip.link.pool
    objects = pool.objects
    words = pool.words
    at = fast.C_ENDPOINT
    number = fast.TAKE_DATAGRAM
    first = None
    for owner in udp.ports.values():
        if isinstance(owner, Endpoint):
            fast.point(words, at, owner.words)
            words = owner.words
            first = first or words
            at = E_NEXT
            number += 1
            words[E_SLOT] = number
            if owner.ring is not None:
                fast.point(words, E_RING, owner.ring)
    words[at] = words[at + 1] = 0
    objects[fast.O_ENDPOINT] = first
    objects[fast.O_DATAGRAMS] = fast_udp.take


def _allocate(size):
    try:
        return bytearray(_words(size))
    except MemoryError:
        raise OSError(ENOMEM, "no room for a receive buffer of {} bytes: set a smaller SO_RCVBUF".format(size))
