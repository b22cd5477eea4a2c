"""The options of segments (RFC 7323, RFC 2018): what a test lets the peer say, and what it looks for. Runs in MicroPython."""

from rig import ACK, BUFFER, SYN, Wire


def stamps(value, echo=0):
    """Returns the timestamps option behind two no-operations, as established segments carry it (RFC 7323 appendix A)."""
    return b"\x01\x01\x08\x0a" + (value & 0xFFFFFFFF).to_bytes(4, "big") + (echo & 0xFFFFFFFF).to_bytes(4, "big")


def offer(mss=1460, sack=False, stamp=None, shift=None):
    """Returns the options of a peer's SYN. stamp: its timestamp; shift: of its window."""
    options = b"\x02\x04" + mss.to_bytes(2, "big")
    if sack:
        options += b"\x04\x02"
    if stamp is not None:
        options += b"\x08\x0a" + stamp.to_bytes(4, "big") + bytes(4)
    if shift is not None:
        options += bytes((1, 3, 3, shift))
    return options


def sack(peer, *ranges):
    """Returns the SACK option of a peer that has got these ranges (start, end) of our numbers."""
    option = bytes((1, 1, 5, 2 + 8 * len(ranges)))
    for edges in ranges:
        for edge in edges:
            option += ((edge + peer.irs) & 0xFFFFFFFF).to_bytes(4, "big")
    return option


def listed(segment):
    """Returns the options of a segment that the stack has sent, {kind: value}."""
    found = {}
    options = segment.options
    at = 0
    while at < len(options) and options[at]:
        if options[at] == 1:
            at += 1
            continue
        found[options[at]] = options[at + 2 : at + options[at + 1]]
        at += options[at + 1]
    return found


def ranges(segment, peer):
    """Returns the ranges (start, end) in the SACK option of a segment that the stack has sent, in its order."""
    value = listed(segment).get(5, b"")
    edges = [(int.from_bytes(value[i : i + 4], "big") - peer.iss) & 0xFFFFFFFF for i in range(0, len(value), 4)]
    return list(zip(edges[::2], edges[1::2]))


def stamp(segment):
    """Returns (TSval, TSecr) of a segment that the stack has sent, None without the option."""
    value = listed(segment).get(8)
    return value and (int.from_bytes(value[:4], "big"), int.from_bytes(value[4:], "big"))


def opened(sack=False, stamp=None, shift=None, mss=1460, win=65535, rtt=0, rcvbuf=BUFFER, sndbuf=BUFFER, transmit=16):
    """Returns (wire, peer, app) with a connection that we have opened to a peer which offers these options."""
    wire = Wire(transmit=transmit)
    wire.iss(0x10000000)
    peer = wire.peer()
    app = wire.connect(peer, rcvbuf, sndbuf)
    peer.expect(SYN, mss=1460)
    wire.advance(rtt)
    peer.send(SYN | ACK, win=win, options=offer(mss, sack, stamp, shift))
    peer.expect(ACK)
    return wire, peer, app
