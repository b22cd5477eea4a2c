"""Fragments (RFC 791, RFC 815, RFC 1122 sections 3.3.2 and 3.3.3): datagrams larger than the MTU, taken apart and put together.

Loaded when the first fragment arrives or the first oversized datagram leaves.

What waits to be complete is bounded: three datagrams, 9 KB, 60 s (RFC 1122 section 3.3.2 recommends 60 to 120 s); the oldest makes room. A datagram
whose fragments overlap is dropped whole, with what still comes of it, because overlaps exist in attacks only (RFC 5722 says so for
IPv6); a fragment that came twice is no overlap. A datagram that was put together has the options of its first fragment.
"""

from barenet import fast, ticks
from barenet.arp import PENDING
from barenet.errors import EMSGSIZE
from barenet.ip import ETHERTYPE, HEADER
from micropython import const

_DATAGRAMS = const(3)
_BYTES = const(9216)
_OVERHEAD = const(48)  # bytes of heap that a fragment takes besides its data
_TIMEOUT = const(60_000)
_LONGEST = const(65535 - 20)  # data of one datagram without options
# A first fragment holds the ports and the flags of TCP (RFC 1858 section 3.2); every link carries 48 bytes of data (RFC 791).
_TINY = const(24)
_MORE = const(0x2000)
_TIME_EXCEEDED = const(11)
_REASSEMBLY = const(1)


class _Datagram:
    def __init__(self, key, source, now):
        self.key = key
        self.source = source
        self.began = now
        self.head = None  # Ethernet and IP header of the fragment at offset 0
        self.parts = []  # (offset, data), in order; None: dropped
        self.length = 0  # bytes that have come
        self.end = 0  # bytes it will have, 0 while the last fragment is missing
        self.held = 0


class Part:
    """Fragmentation and reassembly for the IP layer `ip`."""

    name = "fragments"

    def __init__(self, ip):
        self.ip = ip
        self.drops = {
            "odd": 0,
            "tiny": 0,
            "oversize": 0,
            "duplicate": 0,
            "overlap": 0,
            "no room": 0,
            "timeout": 0,
            "rest": 0,
        }
        self._datagrams = []  # the oldest first

    def receive(self, frame, header, total, source, destination, now):
        """Keeps one fragment; returns the whole datagram as a frame of its own when it is complete, else None.

        header: length of the IP header, total: of the packet.
        """
        offset = (frame[20] & 0x1F) << 11 | frame[21] << 3
        more = frame[20] & 0x20
        size = total - header
        if size == 0 or (more and size & 7):
            return self._drop("odd")
        if header + offset + size > 65535:
            return self._drop("oversize")
        if size < _TINY and more:
            return self._drop("tiny")
        datagram = self._find(bytes(frame[18:20]) + bytes(frame[23:24]) + source + destination, source, now)
        if datagram.parts is None:
            return self._drop("rest")
        reason = None
        try:
            start = 14 + header
            reason = self._keep(datagram, offset, bytes(frame[start : start + size]), more)
            if offset == 0 and reason is None:
                datagram.head = bytearray(frame[0:start])
            if datagram.length == datagram.end and reason is None:
                self._datagrams.remove(datagram)
                return self._assemble(datagram, datagram.end)
        except MemoryError:
            reason = "no room"
        if reason:
            self.drops[reason] += 1
            if reason != "duplicate":
                datagram.parts = None
                datagram.held = 0
        return None

    def send(self, protocol, destination, header, payload, now, source, ttl, tos, mac, hop):
        """Sends header + payload in fragments; as IP.output(), which has looked up `mac` or else `hop`.

        Returns False when some of them could not be sent: the transmit ring stays full, or they are more than may wait for a neighbour's
        address, which is being asked for.
        """
        ip = self.ip
        length = len(header) + len(payload)
        if length > _LONGEST:
            raise OSError(EMSGSIZE, "a datagram has at most 65,507 bytes")
        step = ip.path_mtu(destination) - HEADER & ~7
        if mac is None and not ip.is_ours(destination):
            waiting = sum(len(neighbour.pending) for neighbour in ip.arp.cache.values())
            if waiting + (length + step - 1) // step > PENDING:
                ip.arp.ask(hop, now)
                return False
        for offset in range(0, length, step):
            size = min(step, length - offset)
            at = 0
            if mac is None:
                packet = bytearray(HEADER + size)
            else:
                packet = ip.link.begin()
                if packet is None:
                    return False
                at = 14
            more = _MORE if offset + size < length else 0
            packet[at : at + HEADER] = ip.prepare(HEADER + size, more | offset >> 3, protocol, destination, source, ttl, tos)
            at += HEADER
            front = max(0, min(size, len(header) - offset))
            packet[at : at + front] = header[offset : offset + front]
            fast.copy(packet, payload, size - front, at + front, offset + front - len(header))
            if mac is not None:
                ip.link.send(packet, mac, ETHERTYPE, at + size)
            elif not (ip.loop(packet) if ip.is_ours(destination) else ip.arp.resolve(hop, packet, now)):
                return False
        return True

    def poll(self, now):
        """Gives up on datagrams that have waited for too long, and tells who sent their first fragment."""
        while self._datagrams and not 0 <= ticks.diff(now, self._datagrams[0].began) < _TIMEOUT:
            datagram = self._datagrams.pop(0)
            if datagram.parts is None:
                continue
            self.drops["timeout"] += 1
            if datagram.head is not None and self.ip.unreachable is not None:
                self.ip.unreachable(self._assemble(datagram, 8), datagram.source, _REASSEMBLY, now, _TIME_EXCEEDED)

    def _drop(self, reason):
        self.drops[reason] += 1

    def _find(self, key, source, now):
        for datagram in self._datagrams:
            if datagram.key == key:
                return datagram
        if len(self._datagrams) == _DATAGRAMS:
            self._evict(self._datagrams[0])
        datagram = _Datagram(key, source, now)
        self._datagrams.append(datagram)
        return datagram

    def _evict(self, datagram):
        if datagram.parts is not None:
            self.drops["no room"] += 1
        self._datagrams.remove(datagram)

    def _keep(self, datagram, offset, data, more):
        # Returns the reason why the datagram is dropped (or "duplicate"), or None.
        parts = datagram.parts
        end = offset + len(data)
        i = 0
        while i < len(parts) and parts[i][0] < offset:
            i += 1
        if i < len(parts) and parts[i] == (offset, data):
            return "duplicate"
        last = parts[-1][0] + len(parts[-1][1]) if parts else 0
        if (
            (i > 0 and parts[i - 1][0] + len(parts[i - 1][1]) > offset)
            or (i < len(parts) and parts[i][0] < end)
            or (datagram.end and (not more or end > datagram.end))
            or (not more and last > end)
        ):
            return "overlap"
        need = len(data) + _OVERHEAD
        held = need + sum(other.held for other in self._datagrams)
        for other in list(self._datagrams):
            if held <= _BYTES:
                break
            if other is not datagram:
                held -= other.held
                self._evict(other)
        if held > _BYTES:
            return "no room"
        parts.insert(i, (offset, data))
        datagram.held += need
        datagram.length += len(data)
        if not more:
            datagram.end = end
        return None

    def _assemble(self, datagram, length):
        # Returns the first `length` bytes of the datagram's data behind its headers.
        start = len(datagram.head)
        frame = bytearray(start + length)
        frame[0:start] = datagram.head
        total = start - 14 + length
        frame[16] = total >> 8
        frame[17] = total & 255
        frame[20] = frame[21] = frame[24] = frame[25] = 0
        check = ~fast.add(frame, 0, start - 14, 14) & 0xFFFF
        frame[24] = check & 255
        frame[25] = check >> 8
        for offset, data in datagram.parts:
            if offset < length:
                fast.copy(frame, data, min(len(data), length - offset), start + offset, 0)
        return memoryview(frame)
