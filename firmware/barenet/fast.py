"""The fast path: everything that runs once a frame, in viper, and the layout of the words it works on.

100BASE-TX leaves an ESP32 29,500 cycles for each full segment; one call of a plain Python method costs 1,200 of them. So the work of a
segment that belongs to an open connection (header checks, checksum, acknowledgement, window, copy, the ACK or the next segments that follow
from it) is done here, from the receive ring to the receive buffer and from the send buffer to the transmit ring, without an allocation and
without coming back to bytecode. Whatever is rare (handshake, FIN, RST, options, other protocols, bad input) is handed to plain Python.

This module knows words, not layers: it imports nothing, and every other module takes the names of the words from here.

Two kinds of words:

* the context, one array('I') for the stack (names `C_…`), and beside it `objects`, a list of the buffers (names `O_…`). Viper takes buffers
  as objects and turns them into pointers itself: an address kept in an int would be a heap-allocated big int on a 32-bit board.
* the control block of a connection (TCB), one array('I') each, with the names of RFC 9293, section 3.3.1.

Sequence numbers are 32-bit and wrap. The same code runs where a viper int has 32 and where it has 64 bits, so the sign of a difference
is read from its bit 31 and a difference known to be small is masked to 30 bits. Times are milliseconds modulo 2**30 (see ticks.py); their
difference has its sign in bit 29.
"""

import micropython
from micropython import const

# Frames and descriptors (the EMAC's layout, see pool.py).
FRAME_SIZE = const(1536)
FCS = const(4)
_TX_OWN_LS_FS_TCH = const(0xB010)  # upper half of word 0: one frame in one chained descriptor, owned by the DMA
_RX_OWN = const(0x8000)  # upper half of word 0
_RX_ES = const(0x8000)
_RX_FS_LS = const(0x0300)
RX_CHAINED_SIZE = const(0x4600)  # word 1: RCH, buffer of 0x600 bytes

# Connection states, RFC 9293 section 3.3.2.
CLOSED = const(0)
LISTEN = const(1)
SYN_SENT = const(2)
SYN_RECEIVED = const(3)
ESTABLISHED = const(4)
FIN_WAIT_1 = const(5)
FIN_WAIT_2 = const(6)
CLOSE_WAIT = const(7)
CLOSING = const(8)
LAST_ACK = const(9)
TIME_WAIT = const(10)

# TCP header flags.
FIN = const(0x01)
SYN = const(0x02)
RST = const(0x04)
PSH = const(0x08)
ACK = const(0x10)
URG = const(0x20)

# Context words.
C_RX_COUNT = const(0)  # descriptors in the receive ring
C_RX_NEXT = const(1)  # the one the DMA fills next
C_RX_RETURNED = const(2)  # given back since the driver last refilled
C_TX_COUNT = const(3)
C_TX_NEXT = const(4)  # the one the stack fills next
C_TX_QUEUED = const(5)  # handed to the DMA since the driver last transmitted
C_TX_FULL = const(6)  # somebody found no free transmit descriptor
C_ADDRESS = const(7)  # our IPv4 address as two little-endian halfwords of the frame
C_EVERY_FRAME_SLOW = const(8)  # tracing: plain Python sees each frame
C_SEGMENT = const(9)  # offset of the TCP header of the segment in hand
C_SEGMENT_END = const(10)
C_OUTPUT = const(11)  # some connection has FLAG_OUTPUT set
C_SETTLE = const(23)  # some connection's state must follow a FIN, or the ACK of ours
C_NEXT_TIMER = const(12)  # no connection timer expires before this time
C_FRAMES_IN = const(13)  # counters from here on
C_FRAMES_OUT = const(14)
C_FAST_SEGMENTS = const(15)
C_DROP_RECEIVE_ERROR = const(16)
C_DROP_IP_CHECKSUM = const(17)
C_DROP_TCP_CHECKSUM = const(18)
C_DROP_OUT_OF_ORDER = const(19)
C_DROP_OUT_OF_WINDOW = const(20)
C_DROP_BAD_ACK = const(21)
C_DROP_BUFFER_FULL = const(22)
C_WORDS = const(24)

# Members of `objects`.
O_FRAMES = const(0)
O_RX_RING = const(1)
O_TX_RING = const(2)
O_LOOKUP = const(3)  # open-addressed hash table of 256 bytes: 0 empty, else slot + 1
O_KEYS = const(4)  # two words a slot: remote address, ports, as they stand in a received frame
O_TCBS = const(5)  # lists, indexed by slot
O_RCV = const(6)
O_SND = const(7)
O_COUNT = const(8)

# Control block words.
STATE = const(0)
FLAGS = const(1)
SND_UNA = const(2)
SND_NXT = const(3)
SND_MAX = const(4)  # highest SND_NXT so far; a retransmission takes SND_NXT back
SND_WND = const(5)
SND_WL1 = const(6)
SND_WL2 = const(7)
MAX_SND_WND = const(8)  # largest window the peer ever offered (RFC 9293 3.8.6.2.1)
SND_MSS = const(9)
CWND = const(10)
SSTHRESH = const(11)
SND_SIZE = const(12)  # send buffer: a ring that starts with the byte SND_UNA
SND_HEAD = const(13)
SND_LEN = const(14)
RCV_NXT = const(15)
RCV_ADV = const(16)  # right edge of the window we advertised
RCV_SIZE = const(17)  # receive buffer: a ring
RCV_HEAD = const(18)
RCV_LEN = const(19)
RCV_MSS = const(20)
LAST_ACK_SENT = const(21)
ISS = const(22)
IRS = const(23)
SRTT = const(24)  # ms * 8
RTTVAR = const(25)  # ms * 4
RTO = const(26)  # ms
RTT_SEQ = const(27)
RTT_AT = const(28)
RETRIES = const(29)
RTX_AT = const(30)  # retransmission or persist timer
ACK_AT = const(31)  # delayed ACK timer
WAIT_AT = const(32)  # connect, keep, TIME_WAIT … whatever the state waits for
IP_ID = const(33)
PSEUDO_SUM = const(34)  # halfword sum of addresses and protocol
SEGMENTS_IN = const(35)
SEGMENTS_OUT = const(36)
BYTES_IN = const(37)
BYTES_OUT = const(38)
RETRANSMITS = const(39)
LAST_ARRIVAL = const(40)  # when the peer was last heard, ms
TEMPLATE = const(41)  # 54 bytes of Ethernet, IP and TCP header
_TEMPLATE_WORDS = const(14)
TCB_WORDS = const(55)

FLAG_ACK_NOW = const(0x001)
FLAG_ACK_LATER = const(0x002)  # ACK_AT is running
FLAG_OUTPUT = const(0x004)  # something may leave
FLAG_FIN = const(0x008)  # FIN follows the send buffer
FLAG_FIN_ACKED = const(0x010)
FLAG_NODELAY = const(0x020)
FLAG_TIMING = const(0x040)  # RTT_SEQ is being timed
FLAG_RTX = const(0x080)  # RTX_AT is running for retransmission
FLAG_PERSIST = const(0x100)  # RTX_AT is running for window probes
FLAG_WAIT = const(0x200)  # WAIT_AT is running
FLAG_ORPHAN = const(0x400)  # the program has closed it: nobody reads any more
FLAG_PROBE = const(0x800)  # send one byte into a closed window
FLAG_FIN_IN = const(0x1000)  # the peer's FIN has arrived, in order

# What arrive() found.
ARRIVED_DATA = const(2)
ARRIVED_REFUSED = const(4)  # not acceptable: answered with an ACK

ACK_DELAY = const(40)  # ms
RTO_MIN = const(200)  # ms
RTO_MAX = const(60000)
_MASK30 = const(0x3FFFFFFF)


@micropython.viper
def copy(target, at: int, source, start: int, n: int):
    """Copies source[start:start+n] to target[at:at+n]; both bytes-like, not overlapping; bounds are the caller's.

    Unrolled over constant indexes: 2.6 instructions a word on the ESP32, where `a[:] = b` costs 6.4 a byte.
    """
    d = int(ptr8(target)) + at
    s = int(ptr8(source)) + start
    while n >= 32:
        a = ptr32(d)
        b = ptr32(s)
        a[0] = b[0]
        a[1] = b[1]
        a[2] = b[2]
        a[3] = b[3]
        a[4] = b[4]
        a[5] = b[5]
        a[6] = b[6]
        a[7] = b[7]
        d += 32
        s += 32
        n -= 32
    while n >= 4:
        a = ptr32(d)
        b = ptr32(s)
        a[0] = b[0]
        d += 4
        s += 4
        n -= 4
    e = ptr8(d)
    f = ptr8(s)
    while n:
        n -= 1
        e[n] = f[n]


@micropython.viper
def add(buffer, start: int, n: int, seed: int) -> int:
    """Returns seed plus the sum of the little-endian halfwords of buffer[start:start+n], folded to 16 bits (RFC 1071).

    An odd last byte counts as the low half of a halfword. 32 halfwords a turn: 2.9 instructions each on the ESP32, against 4.6 for 8.
    """
    p = int(ptr8(buffer)) + start
    total = seed
    while n >= 64:
        h = ptr16(p)
        total += h[0] + h[1] + h[2] + h[3] + h[4] + h[5] + h[6] + h[7]
        total += h[8] + h[9] + h[10] + h[11] + h[12] + h[13] + h[14] + h[15]
        total += h[16] + h[17] + h[18] + h[19] + h[20] + h[21] + h[22] + h[23]
        total += h[24] + h[25] + h[26] + h[27] + h[28] + h[29] + h[30] + h[31]
        p += 64
        n -= 64
    while n >= 2:
        h = ptr16(p)
        total += h[0]
        p += 2
        n -= 2
    if n:
        b = ptr8(p)
        total += b[0]
    total = (total & 0xFFFF) + (total >> 16)
    return (total & 0xFFFF) + (total >> 16)


@micropython.viper
def owned_by_dma(ring, i: int) -> int:
    """Returns 1 when descriptor i of the ring belongs to the DMA (a plain read of word 0 would allocate a big int)."""
    w = ptr32(ring)
    return w[i << 3] >> 31 & 1


@micropython.viper
def received_length(words, objects) -> int:
    """Returns the length without FCS of the received frame in hand."""
    c = ptr32(words)
    w = ptr32(objects[O_RX_RING])
    return (w[c[C_RX_NEXT] << 3] >> 16 & 0x3FFF) - FCS


@micropython.viper
def release(words, objects):
    """Gives the receive descriptor in hand back to the DMA and moves to the next."""
    c = ptr32(words)
    i = c[C_RX_NEXT]
    d = int(ptr32(objects[O_RX_RING])) + (i << 5)
    w = ptr32(d)
    w[1] = RX_CHAINED_SIZE
    h = ptr16(d)
    h[0] = 0
    h[1] = _RX_OWN
    i += 1
    if i == c[C_RX_COUNT]:
        i = 0
    c[C_RX_NEXT] = i
    c[C_RX_RETURNED] += 1


@micropython.viper
def send(words, objects, n: int):
    """Hands the transmit frame in hand, n bytes without FCS, to the DMA and moves to the next.

    A 32-bit store of OWN would need a big int; the descriptor is ordinary RAM, so its upper half is stored last.
    """
    c = ptr32(words)
    i = c[C_TX_NEXT]
    d = int(ptr32(objects[O_TX_RING])) + (i << 5)
    w = ptr32(d)
    w[1] = n
    h = ptr16(d)
    h[0] = 0
    h[1] = _TX_OWN_LS_FS_TCH
    i += 1
    if i == c[C_TX_COUNT]:
        i = 0
    c[C_TX_NEXT] = i
    c[C_TX_QUEUED] += 1
    c[C_FRAMES_OUT] += 1


@micropython.viper
def lookup(objects, frame, at: int) -> int:
    """Returns the slot of the connection that the segment at frame[at:] belongs to, or -1.

    The key is the remote address and both ports, as two words in the frame's byte order.
    """
    f = int(ptr8(frame))
    a = ptr16(f + 26)
    p = ptr16(f + at)
    address = a[0] | a[1] << 16
    ports = p[0] | p[1] << 16
    keys = ptr32(objects[O_KEYS])
    table = ptr8(objects[O_LOOKUP])
    x = address ^ ports
    i = (x ^ x >> 8 ^ x >> 16 ^ x >> 24) & 255
    while table[i]:
        k = table[i] - 1
        if keys[k << 1] == address and keys[(k << 1) + 1] == ports:
            return k
        i = (i + 1) & 255
    return -1


@micropython.viper
def insert(objects, slot: int):
    """Enters the connection in `slot`, whose key is in O_KEYS, into the hash table. It must not be full (255 entries)."""
    keys = ptr32(objects[O_KEYS])
    table = ptr8(objects[O_LOOKUP])
    x = keys[slot << 1] ^ keys[(slot << 1) + 1]
    i = (x ^ x >> 8 ^ x >> 16 ^ x >> 24) & 255
    while table[i]:
        i = (i + 1) & 255
    table[i] = slot + 1


@micropython.viper
def receive(words, objects, now: int, most: int) -> int:
    """Walks the receive ring and handles whole segments of open connections.

    Returns the index + 1 of a frame that plain Python must look at (then call release), 0 when no frame waits or `most` have been handled,
    or -1 when the transmit ring is full: the driver should transmit, then call again.
    """
    c = ptr32(words)
    ring = int(ptr32(objects[O_RX_RING]))
    tcbs = objects[O_TCBS]
    frames = objects[O_FRAMES]
    while most:
        most -= 1
        i = c[C_RX_NEXT]
        d = ptr32(ring + (i << 5))
        w = d[0]
        if w >> 31 & 1:
            return 0
        c[C_FRAMES_IN] += 1
        if w & _RX_ES or w & _RX_FS_LS != _RX_FS_LS:
            c[C_DROP_RECEIVE_ERROR] += 1
            release(words, objects)
            continue
        n = (w >> 16 & 0x3FFF) - FCS
        frame = frames[i]
        f = ptr8(frame)
        h = ptr16(frame)
        # Fast: IPv4 (0x0800) with a header of 5 words, TCP, no fragment, to our address.
        if c[C_EVERY_FRAME_SLOW] or n < 54 or h[6] != 0x0008 or f[14] != 0x45 or f[23] != 6 or h[10] & 0xFFBF:
            return i + 1
        end = 14 + (f[16] << 8 | f[17])
        if end > n or end < 54 or (h[15] | h[16] << 16) != c[C_ADDRESS]:
            return i + 1
        s = h[7] + h[8] + h[9] + h[10] + h[11] + h[12] + h[13] + h[14] + h[15] + h[16]
        s = (s & 0xFFFF) + (s >> 16)
        if (s & 0xFFFF) + (s >> 16) != 0xFFFF:
            c[C_DROP_IP_CHECKSUM] += 1
            release(words, objects)
            continue
        data = 34 + (f[46] >> 4 << 2)
        if data < 54 or data > end or f[47] & (SYN | RST | URG | ACK) != ACK:
            return i + 1
        slot = int(lookup(objects, frame, 34))
        if slot < 0:
            return i + 1
        t = ptr32(tcbs[slot])
        if t[STATE] < ESTABLISHED or t[STATE] > CLOSE_WAIT or t[FLAGS] & FLAG_ORPHAN:
            return i + 1
        length = end - 34
        s = h[13] + h[14] + h[15] + h[16] + 0x0600 + (length >> 8 | (length & 0xFF) << 8)
        if int(add(frame, 34, length, s)) != 0xFFFF:
            c[C_DROP_TCP_CHECKSUM] += 1
            release(words, objects)
            continue
        c[C_FAST_SEGMENTS] += 1
        c[C_SEGMENT] = 34
        c[C_SEGMENT_END] = end
        arrive(words, objects, slot, frame, now)
        release(words, objects)
        if t[FLAGS] & (FLAG_ACK_NOW | FLAG_OUTPUT):
            output(words, objects, slot, now)
            if c[C_TX_FULL]:
                return -1
    return 0


@micropython.viper
def arrive(words, objects, slot: int, frame, now: int) -> int:
    """Takes one segment with ACK into a synchronised connection: RFC 9293 section 3.10.7.4, first and fifth to eighth step.

    The TCP header is at frame[C_SEGMENT], the text ends at C_SEGMENT_END; checksum, RST and SYN have been looked at.
    Returns ARRIVED_… bits. Sets FLAG_ACK_NOW, FLAG_ACK_LATER or FLAG_OUTPUT for what has to follow. A FIN, and the ACK of ours, are
    noted in FLAG_FIN_IN and FLAG_FIN_ACKED; Connection.settle() moves the state.
    """
    c = ptr32(words)
    t = ptr32(objects[O_TCBS][slot])
    at = c[C_SEGMENT]
    f = ptr8(int(ptr8(frame)) + at)
    seq = f[4] << 24 | f[5] << 16 | f[6] << 8 | f[7]
    ack = f[8] << 24 | f[9] << 16 | f[10] << 8 | f[11]
    start = at + (f[12] >> 4 << 2)
    n = c[C_SEGMENT_END] - start
    found = 0
    t[SEGMENTS_IN] += 1
    t[LAST_ARRIVAL] = now
    state = t[STATE]

    # First: is it in the window? `skip` counts the bytes in front that we have already, `gap` those that are missing.
    window = t[RCV_ADV] - t[RCV_NXT] & _MASK30
    ahead = seq - t[RCV_NXT]
    skip = 0
    gap = 0
    quarter = ahead >> 30 & 3
    if quarter == 0:
        gap = ahead & _MASK30
        if gap > 0 and gap >= window:
            found = ARRIVED_REFUSED
    elif quarter == 3:
        skip = 0 - ahead & _MASK30
        if skip == 0 or skip >= n + (f[13] & FIN):  # 0: it is 2**30 behind
            found = ARRIVED_REFUSED
    else:
        found = ARRIVED_REFUSED
    if found:
        # An old segment's acknowledgement is still news when it is in range (Linux and lwIP take it, too).
        if quarter == 1 or quarter == 2 or gap:
            c[C_DROP_OUT_OF_WINDOW] += 1
            t[FLAGS] |= FLAG_ACK_NOW
            return found
        skip = n
        t[FLAGS] |= FLAG_ACK_NOW

    # Fifth: the acknowledgement.
    acked = ack - t[SND_UNA]
    beyond = ack - t[SND_MAX]
    if acked >> 31 & 1:
        acked = 0 - acked
        if acked >> 30 & 3 or acked & _MASK30 > t[MAX_SND_WND]:
            # Older than anything that can be on its way: who sent this guesses (RFC 5961 section 5.2).
            c[C_DROP_BAD_ACK] += 1
            t[FLAGS] |= FLAG_ACK_NOW
            return found | ARRIVED_REFUSED
    elif beyond >> 31 & 1 == 0 and beyond != 0:
        c[C_DROP_BAD_ACK] += 1
        t[FLAGS] |= FLAG_ACK_NOW
        return found | ARRIVED_REFUSED
    else:
        acked = acked & _MASK30
        if acked:
            flags = t[FLAGS]
            text = acked
            if text > t[SND_LEN]:
                text = t[SND_LEN]
                flags |= FLAG_FIN_ACKED
                c[C_SETTLE] = 1
            head = t[SND_HEAD] + text
            if head >= t[SND_SIZE]:
                head -= t[SND_SIZE]
            t[SND_HEAD] = head
            t[SND_LEN] -= text
            t[SND_UNA] = ack
            if t[SND_NXT] - ack >> 31 & 1:
                t[SND_NXT] = ack
            t[RETRIES] = 0
            if flags & FLAG_TIMING and (ack - t[RTT_SEQ]) >> 31 & 1 == 0:
                flags &= ~FLAG_TIMING
                r = now - t[RTT_AT] & _MASK30
                # RFC 6298 section 2, in fixed point: SRTT * 8, RTTVAR * 4.
                if t[SRTT] == 0:
                    t[SRTT] = (r << 3) + 1
                    t[RTTVAR] = r << 1
                else:
                    delta = r - (t[SRTT] >> 3)
                    t[SRTT] += delta
                    if delta < 0:
                        delta = 0 - delta
                    t[RTTVAR] += delta - (t[RTTVAR] >> 2)
                if t[SRTT] == 0:
                    t[SRTT] = 1
                rto = (t[SRTT] >> 3) + t[RTTVAR]
                if rto < RTO_MIN:
                    rto = RTO_MIN
                if rto > RTO_MAX:
                    rto = RTO_MAX
                t[RTO] = rto
            # Slow start by what was acknowledged, then one MSS a window (RFC 5681 section 3.1).
            if t[CWND] < t[SSTHRESH]:
                if text > t[SND_MSS]:
                    text = t[SND_MSS]
                t[CWND] += text
            else:
                grow = int(t[SND_MSS] * t[SND_MSS] // t[CWND])
                if grow == 0:
                    grow = 1
                t[CWND] += grow
            if t[CWND] > 0xFFFFFF:
                t[CWND] = 0xFFFFFF
            if ack == t[SND_MAX]:
                flags &= ~FLAG_RTX
            else:
                flags |= FLAG_RTX
                t[RTX_AT] = now + t[RTO] & _MASK30
                if (t[RTX_AT] - c[C_NEXT_TIMER]) >> 29 & 1:
                    c[C_NEXT_TIMER] = t[RTX_AT]
            t[FLAGS] = flags | FLAG_OUTPUT
        newer = seq - t[SND_WL1]
        if (newer >> 31 & 1 == 0 and newer != 0) or (newer == 0 and (ack - t[SND_WL2]) >> 31 & 1 == 0):
            wnd = f[14] << 8 | f[15]
            if wnd != t[SND_WND]:
                t[FLAGS] |= FLAG_OUTPUT
                t[SND_WND] = wnd
                if wnd > t[MAX_SND_WND]:
                    t[MAX_SND_WND] = wnd
            t[SND_WL1] = seq
            t[SND_WL2] = ack
            if wnd and t[FLAGS] & FLAG_PERSIST:
                t[FLAGS] = t[FLAGS] & ~(FLAG_PERSIST | FLAG_PROBE) | FLAG_OUTPUT
                t[RETRIES] = 0

    # Seventh and eighth: the text, and FIN behind it.
    n -= skip
    fin = f[13] & FIN
    if state < ESTABLISHED or state > FIN_WAIT_2 or t[FLAGS] & FLAG_FIN_IN or found & ARRIVED_REFUSED or (n == 0 and fin == 0):
        return found
    if gap:
        c[C_DROP_OUT_OF_ORDER] += 1
        t[FLAGS] |= FLAG_ACK_NOW
        return found
    start += skip
    size = t[RCV_SIZE]
    if n > window:
        n = window
        fin = 0
        c[C_DROP_BUFFER_FULL] += 1
        t[FLAGS] |= FLAG_ACK_NOW
    if n:
        tail = t[RCV_HEAD] + t[RCV_LEN]
        if tail >= size:
            tail -= size
        first = size - tail
        if first > n:
            first = n
        ring = objects[O_RCV][slot]
        copy(ring, tail, frame, start, first)
        if n > first:
            copy(ring, 0, frame, start + first, n - first)
        t[RCV_LEN] += n
        t[RCV_NXT] += n
        t[BYTES_IN] += n
        found |= ARRIVED_DATA
    if fin:
        t[RCV_NXT] += 1
        if (t[RCV_ADV] - t[RCV_NXT]) >> 31 & 1:
            t[RCV_ADV] = t[RCV_NXT]
        t[FLAGS] |= FLAG_FIN_IN | FLAG_ACK_NOW
        c[C_SETTLE] = 1
    # RFC 9293 section 3.8.6.3: an ACK for at least every second full segment, and within a bounded delay.
    if skip or (t[RCV_NXT] - t[LAST_ACK_SENT] & _MASK30) >= t[RCV_MSS] << 1:
        t[FLAGS] |= FLAG_ACK_NOW
    elif t[FLAGS] & FLAG_ACK_LATER == 0:
        t[FLAGS] |= FLAG_ACK_LATER
        t[ACK_AT] = now + ACK_DELAY & _MASK30
        if (t[ACK_AT] - c[C_NEXT_TIMER]) >> 29 & 1:
            c[C_NEXT_TIMER] = t[ACK_AT]
    return found


@micropython.viper
def output(words, objects, slot: int, now: int) -> int:
    """Sends what the connection may send now: segments cut from the send buffer, FIN, or a bare ACK. Returns how many frames.

    Limits: the peer's window, the congestion window, MSS, Nagle's rule and the sender's half of silly window avoidance
    (RFC 9293 sections 3.7.4 and 3.8.6.2.1). FLAG_OUTPUT stays set when only a transmit descriptor was missing.
    """
    c = ptr32(words)
    t = ptr32(objects[O_TCBS][slot])
    sent = 0
    while True:
        flags = t[FLAGS]
        flight = t[SND_NXT] - t[SND_UNA] & _MASK30
        unsent = t[SND_LEN] - flight
        if unsent < 0:
            unsent = 0
        window = t[SND_WND]
        if t[CWND] < window:
            window = t[CWND]
        n = window - flight
        mss = t[SND_MSS]
        if n > mss:
            n = mss
        if n > unsent:
            n = unsent
        if n < 0:
            n = 0
        probe = 0
        if flags & FLAG_PROBE and unsent and n == 0:
            n = 1
            probe = 1
            flags &= ~FLAG_PROBE
        elif n and n < mss:
            if n < unsent:
                # Cut short by the window: worth sending only when it is half of what the peer ever offered, or nothing is in flight.
                if n << 1 < t[MAX_SND_WND] and flight:
                    n = 0
            elif flight and flags & (FLAG_NODELAY | FLAG_FIN) == 0:
                n = 0
        fin = 0
        if flags & FLAG_FIN and flags & FLAG_FIN_ACKED == 0 and n == unsent and flight <= t[SND_LEN]:
            fin = FIN
        if n == 0 and fin == 0:
            if unsent and flight == 0 and t[SND_WND] == 0 and flags & FLAG_PERSIST == 0:
                flags = flags & ~FLAG_RTX | FLAG_PERSIST
                t[RETRIES] = 0
                t[RTX_AT] = now + t[RTO] & _MASK30
                if (t[RTX_AT] - c[C_NEXT_TIMER]) >> 29 & 1:
                    c[C_NEXT_TIMER] = t[RTX_AT]
            if flags & FLAG_ACK_NOW == 0:
                t[FLAGS] = flags & ~FLAG_OUTPUT
                return sent

        i = c[C_TX_NEXT]
        ring = ptr32(objects[O_TX_RING])
        if ring[i << 3] >> 31 & 1:
            c[C_TX_FULL] = 1
            c[C_OUTPUT] = 1
            t[FLAGS] = flags | FLAG_OUTPUT
            return sent
        i += c[C_RX_COUNT]
        frame = objects[O_FRAMES][i]
        base = int(ptr8(frame))
        w = ptr32(base)
        f = ptr8(base)
        h = ptr16(base)
        k = 0
        while k < _TEMPLATE_WORDS:
            w[k] = t[TEMPLATE + k]
            k += 1

        # The window we offer never shrinks, and grows only by a step worth telling (RFC 9293 section 3.8.6.2.2).
        offer = t[RCV_SIZE] - t[RCV_LEN]
        if offer > 0xFFFF:
            offer = 0xFFFF
        old = t[RCV_ADV] - t[RCV_NXT] & _MASK30
        step = t[RCV_MSS]
        if step > t[RCV_SIZE] >> 1:
            step = t[RCV_SIZE] >> 1
        if offer - old < step:
            offer = old
        t[RCV_ADV] = t[RCV_NXT] + offer

        total = 40 + n
        f[16] = total >> 8
        f[17] = total
        t[IP_ID] += 1
        h[9] = t[IP_ID]
        s = h[7] + h[8] + h[9] + h[10] + h[11] + h[13] + h[14] + h[15] + h[16]
        s = (s & 0xFFFF) + (s >> 16)
        h[12] = ~((s & 0xFFFF) + (s >> 16))

        v = t[SND_NXT]
        f[38] = v >> 24
        f[39] = v >> 16
        f[40] = v >> 8
        f[41] = v
        v = t[RCV_NXT]
        f[42] = v >> 24
        f[43] = v >> 16
        f[44] = v >> 8
        f[45] = v
        v = ACK | fin
        if n and n == unsent:
            v |= PSH
        f[47] = v
        f[48] = offer >> 8
        f[49] = offer
        if n:
            size = t[SND_SIZE]
            head = t[SND_HEAD] + flight
            if head >= size:
                head -= size
            first = size - head
            if first > n:
                first = n
            snd = objects[O_SND][slot]
            copy(frame, 54, snd, head, first)
            if n > first:
                copy(frame, 54 + first, snd, 0, n - first)
        total -= 20
        s = t[PSEUDO_SUM] + (total >> 8 | (total & 0xFF) << 8)
        h[25] = ~int(add(frame, 34, total, s))
        send(words, objects, 34 + total)
        sent += 1

        t[SEGMENTS_OUT] += 1
        t[LAST_ACK_SENT] = t[RCV_NXT]
        flags &= ~(FLAG_ACK_NOW | FLAG_ACK_LATER)
        if n or fin:
            t[BYTES_OUT] += n
            if probe:
                pass
            elif t[SND_NXT] == t[SND_MAX]:
                if flags & FLAG_TIMING == 0:
                    flags |= FLAG_TIMING
                    t[RTT_SEQ] = t[SND_NXT] + n + fin
                    t[RTT_AT] = now
            else:
                t[RETRANSMITS] += 1
            v = t[SND_NXT] + n + fin
            if (t[SND_MAX] - v) >> 31 & 1:
                t[SND_MAX] = v
            # A probe's byte is sent again with the rest when the window opens, whether the peer kept it or not.
            if not probe:
                t[SND_NXT] = v
            if flags & (FLAG_RTX | FLAG_PERSIST) == 0:
                flags |= FLAG_RTX
                t[RTX_AT] = now + t[RTO] & _MASK30
                if (t[RTX_AT] - c[C_NEXT_TIMER]) >> 29 & 1:
                    c[C_NEXT_TIMER] = t[RTX_AT]
        t[FLAGS] = flags


@micropython.viper
def expired(words, objects, start: int, now: int) -> int:
    """Looks for the first connection from slot `start` on with a timer that has expired; returns its slot, or -1.

    On -1 C_NEXT_TIMER holds the earliest time at which a look can find one. Call with start = 0 first, then with the slot after the last.
    """
    c = ptr32(words)
    tcbs = objects[O_TCBS]
    if start == 0:
        c[C_NEXT_TIMER] = now + 0x1FFFFFFE & _MASK30
    count = int(len(tcbs))
    while start < count:
        t = ptr32(tcbs[start])
        flags = t[FLAGS]
        hit = 0
        if flags & (FLAG_RTX | FLAG_PERSIST):
            if (now - t[RTX_AT]) >> 29 & 1 == 0:
                hit = 1
            elif (t[RTX_AT] - c[C_NEXT_TIMER]) >> 29 & 1:
                c[C_NEXT_TIMER] = t[RTX_AT]
        if flags & FLAG_ACK_LATER:
            if (now - t[ACK_AT]) >> 29 & 1 == 0:
                hit = 1
            elif (t[ACK_AT] - c[C_NEXT_TIMER]) >> 29 & 1:
                c[C_NEXT_TIMER] = t[ACK_AT]
        if flags & FLAG_WAIT:
            if (now - t[WAIT_AT]) >> 29 & 1 == 0:
                hit = 1
            elif (t[WAIT_AT] - c[C_NEXT_TIMER]) >> 29 & 1:
                c[C_NEXT_TIMER] = t[WAIT_AT]
        if hit:
            return start
        start += 1
    return -1


@micropython.viper
def rewind(tcb) -> int:
    """Takes SND.NXT back to SND.UNA, so that output() sends everything unacknowledged again; returns how much was in flight."""
    t = ptr32(tcb)
    flight = t[SND_NXT] - t[SND_UNA] & _MASK30
    t[SND_NXT] = t[SND_UNA]
    return flight


@micropython.viper
def read(objects, slot: int, buffer, at: int, n: int, keep: int) -> int:
    """Copies at most n bytes from the receive buffer to buffer[at:]; with `keep` they also stay. Returns how many."""
    if slot < 0:
        return 0
    t = ptr32(objects[O_TCBS][slot])
    if n > t[RCV_LEN]:
        n = t[RCV_LEN]
    if n <= 0:
        return 0
    size = t[RCV_SIZE]
    head = t[RCV_HEAD]
    first = size - head
    if first > n:
        first = n
    ring = objects[O_RCV][slot]
    copy(buffer, at, ring, head, first)
    if n > first:
        copy(buffer, at + first, ring, 0, n - first)
    if not keep:
        head += n
        if head >= size:
            head -= size
        t[RCV_HEAD] = head
        t[RCV_LEN] -= n
        # The window opens again: tell the peer once the step is worth a segment (as in output).
        opened = t[RCV_SIZE] - t[RCV_LEN] - (t[RCV_ADV] - t[RCV_NXT] & _MASK30)
        step = t[RCV_MSS] << 1
        if step > size >> 1:
            step = size >> 1
        if opened >= step:
            t[FLAGS] |= FLAG_ACK_NOW
    return n


@micropython.viper
def write(objects, slot: int, buffer, start: int, n: int) -> int:
    """Copies at most n bytes from buffer[start:] into the send buffer; returns how many fitted."""
    t = ptr32(objects[O_TCBS][slot])
    size = t[SND_SIZE]
    room = size - t[SND_LEN]
    if n > room:
        n = room
    if n <= 0:
        return 0
    tail = t[SND_HEAD] + t[SND_LEN]
    if tail >= size:
        tail -= size
    first = size - tail
    if first > n:
        first = n
    ring = objects[O_SND][slot]
    copy(ring, tail, buffer, start, first)
    if n > first:
        copy(ring, 0, buffer, start + first, n - first)
    t[SND_LEN] += n
    t[FLAGS] |= FLAG_OUTPUT
    return n
