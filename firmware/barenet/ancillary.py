"""What else is known of a datagram: recvmsg(), and the options IP_PKTINFO and IP_RECVOPTS (RFC 1122 sections 4.1.3.2 and 4.1.3.5). Loaded when needed.

A UDP socket with one of these options stands in UDP.ports as its `Owner`, which keeps it out of the fast path's chain: plain Python queues its
datagrams, and beside them a note of each.
"""

import struct

from barenet.endpoint import chain
from barenet.fast_udp import E_DROPPED, E_HEAD, E_SIZE, E_SLOT, E_USED
from barenet.socket import IP_PKTINFO, IP_RECVOPTS, IPPROTO_IP, MSG_CTRUNC, MSG_PEEK, MSG_TRUNC
from micropython import const

_NOTES = const(32)
_ITEM = const(12)  # the size of a cmsghdr
_INTERFACE = const(1)  # there is one


class Owner:
    """Takes the datagrams of `endpoint` and notes where each was sent to and its IP options. packet, options: what recvmsg() shows."""

    def __init__(self, endpoint):
        self.endpoint = endpoint
        self.packet = self.options = False
        self._notes = []  # of the datagrams that came last: destination and options

    def receive(self, frame, start, end, source, port, destination, now):
        """Queues a datagram; see the top of udp.py. As many notes as there may be bound the number of datagrams, too."""
        endpoint = self.endpoint
        words = endpoint.words
        if len(self._notes) == _NOTES:
            self._forget_taken()
            if len(self._notes) == _NOTES:
                endpoint.udp.drops["full"] += 1
                words[E_DROPPED] += 1
                return True
        note = destination + bytes(frame[34 : 14 + ((frame[14] & 15) << 2)])
        used = words[E_USED]
        wanted = endpoint.receive(frame, start, end, source, port, destination, now)
        if words[E_USED] != used:
            self._notes.append(note)
        return wanted

    def failed(self, code, destination, port, now):
        """See the top of udp.py."""
        self.endpoint.failed(code, destination, port, now)

    def note(self):
        """Returns the note of the datagram that is read next, b"" when there is none: it came before."""
        return self._notes[0] if self._forget_taken() else b""

    def _forget_taken(self):
        # A program may also read without asking for notes. Returns whether the first one is of the datagram that is read next.
        endpoint = self.endpoint
        ring = endpoint.ring
        size = endpoint.words[E_SIZE]
        at = endpoint.words[E_HEAD]
        end = at + endpoint.words[E_USED]
        waiting = 0
        while at < end:
            at += (ring[(at + 6) % size] << 8 | ring[(at + 7) % size]) + 3 & ~3
            waiting += 1
        taken = len(self._notes) - waiting
        if taken > 0:
            self._notes = self._notes[taken:]
        return waiting > 0 and taken >= 0


def use(endpoint, packet, options):
    """Makes recvmsg() show what IP_PKTINFO (packet) and IP_RECVOPTS (options) stand for, as far as these are true."""
    owner = endpoint.owner
    if owner is None:
        if not (packet or options):
            return
        owner = endpoint.owner = Owner(endpoint)
        if endpoint.port:
            endpoint.udp.ports[endpoint.port] = owner
            endpoint.words[E_SLOT] = 0
            chain(endpoint.udp)
    owner.packet = packet
    owner.options = options


def receive(sock, n, room, flags):
    """See socket.recvmsg()."""
    endpoint = sock._endpoint
    if endpoint is None:
        return sock.recv(n, flags), [], 0, None
    length = sock._ready(flags)
    owner = endpoint.owner
    told = []
    seen = 0
    stack = sock._stack
    stack.enter()
    try:
        note = owner.note() if owner is not None and endpoint.ring is not None else b""
        buffer = bytearray(min(max(n, 0), length))
        endpoint.pull(buffer, -1, flags & MSG_PEEK)
    finally:
        stack.leave()
    items = []
    if note and owner.packet:
        destination = note[:4]
        ip = stack.ip
        local = destination if ip.is_ours(destination) else ip.address
        items.append((IPPROTO_IP, IP_PKTINFO, struct.pack("<I", _INTERFACE) + local + destination))
    if len(note) > 4 and owner.options:
        items.append((IPPROTO_IP, IP_RECVOPTS, note[4:]))
    for item in items:
        if room < _ITEM + len(item[2]):
            seen |= MSG_CTRUNC
        else:
            room -= _ITEM + (len(item[2]) + 3 & ~3)
            told.append(item)
    if length > len(buffer):
        seen |= MSG_TRUNC
    return bytes(buffer), told, seen, sock._sender()
