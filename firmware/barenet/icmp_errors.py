"""ICMP errors, those that we tell and those that we are told (RFC 792, RFC 1122 section 3.2.2). Loaded for the first of them."""

from barenet import ticks
from barenet.errors import ECONNREFUSED, EHOSTUNREACH, EPROTO
from micropython import const

_ICMP = const(1)
_HEADER = const(8)
_IP = const(14)  # offset of the IP header in a frame

_ECHO_REPLY = const(0)
_UNREACHABLE = const(3)
_ECHO_REQUEST = const(8)
_PARAMETER_PROBLEM = const(12)

_FRAGMENTATION_NEEDED = const(4)
_QUOTE = const(8)  # bytes of the packet's payload that an error must quote

# At most 10 errors a second, 6 at once (RFC 1812 section 4.3.2.8 asks for a limit and leaves the numbers to us).
_ERROR_INTERVAL = const(100)
_ERROR_BURST = const(6)


def tell(icmp, frame, source, code, now, kind):
    """See `ICMP.unreachable`."""
    ip = icmp.ip
    if source[0] == 0 or (source[0] == 127 != frame[30]) or source[0] >= 224 or ip.is_broadcast(source):
        return
    start = _IP + ((frame[_IP] & 15) << 2)
    if frame[20] & 0x3F or frame[21] or (frame[23] == _ICMP and frame[start] not in (_ECHO_REPLY, _ECHO_REQUEST)):
        return
    if not _token(icmp, now):
        icmp.drops["rate"] += 1
        return
    header = icmp.header
    header[0] = kind
    header[1] = code
    header[4] = header[5] = header[6] = header[7] = 0
    end = min(start + _QUOTE, _IP + (frame[16] << 8 | frame[17]))
    icmp.reply(source, frame[_IP:end], now, None, 0)
    header[1] = 0


def _token(icmp, now):
    passed = -1 if icmp.refilled is None else ticks.diff(now, icmp.refilled)
    # Negative: the first one, or nothing was sent for so long that the tick wrapped.
    if passed < 0 or passed >= _ERROR_INTERVAL * _ERROR_BURST:
        icmp.tokens = _ERROR_BURST
        icmp.refilled = now
    elif passed >= _ERROR_INTERVAL:
        icmp.tokens = min(_ERROR_BURST, icmp.tokens + passed // _ERROR_INTERVAL)
        icmp.refilled = ticks.add(icmp.refilled, passed - passed % _ERROR_INTERVAL)
    if not icmp.tokens:
        return False
    icmp.tokens -= 1
    return True


def take(icmp, frame, start, end, source, now):
    """Take an error that somebody reports to the protocol it concerns."""
    quote = start + _HEADER
    inner = quote + ((frame[quote] & 15) << 2) if quote < end else end
    if (
        inner < quote + 20
        or inner + _QUOTE > end
        or frame[quote] >> 4 != 4
        or frame[quote + 6] & 0x1F
        or frame[quote + 7]
    ):
        icmp.drops["quote"] += 1
        return
    if not icmp.ip.is_ours(frame[quote + 12 : quote + 16]):
        icmp.drops["not ours"] += 1
        return
    protocol = frame[quote + 9]
    handler = icmp.ip.errors.get(protocol)
    if handler is None:
        icmp.drops["protocol"] += 1
        return
    kind = frame[start]
    code = EHOSTUNREACH
    destination = bytes(frame[quote + 16 : quote + 20])
    if frame[quote] != 0x45:
        destination = icmp.ip.part("ip_options").destination(frame, quote, inner)
    header = bytes(frame[inner : min(end, inner + 20)])
    if kind == _UNREACHABLE:
        if frame[start + 1] in (2, 3):
            code = ECONNREFUSED
        elif frame[start + 1] == _FRAGMENTATION_NEEDED:
            icmp.ip.part("path_mtu").error(frame, start, destination, header, handler, now)
            return
    elif kind == _PARAMETER_PROBLEM:
        code = EPROTO
    if protocol == _ICMP:
        icmp.failed(code, destination, header, now, source)
    else:
        handler(code, destination, header, now)
