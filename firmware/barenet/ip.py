"""IPv4 (RFC 791, with the host requirements of RFC 1122 section 3): header checks, addresses, routes.

Fragments are counted and dropped; the datagrams we send have DF set and never exceed the MTU.
"""

import os

from barenet import ethernet, fast
from barenet.errors import EHOSTUNREACH, EMSGSIZE
from micropython import const

ETHERTYPE = const(0x0800)
MTU = const(1500)
HEADER = const(20)
ANY = b"\x00\x00\x00\x00"
LIMITED_BROADCAST = b"\xff\xff\xff\xff"


class IP:
    """The Internet layer of one interface.

    link: the Ethernet layer; arp: the neighbour cache.
    handlers: protocol → handler(frame, start, end, source, destination, now).
    errors: protocol → handler(code, destination, header, now) for ICMP errors and failed neighbour look-ups.
    unreachable: callable(frame, source, code, now) that answers with ICMP destination unreachable, or None.
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
        self.identification = os.urandom(1)[0] << 8 | os.urandom(1)[0]
        self._header = bytearray(HEADER)
        self.drops = {
            "short": 0,
            "version": 0,
            "header length": 0,
            "total length": 0,
            "checksum": 0,
            "fragment": 0,
            "source": 0,
            "not for us": 0,
            "unknown protocol": 0,
        }
        link.handlers[ETHERTYPE] = self.input
        arp.failed = self._neighbour_failed

    def configure(self, address, netmask, gateway):
        """Sets our address, netmask and default gateway (4 bytes each; ANY takes the address away)."""
        self.address = address
        self.netmask = netmask
        self.gateway = gateway
        if address == ANY or netmask[3] >= 254:  # a network of two addresses has no broadcast address (RFC 3021), one of one has none either
            self.broadcast = LIMITED_BROADCAST
        else:
            self.broadcast = bytes(address[i] | ~netmask[i] & 0xFF for i in range(4))
        self.arp.address = address
        self.arp.flush()
        self.link.pool.words[fast.C_ADDRESS] = address[0] | address[1] << 8 | address[2] << 16 | address[3] << 24

    def is_broadcast(self, address):
        """True for 255.255.255.255 and for the broadcast address of our network."""
        return address == LIMITED_BROADCAST or address == self.broadcast

    def input(self, frame, length, now):
        """Checks one packet (RFC 1122 section 3.2.1) and takes it to the handler of its protocol."""
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
        if source[0] >= 224 or source[0] == 127 or source == self.address != ANY or self.is_broadcast(source):
            self.drops["source"] += 1
            return
        # Without an address of our own (DHCP) every unicast that reached our MAC address may be the offer we wait for.
        if destination != self.address and self.address != ANY:
            if not self.is_broadcast(destination) and destination not in self.groups:
                self.drops["not for us"] += 1
                return
        if frame[20] & 0x3F or frame[21]:
            self.drops["fragment"] += 1
            return
        handler = self.handlers.get(frame[23])
        if handler is None:
            self.drops["unknown protocol"] += 1
            if self.unreachable is not None:
                self.unreachable(frame, source, 2, now)
            return
        handler(frame, ethernet.HEADER + header, ethernet.HEADER + total, source, destination, now)

    def path_mtu(self, destination):
        """Returns the MTU of the path to a destination, bytes."""
        return 1500

    def next_hop(self, destination):
        """Returns the neighbour that a packet for `destination` goes to, or None when there is no route."""
        if destination == LIMITED_BROADCAST:
            return destination
        if self.address == ANY or destination[0] == 127:  # loopback never leaves a host (RFC 1122 3.2.1.3), and we have none
            return None
        for i in range(4):
            if (destination[i] ^ self.address[i]) & self.netmask[i]:
                return None if self.gateway == ANY else self.gateway
        return destination

    def neighbour_mac(self, destination, now):
        """Returns the MAC address that a packet for `destination` is sent to, or None while it is unknown."""
        if self.is_broadcast(destination):
            return ethernet.BROADCAST
        if destination[0] & 0xF0 == 0xE0:
            return b"\x01\x00\x5e" + bytes((destination[1] & 0x7F, destination[2], destination[3]))  # RFC 1112 6.4
        hop = self.next_hop(destination)
        return None if hop is None else self.arp.lookup(hop, now)

    def output(self, protocol, destination, header, payload=b"", now=0, source=None, ttl=64, tos=0):
        """Sends one packet that carries header + payload (both bytes-like, copied).

        Returns True when it was queued or waits for its neighbour's address, False when the transmit ring (or the queue of waiting packets)
        is full. Raises OSError: EHOSTUNREACH without a route, EMSGSIZE over the MTU.
        """
        total = HEADER + len(header) + len(payload)
        if total > MTU:
            raise OSError(EMSGSIZE, "the packet is larger than the MTU")
        mac = self.neighbour_mac(destination, now)
        hop = None
        if mac is None:
            hop = self.next_hop(destination)
            if hop is None:
                raise OSError(EHOSTUNREACH, "no route: set an address and a gateway first")
            packet = bytearray(total)
            at = 0
        else:
            packet = self.link.begin()
            if packet is None:
                return False
            at = ethernet.HEADER
        self.identification = self.identification + 1 & 0xFFFF
        h = self._header
        h[0] = 0x45
        h[1] = tos
        h[2] = total >> 8
        h[3] = total & 0xFF
        h[4] = self.identification >> 8
        h[5] = self.identification & 0xFF
        h[6] = 0x40  # DF
        h[7] = 0
        h[8] = ttl
        h[9] = protocol
        h[10] = h[11] = 0
        h[12:16] = self.address if source is None else source
        h[16:20] = destination
        check = ~fast.add(h, 0, HEADER, 0) & 0xFFFF
        h[10] = check & 0xFF
        h[11] = check >> 8
        packet[at : at + HEADER] = h
        at += HEADER
        packet[at : at + len(header)] = header
        at += len(header)
        packet[at : at + len(payload)] = payload
        if mac is None:
            return self.arp.resolve(hop, packet, now)
        self.link.send(packet, mac, ETHERTYPE, ethernet.HEADER + total)
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


def parse_address(text):
    """Return the 4 bytes of a dotted quad such as "192.168.1.2", or None when `text` is none."""
    parts = text.split(".")
    if len(parts) != 4:
        return None
    for part in parts:
        if not part.isdigit() or len(part) > 3 or int(part) > 255:
            return None
    return bytes(int(part) for part in parts)
