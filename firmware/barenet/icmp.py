"""ICMP: echo, and the errors that tell why a packet did not arrive (RFC 792, RFC 1122 section 3.2.2).

Errors that others report go to the protocol they concern, through `ip.errors`. Errors that we report are limited in
rate; an echo reply is as long as its request and there is one for each, so nothing sent here is more than what provoked
it.
"""

import os

from barenet import fast, ticks
from barenet.errors import ECONNREFUSED, EHOSTUNREACH, EMSGSIZE, ENOBUFS, EPROTO
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

_FRAGMENTATION_NEEDED = const(4)
_QUOTE = const(8)  # bytes of the packet's payload that an error must quote

# At most 10 errors a second, 6 at once (RFC 1812 section 4.3.2.8 asks for a limit and leaves the numbers to us).
_ERROR_INTERVAL = const(100)
_ERROR_BURST = const(6)

_LARGEST = const(65507)  # bytes of an echo request's payload
_WAITING = const(8)  # echo requests that may wait for their reply


class Echo:
    """One echo request and what became of it.

    sequence: its number. destination: where it went. sent: the tick at which it left. answered: the tick at which an
    answer came, None until then. time: milliseconds until the reply, None without a reply. error: the errno of an ICMP
    error that came instead, or None; a router on the way where the TTL ran out gives EHOSTUNREACH, which is what a
    trace looks for. source: who answered. ttl: TTL of the reply.
    """

    def __init__(self, sequence, destination, payload, sent):
        self.sequence = sequence
        self.destination = destination
        self.sent = sent
        self.answered = None
        self.time = None
        self.error = None
        self.source = None
        self.ttl = 0
        self._payload = payload


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
        self._header = bytearray(_HEADER)
        self._identifier = random(2)
        self._sequence = 0
        self._echoes = {}
        self._tokens = _ERROR_BURST
        self._refilled = 0
        ip.handlers[_ICMP] = self._receive
        ip.errors[_ICMP] = self._failed

    def echo(self, destination, now, size=56, ttl=64):
        """Send an echo request with `size` bytes of payload and return its `Echo`, which the answer will complete.

        The caller decides how long to wait and then calls `forget`. Raises OSError(ENOBUFS) when 8 requests wait or the
        transmit ring is full, OSError(EHOSTUNREACH) with no route, OSError(EMSGSIZE) over 65,507 bytes.
        """
        if len(self._echoes) >= _WAITING:
            raise OSError(ENOBUFS, "too many echo requests wait for their reply: wait or forget() one")
        if size > _LARGEST:
            raise OSError(EMSGSIZE, "at most 65,507 bytes")
        payload = bytes(i & 255 for i in range(size))
        sequence = self._sequence
        while sequence in self._echoes:
            sequence = sequence + 1 & 0xFFFF
        self._sequence = sequence + 1 & 0xFFFF
        header = self._header
        header[0] = _ECHO_REQUEST
        header[4:6] = self._identifier
        header[6] = sequence >> 8
        header[7] = sequence & 255
        if not self._send(destination, payload, now, None, ttl, 0):
            raise OSError(ENOBUFS, "the transmit ring is full: try again")
        echo = self._echoes[sequence] = Echo(sequence, bytes(destination), payload, now)
        return echo

    def forget(self, echo):
        """Stop waiting for the answer to `echo`. Safe to call when it has come."""
        if self._echoes.get(echo.sequence) is echo:
            del self._echoes[echo.sequence]

    def unreachable(self, frame, source, code, now, kind=_UNREACHABLE):
        """Tell `source`, the sender of the packet in `frame`, why it was not taken: code 2 protocol, 3 port.

        kind: another ICMP error with that code.

        Silent, as RFC 1122 section 3.2.2 demands, about broadcasts and multicasts of either layer, fragments, ICMP
        errors, and packets whose source is not one host; and over the limit of 10 a second, counted.
        """
        ip = self.ip
        if frame[0] & 1 or not ip.is_ours(frame[30:34]):
            return
        if source[0] == 0 or (source[0] == 127 != frame[30]) or source[0] >= 224 or ip.is_broadcast(source):
            return
        start = _IP + ((frame[_IP] & 15) << 2)
        if frame[20] & 0x3F or frame[21] or (frame[23] == _ICMP and frame[start] not in (_ECHO_REPLY, _ECHO_REQUEST)):
            return
        if not self._token(now):
            self.drops["rate"] += 1
            return
        header = self._header
        header[0] = kind
        header[1] = code
        header[4] = header[5] = header[6] = header[7] = 0
        end = min(start + _QUOTE, _IP + (frame[16] << 8 | frame[17]))
        self._reply(source, frame[_IP:end], now, None, 0)
        header[1] = 0

    def _token(self, now):
        passed = ticks.diff(now, self._refilled)
        # Negative: nothing was sent for so long that the tick wrapped.
        if passed < 0 or passed >= _ERROR_INTERVAL * _ERROR_BURST:
            self._tokens = _ERROR_BURST
            self._refilled = now
        elif passed >= _ERROR_INTERVAL:
            self._tokens = min(_ERROR_BURST, self._tokens + passed // _ERROR_INTERVAL)
            self._refilled = ticks.add(self._refilled, passed - passed % _ERROR_INTERVAL)
        if not self._tokens:
            return False
        self._tokens -= 1
        return True

    def _send(self, destination, payload, now, source, ttl, tos):
        header = self._header
        header[2] = header[3] = 0
        checksum = self.ip.checksum
        total = ~checksum(payload, 0, len(payload), checksum(header, 0, _HEADER)) & 0xFFFF
        header[2] = total & 255
        header[3] = total >> 8
        return self.ip.output(_ICMP, destination, header, payload, now, source, ttl, tos, False)

    def _reply(self, destination, payload, now, source, tos):
        try:
            if self._send(destination, payload, now, source, 64, tos):
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
            header = self._header
            header[0] = _ECHO_REPLY
            fast.copy(header, frame, 4, 4, start + 4)
            self._reply(source, frame[start + _HEADER : end], now, destination, frame[_IP + 1])
        elif kind == _ECHO_REPLY and frame[start + 1] == 0:
            self._echo_reply(frame, start, end, source, now)
        elif kind in (_UNREACHABLE, _TIME_EXCEEDED, _PARAMETER_PROBLEM):
            self._error(frame, start, end, source, now)
        else:
            drops["type"] += 1

    def _echo_reply(self, frame, start, end, source, now):
        echo = self._echoes.get(frame[start + 6] << 8 | frame[start + 7])
        if (
            echo is None
            or frame[start + 4 : start + 6] != self._identifier
            or source != echo.destination
            or frame[start + _HEADER : end] != echo._payload
        ):
            self.drops["no request"] += 1
            return
        self.forget(echo)
        echo.answered = now
        echo.time = ticks.diff(now, echo.sent)
        echo.source = source
        echo.ttl = frame[_IP + 8]

    def _error(self, frame, start, end, source, now):
        quote = start + _HEADER
        inner = quote + ((frame[quote] & 15) << 2) if quote < end else end
        if (
            inner < quote + 20
            or inner + _QUOTE > end
            or frame[quote] >> 4 != 4
            or frame[quote + 6] & 0x1F
            or frame[quote + 7]
        ):
            self.drops["quote"] += 1
            return
        if not self.ip.is_ours(frame[quote + 12 : quote + 16]):
            self.drops["not ours"] += 1
            return
        protocol = frame[quote + 9]
        handler = self.ip.errors.get(protocol)
        if handler is None:
            self.drops["protocol"] += 1
            return
        kind = frame[start]
        code = EHOSTUNREACH
        destination = bytes(frame[quote + 16 : quote + 20])
        header = bytes(frame[inner : min(end, inner + 20)])
        if kind == _UNREACHABLE:
            if frame[start + 1] in (2, 3):
                code = ECONNREFUSED
            elif frame[start + 1] == _FRAGMENTATION_NEEDED:
                self.ip.part("path_mtu").error(frame, start, destination, header, handler, now)
                return
        elif kind == _PARAMETER_PROBLEM:
            code = EPROTO
        if protocol == _ICMP:
            self._failed(code, destination, header, now, source)
        else:
            handler(code, destination, header, now)

    def _failed(self, code, destination, header, now, source=None):
        echo = self._echoes.get(header[6] << 8 | header[7])
        if (
            echo is None
            or header[0] != _ECHO_REQUEST
            or header[4:6] != self._identifier
            or destination != echo.destination
        ):
            self.drops["no request"] += 1
            return False
        self.forget(echo)
        echo.answered = now
        echo.error = code
        echo.source = source
        return True
