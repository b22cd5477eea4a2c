"""ICMP: echo, and the errors that tell why a packet did not arrive (RFC 792, RFC 1122 section 3.2.2).

Errors that others report go to the protocol they concern, through `ip.errors`. Errors that we report are limited in
rate; an echo reply is as long as its request and there is one for each, so nothing sent here is more than what provoked
it. Errors and requests of our own are seldom: icmp_errors.py and echo.py are loaded for the first of them.
"""

import os

from barenet import fast, fast_icmp, late
from barenet.ip import ANY
from micropython import const

_ICMP = const(1)
_HEADER = const(8)
_IP = const(14)  # offset of the IP header in a frame

_ECHO_REPLY = const(0)
_UNREACHABLE = const(3)
_ECHO_REQUEST = const(8)
_TIME_EXCEEDED = const(11)
_PARAMETER_PROBLEM = const(12)


class ICMP:
    """The ICMP layer on the IP layer `ip`. `random(n)` returns n unpredictable bytes."""

    def __init__(self, ip, random=os.urandom):
        self.ip = ip
        self.drops = {
            "short": 0,
            "checksum": 0,
            "type": 0,
            "broadcast": 0,
            "quote": 0,
            "not ours": 0,
            "protocol": 0,
            "no request": 0,
            "rate": 0,
            "busy": 0,
        }
        self.header = bytearray(_HEADER)
        self.tokens = 0  # errors that may be sent since the tick `refilled`
        self.refilled = None
        self._random = random
        self._echoes = None
        ip.handlers[_ICMP] = self._receive
        ip.link.pool.objects[fast.O_ECHO] = fast_icmp.answer
        ip.errors[_ICMP] = self.failed

    def echo(self, destination, now, size=56, ttl=64):
        """Send an echo request with `size` bytes of payload and return its `Echo`, which the answer will complete.

        The caller decides how long to wait and then calls `forget`. Raises OSError(ENOBUFS) when 8 requests wait or the
        transmit ring is full, OSError(EHOSTUNREACH) with no route, OSError(EMSGSIZE) over 65,507 bytes.
        """
        if self._echoes is None:
            self._echoes = late.load("echo").Echoes(self, self._random)
        return self._echoes.send(destination, now, size, ttl)

    def forget(self, echo):
        """Stop waiting for the answer to `echo`. Safe to call when it has come."""
        self._echoes.forget(echo)

    def unreachable(self, frame, source, code, now, kind=_UNREACHABLE):
        """Tell `source`, the sender of the packet in `frame`, why it was not taken: code 2 protocol, 3 port.

        kind: another ICMP error with that code.

        Silent, as RFC 1122 section 3.2.2 demands, about broadcasts and multicasts of either layer, fragments, ICMP
        errors, and packets whose source is not one host; and over the limit of 10 a second, counted.
        """
        if frame[0] & 1 or not self.ip.is_ours(frame[30:34]):
            return  # before anything is loaded: a network is full of broadcasts that nobody here wants
        late.load("icmp_errors").tell(self, frame, source, code, now, kind)

    def send(self, destination, payload, now, source, ttl, tos):
        """Send a packet: `header` without its checksum, and `payload`. Return False when the transmit ring is full."""
        header = self.header
        header[2] = header[3] = 0
        checksum = self.ip.checksum
        total = ~checksum(payload, 0, len(payload), checksum(header, 0, _HEADER)) & 0xFFFF
        header[2] = total & 255
        header[3] = total >> 8
        return self.ip.output(_ICMP, destination, header, payload, now, source, ttl, tos, False)

    def reply(self, destination, payload, now, source, tos):
        """Send a packet that answers one; counted when there is no room for it."""
        try:
            if self.send(destination, payload, now, source, 64, tos):
                return
        except OSError:
            pass
        self.drops["busy"] += 1

    def _receive(self, frame, start, end, source, destination, now):
        drops = self.drops
        if end - start < _HEADER:
            drops["short"] += 1
            return
        if self.ip.checksum(frame, start, end) != 0xFFFF:
            drops["checksum"] += 1
            return
        kind = frame[start]
        if kind == _ECHO_REQUEST and frame[start + 1] == 0:
            # RFC 1122 section 3.2.2.6 lets a host ignore an echo request to a broadcast; answering is how smurf attacks
            # multiply.
            if frame[0] & 1 or not self.ip.is_ours(destination) or source == ANY:
                drops["broadcast"] += 1
                return
            header = self.header
            header[0] = _ECHO_REPLY
            fast.copy(header, frame, 4, 4, start + 4)
            words = self.ip.link.pool.words
            sent = words[fast.C_FRAMES_OUT]
            self.reply(source, frame[start + _HEADER : end], now, destination, frame[_IP + 1])
            if words[fast.C_FRAMES_OUT] - sent == 1:
                fast_icmp.learn(words, source, self.ip.path_mtu(source), now)
        elif kind == _ECHO_REPLY and frame[start + 1] == 0:
            if self._echoes is None:
                drops["no request"] += 1
                return
            self._echoes.answered(frame, start, end, source, now)
        elif kind in (_UNREACHABLE, _TIME_EXCEEDED, _PARAMETER_PROBLEM):
            late.load("icmp_errors").take(self, frame, start, end, source, now)
        else:
            drops["type"] += 1

    def failed(self, code, destination, header, now, source=None):
        """Take an error about a request of ours, see `IP.errors`."""
        if self._echoes is None:
            self.drops["no request"] += 1
            return False
        return self._echoes.failed(code, destination, header, now, source)
