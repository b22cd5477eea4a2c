"""Echo requests of ours, and what becomes of them (RFC 792). Loaded for the first one."""

from barenet import ticks
from barenet.errors import EMSGSIZE, ENOBUFS
from micropython import const

_HEADER = const(8)
_IP = const(14)  # offset of the IP header in a frame
_ECHO_REQUEST = const(8)
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


class Echoes:
    """The echo requests that wait for an answer to the ICMP layer `icmp`. `random(n)` returns n unpredictable bytes."""

    def __init__(self, icmp, random):
        self._icmp = icmp
        self._identifier = random(2)
        self._sequence = 0
        self._echoes = {}

    def send(self, destination, now, size, ttl):
        """See `ICMP.echo`."""
        if len(self._echoes) >= _WAITING:
            raise OSError(ENOBUFS, "too many echo requests wait for their reply: wait or forget() one")
        if size > _LARGEST:
            raise OSError(EMSGSIZE, "at most 65,507 bytes")
        payload = bytes(i & 255 for i in range(size))
        sequence = self._sequence
        while sequence in self._echoes:
            sequence = sequence + 1 & 0xFFFF
        self._sequence = sequence + 1 & 0xFFFF
        header = self._icmp.header
        header[0] = _ECHO_REQUEST
        header[4:6] = self._identifier
        header[6] = sequence >> 8
        header[7] = sequence & 255
        if not self._icmp.send(destination, payload, now, None, ttl, 0):
            raise OSError(ENOBUFS, "the transmit ring is full: try again")
        echo = self._echoes[sequence] = Echo(sequence, bytes(destination), payload, now)
        return echo

    def forget(self, echo):
        """See `ICMP.forget`."""
        if self._echoes.get(echo.sequence) is echo:
            del self._echoes[echo.sequence]

    def answered(self, frame, start, end, source, now):
        """Take an echo reply."""
        echo = self._echoes.get(frame[start + 6] << 8 | frame[start + 7])
        if (
            echo is None
            or frame[start + 4 : start + 6] != self._identifier
            or source != echo.destination
            or frame[start + _HEADER : end] != echo._payload
        ):
            self._icmp.drops["no request"] += 1
            return
        self.forget(echo)
        echo.answered = now
        echo.time = ticks.diff(now, echo.sent)
        echo.source = source
        echo.ttl = frame[_IP + 8]

    def failed(self, code, destination, header, now, source):
        """Take an error that quotes `header`; return whether a request of ours is meant."""
        echo = self._echoes.get(header[6] << 8 | header[7])
        if (
            echo is None
            or header[0] != _ECHO_REQUEST
            or header[4:6] != self._identifier
            or destination != echo.destination
        ):
            self._icmp.drops["no request"] += 1
            return False
        self.forget(echo)
        echo.answered = now
        echo.error = code
        echo.source = source
        return True
