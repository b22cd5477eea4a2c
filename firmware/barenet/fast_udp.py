"""The fast path of UDP: datagrams between the rings of frames and an endpoint, in viper.

Each endpoint has an array('I') of the words named here; those that have a port are a chain that begins in the context (C_ENDPOINT). What is
usual is done here: a whole datagram from another host to our address and a port of the chain; a datagram to where the one before went. The
rest is left to plain Python, which also counts what is wrong.

The queue of an endpoint is a ring of bytes: each datagram follows its record, 8 bytes in which the UDP header has become source port, source
address and length, so that record and data are copied as one.
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
    O_FRAMES,
    O_INTO,
    O_POLL,
    O_QUEUES,
    O_REFILL,
    O_TRANSMIT,
    O_WORDS,
    RX_CHAINED_SIZE,
    TAKE_DATAGRAM,
    add,
    copy,
    piece,
)
from micropython import const

E_NEXT = const(0)  # address of the next endpoint's words, in two words (see fast.point)
E_SLOT = const(2)  # number of the queue in objects[O_QUEUES]
E_PORT = const(3)  # ours, as a little-endian halfword of the frame
E_LOCAL = const(4)  # our address, as C_ADDRESS, when it is bound to one
E_REMOTE = const(5)  # the peer's address and port, when it is connected
E_REMOTE_PORT = const(6)
E_SIZE = const(7)  # of the queue
E_HEAD = const(8)
E_USED = const(9)
E_DROPPED = const(10)  # found no room
E_RECORD = const(11)  # of the datagram that was taken last: two words
# What push() sends with, since learn().
E_MOST = const(13)  # largest datagram
E_NEIGHBOURS = const(14)  # C_NEIGHBOURS then
E_EXPIRES = const(15)  # when the neighbour must be asked again
E_IP_SUM = const(16)  # of what is the same in each header
E_UDP_SUM = const(17)
E_TEMPLATE = const(18)  # 42 bytes of Ethernet, IP and UDP header, then two zeros
E_WORDS = const(29)

_MASK30 = const(0x3FFFFFFF)
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
def receive(words, objects) -> int:
    """Queues the datagrams at the front of the receive ring with their endpoints; returns how many.

    One that finds no room is dropped and counted. Stops at the first frame that plain Python must look at, and behind a datagram that went
    straight to the buffer of a program (see take); then it returns -1.
    """
    c = ptr32(words)
    taken = 0
    while True:
        i = c[int(C_RX_NEXT)]
        d = ptr32((c[int(C_RX_RING)] | c[int(C_RX_RING) + 1] << 32) + (i << 5))
        w = d[0]
        if w >> 31 & 1 or w & _RX_ES_FS_LS != _RX_FS_LS or c[int(C_EVERY_FRAME_SLOW)] or taken == c[int(C_RX_COUNT)]:
            break
        k = int(C_FRAMES) + (i << 1)
        h = ptr16(c[k] | c[k + 1] << 32)
        f = ptr8(h)
        # IPv4 with a header of 5 words, UDP, no fragment, to our MAC address.
        if h[6] != 0x0008 or f[14] != 0x45 or f[23] != 17 or h[10] & 0xFFBF or f[0] & 1:
            break
        n = f[38] << 8 | f[39]
        k = f[16] << 8 | f[17]
        if k + 14 + _FCS > w >> 16 & 0x3FFF or n < 8 or n + 20 > k:
            break
        source = h[13] | h[14] << 16
        ours = h[15] | h[16] << 16
        if ours != c[int(C_ADDRESS)] or source == ours or source == c[int(C_BROADCAST)] or f[26] >= 224 or f[26] == 127:
            break
        s = h[13] + h[14] + h[15] + h[16]
        k = h[7] + h[8] + h[9] + h[10] + h[11] + h[12] + s
        k = (k & 0xFFFF) + (k >> 16)
        if (k & 0xFFFF) + (k >> 16) != 0xFFFF:
            break
        e = ptr32(c[int(C_ENDPOINT)] | c[int(C_ENDPOINT) + 1] << 32)
        while int(e) and e[E_PORT] != h[18]:
            e = ptr32(e[E_NEXT] | e[E_NEXT + 1] << 32)
        if int(e) == 0 or (e[E_LOCAL] and e[E_LOCAL] != ours):
            break
        if e[E_REMOTE_PORT] and (e[E_REMOTE_PORT] != h[17] or e[E_REMOTE] != source):
            break
        frame = objects[O_FRAMES][i]
        if h[20] and int(add(frame, s + 0x1100 + h[19], n, 34)) != 0xFFFF:
            break
        size = e[E_SIZE]
        used = e[E_USED]
        direct = 0
        if c[int(C_TAKE_SLOT)] == int(TAKE_DATAGRAM) and c[int(C_TAKE_LEFT)] == e[E_SLOT] and used == 0:
            direct = 1
            c[int(C_TAKE_SLOT)] = 0
            c[int(C_TAKE_LEFT)] = int(TAKE_DATAGRAM)
            # The record that pull() would find in the queue.
            r = ptr16(int(e) + (E_RECORD << 2))
            k = r[0] ^ h[17] | r[1] ^ h[13] | r[2] ^ h[14]
            r[0] = h[17]
            r[1] = h[13]
            r[2] = h[14]
            r[3] = h[19]
            k = 0x10000 if k else 0
            n -= 8
            if n > c[int(C_TAKE_END)]:
                n = c[int(C_TAKE_END)]
            c[int(C_TAKE_END)] = n | k
            copy(objects[O_INTO], frame, n, 0, 42)
        elif size - used < n:
            e[E_DROPPED] += 1
            c[int(C_DROP_DATAGRAM_FULL)] += 1
        else:
            e[E_USED] = used + n
            h[20] = h[19]
            h[18] = h[13]
            h[19] = h[14]
            used += e[E_HEAD]
            if used >= size:
                used -= size
            size -= used
            ring = objects[O_QUEUES][e[E_SLOT]]
            if n > size:
                copy(ring, frame, n - size, 0, 34 + size)
                n = size
            copy(ring, frame, n, used, 34)
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
        if direct:
            c[int(C_RX_RETURNED)] += taken
            c[int(C_FRAMES_IN)] += taken
            return -1
    c[int(C_RX_RETURNED)] += taken
    c[int(C_FRAMES_IN)] += taken
    return taken


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
    if e[E_USED] == 0:
        return -1
    ring = self.ring
    b = ptr8(ring)
    r = ptr8(int(e) + (E_RECORD << 2))
    size = e[E_SIZE]
    at = e[E_HEAD]
    other = 0
    k = 0
    while k < 8:
        v = b[at]
        if v != r[k]:
            r[k] = v
            other |= 1 << k
        at += 1
        if at == size:
            at = 0
        k += 1
    if other & 63:
        self.source = 0
    k = r[6] << 8 | r[7]
    if peek == 0:
        e[E_USED] -= k
        v = e[E_HEAD] + k
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
def take(self, buffer, at: int, n: int) -> int:
    """Endpoint.take(): pull(); when no datagram waits in the queue the next frame's goes straight to `buffer`. Polls once when there is none.

    `at` is 0: the arguments are those of fast.take().
    """
    e = ptr32(self.words)
    objects = self.objects
    c = ptr32(objects[O_WORDS])
    if e[E_USED] or c[int(C_ENTERED)]:
        return int(pull(self, buffer, n, 0))
    size = int(_len(buffer))
    if size:
        buffer[0] = buffer[0]
    if n < 0 or n > size:
        n = size
    k = 0
    c[int(C_TAKE_LEFT)] = e[E_SLOT]
    if e[E_SIZE]:
        objects[O_INTO] = buffer
        c[int(C_TAKE_END)] = n
        c[int(C_TAKE_SLOT)] = int(TAKE_DATAGRAM)
        d = ptr32((c[int(C_RX_RING)] | c[int(C_RX_RING) + 1] << 32) + (c[int(C_RX_NEXT)] << 5))
        if d[0] >> 31 & 1 == 0:
            k = int(receive(objects[O_WORDS], objects))
    if k >= 0:
        objects[O_POLL]()
        c[int(C_TAKE_SLOT)] = 0
        k = 0 - 1 if c[int(C_TAKE_LEFT)] == int(TAKE_DATAGRAM) else 0
    elif c[int(C_RX_RETURNED)] << 1 >= c[int(C_RX_COUNT)]:
        c[int(C_RX_RETURNED)] = 0
        objects[O_REFILL]()
    objects[O_INTO] = None
    if k == 0:
        return int(pull(self, buffer, n, 0))
    k = c[int(C_TAKE_END)]
    if k >> 16:
        self.source = 0
    return k & 0xFFFF


@micropython.viper
def text(self, n: int):
    """Endpoint.text(): returns up to n bytes of the oldest datagram as bytes; None when none waits, or when it does not lie in one piece.

    As fast.text().
    """
    e = ptr32(self.words)
    if e[E_USED] == 0:
        self.objects[O_POLL]()
    if e[E_USED] == 0:
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
    if k == 0:
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
def push(self, data, target) -> int:
    """Endpoint.push(): sends `data` where the datagram before went, if `target` is the very object that names it (see Endpoint.target).

    Returns its length, or -1 when that is not possible: plain Python finds out why, and sends it or says so.
    """
    if self.target is not target:
        return -1
    kind = _type(data)
    if not (kind is _bytes or kind is _bytearray or kind is _memoryview):
        return -1
    objects = self.objects
    c = ptr32(objects[O_WORDS])
    e = ptr32(self.words)
    n = int(_len(data))
    if n > e[E_MOST] or e[E_NEIGHBOURS] != c[int(C_NEIGHBOURS)] or c[int(C_ENTERED)] or c[int(C_EVERY_FRAME_SLOW)]:
        return -1
    t = ptr32(int(e) + (E_TEMPLATE << 2))
    # Whether the neighbour is to be asked again is looked at once for 64 datagrams: the clock costs 400 instructions.
    if t[4] >> 16 & 63 == 0 and (e[E_EXPIRES] - int(objects[O_CLOCK]())) >> 29 & 1:
        return -1
    i = c[int(C_TX_NEXT)]
    d = ptr32((c[int(C_TX_RING)] | c[int(C_TX_RING) + 1] << 32) + (i << 5))
    if d[0] >> 31 & 1:
        return -1
    k = c[int(C_RX_COUNT)] + i
    frame = objects[O_FRAMES][k]
    k = int(C_FRAMES) + (k << 1)
    w = ptr32(c[k] | c[k + 1] << 32)
    h = ptr16(w)
    f = ptr8(w)
    w[0] = t[0]
    w[1] = t[1]
    w[2] = t[2]
    w[3] = t[3]
    w[4] = t[4]
    w[5] = t[5]
    w[6] = t[6]
    w[7] = t[7]
    w[8] = t[8]
    w[9] = t[9]
    w[10] = t[10]
    # Padding of a short frame is zero.
    w[11] = 0
    w[12] = 0
    w[13] = 0
    w[14] = 0
    copy(frame, data, n, 42, 0)
    k = n + 28
    f[16] = k >> 8
    f[17] = k
    h[9] += 1
    s = e[E_IP_SUM] + h[8] + h[9]
    s = (s & 0xFFFF) + (s >> 16)
    h[12] = ~((s & 0xFFFF) + (s >> 16))
    s = h[9]
    h = ptr16(t)
    h[9] = s
    h = ptr16(w)
    k = n + 8
    f[38] = k >> 8
    f[39] = k
    s = ~int(add(data, e[E_UDP_SUM] + h[19] + h[19], n, 0)) & 0xFFFF
    if s == 0:
        s = 0xFFFF  # 0 means that there is none (RFC 768)
    h[20] = s
    # fast.send()
    k = n + 42
    if k < 60:
        k = 60
    d[1] = k
    h = ptr16(d)
    h[0] = 0
    h[1] = _TX_OWN_LS_FS_TCH
    i += 1
    if i == c[int(C_TX_COUNT)]:
        i = 0
    c[int(C_TX_NEXT)] = i
    c[int(C_FRAMES_OUT)] += 1
    c[int(C_TX_QUEUED)] = 0
    objects[O_TRANSMIT]()
    return n
