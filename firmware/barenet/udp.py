"""UDP: datagrams between ports (RFC 768, RFC 1122 section 4.1).

`UDP.ports` says who gets what arrives: it maps a local port to an object with two methods,

* `receive(frame, start, end, source, port, destination, now)`: the data is `frame[start:end]`, valid until the method
  returns; `source` and `port` are the sender's. Returns False when the object does not want the datagram (the sender is
  told that the port is closed).
* `failed(code, destination, port, now)`: a datagram sent to that address and port could not be delivered; `code` is an
  errno, EMSGSIZE when a router could not pass it on whole (the next ones will be sent in fragments).

The DHCP client and the resolver register themselves; a program's socket is an `Endpoint`, which keeps what arrives
until it is read.
"""

import os

from barenet import late
from barenet.errors import EADDRINUSE, EINVAL
from micropython import const

_UDP = const(17)
_HEADER = const(8)

# RFC 6335 section 6: the dynamic ports, 2**14 of them.
_EPHEMERAL = const(49152)
_EPHEMERAL_MASK = const(0x3FFF)

_RCVBUF = const(4096)  # two full datagrams or thirty small ones; a larger block is hard to find on a used heap


class UDP:
    """The UDP layer on the IP layer `ip`. `random(n)` returns n unpredictable bytes."""

    def __init__(self, ip, random=os.urandom):
        self.ip = ip
        self.ports = {}
        self.drops = {"short": 0, "length": 0, "checksum": 0, "port": 0, "peer": 0, "full": 0}
        # Called as unreachable(frame, source, code, now) for a datagram nobody wants; the stack sets it to ICMP's.
        self.unreachable = None
        self._random = random
        self._header = bytearray(_HEADER)
        ip.handlers[_UDP] = self._receive
        ip.errors[_UDP] = self._failed

    def endpoint(self, rcvbuf=_RCVBUF):
        """Return a new `Endpoint` (endpoint.py) without a port, whose receive buffer will have `rcvbuf` bytes."""
        return late.load("endpoint").Endpoint(self, rcvbuf)

    def free_port(self):
        """Return a free port between 49152 and 65535, searched from a random one on (RFC 6056 section 3.3.1).

        Raises OSError(EADDRINUSE) when there is none.
        """
        start = int.from_bytes(self._random(2), "big")
        for i in range(_EPHEMERAL_MASK + 1):
            port = _EPHEMERAL + (start + i & _EPHEMERAL_MASK)
            if port not in self.ports:
                return port
        raise OSError(EADDRINUSE, "no UDP port is free: close a socket")

    def send(self, port, destination, remote_port, data, now, source=None, ttl=64, tos=0, loop=False):
        """Send one datagram from local port `port`.

        destination, source: addresses; `source` is our own address unless given. remote_port: 1 to 65535.
        data: bytes-like. ttl, tos, loop: see `IP.output`. Returns False when the transmit ring is full. Raises
        OSError(EMSGSIZE) for more than 65,507 bytes, OSError(EHOSTUNREACH) with no route, OSError(EINVAL) for port 0.
        """
        if not 0 < remote_port < 65536:
            raise OSError(EINVAL, "a UDP port lies between 1 and 65535")
        ip = self.ip
        if source is None:
            source = destination if destination[0] == 127 else ip.address
        n = len(data)
        length = _HEADER + n
        header = self._header
        header[0] = port >> 8
        header[1] = port & 255
        header[2] = remote_port >> 8
        header[3] = remote_port & 255
        header[4] = length >> 8 & 255
        header[5] = length & 255
        header[6] = header[7] = 0
        total = ip.checksum(header, 0, _HEADER, ip.pseudo(source, destination, _UDP, length))
        # A sum of 0 goes out as 0xFFFF: 0 means that there is none (RFC 768).
        total = ~ip.checksum(data, 0, n, total) & 0xFFFF or 0xFFFF
        header[6] = total & 255
        header[7] = total >> 8
        return ip.output(_UDP, destination, header, data, now, source, ttl, tos, False, loop)

    def _receive(self, frame, start, end, source, destination, now):
        if end - start < _HEADER:
            self.drops["short"] += 1
            return
        length = frame[start + 4] << 8 | frame[start + 5]
        if not _HEADER <= length <= end - start:
            self.drops["length"] += 1
            return
        end = start + length
        if frame[start + 6] or frame[start + 7]:
            ip = self.ip
            if ip.checksum(frame, start, end, ip.pseudo(source, destination, _UDP, length)) != 0xFFFF:
                self.drops["checksum"] += 1
                return
        owner = self.ports.get(frame[start + 2] << 8 | frame[start + 3])
        if owner is None:
            self.drops["port"] += 1
        else:
            port = frame[start] << 8 | frame[start + 1]
            if owner.receive(frame, start + _HEADER, end, source, port, destination, now) is not False:
                return
        if self.unreachable:
            self.unreachable(frame, source, 3, now)

    def _failed(self, code, destination, header, now):
        owner = self.ports.get(header[0] << 8 | header[1])
        if owner is None:
            return False
        owner.failed(code, destination, header[2] << 8 | header[3], now)
        return True
