"""The fast path of UDP: datagrams between the rings of frames and an endpoint, in viper.

Each endpoint has an array('I') of the words named here; those that have a port are a chain that begins in the context (C_ENDPOINT). What is
usual is done here: a whole datagram from another host to our address and a port of the chain; a datagram to where the one before went. The
rest is left to plain Python, which also counts what is wrong.

The queue of an endpoint is a ring of words: each datagram follows its record, two words with source port, source address and length as they
stand in the frame (the length is the UDP header's), and takes whole words, so that it never parts inside of one.

Where a processor's ints have 64 bits (_WIDE, see fast.py) a word is added up as it is, else as two halfwords: `ptr16(source)[0]` costs no more
than `source[0]`, for a cast is none of the code's business.
"""

import micropython
from barenet.fast import (
    C_ADDRESS,
    C_BROADCAST,
    C_DROP_DATAGRAM_FULL,
    C_ENDPOINT,
    C_ENTERED,
    C_EVERY_FRAME_SLOW,
    C_FRAMES,
    C_FRAMES_IN,
    C_FRAMES_OUT,
    C_NEIGHBOURS,
    C_RX_COUNT,
    C_RX_NEXT,
    C_RX_RETURNED,
    C_RX_RING,
    C_TAKE_END,
    C_TAKE_LEFT,
    C_TAKE_SLOT,
    C_TX_COUNT,
    C_TX_NEXT,
    C_TX_QUEUED,
    C_TX_RING,
    O_CLOCK,
    O_ENDPOINT,
    O_POLL,
    O_REFILL,
    O_TRANSMIT,
    RX_CHAINED_SIZE,
    copy,
    piece,
)
from micropython import const

E_NEXT = const(0)  # address of the next endpoint's words, in two words (see fast.point)
E_SLOT = const(2)  # what C_TAKE_SLOT is while receive() runs for a program that reads here; 0 outside of the chain
E_PORT = const(3)  # ours, as a little-endian halfword of the frame
E_LOCAL = const(4)  # our address, as C_ADDRESS, when it is bound to one
E_REMOTE = const(5)  # the peer's address and port, when it is connected
E_REMOTE_PORT = const(6)
E_SIZE = const(7)  # of the queue, in bytes like the next two, and like them whole words
E_HEAD = const(8)
E_USED = const(9)
E_DROPPED = const(10)  # found no room
E_RECORD = const(11)  # of the datagram that was taken last: two words
E_CONTEXT = const(13)  # addresses of the context words and of the queue
E_RING = const(15)
# What push() sends with, since learn().
E_MOST = const(17)  # largest datagram
E_NEIGHBOURS = const(18)  # C_NEIGHBOURS then
E_EXPIRES = const(19)  # when the neighbour must be asked again
E_IP_SUM = const(20)  # of what is the same in each header
E_UDP_SUM = const(21)
E_TEMPLATE = const(22)  # 42 bytes of Ethernet, IP and UDP header, then two zeros
E_WORDS = const(33)

_TAKEN = const(0x20000)  # in C_TAKE_LEFT: the program has got its datagram, of so many bytes,
_OTHER = const(0x10000)  # and from another sender than the one before
_WIDE = const(0)
# As in fast.py.
_RX_OWN = const(0x8000)
_RX_ES_FS_LS = const(0x8300)
_RX_FS_LS = const(0x0300)
_TX_OWN_LS_FS_TCH = const(0xB010)
_FCS = const(4)
_len = len
_type = type
_bytes = bytes
_bytearray = bytearray
_memoryview = memoryview


@micropython.viper
def take(words, objects) -> int:
    """What fast.receive() calls for a frame that may be a datagram; see receive()."""
    first = objects[O_ENDPOINT]
    return int(receive(first, first, None, None, 0))


@micropython.viper
def receive(source: ptr32, target: ptr32, buffer, endpoint, n: int) -> int:
    """Takes the datagrams at the front of the receive ring: receive(words, buffer, buffer, endpoint, n).

    For a program that reads at most n bytes (n <= 0: as many as have room) from an endpoint with these words: copies one datagram to the start
    of `buffer`, the oldest of the queue (see pull) or else the next frame's; polls once when there is none. Those before it that are for others
    are queued. Returns its length, or -1 when there is none. Raises TypeError for a buffer that cannot be written to.

    For fast.receive(), with the words in place of a buffer: queues what it finds. Returns how many frames that were, or -1 behind a datagram
    that went straight to a program, one that waits in this function for the poll. Stops at the first frame that plain Python must look at.

    A datagram that finds no room is dropped and counted; a program's buffer may hold the bytes of one that was damaged. Viper keeps the first
    two arguments in registers: they serve the loop that copies and adds up. It stands here, as does all the rest, because a call costs 400
    instructions.
    """
    c = ptr32(source[E_CONTEXT] | source[E_CONTEXT + 1] << 32)
    program = int(target) - int(source)  # 0: none
    if program:
        if n <= 0:
            n = -1
        if source[E_USED] or c[int(C_ENTERED)]:
            return int(pull(endpoint, buffer, n, 0))
        k = int(_len(buffer))
        if k:
            buffer[0] = buffer[0]
        if n < 0 or n > k:
            n = k
        k = int(target)
        c[int(C_TAKE_END)] = k
        k = k >> 16 >> 16  # as in fast.point()
        if k < 0:
            k = 0
        c[int(C_TAKE_END) + 1] = k
        c[int(C_TAKE_LEFT)] = n if n < _OTHER else _OTHER - 1
        c[int(C_TAKE_SLOT)] = source[E_SLOT] if source[E_SIZE] else 0
    asked = n
    taken = 0
    direct = 0
    while not direct:
        i = c[int(C_RX_NEXT)]
        d = ptr32((c[int(C_RX_RING)] | c[int(C_RX_RING) + 1] << 32) + (i << 5))
        w = d[0]
        if w >> 31 & 1 or w & _RX_ES_FS_LS != _RX_FS_LS or c[int(C_EVERY_FRAME_SLOW)] or taken == c[int(C_RX_COUNT)]:
            break
        source = ptr32(int(c) + (i << 3))
        frame = source[int(C_FRAMES)] | source[int(C_FRAMES) + 1] << 32
        h = ptr16(frame)
        f = ptr8(frame)
        # IPv4 with a header of 5 words, UDP, no fragment, to our MAC address.
        if h[6] != 0x0008 or f[14] != 0x45 or f[23] != 17 or h[10] & 0xFFBF or f[0] & 1:
            break
        n = f[38] << 8 | f[39]
        k = f[16] << 8 | f[17]
        if k + 14 + _FCS > w >> 16 & 0x3FFF or n < 8 or n + 20 > k:
            break
        source = ptr32(frame + 14)
        w = source[3]
        k = source[4]
        if k != c[int(C_ADDRESS)] or w == k or w == c[int(C_BROADCAST)] or f[26] >= 224 or f[26] == 127:
            break
        if _WIDE:
            s = w + k
            v = source[0] + source[1] + source[2] + s
            v = (v & 0xFFFF) + (v >> 16)
            s += source[5] + source[6]
        else:
            s = h[13] + h[14] + h[15] + h[16]
            v = h[7] + h[8] + h[9] + h[10] + h[11] + h[12] + s
            s += h[17] + h[18] + h[19] + h[20]
        v = (v & 0xFFFF) + (v >> 16)
        if (v & 0xFFFF) + (v >> 16) != 0xFFFF:
            break
        e = ptr32(c[int(C_ENDPOINT)] | c[int(C_ENDPOINT) + 1] << 32)
        while int(e) and e[E_PORT] != h[18]:
            e = ptr32(e[E_NEXT] | e[E_NEXT + 1] << 32)
        if not int(e) or (e[E_LOCAL] and e[E_LOCAL] != k):
            break
        if e[E_REMOTE_PORT] and (e[E_REMOTE_PORT] != h[17] or e[E_REMOTE] != w):
            break
        s += 0x1100 + h[19]
        n -= 8
        source = ptr32(frame + 42)
        k = n
        rest = 0
        size = e[E_SIZE]
        v = e[E_HEAD] + e[E_USED]
        if c[int(C_TAKE_SLOT)] == e[E_SLOT] and n <= c[int(C_TAKE_LEFT)] and not e[E_USED]:
            direct = 1
            target = ptr32(c[int(C_TAKE_END)] | c[int(C_TAKE_END) + 1] << 32)
        elif size - e[E_USED] < n + 8:
            e[E_DROPPED] = e[E_DROPPED] + 1
            c[int(C_DROP_DATAGRAM_FULL)] = c[int(C_DROP_DATAGRAM_FULL)] + 1
            k = 0 - 1
        else:
            ring = e[E_RING] | e[E_RING + 1] << 32
            if v >= size:
                v -= size
            target = ptr32(ring + v)
            target[0] = h[17] | h[13] << 16
            v += 4
            if v == size:
                v = 0
            target = ptr32(ring + v)
            target[0] = h[14] | h[19] << 16
            v += 4
            if v == size:
                v = 0
            target = ptr32(ring + v)
            if k > size - v:
                k = size - v
                rest = n - k
        if k >= 0:
            while True:
                end = int(source) + (k & ~63)
                while int(source) != end:
                    target[0] = source[0]
                    target[1] = source[1]
                    target[2] = source[2]
                    target[3] = source[3]
                    target[4] = source[4]
                    target[5] = source[5]
                    target[6] = source[6]
                    target[7] = source[7]
                    target[8] = source[8]
                    target[9] = source[9]
                    target[10] = source[10]
                    target[11] = source[11]
                    target[12] = source[12]
                    target[13] = source[13]
                    target[14] = source[14]
                    target[15] = source[15]
                    if _WIDE:
                        s = (
                            s + source[0] + source[1] + source[2] + source[3] + source[4] + source[5] + source[6] + source[7]
                            + source[8] + source[9] + source[10] + source[11] + source[12] + source[13] + source[14] + source[15]
                        )
                    else:
                        s = (
                            s + ptr16(source)[0] + ptr16(source)[1] + ptr16(source)[2] + ptr16(source)[3]
                            + ptr16(source)[4] + ptr16(source)[5] + ptr16(source)[6] + ptr16(source)[7]
                            + ptr16(source)[8] + ptr16(source)[9] + ptr16(source)[10] + ptr16(source)[11]
                            + ptr16(source)[12] + ptr16(source)[13] + ptr16(source)[14] + ptr16(source)[15]
                            + ptr16(source)[16] + ptr16(source)[17] + ptr16(source)[18] + ptr16(source)[19]
                            + ptr16(source)[20] + ptr16(source)[21] + ptr16(source)[22] + ptr16(source)[23]
                            + ptr16(source)[24] + ptr16(source)[25] + ptr16(source)[26] + ptr16(source)[27]
                            + ptr16(source)[28] + ptr16(source)[29] + ptr16(source)[30] + ptr16(source)[31]
                        )
                    target = ptr32(int(target) + 64)
                    source = ptr32(int(source) + 64)
                end += k & 60
                while int(source) != end:
                    target[0] = source[0]
                    if _WIDE:
                        s += source[0]
                    else:
                        s += ptr16(source)[0] + ptr16(source)[1]
                    target = ptr32(int(target) + 4)
                    source = ptr32(int(source) + 4)
                if not rest:
                    break
                k = rest
                rest = 0
                target = ptr32(ring)
            last = ptr8(target)
            f = ptr8(source)
            if k & 2:
                last[0] = f[0]
                last[1] = f[1]
                s += f[0] | f[1] << 8
            if k & 1:
                k &= 2
                last[k] = f[k]
                s += f[k]
            s = (s & 0xFFFF) + (s >> 16)
            s = (s & 0xFFFF) + (s >> 16)
            if h[20] and (s & 0xFFFF) + (s >> 16) != 0xFFFF:
                direct = 0
                break
            if direct:
                # The record that pull() would find in the queue.
                w = h[17] | h[13] << 16
                k = h[14] | h[19] << 16
                v = n | _TAKEN
                if w ^ e[E_RECORD] or (k ^ e[E_RECORD + 1]) & 0xFFFF:
                    v |= _OTHER
                e[E_RECORD] = w
                e[E_RECORD + 1] = k
                c[int(C_TAKE_SLOT)] = 0
                c[int(C_TAKE_LEFT)] = v
            else:
                e[E_USED] = e[E_USED] + (n + 11 & ~3)
        # fast.release()
        d[1] = int(RX_CHAINED_SIZE)
        h = ptr16(d)
        h[0] = 0
        h[1] = _RX_OWN
        i += 1
        if i == c[int(C_RX_COUNT)]:
            i = 0
        c[int(C_RX_NEXT)] = i
        taken += 1
    c[int(C_RX_RETURNED)] = c[int(C_RX_RETURNED)] + taken
    c[int(C_FRAMES_IN)] = c[int(C_FRAMES_IN)] + taken
    if not program:
        return 0 - 1 if direct else taken
    if not direct:
        objects = endpoint.objects
        objects[O_POLL]()
    elif c[int(C_RX_RETURNED)] << 1 >= c[int(C_RX_COUNT)]:
        c[int(C_RX_RETURNED)] = 0
        objects = endpoint.objects
        objects[O_REFILL]()
    k = c[int(C_TAKE_LEFT)]
    if not k & _TAKEN:
        return int(pull(endpoint, buffer, asked, 0))
    if k & _OTHER:
        endpoint.source = 0
    return k & 0xFFFF


@micropython.viper
def pull(self, buffer, n: int, peek: int) -> int:
    """Endpoint.pull(): copies the oldest datagram to the start of `buffer`, at most n bytes of it (all of the buffer when n is negative).

    The rest of the datagram is lost; with `peek` all of it stays. Returns how many bytes, or -1 when no datagram waits. Sets `source` to 0
    when the sender (see Endpoint.sender) is another than the last one's. Raises TypeError for a buffer that cannot be written to.
    """
    size = int(_len(buffer))
    if size and n:
        buffer[0] = buffer[0]
    if n < 0 or n > size:
        n = size
    e = ptr32(self.words)
    if not e[E_USED]:
        return -1
    ring = self.ring
    r = ptr32(ring)
    size = e[E_SIZE]
    at = e[E_HEAD]
    v = r[at >> 2]
    at += 4
    if at == size:
        at = 0
    k = r[at >> 2]
    at += 4
    if at == size:
        at = 0
    if v ^ e[E_RECORD] or (k ^ e[E_RECORD + 1]) & 0xFFFF:
        self.source = 0
    e[E_RECORD] = v
    e[E_RECORD + 1] = k
    k = (k >> 16 & 0xFF) << 8 | k >> 24 & 0xFF
    if not peek:
        v = k + 3 & ~3
        e[E_USED] -= v
        v += e[E_HEAD]
        if v >= size:
            v -= size
        e[E_HEAD] = v
    if n > k - 8:
        n = k - 8
    size -= at
    if n > size:
        copy(buffer, ring, n - size, size, 0)
        copy(buffer, ring, size, 0, at)
    else:
        copy(buffer, ring, n, 0, at)
    return n


@micropython.viper
def text(self, n: int):
    """Endpoint.text(): returns up to n bytes of the oldest datagram as bytes; None when none waits, or when it does not lie in one piece.

    As fast.text().
    """
    e = ptr32(self.words)
    if not e[E_USED]:
        self.objects[O_POLL]()
    if not e[E_USED]:
        return None
    size = e[E_SIZE]
    head = e[E_HEAD]
    if head + 8 > size:
        return None
    b = ptr8(self.ring)
    k = (b[head + 6] << 8 | b[head + 7]) - 8
    if n > k:
        n = k
    if n < 0 or head + 8 + n > size:
        return None
    data = piece(self.ring, head + 8, head + 8 + n)
    if e[E_HEAD] != head:
        return None
    pull(self, data, 0, 0)
    return data


@micropython.viper
def learn(words, endpoint) -> int:
    """Keeps the headers of the frame that was queued last for push(); returns 0 when that is no whole datagram of this endpoint."""
    c = ptr32(words)
    e = ptr32(endpoint)
    k = c[int(C_TX_NEXT)]
    if not k:
        k = c[int(C_TX_COUNT)]
    k = int(C_FRAMES) + (c[int(C_RX_COUNT)] + k - 1 << 1)
    w = ptr32(c[k] | c[k + 1] << 32)
    h = ptr16(w)
    if h[6] != 0x0008 or h[11] >> 8 != 17 or h[10] != 0x0040 or h[17] != e[E_PORT]:
        return 0
    k = 0
    while k < 11:
        e[E_TEMPLATE + k] = w[k]
        k += 1
    s = h[13] + h[14] + h[15] + h[16]
    e[E_IP_SUM] = h[7] + h[10] + h[11] + s
    e[E_UDP_SUM] = h[17] + h[18] + 0x1100 + s
    h = ptr16(int(e) + (E_TEMPLATE << 2))
    h[20] = h[21] = 0
    e[E_NEIGHBOURS] = c[int(C_NEIGHBOURS)]
    return 1


@micropython.viper
def push(source: ptr32, target: ptr32, data, objects) -> int:
    """Sends `data` where the datagram of an endpoint before went: push(data, words of the endpoint, data, objects).

    Whether it goes there the program's name for it says, see Endpoint.target. Returns its length, or -1 when that is not possible: plain
    Python finds out why, and sends it or says so. As receive() it copies and adds up in line; the first two arguments serve the loop.
    """
    kind = _type(data)
    if not (kind is _bytes or kind is _bytearray or kind is _memoryview):
        return -1
    e = target
    c = ptr32(e[E_CONTEXT] | e[E_CONTEXT + 1] << 32)
    n = int(_len(data))
    if n > e[E_MOST] or e[E_NEIGHBOURS] != c[int(C_NEIGHBOURS)] or c[int(C_ENTERED)] or c[int(C_EVERY_FRAME_SLOW)]:
        return -1
    # Whether the neighbour is to be asked again is looked at once for 64 datagrams: the clock costs 400 instructions.
    if not e[E_TEMPLATE + 4] >> 16 & 63 and (e[E_EXPIRES] - int(objects[O_CLOCK]())) >> 29 & 1:
        return -1
    i = c[int(C_TX_NEXT)]
    d = ptr32((c[int(C_TX_RING)] | c[int(C_TX_RING) + 1] << 32) + (i << 5))
    if d[0] >> 31 & 1:
        return -1
    start = source
    source = ptr32(int(c) + (c[int(C_RX_COUNT)] + i << 3))
    target = ptr32(source[int(C_FRAMES)] | source[int(C_FRAMES) + 1] << 32)
    h = ptr16(target)
    source = ptr32(int(e) + (E_TEMPLATE << 2))
    target[0] = source[0]
    target[1] = source[1]
    target[2] = source[2]
    target[3] = source[3]
    target[4] = source[4]
    target[5] = source[5]
    target[6] = source[6]
    target[7] = source[7]
    target[8] = source[8]
    target[9] = source[9]
    target[10] = source[10]
    # Padding of a short frame is zero.
    target[11] = 0
    target[12] = 0
    target[13] = 0
    target[14] = 0
    k = n + 28
    v = k >> 8 | (k & 0xFF) << 8
    h[8] = v
    k = h[9] + 1
    h[9] = k
    s = e[E_IP_SUM] + v + (k & 0xFFFF)
    s = (s & 0xFFFF) + (s >> 16)
    h[12] = ~((s & 0xFFFF) + (s >> 16))
    b = ptr16(source)
    b[9] = k
    k = n + 8
    v = k >> 8 | (k & 0xFF) << 8
    h[19] = v
    s = e[E_UDP_SUM] + v + v
    source = start
    target = ptr32(int(target) + 42)
    end = int(source) + (n & ~63)
    while int(source) != end:
        target[0] = source[0]
        target[1] = source[1]
        target[2] = source[2]
        target[3] = source[3]
        target[4] = source[4]
        target[5] = source[5]
        target[6] = source[6]
        target[7] = source[7]
        target[8] = source[8]
        target[9] = source[9]
        target[10] = source[10]
        target[11] = source[11]
        target[12] = source[12]
        target[13] = source[13]
        target[14] = source[14]
        target[15] = source[15]
        if _WIDE:
            s = (
                s + source[0] + source[1] + source[2] + source[3] + source[4] + source[5] + source[6] + source[7]
                + source[8] + source[9] + source[10] + source[11] + source[12] + source[13] + source[14] + source[15]
            )
        else:
            s = (
                s + ptr16(source)[0] + ptr16(source)[1] + ptr16(source)[2] + ptr16(source)[3]
                + ptr16(source)[4] + ptr16(source)[5] + ptr16(source)[6] + ptr16(source)[7]
                + ptr16(source)[8] + ptr16(source)[9] + ptr16(source)[10] + ptr16(source)[11]
                + ptr16(source)[12] + ptr16(source)[13] + ptr16(source)[14] + ptr16(source)[15]
                + ptr16(source)[16] + ptr16(source)[17] + ptr16(source)[18] + ptr16(source)[19]
                + ptr16(source)[20] + ptr16(source)[21] + ptr16(source)[22] + ptr16(source)[23]
                + ptr16(source)[24] + ptr16(source)[25] + ptr16(source)[26] + ptr16(source)[27]
                + ptr16(source)[28] + ptr16(source)[29] + ptr16(source)[30] + ptr16(source)[31]
            )
        target = ptr32(int(target) + 64)
        source = ptr32(int(source) + 64)
    end += n & 60
    while int(source) != end:
        target[0] = source[0]
        if _WIDE:
            s += source[0]
        else:
            s += ptr16(source)[0] + ptr16(source)[1]
        target = ptr32(int(target) + 4)
        source = ptr32(int(source) + 4)
    last = ptr8(target)
    byte = ptr8(source)
    if n & 2:
        last[0] = byte[0]
        last[1] = byte[1]
        s += byte[0] | byte[1] << 8
    if n & 1:
        k = n & 2
        last[k] = byte[k]
        s += byte[k]
    s = (s & 0xFFFF) + (s >> 16)
    s = (s & 0xFFFF) + (s >> 16)
    s = ~((s & 0xFFFF) + (s >> 16)) & 0xFFFF
    if not s:
        s = 0xFFFF  # 0 means that there is none (RFC 768)
    h[20] = s
    # fast.send()
    k = n + 42
    if k < 60:
        k = 60
    d[1] = k
    i += 1
    if i == c[int(C_TX_COUNT)]:
        i = 0
    d[3] = c[int(C_TX_RING)] + (i << 5)
    h = ptr16(d)
    h[0] = 0
    h[1] = _TX_OWN_LS_FS_TCH
    c[int(C_TX_NEXT)] = i
    c[int(C_FRAMES_OUT)] = c[int(C_FRAMES_OUT)] + 1
    c[int(C_TX_QUEUED)] = 0
    objects[O_TRANSMIT]()
    return n
