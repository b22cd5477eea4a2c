"""IP options (RFC 791 section 3.1, RFC 1122 section 3.2.1.8): what is checked of those that arrive, and packets of ours that have some.

Loaded when the first packet with options arrives (other than a Router Alert alone, which concerns routers) or when a program sets some.

Only source routes mean something to a host. A route that is complete ends here and is turned around for what answers; one that leads on is not
followed (RFC 1122 section 3.3.5 leaves that to the host). All other options are passed over by their length, for whom they concern.
"""

from barenet import fast
from barenet.errors import EHOSTUNREACH, EINVAL, EMSGSIZE
from barenet.ip import IP
from micropython import const

_NO_OPERATION = const(1)
_RECORD_ROUTE = const(7)
_ICMP = const(1)
_ECHO_REQUEST = const(8)
_ROUTES = (131, 137)  # loose and strict source and record route
_OPTIONS = const(34)  # their offset in a frame
_LONGEST = const(40)
_SOURCE_ROUTE_FAILED = const(5)


def options(data, at, end):
    """Yields the offset of each option in data[at:end] that is longer than one byte. Raises ValueError for an impossible length."""
    while at < end and data[at]:
        if data[at] == _NO_OPERATION:
            at += 1
            continue
        if at + 1 >= end or data[at + 1] < 2 or at + data[at + 1] > end:
            raise ValueError
        yield at
        at += data[at + 1]


def _addresses(data, at):
    # Returns the addresses of the source route at data[at:].
    return [bytes(data[i : i + 4]) for i in range(at + 3, at + data[at + 1], 4)]


class Part:
    """The options of the packets that the IP layer `ip` receives."""

    name = "ip_options"

    def __init__(self, ip):
        self.ip = ip
        self.segments = None  # for tcp/ip_options.py
        self.drops = {"length": 0, "two routes": 0, "route": 0, "route leads on": 0}
        self._failed = ip.arp.failed
        ip.arp.failed = self._neighbour_failed
        self._icmp = ip.handlers.get(_ICMP)
        if self._icmp is not None:
            ip.handlers[_ICMP] = self._echo

    def arrived(self, frame, header, source, now):
        """Looks at the options of a packet; returns whether it may go to its protocol. header: length of the IP header.

        Dropped is one with an impossible length, two source routes, a route through what is no host's address or through ourselves, and a
        route that leads on, of which its sender is told (RFC 1122 section 3.3.5).
        """
        route = None
        try:
            for at in options(frame, _OPTIONS, 14 + header):
                if frame[at] in _ROUTES:
                    if route is not None:
                        return self._drop("two routes")
                    route = at
        except ValueError:
            return self._drop("length")
        if route is None:
            return True
        length = frame[route + 1]
        if length & 3 != 3 or frame[route + 2] < 4 or frame[route + 2] & 3:
            return self._drop("route")
        if frame[route + 2] < length:
            if self.ip.unreachable is not None:
                self.ip.unreachable(frame, source, _SOURCE_ROUTE_FAILED, now)
            return self._drop("route leads on")
        for i, address in enumerate(_addresses(frame, route)):
            if not self.is_host(address) and (i or address != source):
                return self._drop("route")
        return True

    def poll(self, now):
        """Nothing here waits."""

    def is_host(self, address):
        """True for an address that another host or router may have."""
        ip = self.ip
        return 0 < address[0] < 224 and not ip.is_ours(address) and not ip.is_broadcast(address)

    def returned(self, frame):
        """Returns the options, as Way takes them, that answer a packet with the way it came: b"" when it has no source route.

        The sender itself may be the first entry of the route (RFC 1122 section 3.2.1.8, case B).
        """
        for at in options(frame, _OPTIONS, 14 + ((frame[14] & 15) << 2)):
            if frame[at] in _ROUTES:
                hops = _addresses(frame, at)
                if hops and hops[0] == bytes(frame[26:30]):
                    hops.pop(0)
                if hops:
                    return bytes((frame[at], 3 + 4 * len(hops), 4)) + b"".join(reversed(hops))
        return b""

    def _echo(self, frame, start, end, source, destination, now):
        # Takes an ICMP message. The reply to an echo request has its route back, and its Record Route with our address (RFC 1122 section 3.2.2.6),
        # unless these would make it too long for one packet.
        take = self._icmp
        if frame[14] != 0x45 and frame[start] == _ECHO_REQUEST:
            given = self.returned(frame)
            for at in options(frame, _OPTIONS, start):
                if frame[at] == _RECORD_ROUTE and len(given) + frame[at + 1] <= _LONGEST:
                    record = bytearray(frame[at : at + frame[at + 1]])
                    if len(record) > 2 and 4 <= record[2] <= len(record) - 3:
                        fast.copy(record, self.ip.address, 4, record[2] - 1, 0)
                        record[2] += 4
                    given += bytes(record)
                    break
            way = Way(self.ip, given)
            if 20 + way.size + end - start <= self.ip.path_mtu(source):
                take = way.through(take)
        take(frame, start, end, source, destination, now)

    def destination(self, packet, at, end):
        """Returns the final destination of a packet of ours whose IP header is packet[at:end]."""
        try:
            for i in options(packet, at + 20, end):
                if packet[i] in _ROUTES and packet[i + 2] < packet[i + 1]:
                    return _addresses(packet, i)[-1]
        except ValueError:
            pass
        return bytes(packet[at + 16 : at + 20])

    def _drop(self, reason):
        self.drops[reason] += 1
        return False

    def _neighbour_failed(self, hop, packet, now):
        end = (packet[0] & 15) << 2
        handler = self.ip.errors.get(packet[9])
        if end == 20:
            self._failed(hop, packet, now)
        elif handler is not None:
            handler(EHOSTUNREACH, self.destination(packet, 0, end), bytes(packet[end : end + 8]), now)


class Way:
    """The way of packets with options through the IP layer `ip`.

    given: the options as a program sets them. A source route names the hops; the first of them is where packets are sent to, the others and the
    final destination are the route on the wire (RFC 1122 section 3.2.1.8, case A). size: bytes that the options take in each header.
    Raises OSError(EINVAL) for more than 40 bytes, impossible lengths, two source routes, or hops that are not addresses of other hosts.
    """

    def __init__(self, ip, given):
        self.ip = ip
        self.given = given
        self.size = len(given) + 3 & ~3
        self._hop = None
        wire = bytearray(self.size)
        wire[: len(given)] = given
        try:
            if len(given) > _LONGEST:
                raise ValueError
            for at in options(given, 0, len(given)):
                if given[at] in _ROUTES:
                    length = given[at + 1]
                    hops = _addresses(given, at)
                    if self._hop or length < 7 or length & 3 != 3 or given[at + 2] != 4:
                        raise ValueError
                    if not all(ip.part("ip_options").is_host(hop) for hop in hops):
                        raise ValueError
                    self._hop = hops[0]
                    self._last = at + length - 4
                    wire[at + 3 : self._last] = b"".join(hops[1:])
        except ValueError:
            raise OSError(EINVAL, "at most 40 bytes of IP options, in them one source route at most, through other hosts, with pointer 4")
        self._wire = wire

    def through(self, send):
        """Returns a function with the arguments of `send` that sends packets with the options. send: what sends by IP.output().

        That raises OSError(EMSGSIZE) for what does not fit one packet, also when it need not be whole.
        """

        def sender(*arguments):
            ip = self.ip
            ip.output = self._output
            ip.prepare = self._prepare
            try:
                return send(*arguments)
            finally:
                del ip.output
                del ip.prepare

        return sender

    def _output(self, protocol, destination, header, payload=b"", now=0, source=None, ttl=64, tos=0, whole=True, loop=False):
        # Stands for IP.output().
        ip = self.ip
        wire = bytes(self._wire)
        if 20 + len(wire) + len(header) + len(payload) > ip.path_mtu(destination):
            raise OSError(EMSGSIZE, "a packet with IP options leaves whole or not at all: send less at once")
        if self._hop is not None:
            if destination[0] >= 224 or destination[0] == 127 or ip.is_broadcast(destination):
                raise OSError(EINVAL, "a source route leads to one host")
            wire = wire[: self._last] + destination + wire[self._last + 4 :]
            destination = self._hop
        self._sum = fast.add(wire, 0, len(wire), 0)
        return IP.output(ip, protocol, destination, wire + header, payload, now, source, ttl, tos, True, loop)

    def _prepare(self, *arguments):
        # Stands for IP.prepare().
        header = IP.prepare(self.ip, *arguments)
        header[0] += self.size >> 2
        header[10] = header[11] = 0
        check = ~fast.add(header, self._sum, len(header), 0) & 0xFFFF
        header[10] = check & 255
        header[11] = check >> 8
        return header
