"""SYN cookies (RFC 4987 section 3.6): what a full backlog needs to know of a handshake travels in its own sequence number.

The cookie is 5 bits of a clock, 3 bits that name an MSS, 24 bits of a keyed hash over both and the addresses. Connections opened so have no
options but the MSS.
"""

from barenet.tcp.connection import sha256
from micropython import const

_MSS = (536, 1000, 1220, 1300, 1400, 1440, 1452, 1460)
_TICK = const(16)  # 2**16 ms; a cookie is good for one to two of them


def _hash(secret, irs, head):
    return int.from_bytes(sha256(secret + irs.to_bytes(4, "big") + bytes((head,))).digest()[:3], "big")


def make(secret, irs, mss, now):
    """Returns the ISS for the answer to a SYN. secret: bytes, with the addresses; irs: its number; mss: what its option says."""
    i = len(_MSS) - 1
    while i and _MSS[i] > mss:
        i -= 1
    head = (now >> _TICK & 31) << 3 | i
    return head << 24 | _hash(secret, irs, head)


def check(secret, irs, iss, now):
    """Returns the MSS when `iss` is a cookie of ours that is not too old, else 0."""
    head = iss >> 24
    age = (now >> _TICK) - (head >> 3) & 31
    if age > 1 or iss & 0xFFFFFF != _hash(secret, irs, head):
        return 0
    return _MSS[head & 7]
