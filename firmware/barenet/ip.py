"""IPv4 (RFC 791, with the host requirements of RFC 1122 section 3): header checks, addresses, routes, loopback.

A packet that fits the path has DF set; what is larger, and fragments that arrive, are the matter of fragments.py. What is seldom needed is loaded
when it is needed and then stands in `IP.late`.
"""

import os

from barenet import ethernet, fast, late
from barenet.errors import EHOSTUNREACH, EMSGSIZE
from micropython import const

ETHERTYPE = const(0x0800)
MTU = const(1500)
HEADER = const(20)
ANY = b"\x00\x00\x00\x00"
LIMITED_BROADCAST = b"\xff\xff\xff\xff"
_DF = const(0x4000)
_ROUTER_ALERT = const(0x94)  # RFC 2113
_LOOPED = const(16)  # packets to ourselves that wait for the next poll


class IP:
    """The Internet layer of one interface.

    link: the Ethernet layer; arp: the neighbour cache.
    handlers: protocol → handler(frame, start, end, source, destination, now).
    errors: protocol → handler(code, destination, header, now) for ICMP errors and failed neighbour look-ups.
    unreachable: callable(frame, source, code, now, kind=3) that answers with ICMP destination unreachable (or another error), or None.
    mtu: of our own network. paths: destination → path MTU where a router told a smaller one (see path_mtu.py).
    late: parts that were loaded when they were needed: objects with `name`, `drops` and `poll(now)`, which the stack calls.
    looped: packets to ourselves, each a frame as if received, until the stack gives them to input() at its next poll.
    """

    def __init__(self, link, arp):
        self.link = link
        self.arp = arp
        self.address = ANY
        self.netmask = ANY
        self.gateway = ANY
        self.broadcast = LIMITED_BROADCAST
        self.groups = set()
        self.handlers = {}
        self.errors = {}
        self.unreachable = None
        self.mtu = MTU
        self.paths = {}
        self._destination = self._hop = None  # the last unicast that neighbour_mac() was asked for
        self.late = []
        self.looped = []
        self.identification = int.from_bytes(os.urandom(2), "big")
        self._header = bytearray(HEADER)
        self.drops = {
            "short": 0,
            "version": 0,
            "header length": 0,
            "total length": 0,
            "checksum": 0,
            "source": 0,
            "not for us": 0,
            "unknown protocol": 0,
            "loopback full": 0,
        }
        link.handlers[ETHERTYPE] = self.input
        arp.failed = self._neighbour_failed

    def configure(self, address, netmask, gateway, mtu=MTU):
        """Sets our address, netmask and default gateway (4 bytes each; ANY takes the address away), and the MTU of our network."""
        self.address = address
        self.netmask = netmask
        self.gateway = gateway
        self.mtu = mtu
        self.paths.clear()
        self._destination = None
        if address == ANY or netmask[3] >= 254:  # a network of two addresses has no broadcast address (RFC 3021), one of one has none either
            self.broadcast = LIMITED_BROADCAST
        else:
            self.broadcast = bytes(address[i] | ~netmask[i] & 0xFF for i in range(4))
        self.arp.address = address
        self.arp.flush()
        words = self.link.pool.words
        words[fast.C_ADDRESS] = as_word(address)
        words[fast.C_BROADCAST] = as_word(self.broadcast)

    def is_broadcast(self, address):
        """True for 255.255.255.255 and for the broadcast address of our network."""
        return address == LIMITED_BROADCAST or address == self.broadcast

    def is_ours(self, address):
        """True for our own address and for 127.0.0.0/8: packets to it come back to us and never reach the wire."""
        return address[0] == 127 or address == self.address != ANY

    def path_mtu(self, destination):
        """Returns the largest packet, IP header included, that may go to `destination` whole (RFC 1191)."""
        return self.paths.get(destination, self.mtu)

    def part(self, name):
        """Returns the late part `name`, the object that the module of this name makes from us; loads it when it is needed first."""
        for part in self.late:
            if part.name == name:
                return part
        part = late.load(name).Part(self)
        self.late.append(part)
        return part

    def input(self, frame, length, now, looped=False):
        """Checks one packet (RFC 1122 section 3.2.1) and takes it to the handler of its protocol. `looped`: it came from ourselves."""
        if length < ethernet.HEADER + HEADER:
            self.drops["short"] += 1
            return
        if frame[14] >> 4 != 4:
            self.drops["version"] += 1
            return
        header = (frame[14] & 15) << 2
        total = frame[16] << 8 | frame[17]
        if header < HEADER or header > total:
            self.drops["header length"] += 1
            return
        if total > length - ethernet.HEADER:
            self.drops["total length"] += 1
            return
        if fast.add(frame, 0, header, 14) != 0xFFFF:
            self.drops["checksum"] += 1
            return
        source = bytes(frame[26:30])
        destination = bytes(frame[30:34])
        if not looped:
            if source[0] >= 224 or source[0] == 127 or source == self.address != ANY or source == self.broadcast:
                self.drops["source"] += 1
                return
            # Without an address of our own (DHCP) every unicast that reached our MAC address may be the offer we wait for.
            if (destination != self.address and self.address != ANY) or destination[0] == 127:
                if not self.is_broadcast(destination) and destination not in self.groups:
                    self.drops["not for us"] += 1
                    return
        # A Router Alert concerns routers; all other options are worth a look.
        if header > HEADER and (header > 24 or frame[34] != _ROUTER_ALERT or frame[35] != 4):
            if not self.part("ip_options").arrived(frame, header, source, now):
                return
        if frame[20] & 0x3F or frame[21]:
            frame = self.part("fragments").receive(frame, header, total, source, destination, now)
            if frame is None:
                return
            header = (frame[14] & 15) << 2
            total = len(frame) - ethernet.HEADER
        handler = self.handlers.get(frame[23])
        if handler is None:
            self.drops["unknown protocol"] += 1
            if self.unreachable is not None:
                self.unreachable(frame, source, 2, now)
            return
        handler(frame, ethernet.HEADER + header, ethernet.HEADER + total, source, destination, now)

    def next_hop(self, destination):
        """Returns the neighbour that a packet for `destination` goes to, or None when there is no route."""
        if destination == LIMITED_BROADCAST or destination[0] == 127:
            return destination
        if self.address == ANY:
            return None
        if destination[0] == 169 and destination[1] == 254:
            return destination  # link-local addresses are never behind a router (RFC 3927 section 2.6.2)
        address = self.address
        netmask = self.netmask
        for i in range(4):
            if (destination[i] ^ address[i]) & netmask[i]:
                return None if self.gateway == ANY else self.gateway
        return destination

    def neighbour_mac(self, destination, now):
        """Returns the MAC address that a packet for `destination` is sent to, or None while it is unknown."""
        if destination != self._destination:
            if self.is_broadcast(destination):
                return ethernet.BROADCAST
            if destination[0] & 0xF0 == 0xE0:
                return b"\x01\x00\x5e" + bytes((destination[1] & 0x7F, destination[2], destination[3]))  # RFC 1112 6.4
            hop = self.next_hop(destination)
            if hop is None:
                return None
            self._destination = destination
            self._hop = hop
        return self.arp.lookup(self._hop, now)

    def output(self, protocol, destination, header, payload=b"", now=0, source=None, ttl=64, tos=0, whole=True, loop=False):
        """Sends one packet that carries header + payload (both bytes-like, copied).

        whole: it must arrive in one piece, or not at all; else it is sent in fragments when it is larger than the path allows.
        loop: a multicast to a group of our own comes back to us, too.
        Returns True when it was queued or waits for its neighbour's address, False when the transmit ring (or the queue of waiting packets)
        is full. Raises OSError: EHOSTUNREACH without a route, EMSGSIZE over the MTU, or over 65,535 bytes when it need not be whole.
        """
        total = HEADER + len(header) + len(payload)
        if source is None:
            source = destination if destination[0] == 127 else self.address
        mtu = self.paths.get(destination, self.mtu)
        if total > mtu and whole:
            raise OSError(EMSGSIZE, "the packet is larger than the MTU")
        mac = self.neighbour_mac(destination, now)
        hop = None
        if mac is None:
            hop = self._route(destination)
        self.identification = self.identification + 1 & 0xFFFF
        if total > mtu:
            return self.part("fragments").send(protocol, destination, header, payload, now, source, ttl, tos, mac, hop)
        if mac is None:
            packet = bytearray(total)
            at = 0
        else:
            packet = self.link.begin()
            if packet is None:
                return False
            at = ethernet.HEADER
        packet[at : at + HEADER] = self.prepare(total, _DF, protocol, destination, source, ttl, tos)
        end = at + HEADER + len(header)
        packet[at + HEADER : end] = header
        packet[end : end + len(payload)] = payload
        if loop and destination in self.groups:
            self.loop(packet[at : at + total])
        if mac is None:
            return self.hold(packet, destination, now)
        self.link.send(packet, mac, ETHERTYPE, ethernet.HEADER + total)
        return True

    def hold(self, packet, destination, now):
        """Lets a whole packet (bytes) wait for its neighbour's MAC address; one to ourselves arrives at the next poll.

        Returns False when too many wait (counted). Raises OSError(EHOSTUNREACH) without a route.
        """
        return self.loop(packet) if self.is_ours(destination) else self.arp.resolve(self._route(destination), packet, now)

    def _route(self, destination):
        hop = self.next_hop(destination)
        if hop is None:
            raise OSError(EHOSTUNREACH, "no route: set an address and a gateway first")
        return hop

    def prepare(self, total, fragment, protocol, destination, source, ttl, tos):
        """Returns the header of a packet of `total` bytes, valid until the next call. fragment: the halfword of flags and fragment offset."""
        h = self._header
        h[0] = 0x45
        h[1] = tos
        h[2] = total >> 8
        h[3] = total & 0xFF
        h[4] = self.identification >> 8
        h[5] = self.identification & 0xFF
        h[6] = fragment >> 8
        h[7] = fragment & 0xFF
        h[8] = ttl
        h[9] = protocol
        h[10] = h[11] = 0
        h[12:16] = source
        h[16:20] = destination
        check = ~fast.add(h, 0, HEADER, 0) & 0xFFFF
        h[10] = check & 0xFF
        h[11] = check >> 8
        return h

    def loop(self, packet):
        """Lets a whole IP packet (bytes-like, copied), its header and checksums complete, arrive here at the next poll as if it were received.

        Returns False when too many wait (counted).
        """
        if len(self.looped) >= _LOOPED:
            self.drops["loopback full"] += 1
            return False
        frame = bytearray(ethernet.HEADER + len(packet))
        frame[ethernet.HEADER :] = packet
        self.looped.append(frame)
        self.link.pool.words[fast.C_LOOPS] = 1
        return True

    def checksum(self, buffer, start, end, seed=0):
        """Returns the folded, not inverted sum of buffer[start:end] as little-endian halfwords (RFC 1071), chained by `seed`."""
        return fast.add(buffer, seed, end - start, start)

    def pseudo(self, source, destination, protocol, length):
        """Returns the seed for the checksum of a TCP segment or UDP datagram of `length` bytes (RFC 9293 3.1, RFC 768)."""
        total = protocol << 8
        total += length >> 8 | (length & 0xFF) << 8
        total += (source[0] | source[1] << 8) + (source[2] | source[3] << 8)
        return total + (destination[0] | destination[1] << 8) + (destination[2] | destination[3] << 8)

    def _neighbour_failed(self, hop, packet, now):
        handler = self.errors.get(packet[9])
        if handler is not None:
            handler(EHOSTUNREACH, bytes(packet[16:20]), bytes(packet[HEADER : HEADER + 8]), now)


def as_word(address):
    """Returns an address as two little-endian halfwords of the frame."""
    return address[0] | address[1] << 8 | address[2] << 16 | address[3] << 24


def parse_address(text):
    """Return the 4 bytes of a dotted quad such as "192.168.1.2", or None when `text` is none."""
    numbers = []
    for part in text.split("."):
        n = int(part) if len(part) <= 3 and part.isdigit() else 256
        if n > 255:
            return None
        numbers.append(n)
    return bytes(numbers) if len(numbers) == 4 else None
