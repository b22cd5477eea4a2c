"""The fast path: everything that runs once a frame, in viper, and the layout of the words it works on.

100BASE-TX leaves an ESP32 29,500 cycles for each full segment; one call of a plain Python method costs 1,200 of them. So the work of a
segment that belongs to an open connection (header checks, checksum, acknowledgement, window, copy, the ACK or the next segments that follow
from it) is done here, from the receive ring to the receive buffer and from the send buffer to the transmit ring, without an allocation and
without coming back to bytecode. So is what nearly every connection begins and ends with, as long as nobody observes it: the answers of a handshake, and the
states that follow the FINs. Whatever is rare (RST, unusual handshakes, options, other protocols, bad input) is handed to plain Python.

This module knows words, not layers: it imports nothing, and every other module takes the names of the words from here.

Two kinds of words:

* the context, one array('I') for the stack (names `C_…`), and beside it `objects`, a list of the buffers (names `O_…`), which keeps them
  alive. Their addresses stand in words, too: an object costs a viper function a call for the list and one for the pointer, 200
  instructions. As an int an address would be a heap-allocated big int on a 32-bit board.
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
_TX_OWN_LS_FS = const(0xB000)  # in two buffers: word 3 is the second one's address, and the next descriptor the one behind it, or with
_TX_TER = const(0x20)  # the first of the ring
_TX_TCH = const(0x100000)
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
# By state, the one that follows on the ACK of our FIN, and behind these, from STATES on, on the peer's FIN (see tcp/states.py).
AFTER = b"\0\1\2\3\4\6\6\7\x0a\0\x0a" b"\0\1\2\3\7\x08\x0a\7\x08\x09\x0a"
STATES = const(11)

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
C_OUTPUT = const(11)  # slot + 1 of the connection that has FLAG_OUTPUT set, or SEVERAL
C_NEXT_TIMER = const(12)  # no connection timer expires before this time
C_SETTLE = const(13)  # settle() must look at a connection: FIN_IN, FIN_ACKED or ROUND is set. 1: at some, else its slot + 2
C_NOW = const(14)  # the last time seen
C_CLOCK = const(15)  # the same in 32 bits, for timestamps: ticks wrap earlier
C_BETA = const(16)  # congestion control: what is left of the window after a loss, of 1024
C_LOOPED = const(28)  # length of the frame that output() has left in the transmit frame in hand
C_FRAMES_IN = const(17)  # counters from here on
C_FRAMES_OUT = const(18)
C_FAST_SEGMENTS = const(19)
C_DROP_RECEIVE_ERROR = const(20)
C_DROP_IP_CHECKSUM = const(21)
C_DROP_TCP_CHECKSUM = const(22)
C_DROP_OUT_OF_ORDER = const(23)
C_DROP_OUT_OF_WINDOW = const(24)
C_DROP_BAD_ACK = const(25)
C_DROP_BUFFER_FULL = const(26)
C_DROP_TIMESTAMP = const(27)
# Addresses, two words each (see point()): what is looked at for each frame is found without a call.
C_RX_RING = const(29)
C_TX_RING = const(31)
C_KEYS = const(33)
C_LOOKUP = const(35)
C_ENTERED = const(37)  # protocol state is being changed: a poll() from a timer does nothing
C_DRIVER_AT = const(38)  # when the driver wants to look at its hardware again
C_SLOW_AT = const(39)  # when timers of a second or more are looked at again
C_ON_POLL = const(40)  # somebody wants to know of every poll
C_LOOPS = const(41)  # packets to ourselves wait
C_DMA = const(42)  # 0, or no hardware moves frames between cable and rings, but O_DMA and the driver's transmit()
C_DMA_RX = const(43)  # where it is in the rings
C_DMA_TX = const(44)
C_SLOT = const(45)  # slot + 1 of the connection that received last, 0 for none, and the address of its TCB
C_TCB = const(46)
C_TAKE_SLOT = const(48)  # while take() runs: slot + 1, the end of the program's buffer, and how many bytes are missing there
C_TAKE_END = const(49)
C_TAKE_LEFT = const(51)
TAKE_DATAGRAM = const(0xFFFF)  # a larger C_TAKE_SLOT is that of an endpoint (fast_udp.receive), and C_TAKE_END where the buffer begins
C_ENDPOINT = const(52)  # address of the first UDP endpoint's words (see fast_udp.py), 0 without
C_BROADCAST = const(54)  # our network's broadcast address, as C_ADDRESS
C_NEIGHBOURS = const(55)  # changes when a neighbour has another MAC address, or all are forgotten
C_DROP_DATAGRAM_FULL = const(56)
C_KNOWN = const(57)  # slot + 1 of the connection that the segment left to plain Python belongs to; all but Connection.input() is done for it.
# SEVERAL: it belongs to none, and its IP header has been looked at.
C_GATHER = const(58)  # the DMA reads from send buffers, too
C_ECHO = const(59)  # whose pings fast_icmp.py answers, as C_ADDRESS, 0 for nobody's; the first 12 bytes of the answer's frame,
C_ECHO_MACS = const(60)
C_ECHO_NEIGHBOURS = const(63)  # C_NEIGHBOURS then,
C_ECHO_UNTIL = const(64)  # how long that holds,
C_ECHO_MOST = const(65)  # and the largest packet
C_WORDS = const(66)
C_FRAMES = const(66)  # from here on the address of each frame, receive frames first

# Members of `objects`.
O_FRAMES = const(0)
O_RX_RING = const(1)
O_TX_RING = const(2)
O_LOOKUP = const(3)  # open-addressed hash table of 256 bytes, 0 empty, else slot + 1, and how many are not
O_KEYS = const(4)  # two words a slot: remote address, ports, as they stand in a received frame
O_TCBS = const(5)  # lists, indexed by slot
O_RCV = const(6)
O_SND = const(7)
O_DMA = const(8)  # a function, see C_DMA
O_TRANSMIT = const(9)  # the driver's transmit() and refill()
O_REFILL = const(10)
O_WORDS = const(11)  # the context words themselves
O_CLOCK = const(12)  # the stack's clock()
O_DATAGRAMS = const(13)  # takes UDP datagrams, once there is an endpoint: fast_udp.take()
O_ENDPOINT = const(14)  # the first UDP endpoint's words
O_POLL = const(15)  # the stack's poll(), and its run(), which ends one
O_RUN = const(16)
O_ECHO = const(17)  # fast_icmp.answer()
O_CONNECTIONS = const(18)  # Connection objects by slot, None where it is free
O_FREE = const(19)  # stands for the control block of a free slot
O_RING = const(20)  # of the connection that closed last, for the next one: until the stack looks at its slow timers
O_TIME_WAITS = const(21)  # the table of time_wait.py, once there are some to put in
O_COUNT = const(22)

# Control block words.
STATE = const(0)
FLAGS = const(1)
SND_UNA = const(2)
SND_NXT = const(3)
SND_WND = const(4)  # bytes, scaled already
SND_WL1 = const(5)
SND_WL2 = const(6)
MAX_SND_WND = const(7)  # largest window the peer ever offered (RFC 9293 3.8.6.2.1)
SND_MSS = const(8)  # text of a full segment: what the options leave
CWND = const(9)
SSTHRESH = const(10)
SND_SIZE = const(11)  # send buffer, what the program may write: a ring that starts with the byte SND_UNA
SND_HEAD = const(12)
SND_LEN = const(13)
RCV_NXT = const(14)
RCV_ADV = const(15)  # right edge of the window we advertised
RCV_SIZE = const(16)  # receive buffer, what the window is taken from: a ring
RCV_HEAD = const(17)
RCV_LEN = const(18)
RCV_MSS = const(19)
LAST_ACK_SENT = const(20)
ISS = const(21)
IRS = const(22)
SRTT = const(23)  # ms * 8
RTTVAR = const(24)  # ms * 4
RTO = const(25)  # ms
RETRIES = const(26)
RTX_AT = const(27)  # what FLAG_RTX, FLAG_PERSIST, FLAG_REORDER or FLAG_TAIL waits for
ACK_AT = const(28)  # delayed ACK timer: expired() looks at these three one after the other
WAIT_AT = const(29)  # connect, keep, TIME_WAIT … whatever the state waits for
PSEUDO_SUM = const(30)  # halfword sum of addresses and protocol
SEGMENTS_IN = const(31)
SEGMENTS_OUT = const(32)
BYTES_IN = const(33)
BYTES_OUT = const(34)
RETRANSMITS = const(35)
LAST_ARRIVAL = const(36)  # when the peer was last heard, ms
SND_SCALE = const(37)  # window scale shifts (RFC 7323 section 2)
RCV_SCALE = const(38)
TS_OFFSET = const(39)  # what our timestamps add to the clock, so that nobody learns how long the board is up
TS_RECENT = const(40)
TS_RECENT_AT = const(41)  # C_CLOCK then
OUT_OF_ORDER = const(42)  # number of ranges kept ahead of RCV_NXT
RANGES = const(43)  # start and end of each, ascending; the bytes lie in the receive buffer already
RANGES_MAX = const(4)
RECENT_RANGE = const(51)  # the one that changed last: the first SACK block (RFC 2018 section 4)
FIN_AT = const(52)  # the peer's FIN came ahead of its turn
DSACK_START = const(53)  # the last duplicate, told once (RFC 2883)
DSACK_END = const(54)
PIPE = const(55)  # bytes that are probably on their way (RFC 6675 section 2)
LOST = const(56)  # records marked lost and not sent again yet
SACKED = const(57)  # records the peer has beyond SND_UNA
DUPACKS = const(58)
RECOVER = const(59)  # SND_NXT when recovery began
FACK = const(60)  # highest number known to have arrived
RACK_TIME = const(61)  # of the segment sent last among those that arrived (RFC 8985): when it was sent, its end, its RTT
RACK_SEQ = const(62)
RACK_RTT = const(63)
MIN_RTT = const(64)
TAIL_SEQ = const(65)  # SND_NXT when the tail loss probe left
GROW_AT = const(66)  # congestion avoidance: CWND grows by one MSS for so many bytes acknowledged, 0 = CWND
CWND_ACKED = const(67)  # of these
ROUND_SEQ = const(68)  # one round trip of congestion avoidance ends with its acknowledgement
W_MAX = const(69)  # CWND before the last reduction
EPOCH_AT = const(70)  # CUBIC: when it began to grow, and K, in 1/16 s
EPOCH_K = const(71)
PROGRESS_AT = const(72)  # when SND_UNA last moved, or the first byte left
RECORD_COUNT = const(73)  # what is in flight: a ring of records, behind the template
RECORD_HEAD = const(74)
RECORD_SIZE = const(75)
RCV_RING = const(76)  # address of the ring that is the receive buffer, two words (see point()), and
RCV_RING_SIZE = const(78)  # how much of RCV_SIZE it holds: 0 without a ring (see Connection.make_room)
SND_RING = const(79)
SND_RING_SIZE = const(81)
TEMPLATE = const(82)  # the first 40 bytes of each frame: Ethernet, IP, ports; its IP identification is the last one's
RECORDS = const(92)  # two words a record: the end of a segment, and when it was sent (29 bits) with R_… bits below
TCB_WORDS = const(92)
IPV4 = const(0x00450008)  # EtherType, version, length and type of service, as they stand in the template
TCP_DF = const(0x06400040)  # DF, TTL 64, TCP
CONTROL = const(76)  # bytes that the frame of a segment without text may take, in words

R_SACKED = const(1)
R_LOST = const(2)
R_SENT_AGAIN = const(4)
_MASK29 = const(0x1FFFFFFF)

FLAG_ACK_NOW = const(0x001)
FLAG_ACK_LATER = const(0x002)  # ACK_AT is running
FLAG_OUTPUT = const(0x004)  # something may leave
FLAG_FIN = const(0x008)  # FIN follows the send buffer
FLAG_FIN_ACKED = const(0x010)
FLAG_NODELAY = const(0x020)
FLAG_FORCE = const(0x040)  # the next segment leaves whatever CWND says
FLAG_RTX = const(0x080)  # RTX_AT is running for retransmission
FLAG_PERSIST = const(0x100)  # RTX_AT is running for window probes
FLAG_WAIT = const(0x200)  # WAIT_AT is running
FLAG_ORPHAN = const(0x400)  # the program has closed it: nobody reads any more
FLAG_PROBE = const(0x800)  # send into a closed or silly window
FLAG_FIN_IN = const(0x1000)  # the peer's FIN has arrived, in order
FLAG_SACK = const(0x2000)  # agreed (RFC 2018)
FLAG_TS = const(0x4000)  # agreed (RFC 7323)
FLAG_RECOVERY = const(0x8000)  # fast recovery until RECOVER is acknowledged
FLAG_TIMEOUT = const(0x10000)  # the same after a retransmission timeout
FLAG_REORDER = const(0x20000)  # RTX_AT is running for RACK's reordering window
FLAG_TAIL = const(0x40000)  # RTX_AT is running for a tail loss probe
FLAG_TAIL_OUT = const(0x80000)  # a probe has left
FLAG_TAIL_AGAIN = const(0x100000)  # it was a retransmission
FLAG_FIN_AHEAD = const(0x200000)  # FIN_AT is valid
FLAG_ROUND = const(0x400000)  # the congestion control wants to look
FLAG_REORDERED = const(0x800000)  # segments have been seen to overtake each other
FLAG_CWND_FULL = const(0x2000000)  # CWND was what held output() back
FLAG_LOOP = const(0x4000000)  # the peer is on this board: frames go to C_LOOPED, not to the ring
FLAG_READ_CLOSED = const(0x8000000)  # the program wants no more
FLAG_SCALE = const(0x1000000)  # agreed: window scaling (RFC 7323)
FLAG_PASSIVE = const(0x10000000)  # the peer has opened it: its buffers take no memory that the program may need
FLAG_TIMERS = const(0x60180)  # RTX, PERSIST, REORDER, TAIL
AGREED = const(0x1006000)  # SCALE, SACK, TS

# What arrive() found.
ARRIVED_DATA = const(2)
ARRIVED_REFUSED = const(4)  # not acceptable: answered with an ACK

SEVERAL = const(0xFF)
FRAMES_A_POLL = const(64)  # a flood must not keep the program from running
SOON = const(16)  # C_SLOW_AT and C_DRIVER_AT lie less than 2**16 ms ahead, else they have passed
_BURSTS_A_POLL = const(16)  # of transmit frames
ACK_DELAY = const(40)  # ms
TIME_WAIT_MS = const(60_000)  # 2 MSL with the 30 s of common practice; as long an end of ours that nobody owns waits for the peer's FIN
TIME_WAIT_ENTRIES = const(200)  # entries in the table of time_wait.py, and the words of one
TIME_WAIT_WORDS = const(7)
RTO_MIN = const(200)  # ms
RTO_MAX = const(60000)
_RTO_AFTER_SYN_LOSS = const(3000)  # ms, RFC 6298 section 5.7
MSS_DEFAULT = const(536)  # when the peer names none (RFC 9293 3.7.1)
MSS_OURS = const(1460)  # MTU 1500 - 40
_MSS_MIN = const(64)
_SCALE_MAX = const(14)
_CWND_INITIAL = const(14600)  # bytes, RFC 6928
TAIL_WAIT = const(90)  # ms that a tail loss probe leaves to the peer's delayed ACK, beside two round trips
CWND_MAX = const(0xFFFFF)  # bytes; products with 11 bits must fit 31
_DUPTHRESH = const(3)
_GATHER_MIN = const(256)  # bytes of text, which are sent from where they lie
_NOT_PLAIN = const(0x299100)  # FLAG_FIN_IN, FIN_AHEAD, RECOVERY, TIMEOUT, TAIL_OUT, PERSIST
_MASK30 = const(0x3FFFFFFF)
# Checksums: 1 where ints have 64 bits, which loses no carries of words of 32. A deploy sets it for the board's processor. x86-64's code takes
# 7 instructions to load and add, whether a word or a halfword, Xtensa's takes 3.
_WIDE = const(0)
# Built-in names are found here sooner: the interpreter looks among all names of its own last. 240 instructions for each in a call.
_len = len
_type = type
_bytes = bytes
_bytearray = bytearray
_memoryview = memoryview


@micropython.viper
def copy(target: ptr32, source: ptr32, n: int, at: int, start: int):
    """Copies source[start:start+n] to target[at:at+n]; both bytes-like, not overlapping; bounds are the caller's.

    Unrolled over constant indexes: 2.7 instructions a word on the ESP32, where `a[:] = b` costs 6.4 a byte. Viper keeps the first
    three locals in registers, so these are the arguments that the loop uses: a quarter fewer instructions.
    """
    target = ptr32(int(target) + at)
    source = ptr32(int(source) + start)
    i = n >> 7
    while i:
        target[0] = source[0]; target[1] = source[1]; target[2] = source[2]; target[3] = source[3]
        target[4] = source[4]; target[5] = source[5]; target[6] = source[6]; target[7] = source[7]
        target[8] = source[8]; target[9] = source[9]; target[10] = source[10]; target[11] = source[11]
        target[12] = source[12]; target[13] = source[13]; target[14] = source[14]; target[15] = source[15]
        target[16] = source[16]; target[17] = source[17]; target[18] = source[18]; target[19] = source[19]
        target[20] = source[20]; target[21] = source[21]; target[22] = source[22]; target[23] = source[23]
        target[24] = source[24]; target[25] = source[25]; target[26] = source[26]; target[27] = source[27]
        target[28] = source[28]; target[29] = source[29]; target[30] = source[30]; target[31] = source[31]
        target = ptr32(int(target) + 128)
        source = ptr32(int(source) + 128)
        i -= 1
    i = n >> 4 & 7
    while i:
        target[0] = source[0]; target[1] = source[1]; target[2] = source[2]; target[3] = source[3]
        target = ptr32(int(target) + 16)
        source = ptr32(int(source) + 16)
        i -= 1
    i = n >> 2 & 3
    while i:
        target[0] = source[0]
        target = ptr32(int(target) + 4)
        source = ptr32(int(source) + 4)
        i -= 1
    n &= 3
    e = ptr8(target)
    f = ptr8(source)
    while n:
        n -= 1
        e[n] = f[n]


@micropython.viper
def add(buffer: ptr16, seed: int, n: int, start: int) -> int:
    """Returns seed plus the sum of the little-endian halfwords of buffer[start:start+n], folded to 16 bits (RFC 1071).

    An odd last byte counts as the low half of a halfword. 64 halfwords a turn: 3.4 instructions each on the ESP32.
    """
    if _WIDE:
        words = ptr32(int(buffer) + start)
        i = n >> 7
        while i:
            seed += (
                words[0] + words[1] + words[2] + words[3] + words[4] + words[5] + words[6] + words[7]
                + words[8] + words[9] + words[10] + words[11] + words[12] + words[13] + words[14] + words[15]
                + words[16] + words[17] + words[18] + words[19] + words[20] + words[21] + words[22] + words[23]
                + words[24] + words[25] + words[26] + words[27] + words[28] + words[29] + words[30] + words[31]
            )
            words = ptr32(int(words) + 128)
            i -= 1
        i = n >> 4 & 7
        while i:
            seed += words[0] + words[1] + words[2] + words[3]
            words = ptr32(int(words) + 16)
            i -= 1
        seed = (seed & 0xFFFF) + (seed >> 16)
        buffer = ptr16(words)
    else:
        buffer = ptr16(int(buffer) + start)
        i = n >> 7
        while i:
            seed += (
                buffer[0] + buffer[1] + buffer[2] + buffer[3] + buffer[4] + buffer[5] + buffer[6] + buffer[7]
                + buffer[8] + buffer[9] + buffer[10] + buffer[11] + buffer[12] + buffer[13] + buffer[14] + buffer[15]
                + buffer[16] + buffer[17] + buffer[18] + buffer[19] + buffer[20] + buffer[21] + buffer[22] + buffer[23]
                + buffer[24] + buffer[25] + buffer[26] + buffer[27] + buffer[28] + buffer[29] + buffer[30] + buffer[31]
                + buffer[32] + buffer[33] + buffer[34] + buffer[35] + buffer[36] + buffer[37] + buffer[38] + buffer[39]
                + buffer[40] + buffer[41] + buffer[42] + buffer[43] + buffer[44] + buffer[45] + buffer[46] + buffer[47]
                + buffer[48] + buffer[49] + buffer[50] + buffer[51] + buffer[52] + buffer[53] + buffer[54] + buffer[55]
                + buffer[56] + buffer[57] + buffer[58] + buffer[59] + buffer[60] + buffer[61] + buffer[62] + buffer[63]
            )
            buffer = ptr16(int(buffer) + 128)
            i -= 1
        i = n >> 4 & 7
        while i:
            seed += buffer[0] + buffer[1] + buffer[2] + buffer[3] + buffer[4] + buffer[5] + buffer[6] + buffer[7]
            buffer = ptr16(int(buffer) + 16)
            i -= 1
    n &= 15
    while n >= 2:
        seed += buffer[0]
        buffer = ptr16(int(buffer) + 2)
        n -= 2
    if n:
        last = ptr8(buffer)
        seed += last[0]
    seed = (seed & 0xFFFF) + (seed >> 16)
    return (seed & 0xFFFF) + (seed >> 16)


@micropython.viper
def point(words, at: int, buffer):
    """Stores the address of a buffer in words[at] (lower half) and words[at + 1] (upper half, 0 on 32 bits)."""
    w = ptr32(words)
    address = int(ptr8(buffer))
    w[at] = address
    high = address >> 16 >> 16  # a shift by 32 does nothing on 32 bits
    if high < 0:
        high = 0
    w[at + 1] = high


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
    c[C_RX_RETURNED] = c[C_RX_RETURNED] + 1
    c[C_FRAMES_IN] = c[C_FRAMES_IN] + 1


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
    i += 1
    if i == c[C_TX_COUNT]:
        i = 0
    w[3] = c[C_TX_RING] + (i << 5)
    h = ptr16(d)
    h[0] = 0
    h[1] = _TX_OWN_LS_FS_TCH
    c[C_TX_NEXT] = i
    c[C_TX_QUEUED] = c[C_TX_QUEUED] + 1
    c[C_FRAMES_OUT] = c[C_FRAMES_OUT] + 1


@micropython.viper
def let_go(words, objects):
    """Waits until the DMA has read what it sends from send buffers, some ms at most: the memory of one is about to be somebody else's."""
    c = ptr32(words)
    if not c[C_GATHER]:
        return
    if c[C_TX_QUEUED] and not c[C_EVERY_FRAME_SLOW]:
        c[C_TX_QUEUED] = 0
        objects[O_TRANSMIT]()
    ring = ptr32(c[C_TX_RING] | c[C_TX_RING + 1] << 32)
    i = 0
    turns = 50000
    while i < c[C_TX_COUNT] and turns:
        turns -= 1
        w = ring[i << 3]
        if not w >> 31 & 1 or w & _TX_TCH:
            i += 1


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
    keys = int(ptr32(objects[O_KEYS]))
    table = ptr8(objects[O_LOOKUP])
    x = address ^ ports
    i = (x ^ x >> 8 ^ x >> 16 ^ x >> 24) & 255
    while table[i] and ports:
        k = table[i] - 1
        w = ptr32(keys + (k << 3))
        if w[0] == address and w[1] == ports:
            return k
        i = (i + 1) & 255
    return -1


@micropython.viper
def number(frame, at: int) -> uint:
    """Returns the 32 bits at frame[at:]: a sequence number."""
    f = ptr8(int(ptr8(frame)) + at)
    return uint(f[0] << 24 | f[1] << 16 | f[2] << 8 | f[3])


@micropython.viper
def find(table, frame, at: int) -> int:
    """Looks for the key of the segment at frame[at:] (see lookup) in time_wait.py's table; returns where its entry begins, or 0."""
    f = int(ptr8(frame))
    a = ptr16(f + 26)
    p = ptr16(f + at)
    address = a[0] | a[1] << 16
    ports = p[0] | p[1] << 16
    w = ptr32(table)
    end = w[0]
    i = 1
    while i < end:
        if not address ^ w[i] and not ports ^ w[i + 1]:
            return i
        i += TIME_WAIT_WORDS
    return 0


@micropython.viper
def index(objects, slot: int) -> int:
    """Lets the segments of a slot be found by its key. Returns how many entries of the hash table are in use: see tcp.connection.tidy()."""
    keys = ptr32(int(ptr32(objects[O_KEYS])) + (slot << 3))
    table = ptr8(objects[O_LOOKUP])
    x = keys[0] ^ keys[1]
    i = (x ^ x >> 8 ^ x >> 16 ^ x >> 24) & 255
    while table[i]:
        i = (i + 1) & 255
    table[i] = slot + 1
    table = ptr8(int(table) + 256)
    i = table[0] + 1
    table[0] = i
    return i


@micropython.viper
def key(secret, local, local_port: int, remote, port: int):
    """Puts two ends, an address of 4 bytes and a port each, where they stand in a received frame: behind the 22 bytes of `secret` that are secret."""
    s = ptr16(int(ptr8(secret)) + 22)
    a = ptr16(local)
    s[0] = a[0]
    s[1] = a[1]
    a = ptr16(remote)
    s[2] = a[0]
    s[3] = a[1]
    s[4] = port >> 8 | port << 8
    s[5] = local_port >> 8 | local_port << 8


@micropython.viper
def address(tcb, mac, secret):
    """Writes the ends of a connection into the header template of its control block, and PSEUDO_SUM.

    mac: ours, 6 bytes. secret: see key().
    """
    t = ptr32(tcb)
    h = ptr16(int(ptr8(tcb)) + (TEMPLATE << 2))
    m = ptr16(mac)
    p = ptr16(int(ptr8(secret)) + 22)
    h[3] = m[0]
    h[4] = m[1]
    h[5] = m[2]
    h[13] = p[0]
    h[14] = p[1]
    h[15] = p[2]
    h[16] = p[3]
    h[17] = p[5]
    h[18] = p[4]
    t[PSEUDO_SUM] = 0x0600 + p[0] + p[1] + p[2] + p[3]


@micropython.viper
def place(tcp, connection, mac, n: int) -> int:
    """Gives a connection with a slot its header template (see address()), its entry in the hash table, and the ring that is kept when it has n bytes.

    Returns how many entries of the hash table are in use.
    """
    objects = tcp.objects
    secret = tcp.secret
    slot = int(connection.slot)
    tcb = connection.tcb
    objects[O_CONNECTIONS][slot] = connection
    objects[O_TCBS][slot] = tcb
    address(tcb, mac, secret)
    t = ptr32(tcb)
    k = ptr32(int(ptr32(objects[O_KEYS])) + (slot << 3))
    s = ptr16(int(ptr8(secret)) + 22)
    k[0] = s[2] | s[3] << 16
    k[1] = s[4] | s[5] << 16
    ring = objects[O_RING]
    if ring and int(_len(ring)) == n:
        objects[O_RING] = None
        objects[O_RCV][slot] = ring
        point(tcb, RCV_RING, ring)
        t[RCV_RING_SIZE] = n
    return int(index(objects, slot))


@micropython.viper
def free_rings(objects, slot: int):
    """Takes away the rings that have done their work: the receive buffer's when nobody reads any more, the send buffer's when all is confirmed."""
    t = ptr32(objects[O_TCBS][slot])
    which = O_RCV
    at = RCV_RING
    used = t[FLAGS] & FLAG_ORPHAN ^ FLAG_ORPHAN
    while which <= O_SND:
        if not used and t[at + 2]:
            rings = objects[which]
            objects[O_RING] = rings[slot]
            rings[slot] = None
            t[at] = 0  # the collector takes it for a pointer
            t[at + 2] = 0
            if at == SND_RING:
                let_go(objects[O_WORDS], objects)
        which += 1
        at = SND_RING
        used = t[SND_LEN]


@micropython.viper
def begin(tcb, numbers, now: int, state: int):
    """Sets what a connection begins with: its state, its numbers, the scale of its window, and what it offers; the peer's SYN takes away what it does not.

    numbers: a keyed hash of the addresses, of which nobody may guess 8 bytes. ISS is a clock of 4 us plus the first four (RFC 6528): 252 steps a
    millisecond, for with 250 it would jump when the 30 bits of `now` wrap. TS_OFFSET, whose low byte stays 0, is made of the others.
    """
    t = ptr32(tcb)
    n = ptr32(numbers)
    iss = n[0] + now * 252
    t[STATE] = state
    t[ISS] = iss
    t[SND_UNA] = iss
    t[SND_NXT] = iss + 1  # the SYN's number is taken
    t[MIN_RTT] = now  # until there is a round trip: when the SYN left
    t[TEMPLATE + 4] = iss << 16
    t[TS_OFFSET] = n[1] << 8
    t[PROGRESS_AT] = now
    t[FLAGS] |= AGREED
    scale = 0
    while t[RCV_SIZE] >> scale > 0xFFFF:
        scale += 1
    t[RCV_SCALE] = scale


@micropython.viper
def synchronise(connection, mac, now: int) -> int:
    """Sends the SYN or SYN+ACK of a connection to `mac` and starts its timer; returns 0 when the segment is left to TCP.send_control()."""
    tcp = connection.tcp
    tcb = connection.tcb
    objects = tcp.objects
    words = objects[O_WORDS]
    c = ptr32(words)
    t = ptr32(tcb)
    # The timer first: it must run even when the heap is full and the segment cannot be made.
    t[FLAGS] |= FLAG_RTX
    at = now + t[RTO] & _MASK30
    t[RTX_AT] = at
    if (at - c[C_NEXT_TIMER]) >> 29 & 1:
        c[C_NEXT_TIMER] = at
    i = c[C_TX_NEXT]
    d = ptr32(objects[O_TX_RING])
    if not mac or t[FLAGS] & FLAG_LOOP or d[i << 3] >> 31 & 1:
        return 0
    h = ptr16(int(t) + (TEMPLATE << 2))
    m = ptr16(mac)
    h[0] = m[0]
    h[1] = m[1]
    h[2] = m[2]
    flags = SYN | ACK
    mss = int(tcp.ip.mtu) - 40
    if t[STATE] == SYN_SENT:
        flags = SYN
        if t[SND_MSS] > mss:
            t[SND_MSS] = mss
    send(words, objects, control(words, tcb, objects[O_FRAMES][c[C_RX_COUNT] + i], flags, t[ISS], mss))
    return 1


@micropython.viper
def syn(tcb, frame, start: int, end: int) -> int:
    """Reads the options of a SYN whose TCP header is frame[start:end] (RFC 9293 section 3.2, 7323 sections 2.2 and 3.2, 2018 section 2).

    Sets IRS, SND_MSS, and what is there of SND_SCALE and TS_RECENT; returns the FLAG_SCALE, FLAG_SACK and FLAG_TS of what is there.
    Option lists that are cut off, never end or lie about their lengths are read as far as they make sense.
    """
    t = ptr32(tcb)
    f = ptr8(frame)
    t[SND_MSS] = MSS_DEFAULT
    t[IRS] = f[start + 4] << 24 | f[start + 5] << 16 | f[start + 6] << 8 | f[start + 7]
    found = 0
    at = start + 20
    while at < end and f[at]:
        n = 1
        if f[at] != 1:
            if at + 1 >= end or f[at + 1] < 2 or at + f[at + 1] > end:
                break
            n = f[at + 1]
            kind = f[at] << 8 | n
            if kind == 0x0204:
                v = f[at + 2] << 8 | f[at + 3]
                if v < _MSS_MIN:
                    v = _MSS_MIN  # a smaller one is an attack on the segment rate, not a link
                if v > MSS_OURS:
                    v = MSS_OURS
                t[SND_MSS] = v
            elif kind == 0x0303:
                t[SND_SCALE] = f[at + 2] if f[at + 2] < _SCALE_MAX else _SCALE_MAX
                found |= FLAG_SCALE
            elif kind == 0x0402:
                found |= FLAG_SACK
            elif kind == 0x080A:
                t[TS_RECENT] = f[at + 2] << 24 | f[at + 3] << 16 | f[at + 4] << 8 | f[at + 5]
                found |= FLAG_TS
        at += n
    return found


@micropython.viper
def expect(words, tcb, offered: int, mss: int):
    """Sets what follows from IRS, from SND_MSS, of which the path takes `mss`, and from what the peer's SYN offers (see syn())."""
    c = ptr32(words)
    t = ptr32(tcb)
    t[FLAGS] &= offered | ~AGREED
    if not offered & FLAG_SCALE:
        t[RCV_SCALE] = 0
    options = 0
    if t[FLAGS] & FLAG_TS:
        options = 12  # RFC 7323 appendix A
        t[TS_RECENT_AT] = c[C_CLOCK]
    if mss > t[SND_MSS]:
        mss = t[SND_MSS]
    t[SND_MSS] = mss - options
    t[RCV_MSS] = MSS_OURS - options
    first = t[IRS] + 1
    t[RCV_NXT] = first
    t[LAST_ACK_SENT] = first
    window = t[RCV_SIZE]
    if window > 0xFFFF:
        window = 0xFFFF
    t[RCV_ADV] = first + window


@micropython.viper
def establish(words, tcb, frame, start: int, now: int, mss: int) -> int:
    """Ends a handshake: takes from the segment with its TCP header at frame[start] what transfers begin with, window, round trip, CWND.

    mss: 0, or what the path takes: a SYN is to be read, too, and what has none must have the next number. Returns 0 when a number is wrong.
    """
    t = ptr32(tcb)
    f = ptr8(int(ptr8(frame)) + start)
    seq = 0
    ack = 0
    k = 4
    while k < 8:
        seq = seq << 8 | f[k]
        ack = ack << 8 | f[k + 4]
        k += 1
    if ack ^ t[SND_NXT]:
        return 0
    if mss:
        if f[13] & SYN:
            expect(words, tcb, syn(tcb, frame, start, start + (f[12] >> 4 << 2)), mss)
        elif seq ^ t[RCV_NXT]:
            return 0
    window = f[14] << 8 | f[15]
    if not f[13] & SYN:
        window <<= t[SND_SCALE]  # a SYN's is never scaled (RFC 7323 section 2.2)
    t[SND_WND] = window
    t[MAX_SND_WND] = window
    t[SND_WL1] = seq
    t[SND_WL2] = ack
    t[SND_UNA] = ack
    t[FACK] = ack
    t[ROUND_SEQ] = ack
    t[RECOVER] = t[ISS]
    t[LAST_ARRIVAL] = now
    mss = t[SND_MSS]
    cwnd = mss * 10  # RFC 6928
    if cwnd > _CWND_INITIAL:
        cwnd = _CWND_INITIAL if mss << 1 < _CWND_INITIAL else mss << 1
    rtt = now - t[MIN_RTT] & _MASK30
    t[MIN_RTT] = _MASK29
    rto = _RTO_AFTER_SYN_LOSS
    if t[RETRIES]:
        cwnd = mss  # and no sample, by Karn's rule (RFC 6298 section 3)
    else:
        t[MIN_RTT] = rtt
        t[SRTT] = (rtt << 3) + 1
        t[RTTVAR] = rtt << 1
        rto = rtt * 3
        if rto < RTO_MIN:
            rto = RTO_MIN
        if rto > RTO_MAX:
            rto = RTO_MAX
    t[CWND] = cwnd
    t[RTO] = rto
    t[RETRIES] = 0
    t[FLAGS] = t[FLAGS] & ~FLAG_RTX
    t[STATE] = ESTABLISHED
    return 1


@micropython.viper
def opened(words, objects, k: int, now: int) -> int:
    """Ends the handshake of connection C_KNOWN with frame k - 1, the SYN+ACK that answers our SYN or a bare ACK of our SYN+ACK.

    Returns 0 for any other segment: Connection.input() takes it.
    """
    c = ptr32(words)
    slot = c[C_KNOWN] - 1
    if slot < 0 or slot == SEVERAL - 1:
        return 0
    tcb = objects[O_TCBS][slot]
    t = ptr32(tcb)
    frame = objects[O_FRAMES][k - 1]
    f = ptr8(frame)
    flags = f[47] & (FIN | SYN | RST | ACK | URG)
    if t[STATE] == SYN_SENT:
        flags ^= SYN
    elif t[STATE] != SYN_RECEIVED or 34 + (f[46] >> 4 << 2) != c[C_SEGMENT_END]:
        return 0
    if flags != ACK or t[FLAGS] & (FLAG_LOOP | FLAG_FIN) or not t[TEMPLATE] or not int(establish(words, tcb, frame, 34, now, t[SND_MSS])):
        return 0
    if f[47] & SYN:
        t[FLAGS] |= FLAG_ACK_NOW
        output(words, now, objects, slot)
    else:
        c[C_SEGMENT] = 34
        arrive(words, objects, slot, frame, now)
        connection = objects[O_CONNECTIONS][slot]
        listener = connection.listener
        if listener:
            listener.ready(connection)
    release(words, objects)
    return 1


@micropython.viper
def knock(words, objects, frame, mac) -> int:
    """Returns the port that a SYN of no connection and with a good IP header (C_KNOWN) is for, when its checksum is good, too, else 0."""
    c = ptr32(words)
    f = ptr8(frame)
    h = ptr16(frame)
    m = ptr16(mac)
    if f[47] & 0x3F != SYN or h[0] ^ m[0] | h[1] ^ m[1] | h[2] ^ m[2]:
        return 0
    n = c[C_SEGMENT_END] - 34
    if int(add(frame, h[13] + h[14] + h[15] + h[16] + 0x0600 + (n >> 8 | (n & 0xFF) << 8), n, 34)) != 0xFFFF:
        return 0
    table = objects[O_TIME_WAITS]
    if table and int(find(table, frame, 34)):
        return 0
    return f[36] << 8 | f[37]


@micropython.viper
def control(words, tcb, frame, flags: int, seq: int, mss: int) -> int:
    """Writes a segment without text, made from a control block, into `frame` (CONTROL bytes); returns where it ends.

    flags: of its header; seq: its number; mss: what a SYN says of us. A SYN offers what the control block's FLAGS name (RFC 9293 section 3.2,
    7323 sections 2.2 and 3.2, 2018 section 2); every other segment has timestamps when they are agreed.
    """
    c = ptr32(words)
    t = ptr32(tcb)
    out = int(ptr8(frame))
    t[TEMPLATE + 4] = t[TEMPLATE + 4] + 0x10000  # the next IP identification
    copy(frame, tcb, 40, 0, TEMPLATE << 2)
    f = ptr8(out)
    h = ptr16(out)
    h[25] = h[26] = 0
    f[47] = flags
    window = t[RCV_SIZE]
    v = 0
    if flags & ACK:
        window = t[RCV_ADV] - t[RCV_NXT] & _MASK30
        v = t[RCV_NXT]
    k = 42
    while k > 38:
        k -= 1
        f[k] = seq
        f[k + 4] = v
        seq >>= 8
        v >>= 8
    at = 54
    agreed = t[FLAGS]
    if flags & SYN:
        h[27] = 0x0402
        h[28] = mss >> 8 | (mss & 0xFF) << 8
        at = 58
        if window > 0xFFFF:
            window = 0xFFFF  # a SYN's is never scaled
    else:
        window >>= t[RCV_SCALE]
    f[48] = window >> 8
    f[49] = window
    if agreed & FLAG_TS or flags & SYN and agreed & FLAG_SACK:
        f = ptr8(out + at)
        h = ptr16(f)
        h[0] = 0x0101
        at += 4
        if agreed & FLAG_TS:
            h[1] = 0x0A08
            seq = c[C_CLOCK] + t[TS_OFFSET]
            v = t[TS_RECENT] if flags & ACK else 0
            k = 8
            while k > 4:
                k -= 1
                f[k] = seq
                f[k + 4] = v
                seq >>= 8
                v >>= 8
            at += 8
        else:
            h[1] = 0x0101
        if flags & SYN and agreed & FLAG_SACK:
            h[0] = 0x0204
    if flags & SYN and agreed & FLAG_SCALE:
        h = ptr16(out + at)
        h[0] = 0x0301
        h[1] = 0x03 | t[RCV_SCALE] << 8
        at += 4
    f = ptr8(out)
    h = ptr16(out)
    n = at - 34
    f[46] = n << 2
    s = t[PSEUDO_SUM] + (n << 8)
    k = 17
    while k << 1 < at:
        s += h[k]
        k += 1
    s = (s & 0xFFFF) + (s >> 16)
    h[25] = ~((s & 0xFFFF) + (s >> 16))
    h[8] = n + 20 << 8
    s = h[7] + h[8] + h[9] + h[10] + h[11] + h[13] + h[14] + h[15] + h[16]
    s = (s & 0xFFFF) + (s >> 16)
    h[12] = ~((s & 0xFFFF) + (s >> 16))
    t[SEGMENTS_OUT] = t[SEGMENTS_OUT] + 1
    return at


@micropython.viper
def receive(source: ptr32, target: ptr32, objects, most: int, words) -> int:
    """Walks the receive ring and handles whole segments of open connections: receive(words, now, objects, most, words).

    Returns the index + 1 of a frame that plain Python must look at (then call release), 0 when no frame waits or `most` have been handled
    or the program's buffer is full (see take), or -1 when the transmit ring is full: the driver should transmit, then call again.
    What arrives in order is acknowledged once, behind the last of the frames that wait (RFC 9293 section 3.10.7.4, MUST-58 and MUST-59), and
    what their ACKs let leave leaves then, too: a call of acknowledge(), one of output() and one of start_timer() for all of them.

    Viper keeps the first two locals in registers, so these arguments have the names and types of what the loops use: 15 instructions for a
    word that is added up and copied, against 19 with other locals. The loops stand here because a call costs 400.
    """
    c = source
    now = int(target)
    ring = c[C_RX_RING] | c[C_RX_RING + 1] << 32
    keys = ptr32(c[C_KEYS] | c[C_KEYS + 1] << 32)
    slot = c[C_SLOT] - 1
    t = ptr32(c[C_TCB] | c[C_TCB + 1] << 32)
    pending = 0  # 1: the connection in hand waits for output() or its timer, 3: the program's buffer is full before its ACK has left
    held = 0  # bytes beyond SND_UNA that the peer has confirmed, acknowledge() not having been told, and with how many ACKs
    acks = 0
    train = 0  # the frame before was an ACK of new data without text, and what the next one is compared with
    end = w0 = w3 = w5 = w6 = w8 = sum_ip = sum_tcp = 0
    i = now - c[C_NOW] & _MASK30
    if not i >> 29:
        c[C_CLOCK] = c[C_CLOCK] + i
        c[C_NOW] = now
    c[C_KNOWN] = 0
    while True:
        i = c[C_RX_NEXT]
        d = ptr32(ring + (i << 5))
        w = d[0]
        if w >> 31 & 1 or most <= 0:
            i = 0 - 1
            break
        if w & (_RX_ES | _RX_FS_LS) != _RX_FS_LS:
            c[C_DROP_RECEIVE_ERROR] = c[C_DROP_RECEIVE_ERROR] + 1
            release(words, objects)
            most -= 1
            continue
        n = (w >> 16 & 0x3FFF) - FCS
        source = ptr32(int(c) + (i << 3))
        frame = source[C_FRAMES] | source[C_FRAMES + 1] << 32
        h = ptr16(frame)
        f = ptr8(frame)
        if train:
            # ACKs come in trains, too: they differ in identification, TTL, acknowledgement number, timestamps and in the checksums, by as much.
            source = ptr32(frame + 14)
            k = h[9] + h[10] + h[11] + h[12]
            w = h[21] + h[22] + h[25] + h[26]
            stamp = 0
            plain = 0
            if end == 66:
                w += h[29] + h[30] + h[31] + h[32]
                stamp = f[58] << 24 | f[59] << 16 | f[60] << 8 | f[61]
                plain = source[10] ^ 0x0A080101 | (stamp - t[TS_RECENT]) >> 31 & 1
            ack = f[42] << 24 | f[43] << 16 | f[44] << 8 | f[45]
            acked = ack - t[SND_UNA]
            if not (
                plain | source[0] ^ w0 | source[3] ^ w3 | source[4] ^ c[C_ADDRESS] | source[5] ^ w5 | source[6] ^ w6 | source[8] ^ w8
                | h[6] ^ 8 | f[23] ^ 6 | h[10] & 0xFFBF | (k & 0xFFFF) + (k >> 16) ^ sum_ip | (w & 0xFFFF) + (w >> 16) ^ sum_tcp | acked >> 30 & 3
            ):
                acked &= _MASK30
                if acked > held and acked <= t[SND_NXT] - t[SND_UNA] & _MASK30 and n >= end:
                    held = acked
                    acks += 1
                    t[SND_WL2] = ack
                    t[SEGMENTS_IN] = t[SEGMENTS_IN] + 1
                    c[C_FAST_SEGMENTS] = c[C_FAST_SEGMENTS] + 1
                    if stamp and not (t[LAST_ACK_SENT] - t[RCV_NXT]) >> 31 & 1:
                        t[TS_RECENT] = stamp
                        t[TS_RECENT_AT] = c[C_CLOCK]
                    h = ptr16(d)
                    h[0] = 0
                    h[1] = _RX_OWN
                    i += 1
                    if i == c[C_RX_COUNT]:
                        i = 0
                    c[C_RX_NEXT] = i
                    c[C_RX_RETURNED] = c[C_RX_RETURNED] + 1
                    c[C_FRAMES_IN] = c[C_FRAMES_IN] + 1
                    most -= 1
                    continue
            train = 0
        # Fast: IPv4 (0x0800) with a header of 5 words, TCP, no fragment, to our address.
        if c[C_EVERY_FRAME_SLOW] or n < 54 or h[6] != 0x0008 or f[14] != 0x45 or f[23] != 6 or h[10] & 0xFFBF:
            if f[23] == 17 and c[C_ENDPOINT]:
                n = int(objects[O_DATAGRAMS](words, objects))
                if n < 0:
                    i = 0 - 1  # it went to the program; the others wait for its next call, or a poll
                    break
                if n:
                    most -= n
                    continue
            elif f[23] == 1 and c[C_ECHO] and not c[C_EVERY_FRAME_SLOW]:
                n = int(objects[O_ECHO](words, objects))
                if n > 0:
                    most -= 1
                    continue
                if n < 0:
                    i = 0 - 2
                    break
            break
        source = ptr32(frame + 14)
        end = 14 + (f[16] << 8 | f[17])
        if end > n or end < 54 or source[4] != c[C_ADDRESS]:
            break
        if _WIDE:
            w = source[0] + source[1] + source[2] + source[3] + source[4]
            w = (w & 0xFFFF) + (w >> 16)
        else:
            w = h[7] + h[8] + h[9] + h[10] + h[11] + h[12] + h[13] + h[14] + h[15] + h[16]
        w = (w & 0xFFFF) + (w >> 16)
        if (w & 0xFFFF) + (w >> 16) != 0xFFFF:
            c[C_DROP_IP_CHECKSUM] = c[C_DROP_IP_CHECKSUM] + 1
            release(words, objects)
            most -= 1
            continue
        start = 34 + (f[46] >> 4 << 2)
        if start < 54 or start > end:
            break
        # Frames come in trains of one connection.
        if slot < 0 or keys[slot << 1] != source[3] or keys[(slot << 1) + 1] != source[5]:
            k = int(lookup(objects, objects[O_FRAMES][i], 34))
            if k < 0:
                c[C_KNOWN] = SEVERAL
                c[C_SEGMENT_END] = end
                break
            if pending | held:
                i = 0 - 2
                break
            slot = k
            point(words, C_TCB, objects[O_TCBS][slot])
            c[C_SLOT] = slot + 1
            t = ptr32(c[C_TCB] | c[C_TCB + 1] << 32)
        flags = t[FLAGS]
        room = 0
        if c[C_TAKE_SLOT] == slot + 1:
            room = c[C_TAKE_LEFT]
            if not room and end != start:
                i = 0 - 1
                pending |= pending << 1  # take() sees to the ACK
                break
        n = end - 34
        w = t[PSEUDO_SUM] + (n >> 8 | (n & 0xFF) << 8)
        if n == 20 or n == 32:
            # A pure ACK, without or with timestamps.
            w += h[17] + h[18] + h[19] + h[20] + h[21] + h[22] + h[23] + h[24] + h[25] + h[26]
            if n == 32:
                w += h[27] + h[28] + h[29] + h[30] + h[31] + h[32]
            w = (w & 0xFFFF) + (w >> 16)
            w = (w & 0xFFFF) + (w >> 16)
        elif _WIDE:
            source = ptr32(frame + 34)
            k = n >> 7
            while k:
                w += (
                    source[0] + source[1] + source[2] + source[3] + source[4] + source[5] + source[6] + source[7]
                    + source[8] + source[9] + source[10] + source[11] + source[12] + source[13] + source[14] + source[15]
                    + source[16] + source[17] + source[18] + source[19] + source[20] + source[21] + source[22] + source[23]
                    + source[24] + source[25] + source[26] + source[27] + source[28] + source[29] + source[30] + source[31]
                )
                source = ptr32(int(source) + 128)
                k -= 1
            k = n >> 4 & 7
            while k:
                w += source[0] + source[1] + source[2] + source[3]
                source = ptr32(int(source) + 16)
                k -= 1
            k = n >> 2 & 3
            while k:
                w += source[0]
                source = ptr32(int(source) + 4)
                k -= 1
            w += source[0] & (1 << ((n & 3) << 3)) - 1
            w = (w & 0xFFFF) + (w >> 16)
            w = (w & 0xFFFF) + (w >> 16)
            w = (w & 0xFFFF) + (w >> 16)
        else:
            w = int(add(objects[O_FRAMES][i], w, n, 34))
        if w != 0xFFFF:
            c[C_DROP_TCP_CHECKSUM] = c[C_DROP_TCP_CHECKSUM] + 1
            release(words, objects)
            most -= 1
            continue
        n = end - start
        if f[47] & (SYN | RST | URG | ACK) != ACK or t[STATE] < ESTABLISHED or t[STATE] > CLOSE_WAIT or flags & FLAG_ORPHAN and n:
            if t[STATE] != TIME_WAIT:
                c[C_KNOWN] = slot + 1
                c[C_SEGMENT_END] = end
            break
        # Header prediction (Van Jacobson, 1990): the next text in order, or an ACK of new data, or both, and nothing else that is new.
        seq = f[38] << 24 | f[39] << 16 | f[40] << 8 | f[41]
        ack = f[42] << 24 | f[43] << 16 | f[44] << 8 | f[45]
        acked = ack - t[SND_UNA]
        stamp = 0
        plain = 0
        if h[23] & 0xF7FF == (0x1080 if flags & FLAG_TS else 0x1050) and not seq ^ t[RCV_NXT] and not flags & _NOT_PLAIN | t[OUT_OF_ORDER]:
            if (f[48] << 8 | f[49]) << t[SND_SCALE] == t[SND_WND] and n <= t[RCV_MSS] and n <= t[RCV_ADV] - seq & _MASK30:
                plain = n
                if acked:
                    plain = acked & _MASK30
                    if acked >> 30 & 3 or plain > t[SND_NXT] - t[SND_UNA] & _MASK30 or plain < held or t[DUPACKS] | t[SACKED]:
                        plain = 0
                    elif plain == held:
                        plain = n
                        acked = 0
                elif held:
                    plain = 0
                if flags & FLAG_TS:
                    stamp = f[58] << 24 | f[59] << 16 | f[60] << 8 | f[61]
                    if h[27] != 0x0101 or h[28] != 0x0A08 or (stamp - t[TS_RECENT]) >> 31 & 1:
                        plain = 0
        if t[RCV_SIZE] > t[RCV_RING_SIZE] and n and (not plain or n > t[RCV_RING_SIZE] - t[RCV_LEN] and (n > room or t[RCV_LEN])):
            break  # the ring may have to grow
        c[C_FAST_SEGMENTS] = c[C_FAST_SEGMENTS] + 1
        if not plain:
            if held:
                acknowledge(words, objects, slot, held, acks, now)
                held = acks = 0
            c[C_SEGMENT] = 34
            c[C_SEGMENT_END] = end
            arrive(words, objects, slot, objects[O_FRAMES][i], now)
        else:
            t[SEGMENTS_IN] = t[SEGMENTS_IN] + 1
            t[LAST_ARRIVAL] = now
            t[SND_WL1] = seq
            if stamp and not (t[LAST_ACK_SENT] - seq) >> 31 & 1:
                t[TS_RECENT] = stamp
                t[TS_RECENT_AT] = c[C_CLOCK]
            if acked:
                held = acked & _MASK30
                acks += 1
                t[SND_WL2] = ack
                if not n and end <= 66:
                    train = 1
                    source = ptr32(frame + 14)
                    w0 = source[0]
                    w3 = source[3]
                    w5 = source[5]
                    w6 = source[6]
                    w8 = source[8]
                    w = h[9] + h[10] + h[11] + h[12]
                    sum_ip = (w & 0xFFFF) + (w >> 16)
                    w = h[21] + h[22] + h[25] + h[26]
                    if end == 66:
                        w += h[29] + h[30] + h[31] + h[32]
                    sum_tcp = (w & 0xFFFF) + (w >> 16)
            if n:
                t[BYTES_IN] = t[BYTES_IN] + n
                t[RCV_NXT] = seq + n
                if (seq + n - t[LAST_ACK_SENT] & _MASK30) >= t[RCV_MSS] << 1:
                    t[FLAGS] = flags | FLAG_ACK_NOW
                elif not flags & FLAG_ACK_LATER:
                    t[FLAGS] = flags | FLAG_ACK_LATER
                    t[ACK_AT] = now + ACK_DELAY & _MASK30
                    if (t[ACK_AT] - c[C_NEXT_TIMER]) >> 29 & 1:
                        c[C_NEXT_TIMER] = t[ACK_AT]
                if t[RCV_LEN]:
                    room = 0  # what has come before is to be read first
                while n:
                    source = ptr32(frame + end - n)
                    if room:
                        target = ptr32((c[C_TAKE_END] | c[C_TAKE_END + 1] << 32) - room)
                        k = n if n < room else room
                        c[C_TAKE_LEFT] = room - k
                        room = 0
                    else:
                        size = t[RCV_RING_SIZE]
                        w = t[RCV_HEAD] + t[RCV_LEN]
                        if w >= size:
                            w -= size
                        target = ptr32((t[RCV_RING] | t[RCV_RING + 1] << 32) + w)
                        k = size - w
                        if k > n:
                            k = n
                        t[RCV_LEN] = t[RCV_LEN] + k
                    n -= k
                    w = k >> 7
                    while w:
                        target[0] = source[0]; target[1] = source[1]; target[2] = source[2]; target[3] = source[3]
                        target[4] = source[4]; target[5] = source[5]; target[6] = source[6]; target[7] = source[7]
                        target[8] = source[8]; target[9] = source[9]; target[10] = source[10]; target[11] = source[11]
                        target[12] = source[12]; target[13] = source[13]; target[14] = source[14]; target[15] = source[15]
                        target[16] = source[16]; target[17] = source[17]; target[18] = source[18]; target[19] = source[19]
                        target[20] = source[20]; target[21] = source[21]; target[22] = source[22]; target[23] = source[23]
                        target[24] = source[24]; target[25] = source[25]; target[26] = source[26]; target[27] = source[27]
                        target[28] = source[28]; target[29] = source[29]; target[30] = source[30]; target[31] = source[31]
                        target = ptr32(int(target) + 128)
                        source = ptr32(int(source) + 128)
                        w -= 1
                    w = k >> 4 & 7
                    while w:
                        target[0] = source[0]; target[1] = source[1]; target[2] = source[2]; target[3] = source[3]
                        target = ptr32(int(target) + 16)
                        source = ptr32(int(source) + 16)
                        w -= 1
                    w = k >> 2 & 3
                    while w:
                        target[0] = source[0]
                        target = ptr32(int(target) + 4)
                        source = ptr32(int(source) + 4)
                        w -= 1
                    f = ptr8(source)
                    e = ptr8(target)
                    k &= 3
                    while k:
                        k -= 1
                        e[k] = f[k]
        # release(), which would cost a call
        d[1] = RX_CHAINED_SIZE
        h = ptr16(d)
        h[0] = 0
        h[1] = _RX_OWN
        i += 1
        if i == c[C_RX_COUNT]:
            i = 0
        c[C_RX_NEXT] = i
        c[C_RX_RETURNED] = c[C_RX_RETURNED] + 1
        c[C_FRAMES_IN] = c[C_FRAMES_IN] + 1
        most -= 1
        if t[FLAGS] & (FLAG_ACK_NOW | FLAG_OUTPUT):
            if plain:
                pending = 1
            else:
                output(words, now, objects, slot)
                if c[C_TX_FULL]:
                    i = 0 - 2
                    break
    if held:
        acknowledge(words, objects, slot, held, acks, now)
        pending |= 1
        flags = t[FLAGS]
        if not flags & FLAG_FIN and t[SND_LEN] == t[SND_NXT] - t[SND_UNA] & _MASK30:
            t[FLAGS] = flags & ~(FLAG_OUTPUT | FLAG_FORCE | FLAG_CWND_FULL)  # all has left already: output() would find nothing
    if pending:
        flags = t[FLAGS]
        if flags & FLAG_OUTPUT or flags & FLAG_ACK_NOW and pending == 1:
            if c[C_OUTPUT] == slot + 1:
                c[C_OUTPUT] = 0
            output(words, now, objects, slot)
            flags = t[FLAGS]
        if t[RECORD_COUNT] and not flags & FLAG_TIMERS:
            start_timer(words, objects[O_TCBS][slot], now)
    return i + 1


@micropython.viper
def arrive(words, objects, slot: int, frame, now: int) -> int:
    """Takes one segment with ACK into a synchronised connection: RFC 9293 section 3.10.7.4, first and fifth to eighth step.

    The TCP header is at frame[C_SEGMENT], the text ends at C_SEGMENT_END; checksum, RST and SYN have been looked at.
    Returns ARRIVED_… bits. Sets FLAG_ACK_NOW, FLAG_ACK_LATER or FLAG_OUTPUT for what has to follow. A FIN, and the ACK of ours, are
    noted in FLAG_FIN_IN and FLAG_FIN_ACKED; Connection.settle() moves the state.
    """
    c = ptr32(words)
    tcb = objects[O_TCBS][slot]
    t = ptr32(tcb)
    at = c[C_SEGMENT]
    f = ptr8(int(ptr8(frame)) + at)
    seq = f[4] << 24 | f[5] << 16 | f[6] << 8 | f[7]
    ack = f[8] << 24 | f[9] << 16 | f[10] << 8 | f[11]
    start = at + (f[12] >> 4 << 2)
    n = c[C_SEGMENT_END] - start
    found = 0
    due = c[C_SETTLE]
    t[SEGMENTS_IN] = t[SEGMENTS_IN] + 1
    t[LAST_ARRIVAL] = now
    state = t[STATE]
    flags = t[FLAGS]

    # The options: timestamps in their usual place, or wherever they and SACK are.
    blocks = 0
    stamped = 0
    tsval = 0
    h = ptr16(f)
    if f[12] == 0x80 and h[10] == 0x0101 and h[11] == 0x0A08:
        stamped = 24
    elif f[12] != 0x50:
        k = int(options(words, frame))
        stamped = k & 63
        blocks = k >> 6
    if flags & FLAG_TS:
        if not stamped:
            c[C_DROP_TIMESTAMP] = c[C_DROP_TIMESTAMP] + 1  # RFC 7323 section 3.2
            return ARRIVED_REFUSED
        tsval = f[stamped] << 24 | f[stamped + 1] << 16 | f[stamped + 2] << 8 | f[stamped + 3]
        if (tsval - t[TS_RECENT]) >> 31 & 1 and not (c[C_CLOCK] - t[TS_RECENT_AT]) >> 31 & 1:
            # PAWS, RFC 7323 section 5.3; TS.Recent is valid for the 24 days that its sign can tell.
            c[C_DROP_TIMESTAMP] = c[C_DROP_TIMESTAMP] + 1
            t[FLAGS] = flags | FLAG_ACK_NOW
            return ARRIVED_REFUSED

    # First: is it in the window? `skip` counts the bytes in front that we have already, `gap` those that are missing.
    window = t[RCV_ADV] - t[RCV_NXT] & _MASK30
    ahead = seq - t[RCV_NXT]
    skip = 0
    gap = 0
    quarter = ahead >> 30 & 3
    if not quarter:
        gap = ahead & _MASK30
        if gap > 0 and gap >= window:
            found = ARRIVED_REFUSED
    elif quarter == 3:
        skip = 0 - ahead & _MASK30
        if not skip or skip >= n + (f[13] & FIN):  # 0: it is 2**30 behind
            found = ARRIVED_REFUSED
        if n:
            t[DSACK_START] = seq
            t[DSACK_END] = seq + n if n < skip else t[RCV_NXT]
    else:
        found = ARRIVED_REFUSED
    if found:
        # An old segment's acknowledgement is still news when it is in range (Linux and lwIP take it, too).
        if quarter == 1 or quarter == 2 or gap:
            c[C_DROP_OUT_OF_WINDOW] = c[C_DROP_OUT_OF_WINDOW] + 1
            t[FLAGS] = flags | FLAG_ACK_NOW
            return found
        skip = n
        flags |= FLAG_ACK_NOW
    elif stamped and not (t[LAST_ACK_SENT] - seq) >> 31 & 1:
        t[TS_RECENT] = tsval  # RFC 7323 section 4.3: so that the delay of our ACK is part of what the peer measures
        t[TS_RECENT_AT] = c[C_CLOCK]

    # Fifth: the acknowledgement.
    acked = ack - t[SND_UNA]
    beyond = ack - t[SND_NXT]
    if acked >> 31 & 1:
        acked = 0 - acked
        if acked >> 30 & 3 or acked & _MASK30 > t[MAX_SND_WND]:
            # Older than anything that can be on its way: who sent this guesses (RFC 5961 section 5.2).
            c[C_DROP_BAD_ACK] = c[C_DROP_BAD_ACK] + 1
            t[FLAGS] = flags | FLAG_ACK_NOW
            return found | ARRIVED_REFUSED
    elif not beyond >> 31 & 1 and beyond and (not flags & FLAG_TIMEOUT or (t[RECOVER] - ack) >> 31 & 1):
        c[C_DROP_BAD_ACK] = c[C_DROP_BAD_ACK] + 1
        t[FLAGS] = flags | FLAG_ACK_NOW
        return found | ARRIVED_REFUSED
    else:
        if not beyond >> 31 & 1 and beyond:
            # It left before the segments were cut anew for a smaller path MTU.
            t[SND_NXT] = t[RECOVER]
            forget_flight(tcb)
            t[SND_NXT] = ack
            flags = t[FLAGS]
        acked = acked & _MASK30
        wnd = (f[14] << 8 | f[15]) << t[SND_SCALE]
        t[FLAGS] = flags
        if acked:
            acknowledge(words, objects, slot, acked, 1, now)
            flags = t[FLAGS]
        if flags & (FLAG_RECOVERY | FLAG_TIMEOUT | FLAG_TAIL_OUT) or blocks or t[DUPACKS] or t[SACKED]:
            recover(words, tcb, frame, acked, blocks, now)
        elif not acked and not n and t[RECORD_COUNT] and wnd == t[SND_WND] and not f[13] & FIN:
            recover(words, tcb, frame, 0, 0, now)
        if acked and t[RECORD_COUNT] and not t[FLAGS] & FLAG_TIMERS:
            start_timer(words, tcb, now)
        newer = seq - t[SND_WL1]
        if (not newer >> 31 & 1 and newer) or (not newer and not (ack - t[SND_WL2]) >> 31 & 1):
            if wnd != t[SND_WND]:
                if t[FLAGS] & FLAG_PERSIST and wnd > t[SND_WND]:
                    t[FLAGS] = t[FLAGS] & ~(FLAG_PERSIST | FLAG_PROBE)
                    t[RETRIES] = 0
                    if t[RECORD_COUNT]:
                        forget_flight(tcb)  # a probe that had no room goes again with what follows it
                elif not wnd and t[LOST]:
                    forget_flight(tcb)  # what is to be sent again has no room any more
                t[FLAGS] = t[FLAGS] | FLAG_OUTPUT
                t[SND_WND] = wnd
                if wnd > t[MAX_SND_WND]:
                    t[MAX_SND_WND] = wnd
            t[SND_WL1] = seq
            t[SND_WL2] = ack
        flags = t[FLAGS]

    # Seventh and eighth: the text, and FIN behind it.
    n -= skip
    fin = f[13] & FIN
    if state < ESTABLISHED or state > FIN_WAIT_2 or flags & FLAG_FIN_IN or found & ARRIVED_REFUSED or (not n and not fin):
        t[FLAGS] = flags
        return found
    start += skip
    if n != t[RCV_MSS] and n >= 536 and (n > t[RCV_MSS] or not f[13] & PSH):
        t[RCV_MSS] = n  # a full segment, as this peer and path have it
    k = t[RCV_RING_SIZE] - t[RCV_LEN]
    if k > window:
        k = window
    k = k - gap if k > gap else 0
    if n > k:
        n = k
        fin = 0
        c[C_DROP_BUFFER_FULL] = c[C_DROP_BUFFER_FULL] + 1
        flags |= FLAG_ACK_NOW
    if gap:
        # Kept where it belongs, in the receive buffer, when the list of ranges has room for it (RFC 9293 section 3.8, SHLD-31).
        flags |= FLAG_ACK_NOW
        if fin:
            t[FIN_AT] = seq + n
            flags |= FLAG_FIN_AHEAD
        if n and not int(keep_range(tcb, gap, n)):
            c[C_DROP_OUT_OF_ORDER] = c[C_DROP_OUT_OF_ORDER] + 1
            n = 0
    t[FLAGS] = flags
    if n:
        size = t[RCV_RING_SIZE]
        tail = t[RCV_HEAD] + t[RCV_LEN] + gap
        if tail >= size:
            tail -= size
        first = size - tail
        if first > n:
            first = n
        ring = objects[O_RCV][slot]
        copy(ring, frame, first, tail, start)
        if n > first:
            copy(ring, frame, n - first, 0, start + first)
    if gap:
        return found
    if n:
        t[BYTES_IN] = t[BYTES_IN] + n
        if t[OUT_OF_ORDER]:
            # What waited behind this text is in order now; an ACK at once tells that the gap is closed (RFC 5681 section 4.2).
            flags |= FLAG_ACK_NOW
            n += int(join_ranges(tcb, n))
        t[RCV_LEN] = t[RCV_LEN] + n
        t[RCV_NXT] = t[RCV_NXT] + n
        found |= ARRIVED_DATA
    if flags & FLAG_FIN_AHEAD and t[FIN_AT] == t[RCV_NXT]:
        fin = FIN
    if fin:
        t[RCV_NXT] = t[RCV_NXT] + 1
        if (t[RCV_ADV] - t[RCV_NXT]) >> 31 & 1:
            t[RCV_ADV] = t[RCV_NXT]
        flags |= FLAG_FIN_IN | FLAG_ACK_NOW
        c[C_SETTLE] = 1 if due else slot + 2
    # RFC 9293 section 3.8.6.3: an ACK for at least every second full segment, and within a bounded delay.
    if skip or (t[RCV_NXT] - t[LAST_ACK_SENT] & _MASK30) >= t[RCV_MSS] << 1:
        flags |= FLAG_ACK_NOW
    elif not flags & FLAG_ACK_LATER:
        flags |= FLAG_ACK_LATER
        t[ACK_AT] = now + ACK_DELAY & _MASK30
        if (t[ACK_AT] - c[C_NEXT_TIMER]) >> 29 & 1:
            c[C_NEXT_TIMER] = t[ACK_AT]
    t[FLAGS] = flags
    return found


@micropython.viper
def options(words, frame) -> int:
    """Returns where in the TCP header at frame[C_SEGMENT] the timestamps (bits 5:0) and the SACK option (upper bits) are, 0 for none.

    Option lists that are cut off, never end or lie about their lengths are read as far as they make sense.
    """
    c = ptr32(words)
    f = ptr8(int(ptr8(frame)) + c[C_SEGMENT])
    end = f[12] >> 4 << 2
    found = 0
    k = 20
    while k < end and f[k]:
        if f[k] == 1:
            k += 1
        elif k + 1 >= end or f[k + 1] < 2 or k + f[k + 1] > end:
            break
        else:
            if f[k] == 8 and f[k + 1] == 10:
                found |= k + 2
            elif f[k] == 5 and not found >> 6:
                found |= k << 6
            k += f[k + 1]
    return found


@micropython.viper
def acknowledge(words, objects, slot: int, acked: int, acks: int, now: int):
    """Takes `acked` bytes that the peer has confirmed with so many ACKs off the send buffer: measures the round trip, opens the congestion window."""
    c = ptr32(words)
    t = ptr32(c[C_TCB] | c[C_TCB + 1] << 32)
    if c[C_SLOT] != slot + 1:
        t = ptr32(objects[O_TCBS][slot])
    flags = t[FLAGS]
    una = t[SND_UNA]
    mss = t[SND_MSS]
    flight = t[SND_NXT] - una & _MASK30
    text = acked
    if text > t[SND_LEN]:
        text = t[SND_LEN]
        flags |= FLAG_FIN_ACKED
        c[C_SETTLE] = 1
    head = t[SND_HEAD] + text
    if head >= t[SND_RING_SIZE]:
        head -= t[SND_RING_SIZE]
    t[SND_HEAD] = head
    t[SND_LEN] = t[SND_LEN] - text
    ack = una + acked
    t[SND_UNA] = ack
    t[RETRIES] = 0
    t[PROGRESS_AT] = now

    # The records it covers leave; what was sent once gives a sample of the round-trip time (RFC 6298, Karn's rule).
    base = int(t) + (RECORDS << 2)
    r = t[RECORD_HEAD]
    k = t[RECORD_COUNT]
    size = t[RECORD_SIZE]
    pipe = t[PIPE]
    rtt = 0 - 1
    if una == t[FACK]:
        # Nothing has overtaken these: of those sent once only the last, which is the youngest, tells something. 60 instructions each, of 240.
        end = una
        info = 0
        while k:
            p = ptr32(base + (r << 3))
            if (ack - p[0]) >> 31 & 1 or p[1] & (R_SACKED | R_LOST | R_SENT_AGAIN):
                break
            end = p[0]
            info = p[1] >> 3
            r += 1
            if r == size:
                r = 0
            k -= 1
        if end != una:
            pipe -= end - una & _MASK30
            rtt = now - info & _MASK29
            if not (info - t[RACK_TIME]) >> 28 & 1:
                t[RACK_TIME] = info & _MASK29
                t[RACK_SEQ] = end
                t[RACK_RTT] = rtt
            una = end
    while k:
        p = ptr32(base + (r << 3))
        end = p[0]
        info = p[1]
        if (ack - end) >> 31 & 1:
            if not info & (R_SACKED | R_LOST):
                pipe -= ack - una & _MASK30
            break
        if not info & (R_SACKED | R_LOST):
            pipe -= end - una & _MASK30
        if info & R_LOST:
            t[LOST] = t[LOST] - 1
        if info & R_SACKED:
            t[SACKED] = t[SACKED] - 1
        else:
            rtt_now = now - (info >> 3) & _MASK29
            if not info & R_SENT_AGAIN:
                rtt = rtt_now
            # RACK.rtt of a segment sent again counts only when it cannot be the first copy's (RFC 8985 section 6.2).
            if not info & R_SENT_AGAIN or rtt_now >= t[MIN_RTT]:
                if not ((info >> 3) - t[RACK_TIME]) >> 28 & 1:
                    t[RACK_TIME] = info >> 3 & _MASK29
                    t[RACK_SEQ] = end
                    t[RACK_RTT] = rtt_now
            if not info & R_SENT_AGAIN and (end - t[FACK]) >> 31 & 1:
                flags |= FLAG_REORDERED
        una = end
        r += 1
        if r == size:
            r = 0
        k -= 1
    t[RECORD_HEAD] = r
    t[RECORD_COUNT] = k
    t[PIPE] = pipe
    if not (ack - t[FACK]) >> 31 & 1:
        t[FACK] = ack
    if rtt >= 0:
        if rtt < t[MIN_RTT]:
            t[MIN_RTT] = rtt
        # RFC 6298 section 2, in fixed point: SRTT * 8, RTTVAR * 4.
        if not t[SRTT]:
            t[SRTT] = (rtt << 3) + 1
            t[RTTVAR] = rtt << 1
        else:
            delta = rtt - (t[SRTT] >> 3)
            t[SRTT] = t[SRTT] + delta
            if delta < 0:
                delta = 0 - delta
            t[RTTVAR] = t[RTTVAR] + (delta - (t[RTTVAR] >> 2))
        if not t[SRTT]:
            t[SRTT] = 1
        rto = (t[SRTT] >> 3) + t[RTTVAR]
        if rto < RTO_MIN:
            rto = RTO_MIN
        if rto > RTO_MAX:
            rto = RTO_MAX
        t[RTO] = rto

    # RFC 5681 section 3.1 by bytes (RFC 3465), and only when the window was what held us back (RFC 7661).
    cwnd = t[CWND]
    if not flags & FLAG_RECOVERY:
        if cwnd < t[SSTHRESH]:
            if flags & FLAG_CWND_FULL or flight << 1 >= cwnd:
                most = mss << 1
                if flags & FLAG_TIMEOUT:
                    most = mss
                most *= acks
                if text < most:
                    most = text
                cwnd += most
                if cwnd > t[SSTHRESH]:
                    cwnd = t[SSTHRESH]
        elif flags & FLAG_CWND_FULL:
            if not (ack - t[ROUND_SEQ]) >> 31 & 1:
                t[ROUND_SEQ] = t[SND_NXT]
                flags |= FLAG_ROUND
                c[C_SETTLE] = 1
            grow = t[GROW_AT]
            if not grow:
                grow = cwnd
            t[CWND_ACKED] = t[CWND_ACKED] + text
            if t[CWND_ACKED] >= grow:
                t[CWND_ACKED] = t[CWND_ACKED] - grow
                if t[CWND_ACKED] > grow:
                    t[CWND_ACKED] = 0
                cwnd += mss
        if cwnd > CWND_MAX:
            cwnd = CWND_MAX
    if flags & (FLAG_RECOVERY | FLAG_TIMEOUT) and not (ack - t[RECOVER]) >> 31 & 1:
        if flags & FLAG_RECOVERY:
            cwnd = t[SSTHRESH]
        flags &= ~(FLAG_RECOVERY | FLAG_TIMEOUT)
        t[DUPACKS] = 0
    t[CWND] = cwnd
    if not t[SND_LEN]:
        flags &= ~FLAG_PERSIST
    t[FLAGS] = flags & ~FLAG_TIMERS | flags & FLAG_PERSIST | FLAG_OUTPUT


@micropython.viper
def start_timer(words, tcb, now: int):
    """Starts RTX_AT for what is in flight: for a tail loss probe where one may help (RFC 8985 section 7.2), else for the RTO."""
    c = ptr32(words)
    t = ptr32(tcb)
    flags = t[FLAGS] & ~FLAG_TIMERS
    wait = t[RTO]
    kind = FLAG_RTX
    if flags & (FLAG_SACK | FLAG_RECOVERY | FLAG_TIMEOUT | FLAG_TAIL_OUT) == FLAG_SACK and t[RECORD_COUNT] > 1:
        if not t[SACKED] and not t[LOST] and not t[RETRIES]:
            tail = (t[SRTT] >> 2) + TAIL_WAIT
            if tail < wait:
                wait = tail
                kind = FLAG_TAIL
    t[FLAGS] = flags | kind
    t[RTX_AT] = now + wait & _MASK30
    if (t[RTX_AT] - c[C_NEXT_TIMER]) >> 29 & 1:
        c[C_NEXT_TIMER] = t[RTX_AT]


@micropython.viper
def recover(words, tcb, frame, acked: int, blocks: int, now: int):
    """Finds out what is lost, from an acknowledgement that is not plain progress, and begins fast recovery.

    The TCP header is at frame[C_SEGMENT]. acked: bytes it has acknowledged anew; blocks: offset of its SACK option there, 0 without.
    With SACK: RFC 2018, 8985 (RACK) and 6675 (pipe). Without: RFC 5681 and 6582 (NewReno), where each duplicate ACK takes one segment off
    the pipe, which also is limited transmit (RFC 3042).
    """
    c = ptr32(words)
    t = ptr32(tcb)
    f = ptr8(int(ptr8(frame)) + c[C_SEGMENT])
    flags = t[FLAGS]
    base = int(ptr32(tcb)) + (RECORDS << 2)
    size = t[RECORD_SIZE]
    una = t[SND_UNA]
    news = acked
    duplicate = 0
    if blocks and flags & FLAG_SACK:
        stop = blocks + f[blocks + 1]
        i = blocks + 2
        while i + 8 <= stop:
            left = f[i] << 24 | f[i + 1] << 16 | f[i + 2] << 8 | f[i + 3]
            right = f[i + 4] << 24 | f[i + 5] << 16 | f[i + 6] << 8 | f[i + 7]
            i += 8
            if (left - una) >> 31 & 1 or (right - left) >> 31 & 1 or right == left or (t[SND_NXT] - right) >> 31 & 1:
                # Below SND_UNA: a duplicate arrived there (RFC 2883).
                if right == t[TAIL_SEQ]:
                    duplicate = 1
                continue
            edge = una
            r = t[RECORD_HEAD]
            k = t[RECORD_COUNT]
            while k:
                p = ptr32(base + (r << 3))
                end = p[0]
                info = p[1]
                if (right - end) >> 31 & 1:
                    break
                if not (edge - left) >> 31 & 1 and not info & R_SACKED:
                    news = 1
                    t[SACKED] = t[SACKED] + 1
                    if info & R_LOST:
                        t[LOST] = t[LOST] - 1
                    else:
                        t[PIPE] = t[PIPE] - (end - edge & _MASK30)
                    p[1] = info & ~R_LOST | R_SACKED
                    rtt = now - (info >> 3) & _MASK29
                    if not info & R_SENT_AGAIN or rtt >= t[MIN_RTT]:
                        newer = (info >> 3) - t[RACK_TIME] & _MASK29
                        if not newer >> 28 & 1 and (newer or not (end - t[RACK_SEQ]) >> 31 & 1):
                            t[RACK_TIME] = info >> 3 & _MASK29
                            t[RACK_SEQ] = end
                            t[RACK_RTT] = rtt
                    if (end - t[FACK]) >> 31 & 1:
                        if not info & R_SENT_AGAIN:
                            flags |= FLAG_REORDERED
                    else:
                        t[FACK] = end
                edge = end
                r += 1
                if r == size:
                    r = 0
                k -= 1

    if flags & FLAG_TAIL_OUT and not (una - t[TAIL_SEQ]) >> 31 & 1:
        # RFC 8985 section 7.4.2: did the probe repair a loss?
        if not flags & FLAG_TAIL_AGAIN or duplicate or (not acked and not blocks):
            flags &= ~(FLAG_TAIL_OUT | FLAG_TAIL_AGAIN)
        elif una != t[TAIL_SEQ]:
            flags &= ~(FLAG_TAIL_OUT | FLAG_TAIL_AGAIN)
            if not flags & (FLAG_RECOVERY | FLAG_TIMEOUT):
                reduce(words, tcb, t[CWND])

    count = t[RECORD_COUNT]
    if not count:
        t[FLAGS] = flags
        return
    wait = 0
    if flags & FLAG_SACK:
        if news and t[SACKED] or flags & (FLAG_RECOVERY | FLAG_TIMEOUT):
            # RACK: lost is what left before something that has arrived, by more than the reordering window (RFC 8985 section 6.2, step 5).
            window = 0
            if flags & FLAG_REORDERED or (t[SACKED] < _DUPTHRESH and not flags & (FLAG_RECOVERY | FLAG_TIMEOUT)):
                window = (t[MIN_RTT] >> 2) + 1
                if window > (t[SRTT] >> 3) + 1:
                    window = (t[SRTT] >> 3) + 1
            edge = una
            r = t[RECORD_HEAD]
            k = count
            while k:
                p = ptr32(base + (r << 3))
                end = p[0]
                info = p[1]
                if not info & (R_SACKED | R_LOST):
                    older = t[RACK_TIME] - (info >> 3) & _MASK29
                    if not older >> 28 & 1 and (older or (end - t[RACK_SEQ]) >> 31 & 1):
                        left = t[RACK_RTT] + window - (now - (info >> 3) & _MASK29)
                        if left <= 0:
                            p[1] = info | R_LOST
                            t[LOST] = t[LOST] + 1
                            t[PIPE] = t[PIPE] - (end - edge & _MASK30)
                        elif left > wait:
                            wait = left
                edge = end
                r += 1
                if r == size:
                    r = 0
                k -= 1
    else:
        p = ptr32(base + (t[RECORD_HEAD] << 3))
        part = p[0] - una & _MASK30
        if acked:
            if flags & FLAG_RECOVERY:
                # A partial acknowledgement: the next hole (RFC 6582 section 3.2, step 3).
                t[DUPACKS] = t[DUPACKS] - (int(acked // t[SND_MSS]) - 1)
                if t[DUPACKS] >> 30 & 1:
                    t[DUPACKS] = 0
                if not p[1] & (R_LOST | R_SENT_AGAIN):
                    p[1] |= R_LOST
                    t[LOST] = t[LOST] + 1
                    t[PIPE] = t[PIPE] - part
            else:
                t[DUPACKS] = 0
        else:
            t[DUPACKS] = t[DUPACKS] + 1
            if t[DUPACKS] >= count:
                t[DUPACKS] = count - 1
            if t[DUPACKS] == _DUPTHRESH and not flags & FLAG_RECOVERY and not (una - t[RECOVER]) >> 31 & 1 and una != t[RECOVER]:
                if not p[1] & R_LOST:
                    p[1] |= R_LOST
                    t[LOST] = t[LOST] + 1
                    t[PIPE] = t[PIPE] - part
    if t[LOST] and not flags & (FLAG_RECOVERY | FLAG_TIMEOUT):
        # RFC 5681 section 3.2, 6675 section 5: the first retransmission leaves at once, the window is reduced once a flight.
        flags |= FLAG_RECOVERY | FLAG_FORCE
        t[RECOVER] = t[SND_NXT]
        reduce(words, tcb, t[SND_NXT] - una & _MASK30)
    t[FLAGS] = flags | FLAG_OUTPUT
    if wait:
        t[FLAGS] = flags & ~FLAG_TIMERS | FLAG_REORDER | FLAG_OUTPUT
        t[RTX_AT] = now + wait & _MASK30
        if (t[RTX_AT] - c[C_NEXT_TIMER]) >> 29 & 1:
            c[C_NEXT_TIMER] = t[RTX_AT]
    elif flags & FLAG_REORDER:
        start_timer(words, tcb, now)


@micropython.viper
def reduce(words, tcb, flight: int):
    """Answers a loss: SSTHRESH and CWND become C_BETA / 1024 of what was in flight, W_MAX follows RFC 9438 section 4.7."""
    c = ptr32(words)
    t = ptr32(tcb)
    cwnd = t[CWND]
    beta = c[C_BETA]
    t[W_MAX] = cwnd if cwnd >= t[W_MAX] else cwnd * (1024 + beta) >> 11
    if flight > CWND_MAX:
        flight = CWND_MAX
    half = flight * beta >> 10
    if half < t[SND_MSS] << 1:
        half = t[SND_MSS] << 1
    t[SSTHRESH] = half
    t[CWND] = half
    t[CWND_ACKED] = 0
    t[GROW_AT] = 0
    t[EPOCH_K] = _MASK30  # a new epoch


@micropython.viper
def lose(tcb):
    """Marks everything in flight that the peer has not confirmed as lost: output() sends it again as CWND allows."""
    t = ptr32(tcb)
    base = int(ptr32(tcb)) + (RECORDS << 2)
    r = t[RECORD_HEAD]
    k = t[RECORD_COUNT]
    p = ptr32(base + (r << 3))
    if k and p[1] & R_SACKED:
        # It had the first segment and has it no more: what it said of the others counts no more (RFC 2018 section 8).
        t[SACKED] = 0
    t[LOST] = 0
    while k:
        p = ptr32(base + (r << 3))
        info = p[1]
        if not t[SACKED]:
            info &= ~R_SACKED
        if not info & R_SACKED:
            info |= R_LOST
            t[LOST] = t[LOST] + 1
        p[1] = info
        r += 1
        if r == t[RECORD_SIZE]:
            r = 0
        k -= 1
    t[PIPE] = 0
    t[DUPACKS] = 0


@micropython.viper
def time_out(words, tcb):
    """Answers a retransmission timeout: all that is in flight counts as lost, the window falls to one segment (RFC 5681 section 3.1)."""
    t = ptr32(tcb)
    if t[RETRIES] == 1:
        reduce(words, tcb, t[SND_NXT] - t[SND_UNA] & _MASK30)
    lose(tcb)
    t[CWND] = t[SND_MSS]
    if not t[FLAGS] & FLAG_TIMEOUT or (t[RECOVER] - t[SND_NXT]) >> 31 & 1:
        t[RECOVER] = t[SND_NXT]
    t[FLAGS] = t[FLAGS] & ~(FLAG_RECOVERY | FLAG_TIMERS | FLAG_TAIL_OUT | FLAG_TAIL_AGAIN) | FLAG_TIMEOUT | FLAG_FORCE | FLAG_OUTPUT
    if not t[SND_WND]:
        forget_flight(tcb)  # nothing has room: the window is probed from here on


@micropython.viper
def forget_flight(tcb):
    """Takes SND.NXT back to SND.UNA and drops all records: what was in flight is cut and sent as if it were new."""
    t = ptr32(tcb)
    if not t[FLAGS] & FLAG_TIMEOUT or (t[RECOVER] - t[SND_NXT]) >> 31 & 1:
        t[RECOVER] = t[SND_NXT]
    t[FLAGS] = t[FLAGS] & ~FLAG_RECOVERY | FLAG_TIMEOUT | FLAG_OUTPUT
    t[SND_NXT] = t[SND_UNA]
    t[RECORD_COUNT] = 0
    t[PIPE] = 0
    t[LOST] = 0
    t[SACKED] = 0
    t[DUPACKS] = 0


@micropython.viper
def lose_last(tcb):
    """Marks the last segment in flight as lost, for a tail loss probe, unless it has arrived."""
    t = ptr32(tcb)
    base = int(ptr32(tcb)) + (RECORDS << 2)
    k = t[RECORD_COUNT]
    if not k:
        return
    start = t[SND_UNA]
    r = t[RECORD_HEAD]
    while True:
        p = ptr32(base + (r << 3))
        k -= 1
        if not k:
            break
        start = p[0]
        r += 1
        if r == t[RECORD_SIZE]:
            r = 0
    if not p[1] & (R_SACKED | R_LOST):
        p[1] |= R_LOST
        t[LOST] = t[LOST] + 1
        t[PIPE] = t[PIPE] - (p[0] - start & _MASK30)


@micropython.viper
def keep_range(tcb, gap: int, n: int) -> int:
    """Enters n bytes that came `gap` ahead of their turn into the list of ranges; returns 0 when that has no room."""
    t = ptr32(tcb)
    start = t[RCV_NXT] + gap
    end = start + n
    count = t[OUT_OF_ORDER]
    first = int(ptr32(tcb)) + (RANGES << 2)
    last = first + (count << 3)  # behind the last one
    p = ptr32(first)
    while int(p) != last and (p[1] - start) >> 31 & 1:
        p = ptr32(int(p) + 8)
    if int(p) == last or (end - p[0]) >> 31 & 1:
        if count == RANGES_MAX:
            return 0
        while last != int(p):
            last -= 8
            q = ptr32(last)
            q[2] = q[0]
            q[3] = q[1]
        p[0] = start
        p[1] = end
        count += 1
    else:
        if (start - p[0]) >> 31 & 1:
            p[0] = start
        elif not (p[1] - end) >> 31 & 1:
            t[DSACK_START] = start
            t[DSACK_END] = end
        if (p[1] - end) >> 31 & 1:
            p[1] = end
        while int(p) + 8 != last and not (end - p[2]) >> 31 & 1:
            if (p[1] - p[3]) >> 31 & 1:
                p[1] = p[3]
            count -= 1
            last -= 8
            q = ptr32(int(p) + 8)
            while int(q) != last:
                q[0] = q[2]
                q[1] = q[3]
                q = ptr32(int(q) + 8)
    t[OUT_OF_ORDER] = count
    t[RECENT_RANGE] = int(p) - first >> 3
    return 1


@micropython.viper
def join_ranges(tcb, n: int) -> int:
    """Takes the ranges that n bytes in order have reached off the list; returns how far these go beyond them."""
    t = ptr32(tcb)
    nxt = t[RCV_NXT] + n
    g = ptr32(int(ptr32(tcb)) + (RANGES << 2))
    count = t[OUT_OF_ORDER]
    more = 0
    while count and not (nxt - g[0]) >> 31 & 1:
        step = g[1] - nxt
        if not step >> 31 & 1:
            more += step & _MASK30
            nxt = g[1]
        count -= 1
        p = g
        k = count
        while k:
            p[0] = p[2]
            p[1] = p[3]
            p = ptr32(int(p) + 8)
            k -= 1
    t[OUT_OF_ORDER] = count
    t[RECENT_RANGE] = 0
    return more


@micropython.viper
def output(source: ptr32, target: ptr32, objects, slot: int) -> int:
    """Sends what the connection may send now: lost segments again, segments cut from the send buffer, FIN, or a bare ACK: output(words, now, …).

    Returns how many.
    Limits: the peer's window, the congestion window, MSS, Nagle's rule and the sender's half of silly window avoidance
    (RFC 9293 sections 3.7.4 and 3.8.6.2.1). FLAG_OUTPUT stays set when only a transmit descriptor was missing.

    Viper keeps the first two locals in registers, so these arguments have the names and types of what the copying loop uses, which stands here
    because a call costs 400 instructions.
    """
    c = source
    now = int(target) & _MASK30
    t = ptr32(c[C_TCB] | c[C_TCB + 1] << 32)
    if c[C_SLOT] != slot + 1:
        t = ptr32(objects[O_TCBS][slot])
    base = int(t) + (RECORDS << 2)
    sent = 0
    news = 0
    passed = now - c[C_NOW] & _MASK30
    if not passed >> 29:
        c[C_CLOCK] = c[C_CLOCK] + passed
        c[C_NOW] = now
    while True:
        flags = t[FLAGS]
        flight = t[SND_NXT] - t[SND_UNA] & _MASK30
        mss = t[SND_MSS]
        room = t[CWND] - t[PIPE]
        if t[DUPACKS]:
            room += int(t[DUPACKS] * mss)
        n = 0
        fin = 0
        unsent = 0
        offset = flight  # from SND_UNA to what is sent now
        again = 0 - 1
        ranges = 0
        full = 0
        merge = 0
        if flags & FLAG_ACK_NOW and (t[OUT_OF_ORDER] or t[DSACK_END] != t[DSACK_START]) and flags & FLAG_SACK:
            ranges = 1  # an ACK of its own: text would leave no room for SACK
        else:
            if t[LOST]:
                r = t[RECORD_HEAD]
                v = t[SND_UNA]
                p = ptr32(base + (r << 3))
                while not p[1] & R_LOST:
                    v = p[0]
                    r += 1
                    if r == t[RECORD_SIZE]:
                        r = 0
                    p = ptr32(base + (r << 3))
                k = p[0] - v & _MASK30
                if k <= room or flags & FLAG_FORCE:
                    again = r
                    offset = v - t[SND_UNA] & _MASK30
                    n = k
                    k = t[SND_LEN] - offset
                    if n > k:
                        n = k
                        fin = FIN
                else:
                    full = FLAG_CWND_FULL
            else:
                unsent = t[SND_LEN] - flight
                if unsent < 0:
                    unsent = 0
                n = t[SND_WND] - flight
                if n > room and not flags & FLAG_FORCE:
                    if unsent > room:
                        full = FLAG_CWND_FULL
                    n = room
                k = mss
                if t[RECORD_COUNT] == t[RECORD_SIZE]:
                    k = int(last_room(objects[O_TCBS][slot]))
                    merge = 1
                if n > k:
                    n = k
                if n > unsent:
                    n = unsent
                if n < 0:
                    n = 0
                if flags & FLAG_PROBE and unsent:
                    if not n:
                        n = 1
                elif n and n < mss:
                    if n < unsent:
                        # Cut short by the window: worth sending when it is half of what the peer ever offered, or the persist timer ends.
                        if n << 1 < t[MAX_SND_WND]:
                            n = 0
                    elif flight and not flags & (FLAG_NODELAY | FLAG_FIN):
                        n = 0
                if flags & FLAG_FIN and not flags & FLAG_FIN_ACKED and n == unsent and flight <= t[SND_LEN] and (n < k or k == mss):
                    fin = FIN
                if unsent and not n and not flight and not flags & FLAG_PERSIST:
                    flags = flags & ~FLAG_TIMERS | FLAG_PERSIST
                    t[RETRIES] = 0
                    t[RTX_AT] = now + t[RTO] & _MASK30
                    if (t[RTX_AT] - c[C_NEXT_TIMER]) >> 29 & 1:
                        c[C_NEXT_TIMER] = t[RTX_AT]
            if not n and not fin and not flags & FLAG_ACK_NOW:
                t[FLAGS] = flags & ~(FLAG_OUTPUT | FLAG_FORCE | FLAG_CWND_FULL) | full
                break

        i = c[C_TX_NEXT]
        d = ptr32((c[C_TX_RING] | c[C_TX_RING + 1] << 32) + (i << 5))
        if d[0] >> 31 & 1:
            c[C_TX_FULL] = 1
            c[C_OUTPUT] = slot + 1 if not c[C_OUTPUT] or c[C_OUTPUT] == slot + 1 else SEVERAL
            t[FLAGS] = flags | FLAG_OUTPUT
            break
        source = ptr32(int(c) + (c[C_RX_COUNT] + i << 3))
        out = source[C_FRAMES] | source[C_FRAMES + 1] << 32
        source = ptr32(int(t) + (TEMPLATE << 2))
        source[4] = source[4] + 0x10000  # the next IP identification
        target = ptr32(out)
        target[0] = source[0]; target[1] = source[1]; target[2] = source[2]; target[3] = source[3]
        target[4] = source[4]; target[5] = source[5]; target[6] = source[6]; target[7] = source[7]
        target[8] = source[8]; target[9] = source[9]
        f = ptr8(out)
        h = ptr16(out)

        # The window we offer never shrinks, and grows only by a step worth telling (RFC 9293 section 3.8.6.2.2).
        scale = t[RCV_SCALE]
        old = t[RCV_ADV] - t[RCV_NXT] & _MASK30
        step = t[RCV_MSS]
        if step > t[RCV_SIZE] >> 1:
            step = t[RCV_SIZE] >> 1
        offer = old
        if t[RCV_SIZE] - old >= step:
            offer = t[RCV_SIZE] - t[RCV_LEN]
            if scale:
                offer -= (1 << scale) - 1  # what rounding up may add
            if offer > 0xFFFF << scale:
                offer = 0xFFFF << scale
            if offer - old < step:
                offer = old
        v = offer + (1 << scale) - 1 >> scale
        t[RCV_ADV] = t[RCV_NXT] + (v << scale)
        f[48] = v >> 8
        f[49] = v

        v = t[SND_UNA] + offset
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
        if n and offset + n == t[SND_LEN]:
            v |= PSH
        f[47] = v
        at = 54
        if flags & FLAG_TS:
            at = 66
            h[27] = 0x0101
            h[28] = 0x0A08
            v = c[C_CLOCK] + t[TS_OFFSET]
            f[58] = v >> 24
            f[59] = v >> 16
            f[60] = v >> 8
            f[61] = v
            v = t[TS_RECENT]
            f[62] = v >> 24
            f[63] = v >> 16
            f[64] = v >> 8
            f[65] = v
        if ranges:
            at = int(sack(objects[O_TCBS][slot], objects[O_FRAMES][c[C_RX_COUNT] + i], at))
        f[46] = at - 34 << 2
        h[26] = 0
        s = t[PSEUDO_SUM] + h[17] + h[18] + h[19] + h[20] + h[21] + h[22] + h[23] + h[24]
        if at > 54:
            s += h[27] + h[28] + h[29] + h[30] + h[31] + h[32]
            k = 33
            while k << 1 < at:
                s += h[k]
                k += 1
        text = 0
        if n:
            size = t[SND_RING_SIZE]
            head = t[SND_HEAD] + offset
            if head >= size:
                head -= size
            k = size - head
            v = t[SND_RING] | t[SND_RING + 1] << 32
            source = ptr32(v + head)
            target = ptr32(out + at)
            rest = n - k
            if rest < 0:
                rest = 0
                k = n
            if not rest and n >= _GATHER_MIN and c[C_GATHER] > c[C_EVERY_FRAME_SLOW] and not flags & FLAG_LOOP:
                # The DMA reads it from the send buffer. Without the copy to the frame: 1,350 instructions.
                text = v + head
                k = 0
            while k:
                turns = k >> 7
                while turns:
                    target[0] = source[0]; target[1] = source[1]; target[2] = source[2]; target[3] = source[3]
                    target[4] = source[4]; target[5] = source[5]; target[6] = source[6]; target[7] = source[7]
                    target[8] = source[8]; target[9] = source[9]; target[10] = source[10]; target[11] = source[11]
                    target[12] = source[12]; target[13] = source[13]; target[14] = source[14]; target[15] = source[15]
                    target[16] = source[16]; target[17] = source[17]; target[18] = source[18]; target[19] = source[19]
                    target[20] = source[20]; target[21] = source[21]; target[22] = source[22]; target[23] = source[23]
                    target[24] = source[24]; target[25] = source[25]; target[26] = source[26]; target[27] = source[27]
                    target[28] = source[28]; target[29] = source[29]; target[30] = source[30]; target[31] = source[31]
                    target = ptr32(int(target) + 128)
                    source = ptr32(int(source) + 128)
                    turns -= 1
                turns = k >> 4 & 7
                while turns:
                    target[0] = source[0]; target[1] = source[1]; target[2] = source[2]; target[3] = source[3]
                    target = ptr32(int(target) + 16)
                    source = ptr32(int(source) + 16)
                    turns -= 1
                turns = k >> 2 & 3
                while turns:
                    target[0] = source[0]
                    target = ptr32(int(target) + 4)
                    source = ptr32(int(source) + 4)
                    turns -= 1
                k &= 3
                while k:
                    last = ptr8(target)
                    byte = ptr8(source)
                    last[0] = byte[0]
                    target = ptr32(int(target) + 1)
                    source = ptr32(int(source) + 1)
                    k -= 1
                k = rest
                rest = 0
                source = ptr32(v)
            if _WIDE:
                target = ptr32(text if text else out + at)
                turns = n >> 7
                while turns:
                    s += (
                        target[0] + target[1] + target[2] + target[3] + target[4] + target[5] + target[6] + target[7]
                        + target[8] + target[9] + target[10] + target[11] + target[12] + target[13] + target[14] + target[15]
                        + target[16] + target[17] + target[18] + target[19] + target[20] + target[21] + target[22] + target[23]
                        + target[24] + target[25] + target[26] + target[27] + target[28] + target[29] + target[30] + target[31]
                    )
                    target = ptr32(int(target) + 128)
                    turns -= 1
                turns = n >> 4 & 7
                while turns:
                    s += target[0] + target[1] + target[2] + target[3]
                    target = ptr32(int(target) + 16)
                    turns -= 1
                k = n & 15
                while k >= 4:
                    s += target[0]
                    target = ptr32(int(target) + 4)
                    k -= 4
                last = ptr8(target)
                if k & 2:
                    s += last[0] | last[1] << 8
                if k & 1:
                    s += last[k & 2]
            elif text:
                s = int(add(objects[O_SND][slot], s, n, head))
            else:
                s = int(add(objects[O_FRAMES][c[C_RX_COUNT] + i], s, n, at))
        total = at - 34 + n
        s += total >> 8 | (total & 0xFF) << 8
        if _WIDE:
            s = (s & 0xFFFF) + (s >> 16 & 0xFFFF) + (s >> 32)
        s = (s & 0xFFFF) + (s >> 16)
        h[25] = ~((s & 0xFFFF) + (s >> 16))
        total += 20
        f[16] = total >> 8
        f[17] = total
        s = h[7] + h[8] + h[9] + h[10] + h[11] + h[13] + h[14] + h[15] + h[16]
        s = (s & 0xFFFF) + (s >> 16)
        h[12] = ~((s & 0xFFFF) + (s >> 16))
        if flags & FLAG_LOOP:
            c[C_LOOPED] = 14 + total
        else:
            # send(), which would cost a call
            k = _TX_OWN_LS_FS
            i += 1
            if i == c[C_TX_COUNT]:
                i = 0
                k = _TX_OWN_LS_FS | _TX_TER
            if text:
                d[1] = at | n << 16
                d[3] = text
                text = text >> 16 >> 16  # as in point(); no more than a reserved word of the descriptor
                d[4] = text if text > 0 else 0
            else:
                d[1] = 14 + total
                d[3] = c[C_TX_RING] + (i << 5)
                k = _TX_OWN_LS_FS_TCH
            h = ptr16(d)
            h[0] = 0
            h[1] = k
            c[C_TX_NEXT] = i
            c[C_TX_QUEUED] = c[C_TX_QUEUED] + 1
            c[C_FRAMES_OUT] = c[C_FRAMES_OUT] + 1
        sent += 1

        t[SEGMENTS_OUT] = t[SEGMENTS_OUT] + 1
        t[LAST_ACK_SENT] = t[RCV_NXT]
        flags &= ~(FLAG_ACK_NOW | FLAG_ACK_LATER)
        if n or fin:
            v = t[SND_UNA] + offset + n + fin
            t[PIPE] = t[PIPE] + (n + fin)
            t[BYTES_OUT] = t[BYTES_OUT] + n
            if again >= 0:
                p = ptr32(base + (again << 3))
                p[1] = (now & _MASK29) << 3 | R_SENT_AGAIN
                t[LOST] = t[LOST] - 1
                t[RETRANSMITS] = t[RETRANSMITS] + 1
            else:
                if not flight:
                    if now - t[PROGRESS_AT] & _MASK30 > t[RTO] and t[CWND] > mss * 10:
                        t[CWND] = mss * 10  # what it measured is old (RFC 5681 section 4.1)
                    t[PROGRESS_AT] = now
                r = t[RECORD_HEAD] + t[RECORD_COUNT] - merge
                if r >= t[RECORD_SIZE]:
                    r -= t[RECORD_SIZE]
                p = ptr32(base + (r << 3))
                p[0] = v
                p[1] = (now & _MASK29) << 3
                t[RECORD_COUNT] = t[RECORD_COUNT] + (1 - merge)
                t[SND_NXT] = v
            flags &= ~(FLAG_FORCE | FLAG_PROBE)
            # New text restarts the tail loss probe's timer, nothing restarts the RTO's (RFC 6298 section 5.1, 8985 section 7.2).
            if not flags & (FLAG_RTX | FLAG_PERSIST | FLAG_REORDER):
                news = 1
        t[FLAGS] = flags
        if flags & FLAG_LOOP:
            break
    if news:
        # start_timer(), which would cost a call
        flags = t[FLAGS] & ~FLAG_TIMERS
        wait = t[RTO]
        kind = FLAG_RTX
        if flags & (FLAG_SACK | FLAG_RECOVERY | FLAG_TIMEOUT | FLAG_TAIL_OUT) == FLAG_SACK and t[RECORD_COUNT] > 1:
            if not t[SACKED] and not t[LOST] and not t[RETRIES]:
                tail = (t[SRTT] >> 2) + TAIL_WAIT
                if tail < wait:
                    wait = tail
                    kind = FLAG_TAIL
        t[FLAGS] = flags | kind
        t[RTX_AT] = now + wait & _MASK30
        if (t[RTX_AT] - c[C_NEXT_TIMER]) >> 29 & 1:
            c[C_NEXT_TIMER] = t[RTX_AT]
    return sent


@micropython.viper
def last_room(tcb) -> int:
    """Returns how many bytes the newest record can take beside its own: all records are in use, and it is sent again as one segment."""
    t = ptr32(tcb)
    base = int(ptr32(tcb)) + (RECORDS << 2)
    r = t[RECORD_HEAD] + t[RECORD_COUNT] - 1
    if r >= t[RECORD_SIZE]:
        r -= t[RECORD_SIZE]
    p = ptr32(base + (r << 3))
    if p[1] & (R_SACKED | R_LOST | R_SENT_AGAIN):
        return 0
    q = ptr32(base + ((r if r else t[RECORD_SIZE]) - 1 << 3))
    return t[SND_MSS] - (p[0] - q[0] & _MASK30)


@micropython.viper
def sack(tcb, frame, at: int) -> int:
    """Writes the SACK option (RFC 2018) at frame[at:]; returns where it ends.

    First comes the last duplicate, once (RFC 2883), then the range that changed last, then the others as far as there is room.
    """
    t = ptr32(tcb)
    g = ptr32(int(ptr32(tcb)) + (RANGES << 2))
    f = ptr8(int(ptr8(frame)) + at)
    most = 4
    if t[FLAGS] & FLAG_TS:
        most = 3
    k = 4
    i = 0 - 2
    recent = t[RECENT_RANGE]
    while i < t[OUT_OF_ORDER] and most:
        if i == 0 - 2:
            left = t[DSACK_START]
            right = t[DSACK_END]
            t[DSACK_START] = right
        elif i == 0 - 1:
            left = g[recent << 1]
            right = g[(recent << 1) + 1]
            if not t[OUT_OF_ORDER]:
                right = left
        else:
            left = g[i << 1]
            right = g[(i << 1) + 1]
            if i == recent:
                right = left
        i += 1
        if left != right:
            j = k + 4
            while j > k:
                j -= 1
                f[j] = left
                f[j + 4] = right
                left >>= 8
                right >>= 8
            k += 8
            most -= 1
    f[0] = 1
    f[1] = 1
    f[2] = 5
    f[3] = k - 2
    return at + k


@micropython.viper
def expired(words, objects, start: int, now: int) -> int:
    """Looks for the first connection from slot `start` on with a timer that has expired; returns its slot, or -1.

    On -1 C_NEXT_TIMER holds the earliest time at which a look can find one. Call with start = 0 first, then with the slot after the last.
    """
    c = ptr32(words)
    tcbs = objects[O_TCBS]
    if not start:
        c[C_NEXT_TIMER] = now + 0x1FFFFFFE & _MASK30
    count = int(len(tcbs))
    while start < count:
        t = ptr32(tcbs[start])
        flags = t[FLAGS]
        hit = 0
        k = RTX_AT
        runs = flags & FLAG_TIMERS
        while k <= WAIT_AT:
            if runs:
                at = t[k]
                if not (now - at) >> 29 & 1:
                    hit = 1
                elif (at - c[C_NEXT_TIMER]) >> 29 & 1:
                    c[C_NEXT_TIMER] = at
            runs = flags & (FLAG_ACK_LATER if k == RTX_AT else FLAG_WAIT)
            k += 1
        if hit:
            return start
        start += 1
    return -1


@micropython.viper
def settle(words, objects, slot: int, now: int) -> int:
    """Lets the states of the connections from `slot` on follow what arrive() and acknowledge() have noted: the ACK of our FIN, and the peer's FIN.

    This is tcp/states.py's table, and the end of a connection that nobody owns, in a few steps. Returns -1, or the slot of a connection that is
    Connection.settle()'s: it is observed, the congestion control wants to look, or it ends in another way.
    """
    c = ptr32(words)
    tcbs = objects[O_TCBS]
    end = int(_len(tcbs))
    due = c[C_SETTLE] - 2
    c[C_SETTLE] = 0
    if due >= 0:
        slot = due
        end = due + 1
    while slot < end:
        t = ptr32(tcbs[slot])
        flags = t[FLAGS]
        state = t[STATE]
        after = ptr8(AFTER)
        if flags & FLAG_FIN_ACKED:
            state = after[state]
        if flags & FLAG_FIN_IN:
            state = after[STATES + state]
        if state != t[STATE] or flags & FLAG_ROUND:
            if c[C_EVERY_FRAME_SLOW] or flags & FLAG_ROUND:
                break
            at = now + TIME_WAIT_MS & _MASK30
            if state == TIME_WAIT or not state:
                if flags & (FLAG_ORPHAN | FLAG_LOOP | FLAG_ACK_NOW) != FLAG_ORPHAN:
                    break
                k = ptr32(int(ptr32(objects[O_KEYS])) + (slot << 3))
                if state == TIME_WAIT:
                    table = objects[O_TIME_WAITS]
                    if not table:
                        break
                    w = ptr32(table)
                    i = w[0]
                    if i == int(_len(table)):
                        if i < 1 + TIME_WAIT_ENTRIES * TIME_WAIT_WORDS:
                            break
                        i -= TIME_WAIT_WORDS
                        copy(table, table, i - 1 << 2, 4, 4 + 4 * TIME_WAIT_WORDS)  # the oldest makes room
                    w[0] = i + TIME_WAIT_WORDS
                    w = ptr32(int(w) + (i << 2))
                    w[0] = k[0]
                    w[1] = k[1]
                    w[2] = t[SND_NXT]
                    w[3] = t[RCV_NXT]
                    w[4] = t[TS_RECENT]
                    w[5] = t[TS_OFFSET] | (flags & FLAG_TS) >> 14
                    w[6] = at
                k[0] = 0
                k[1] = 0
                t[STATE] = CLOSED
                t[FLAGS] = FLAG_ORPHAN
                free_rings(objects, slot)
                connections = objects[O_CONNECTIONS]
                connection = connections[slot]
                connection.slot = -1
                connections[slot] = None
                tcbs[slot] = objects[O_FREE]
                c[C_SLOT] = 0
                c[C_TCB] = 0
            else:
                t[STATE] = state
                if state == FIN_WAIT_2 and flags & FLAG_ORPHAN:
                    t[FLAGS] = flags | FLAG_WAIT  # for a peer that never closes
                    t[WAIT_AT] = at
                    if (at - c[C_NEXT_TIMER]) >> 29 & 1:
                        c[C_NEXT_TIMER] = at
                    free_rings(objects, slot)
        slot += 1
    if slot < end:
        c[C_SETTLE] = 1
        return slot
    return -1


@micropython.viper
def read(target: ptr32, slot: ptr32, words, objects, at: int, n: int, keep: int) -> int:
    """Copies at most n bytes from a receive buffer to buffer[at:]: read(buffer, slot, words, objects, at, n, keep). Returns how many.

    With `keep` they also stay. The loop is copy()'s, see receive() for the arguments.
    """
    if int(slot) < 0:
        return 0
    c = ptr32(words)
    t = ptr32(c[C_TCB] | c[C_TCB + 1] << 32)
    if c[C_SLOT] != int(slot) + 1:
        t = ptr32(objects[O_TCBS][int(slot)])
    if n > t[RCV_LEN]:
        n = t[RCV_LEN]
    if n <= 0:
        return 0
    size = t[RCV_RING_SIZE]
    head = t[RCV_HEAD]
    target = ptr32(int(target) + at)
    left = n
    while left:
        source = ptr32((t[RCV_RING] | t[RCV_RING + 1] << 32) + head)
        slot = source
        k = size - head
        if k > left:
            k = left
        left -= k
        head += k
        if head == size:
            head = 0
        i = k >> 7
        while i:
            target[0] = slot[0]; target[1] = slot[1]; target[2] = slot[2]; target[3] = slot[3]
            target[4] = slot[4]; target[5] = slot[5]; target[6] = slot[6]; target[7] = slot[7]
            target[8] = slot[8]; target[9] = slot[9]; target[10] = slot[10]; target[11] = slot[11]
            target[12] = slot[12]; target[13] = slot[13]; target[14] = slot[14]; target[15] = slot[15]
            target[16] = slot[16]; target[17] = slot[17]; target[18] = slot[18]; target[19] = slot[19]
            target[20] = slot[20]; target[21] = slot[21]; target[22] = slot[22]; target[23] = slot[23]
            target[24] = slot[24]; target[25] = slot[25]; target[26] = slot[26]; target[27] = slot[27]
            target[28] = slot[28]; target[29] = slot[29]; target[30] = slot[30]; target[31] = slot[31]
            target = ptr32(int(target) + 128)
            slot = ptr32(int(slot) + 128)
            i -= 1
        i = k >> 4 & 7
        while i:
            target[0] = slot[0]; target[1] = slot[1]; target[2] = slot[2]; target[3] = slot[3]
            target = ptr32(int(target) + 16)
            slot = ptr32(int(slot) + 16)
            i -= 1
        i = k >> 2 & 3
        while i:
            target[0] = slot[0]
            target = ptr32(int(target) + 4)
            slot = ptr32(int(slot) + 4)
            i -= 1
        e = ptr8(target)
        f = ptr8(slot)
        k &= 3
        i = 0
        while i < k:
            e[i] = f[i]
            i += 1
        target = ptr32(int(target) + k)
    if not keep:
        t[RCV_HEAD] = head
        t[RCV_LEN] = t[RCV_LEN] - n
        # As skip(), which would cost a call.
        opened = t[RCV_SIZE] - t[RCV_LEN] - (t[RCV_ADV] - t[RCV_NXT] & _MASK30)
        step = t[RCV_MSS] << 1
        if step > t[RCV_SIZE] >> 1:
            step = t[RCV_SIZE] >> 1
        if opened >= step:
            t[FLAGS] = t[FLAGS] | FLAG_ACK_NOW
    return n


@micropython.viper
def skip(objects, slot: int, n: int):
    """Takes n bytes off the receive buffer. The window opens again: the peer is told once the step is worth a segment (as in output)."""
    t = ptr32(objects[O_TCBS][slot])
    size = t[RCV_SIZE]
    head = t[RCV_HEAD] + n
    if head >= t[RCV_RING_SIZE]:
        head -= t[RCV_RING_SIZE]
    t[RCV_HEAD] = head
    t[RCV_LEN] = t[RCV_LEN] - n
    opened = size - t[RCV_LEN] - (t[RCV_ADV] - t[RCV_NXT] & _MASK30)
    step = t[RCV_MSS] << 1
    if step > size >> 1:
        step = size >> 1
    if opened >= step:
        t[FLAGS] = t[FLAGS] | FLAG_ACK_NOW


@micropython.viper
def push(source: ptr32, target: ptr32, data, connection, objects) -> int:
    """Copies `data` into the send buffer and sends what may leave, with a poll where there is no room, `polls` of them at most.

    push(data, polls, data, connection, objects) returns -1 when all was taken (a caller would need 400 instructions to find out), else how
    many bytes. Then plain Python must wait, or look: for the kind of object, a connection that is not open for writing, observed, or to this
    board, a ring that must grow. The first arguments have the names and types of what the copying loop uses, as in output().
    """
    kind = _type(data)
    if not (kind is _bytes or kind is _bytearray or kind is _memoryview):
        return 0
    words = objects[O_WORDS]
    c = ptr32(words)
    polls = int(target)
    left = int(_len(data))
    first = int(source)
    end = first + left
    now = 0 - 1
    slot = int(connection.slot)
    while left:
        if slot < 0 or c[C_ENTERED] | c[C_EVERY_FRAME_SLOW]:
            break
        t = ptr32(c[C_TCB] | c[C_TCB + 1] << 32)
        if c[C_SLOT] != slot + 1:
            t = ptr32(objects[O_TCBS][slot])
        if t[STATE] != ESTABLISHED and t[STATE] != CLOSE_WAIT or t[FLAGS] & (FLAG_FIN | FLAG_LOOP):
            break
        size = t[SND_RING_SIZE]
        n = left
        k = size - t[SND_LEN]
        if n > k:
            if size < t[SND_SIZE]:
                break  # the ring must grow
            n = k
        if n <= 0:
            if polls <= 0:
                break
            polls -= 1
            objects[O_POLL]()
            now = c[C_NOW]
            slot = int(connection.slot)  # a callback may have closed the socket
            continue
        k = t[SND_HEAD] + t[SND_LEN]
        if k >= size:
            k -= size
        v = t[SND_RING] | t[SND_RING + 1] << 32
        source = ptr32(end - left)
        left -= n
        target = ptr32(v + k)
        k = size - k
        if k > n:
            k = n
        rest = n - k
        while True:
            turns = k >> 7
            while turns:
                target[0] = source[0]; target[1] = source[1]; target[2] = source[2]; target[3] = source[3]
                target[4] = source[4]; target[5] = source[5]; target[6] = source[6]; target[7] = source[7]
                target[8] = source[8]; target[9] = source[9]; target[10] = source[10]; target[11] = source[11]
                target[12] = source[12]; target[13] = source[13]; target[14] = source[14]; target[15] = source[15]
                target[16] = source[16]; target[17] = source[17]; target[18] = source[18]; target[19] = source[19]
                target[20] = source[20]; target[21] = source[21]; target[22] = source[22]; target[23] = source[23]
                target[24] = source[24]; target[25] = source[25]; target[26] = source[26]; target[27] = source[27]
                target[28] = source[28]; target[29] = source[29]; target[30] = source[30]; target[31] = source[31]
                target = ptr32(int(target) + 128)
                source = ptr32(int(source) + 128)
                turns -= 1
            turns = k >> 4 & 7
            while turns:
                target[0] = source[0]; target[1] = source[1]; target[2] = source[2]; target[3] = source[3]
                target = ptr32(int(target) + 16)
                source = ptr32(int(source) + 16)
                turns -= 1
            turns = k >> 2 & 3
            while turns:
                target[0] = source[0]
                target = ptr32(int(target) + 4)
                source = ptr32(int(source) + 4)
                turns -= 1
            k &= 3
            while k:
                last = ptr8(target)
                byte = ptr8(source)
                last[0] = byte[0]
                target = ptr32(int(target) + 1)
                source = ptr32(int(source) + 1)
                k -= 1
            if not rest:
                break
            k = rest
            rest = 0
            target = ptr32(v)
        t[SND_LEN] = t[SND_LEN] + n
        t[FLAGS] = t[FLAGS] | FLAG_OUTPUT
        if now < 0:
            now = int(objects[O_CLOCK]())
        output(words, now, objects, slot)
        if c[C_TX_QUEUED]:
            c[C_TX_QUEUED] = 0
            objects[O_TRANSMIT]()
    return end - left - first if left else 0 - 1


@micropython.viper
def take(self, buffer, at: int, n: int) -> int:
    """Connection.take(): gives a program up to n bytes (n < 0: as many as have room) that have come, in buffer[at:].

    Returns how many, or -1 when there are none, or plain Python must look. Raises TypeError for a buffer that cannot be written to.

    First comes what the receive buffer holds, then text of the frames that wait, which receive() copies straight to `buffer`; what does not
    fit stays in the receive ring, for the next call or poll. When there is nothing this polls once.
    """
    left = int(_len(buffer))
    if left:
        buffer[0] = buffer[0]
    left -= at
    if n < 0 or n > left:
        n = left
    objects = self.tcp.objects
    words = objects[O_WORDS]
    c = ptr32(words)
    slot = int(self.slot)
    if c[C_ENTERED] or slot < 0 or n <= 0:
        return -1
    t = ptr32(c[C_TCB] | c[C_TCB + 1] << 32)
    if c[C_SLOT] != slot + 1:
        t = ptr32(objects[O_TCBS][slot])
    if t[FLAGS] & (FLAG_ORPHAN | FLAG_READ_CLOSED):
        return -1
    ring = ptr32(c[C_RX_RING] | c[C_RX_RING + 1] << 32)
    left = n
    if t[RCV_LEN]:
        left -= int(read(buffer, slot, words, objects, at, n, 0))
    if left:
        address = int(ptr8(buffer)) + at + n
        c[C_TAKE_END] = address
        address = address >> 16 >> 16  # as in point()
        if address < 0:
            address = 0
        c[C_TAKE_END + 1] = address
        c[C_TAKE_LEFT] = left
        c[C_TAKE_SLOT] = slot + 1
        if not ring[c[C_RX_NEXT] << 3] >> 31 & 1:
            receive(words, c[C_NOW], objects, c[C_RX_COUNT], words)
        if c[C_TAKE_LEFT] == n:
            objects[O_POLL]()
        c[C_TAKE_SLOT] = 0
        left = c[C_TAKE_LEFT]
        if left and t[RCV_LEN] and not t[FLAGS] & FLAG_ORPHAN:  # a callback may have closed the socket
            left -= int(read(buffer, slot, words, objects, at + n - left, left, 0))
    due = c[C_SETTLE]
    if t[FLAGS] & FLAG_ACK_NOW and t[STATE] >= ESTABLISHED:
        # The window has opened, or text was taken.
        if c[C_EVERY_FRAME_SLOW] or t[FLAGS] & FLAG_LOOP:
            c[C_OUTPUT] = SEVERAL
            due = 1
        elif not left and not ring[c[C_RX_NEXT] << 3] >> 31 & 1:
            # The ACK leaves behind the last of the frames that wait: with the next call, or a poll.
            c[C_OUTPUT] = slot + 1 if not c[C_OUTPUT] or c[C_OUTPUT] == slot + 1 else SEVERAL
        else:
            if c[C_OUTPUT] == slot + 1:
                c[C_OUTPUT] = 0
            output(words, c[C_NOW], objects, slot)
    if due:
        objects[O_RUN](c[C_NOW])
    else:
        if c[C_TX_QUEUED]:
            c[C_TX_QUEUED] = c[C_TX_FULL] = 0
            objects[O_TRANSMIT]()
        if c[C_RX_RETURNED] << 1 >= c[C_RX_COUNT]:
            c[C_RX_RETURNED] = 0
            objects[O_REFILL]()
    return n - left if n - left else -1


def piece(buffer, start, end):
    """Returns buffer[start:end] as bytes."""
    return bytes(memoryview(buffer)[start:end])


@micropython.viper
def text(self, n: int):
    """Connection.text(): returns up to n bytes that have come, as bytes; None when there are none, or not in one piece, or plain Python must look.

    Their only large allocation: a search for 1460 bytes in a heap in use costs the chip some 35,000 instructions. Polls once when there is nothing.
    """
    objects = self.tcp.objects
    c = ptr32(objects[O_WORDS])
    slot = int(self.slot)
    if c[C_ENTERED] or slot < 0:
        return None
    t = ptr32(objects[O_TCBS][slot])
    if not t[RCV_LEN]:
        objects[O_POLL]()
    if n > t[RCV_LEN]:
        n = t[RCV_LEN]
    head = t[RCV_HEAD]
    if n <= 0 or head + n > t[RCV_RING_SIZE] or t[FLAGS] & (FLAG_ORPHAN | FLAG_READ_CLOSED):
        return None
    data = piece(objects[O_RCV][slot], head, head + n)
    if t[RCV_HEAD] != head:
        return None  # a callback has read
    skip(objects, slot, n)
    if t[FLAGS] & FLAG_ACK_NOW:
        c[C_OUTPUT] = slot + 1 if not c[C_OUTPUT] or c[C_OUTPUT] == slot + 1 else SEVERAL
        objects[O_POLL]()
    return data


@micropython.viper
def fill(self, buffer, n: int) -> int:
    """Connection.fill(): take() until there are n bytes (n < 0: as many as have room), or none for now; returns how many."""
    left = int(_len(buffer))
    if n < 0 or n > left:
        n = left
    done = 0
    while done < n:
        k = int(take(self, buffer, done, n - done))
        if k < 0:
            break
        done += k
    return done


@micropython.viper
def resume(words, objects, now: int) -> int:
    """Sends for the connections that have waited for a free transmit descriptor. Returns 1 when one is left to plain Python."""
    c = ptr32(words)
    tcbs = objects[O_TCBS]
    slot = c[C_OUTPUT] - 1
    end = slot + 1
    if end == SEVERAL:
        slot = 0
        end = int(len(tcbs))
    c[C_OUTPUT] = 0
    left = 0
    while slot < end:
        t = ptr32(tcbs[slot])
        if t[FLAGS] & (FLAG_OUTPUT | FLAG_ACK_NOW) and t[STATE] >= ESTABLISHED:
            if t[FLAGS] & FLAG_LOOP:
                left = 1
            else:
                output(words, now, objects, slot)
                if c[C_TX_FULL]:
                    if slot + 1 < end:
                        c[C_OUTPUT] = SEVERAL
                    break
        slot += 1
    if left:
        c[C_OUTPUT] = SEVERAL
    return left


def poll_demand(driver, mem32, register):
    """Returns the EMAC's function that lets the DMA look at its descriptors again: it writes 0 to a register, while the driver runs.

    It stands here because all machine code is loaded first, see barenet/__init__.py.
    """

    @micropython.viper
    def demand():
        if driver.running:
            mem32[register] = 0

    return demand


def bind(stack):
    """Returns the functions poll, enter, leave and flush of a stack (see there).

    They find words and objects as the variables of a closure: an attribute of the stack costs 150 instructions, a method 250 more.
    """
    words = stack.words
    objects = stack.objects

    @micropython.viper
    def flush():
        c = ptr32(words)
        c[C_TX_FULL] = 0
        if c[C_TX_QUEUED]:
            if c[C_EVERY_FRAME_SLOW]:
                stack.show_sent()
            c[C_TX_QUEUED] = 0
            objects[O_TRANSMIT]()

    @micropython.viper
    def enter() -> int:
        c = ptr32(words)
        if c[C_ENTERED]:
            stack.busy()
        now = int(objects[O_CLOCK]()) & _MASK30
        k = now - c[C_NOW] & _MASK30
        if not k >> 29:
            c[C_CLOCK] = c[C_CLOCK] + k
            c[C_NOW] = now
        c[C_ENTERED] = 1
        return now

    @micropython.viper
    def leave():
        c = ptr32(words)
        c[C_ENTERED] = 0
        c[C_TX_FULL] = 0
        if c[C_TX_QUEUED]:
            flush()

    @micropython.viper
    def poll():
        # Nothing interrupts viper, so C_ENTERED is set by plain Python only.
        c = ptr32(words)
        if c[C_ENTERED]:
            return
        now = int(objects[O_CLOCK]()) & _MASK30
        k = now - c[C_NOW] & _MASK30
        if not k >> 29:
            c[C_CLOCK] = c[C_CLOCK] + k
            c[C_NOW] = now
        taker = c[C_TAKE_SLOT]
        c[C_TAKE_SLOT] = 0  # what may raise an exception, or run for long, must not leave the program's buffer behind
        left = FRAMES_A_POLL
        while True:
            if c[C_DMA]:
                objects[O_DMA]()
            ring = ptr32(c[C_RX_RING] | c[C_RX_RING + 1] << 32)
            if ring[c[C_RX_NEXT] << 3] >> 31 & 1:
                break
            k = 1
            lap = c[C_RX_COUNT]
            if lap > left:
                lap = left
            while k and c[C_RX_RETURNED] < lap:
                c[C_TAKE_SLOT] = taker
                k = int(receive(words, now, objects, lap - c[C_RX_RETURNED], words))
                c[C_TAKE_SLOT] = taker = 0
                if k > 0 and not int(opened(words, objects, k, now)):
                    stack.take(now, k)
                if c[C_TX_FULL]:
                    flush()
            k = c[C_RX_RETURNED]
            left -= k
            c[C_RX_RETURNED] = 0
            objects[O_REFILL]()
            if k < c[C_RX_COUNT] or left <= 0:
                break
        if c[C_TX_QUEUED]:
            flush()
        if c[C_SETTLE]:
            settle(words, objects, 0, now)
        due = c[C_SETTLE] | c[C_LOOPS]
        if c[C_OUTPUT]:
            if c[C_EVERY_FRAME_SLOW]:
                due = 1
            else:
                ring = ptr32(c[C_TX_RING] | c[C_TX_RING + 1] << 32)
                k = _BURSTS_A_POLL
                while k and c[C_OUTPUT] and not ring[c[C_TX_NEXT] << 3] >> 31 & 1:
                    due |= int(resume(words, objects, now))
                    flush()
                    k -= 1
        if not (now - c[C_NEXT_TIMER]) >> 29 & 1 and int(expired(words, objects, 0, now)) >= 0:
            c[C_NEXT_TIMER] = now
            due = 1
        if due or (c[C_SLOW_AT] - now - 1 & _MASK30) >> SOON or (c[C_DRIVER_AT] - now - 1 & _MASK30) >> SOON:
            stack.run(now)
        if c[C_ON_POLL]:
            stack.on_poll()

    objects[O_POLL] = poll
    objects[O_RUN] = stack.run
    return poll, enter, leave, flush
