"""The fast path of ping: answers to whoever was answered last, in viper.

A ping through all layers takes 82,000 instructions; 1,500 of them a second would take more than half of the processor. So plain Python answers
one a second, which looks after route and neighbour, and what it sent tells this module how to answer the others.
"""

import micropython
from barenet.fast import (
    C_ADDRESS,
    C_ECHO,
    C_ECHO_MACS,
    C_ECHO_MOST,
    C_ECHO_NEIGHBOURS,
    C_ECHO_UNTIL,
    C_FRAMES,
    C_NEIGHBOURS,
    C_NOW,
    C_RX_COUNT,
    C_RX_NEXT,
    C_RX_RING,
    C_TX_COUNT,
    C_TX_FULL,
    C_TX_NEXT,
    C_TX_QUEUED,
    C_TX_RING,
    O_FRAMES,
    add,
    copy,
    release,
    send,
)
from micropython import const

_FOR = const(1000)  # ms
_HEADER = const(8)
_FRAME_MIN = const(60)


@micropython.viper
def learn(words, to, most: int, now: int):
    """Keeps the MAC addresses of the frame that was queued last, when it is an echo reply to the host `to` (4 bytes).

    most: the largest packet that may go there whole.
    """
    c = ptr32(words)
    k = c[int(C_TX_NEXT)]
    if not k:
        k = c[int(C_TX_COUNT)]
    k = int(C_FRAMES) + (c[int(C_RX_COUNT)] + k - 1 << 1)
    frame = c[k] | c[k + 1] << 32
    w = ptr32(frame)
    h = ptr16(frame)
    t = ptr16(to)
    if h[6] != 0x0008 or h[7] & 0xFF != 0x45 or h[11] >> 8 != 1 or h[17] or h[15] != t[0] or h[16] != t[1]:
        return
    c[int(C_ECHO)] = t[0] | t[1] << 16
    k = int(C_ECHO_MACS)
    c[k] = w[0]
    c[k + 1] = w[1]
    c[k + 2] = w[2]
    c[int(C_ECHO_NEIGHBOURS)] = c[int(C_NEIGHBOURS)]
    c[int(C_ECHO_UNTIL)] = now + _FOR & 0x3FFFFFFF
    c[int(C_ECHO_MOST)] = most


@micropython.viper
def answer(words, objects) -> int:
    """Answers the frame in hand when it is an echo request of that host, and gives it back: 1. 0: it is plain Python's. -1: transmit first."""
    c = ptr32(words)
    i = c[int(C_RX_NEXT)]
    k = int(C_FRAMES) + (i << 1)
    frame = c[k] | c[k + 1] << 32
    f = ptr8(frame)
    h = ptr16(frame)
    d = ptr32((c[int(C_RX_RING)] | c[int(C_RX_RING) + 1] << 32) + (i << 5))
    length = (d[0] >> 16 & 0x3FFF) - 4
    n = f[16] << 8 | f[17]
    w = ptr32(frame + 14)
    # As in fast.receive(): IPv4 without options, no fragment, to us alone.
    k = int(C_ECHO_MACS)
    if h[0] != c[k + 1] >> 16 & 0xFFFF or h[1] | h[2] << 16 != c[k + 2]:
        return 0
    if h[6] != 0x0008 or f[14] != 0x45 or h[10] & 0xFFBF or h[17] != 0x0008 or w[4] != c[int(C_ADDRESS)] or w[3] != c[int(C_ECHO)]:
        return 0
    if n < 20 + _HEADER or n + 14 > length or n > c[int(C_ECHO_MOST)] or c[int(C_ECHO_NEIGHBOURS)] != c[int(C_NEIGHBOURS)]:
        return 0
    if (c[int(C_ECHO_UNTIL)] - c[int(C_NOW)]) >> 29 & 1:
        return 0
    s = h[7] + h[8] + h[9] + h[10] + h[11] + h[12] + h[13] + h[14] + h[15] + h[16]
    s = (s & 0xFFFF) + (s >> 16)
    frames = objects[int(O_FRAMES)]
    source = frames[i]
    if (s & 0xFFFF) + (s >> 16) != 0xFFFF or int(add(source, 0, n - 20, 34)) != 0xFFFF:
        return 0
    i = c[int(C_TX_NEXT)]
    d = ptr32((c[int(C_TX_RING)] | c[int(C_TX_RING) + 1] << 32) + (i << 5))
    if d[0] >> 31 & 1:
        if not c[int(C_TX_QUEUED)]:
            return 0  # the driver has them all: it is counted as lost, see ICMP.reply()
        c[int(C_TX_FULL)] = 1
        return -1
    i += c[int(C_RX_COUNT)]
    copy(frames[i], source, n - 20, 34, 34)
    k = int(C_FRAMES) + (i << 1)
    frame = c[k] | c[k + 1] << 32
    t = ptr32(frame)
    k = int(C_ECHO_MACS)
    t[0] = c[k]
    t[1] = c[k + 1]
    t[2] = c[k + 2]
    t = ptr32(frame + 14)
    t[0] = w[0]
    t[3] = w[4]
    t[4] = w[3]
    b = ptr16(frame)
    b[6] = 0x0008
    b[9] = h[9]  # a packet that nobody may cut needs no number (RFC 6864)
    b[10] = 0x0040  # DF
    b[11] = 0x0140  # TTL 64, ICMP
    s = h[7] + h[8] + h[9] + 0x0180 + h[13] + h[14] + h[15] + h[16]
    s = (s & 0xFFFF) + (s >> 16)
    b[12] = ~((s & 0xFFFF) + (s >> 16))
    b[17] = 0
    s = h[18] + 8  # the type, 8, is gone from what is added up (RFC 1624)
    b[18] = s + (s >> 16)
    n += 14
    f = ptr8(frame)
    while n < _FRAME_MIN:
        f[n] = 0
        n += 1
    send(words, objects, n)
    release(words, objects)
    return 1
