"""One TCP connection: what happens seldom, in plain Python. What happens with every segment is in fast.py."""

import gc
import os
from array import array

from barenet import fast, late, ticks
from barenet.errors import (
    EADDRINUSE,
    EADDRNOTAVAIL,
    ECONNABORTED,
    ECONNREFUSED,
    ECONNRESET,
    EHOSTUNREACH,
    EMSGSIZE,
    ENOMEM,
    ETIMEDOUT,
)
from barenet.fast import (
    ACK,
    CLOSE_WAIT,
    CLOSED,
    CLOSING,
    ESTABLISHED,
    FIN,
    FIN_WAIT_1,
    FIN_WAIT_2,
    FLAG_ACK_LATER,
    FLAG_ACK_NOW,
    FLAG_FIN,
    FLAG_FIN_ACKED,
    FLAG_FIN_IN,
    FLAG_NODELAY,
    FLAG_ORPHAN,
    FLAG_OUTPUT,
    FLAG_PERSIST,
    FLAG_PROBE,
    FLAG_RTX,
    FLAG_WAIT,
    FLAGS,
    IRS,
    ISS,
    LAST_ACK,
    LISTEN,
    RCV_NXT,
    RETRIES,
    RST,
    RTO,
    RTX_AT,
    SND_NXT,
    SND_UNA,
    SND_WND,
    STATE,
    SYN,
    SYN_RECEIVED,
    SYN_SENT,
    TIME_WAIT,
    TIME_WAIT_MS,
    URG,
    WAIT_AT,
)
from barenet.tcp import BUFFER, CONNECTIONS
from barenet.tcp.states import move
from micropython import const

try:
    from hashlib import sha256
except ImportError:
    from uhashlib import sha256

SYN_ACK_TRIES = const(6)  # 63 s: a place in the backlog is not kept longer
SYN_TRIES = const(8)  # 183 s, beyond the 3 minutes of RFC 9293 section 3.8.3, MUST-23
DATA_TRIES = const(10)  # 200 ms doubled ten times is beyond RFC 1122's R2 of 100 s
TIME_WAITS = const(4)  # whole connections; when there are more, they are kept in time_wait.py
_LOOPED = const(12)  # frames to ourselves that wait at once, fewer than the IP layer takes
_DEAD_MS = const(120_000)  # without a sign of life
KEEP_COUNT = const(9)
ORPHAN_PROBES = const(8)  # window probes for a connection nobody owns any more
_CHALLENGES = const(10)  # challenge ACKs a second, for all connections (RFC 5961 section 7)
_BLACK_HOLE_MTU = {4: 1064, 6: 576}  # by retransmission: what a path takes that drops larger packets and says nothing (RFC 4821)
PLENTY = const(16384)  # bytes of free heap, with which nobody saves
_RESERVE = const(2048)  # bytes of it that are the program's, however much its peers write
_RING_STEP = const(32)
_ENOUGH = const(2920)  # bytes of a send buffer, two segments, with which a connection leaves it at that
_LARGEST = const(0x1FFFFFFF)
_FREE_MS = const(100)
LOOKUP_MOST = const(128)  # of 256 entries
_EPHEMERAL = const(49152)
_RTO_INITIAL = const(1000)  # ms, RFC 6298 section 2.1

_free = 0  # bytes of heap, as far as known
_asked = -_FREE_MS  # when
_piece = _LARGEST  # no larger one was found since then


def _block(rcvbuf, sndbuf):
    # What is in flight needs a record a segment; small segments wait for a free one (as for lwIP's TCP_SND_QUEUELEN).
    records = min(sndbuf // 1024 + 3, 256)
    tcb = array("I", bytearray(4 * fast.TCB_WORDS + 8 * records))
    tcb[fast.RECORD_SIZE] = records
    tcb[fast.RCV_SIZE] = rcvbuf
    tcb[fast.SND_SIZE] = sndbuf
    tcb[fast.TEMPLATE + 3] = fast.IPV4
    tcb[fast.TEMPLATE + 5] = fast.TCP_DF
    tcb[fast.SND_MSS] = tcb[fast.RCV_MSS] = fast.MSS_OURS
    tcb[RTO] = _RTO_INITIAL
    tcb[fast.SSTHRESH] = fast.CWND_MAX
    return tcb


NEW = _block(BUFFER, BUFFER)  # is copied, and stands for the control block of a free slot


def spare(tcp, n, keep, sure=True):
    """Returns whether n bytes leave the program `keep` bytes of the heap.

    To ask for the free memory walks the heap, 2 ms of a board's 160 KB: done once in _FREE_MS, between which what was given out is taken off, and
    with `sure` whenever there seems to be too little.
    """
    global _free, _asked, _piece
    now = tcp.words[fast.C_NOW]
    need = n + keep
    if not 0 <= ticks.diff(now, _asked) < _FREE_MS or sure and _free < need:
        _asked = now
        _piece = _LARGEST
        tcp.objects[fast.O_RING] = None
        _free = gc.mem_free()
        if _free < need:
            gc.collect()
            _free = gc.mem_free()
    if _free < need:
        return False
    _free -= n
    return True


def take_back(tcp):
    """Takes away the rings in which nothing lies: they come again with the next byte. Returns whether there were any."""
    found = False
    for connection in tcp.connections:
        if connection is not None:
            tcb = connection.tcb
            if tcb[fast.RCV_RING_SIZE] and not tcb[fast.RCV_LEN] | tcb[fast.OUT_OF_ORDER]:
                connection.free_ring(tcp.rcv, fast.RCV_RING)
                found = True
            if tcb[fast.SND_RING_SIZE] and not tcb[fast.SND_LEN]:
                connection.free_ring(tcp.snd, fast.SND_RING)
                found = True
    tcp.objects[fast.O_RING] = None
    return found


def tidy(tcp):
    """Makes the hash table of segments' addresses anew, when much of it is in use.

    The entry of a key that has gone stays in it until then, where it does no harm: it may lead to its slot's next key, too.
    """
    lookup = tcp.objects[fast.O_LOOKUP]
    for i in range(257):
        lookup[i] = 0
    for slot in range(len(tcp.connections)):
        if tcp.keys[2 * slot + 1]:
            fast.index(tcp.objects, slot)


def _exists(tcp, local, remote):
    # Returns whether these ends, (address, port) each, have a connection. They stand in `secret` then.
    fast.key(tcp.secret, local[0], local[1], remote[0], remote[1])
    return fast.lookup(tcp.objects, tcp.secret, 30) >= 0 or tcp.hidden is not None and tcp.hidden.find(local[1], remote) is not None


def free_port(tcp, address, remote):
    """Picks an ephemeral port of our `address` for a connection to `remote`, (address, port), at random (RFC 6056 section 3.3.1)."""
    port = int.from_bytes(os.urandom(2), "big")
    for _ in range(256):
        port |= _EPHEMERAL
        if port not in tcp.listeners and not _exists(tcp, (address, port), remote):
            return port
        port = port + 1 & 0xFFFF
    raise OSError(EADDRNOTAVAIL, "no free local port")


def difference(a, b):
    """Returns the sequence number a minus b as a signed number (RFC 9293 section 3.4)."""
    d = (a - b) & 0xFFFFFFFF
    return d - 0x100000000 if d & 0x80000000 else d


class Connection:
    """A connection and its control block.

    tcp: the TCP that it belongs to. slot: its index in the tables, -1 without a place there. tcb: array('I'), words named in fast.py.
    local, remote: (address, port), None until it is opened. error: errno that ended it, or 0. listener: the Listener it came from, or None.
    way: of its segments, when they have IP options (tcp/ip_options.py), else None. options_size: bytes of these in each header.
    urgent: the sequence number behind the urgent data that was announced last (RFC 9293 section 3.8.5), None before.
    """

    # Defaults stand in the class: a connection has only the attributes that it sets itself.
    slot = -1
    remote = None
    error = 0
    soft_error = ETIMEDOUT  # what is told when it gives up: the last ICMP error, if there was one (RFC 9293 3.9.2.2, MUST-47)
    listener = None
    keepalive = 0  # ms of silence before the first probe, 0 = off
    keep_interval = 75_000
    keep_count = KEEP_COUNT
    user_timeout = 0  # ms without progress that end the connection, 0 = DATA_TRIES retransmissions
    urgent = None
    way = None
    options_size = 0

    take = fast.take
    text = fast.text
    fill = fast.fill

    def __init__(self, tcp, rcvbuf, sndbuf):
        self.tcp = tcp
        self.tcb = NEW[:] if rcvbuf == BUFFER and sndbuf == BUFFER else _block(rcvbuf, sndbuf)

    def connect(self, remote, now, local_port=0):
        """Opens the connection: SYN leaves, and it is in SYN_SENT (RFC 9293 section 3.10.1).

        remote: (address of 4 bytes, port of 1..65535).
        Raises OSError: EADDRINUSE when the four-tuple or port exists, EHOSTUNREACH without a route or for an address that is not one host's
        (RFC 9293 section 3.9.2.3, MUST-46), ENOMEM.
        """
        tcp = self.tcp
        address = remote[0]
        if address[0] == 0 or address[0] >= 224 or address == tcp.ip.broadcast:
            raise OSError(EHOSTUNREACH, "%d.%d.%d.%d is not the address of one host" % tuple(address))
        source = address if address[0] == 127 else tcp.ip.address
        if tcp.ip.paths:
            self.tcb[fast.SND_MSS] = tcp.ip.path_mtu(address) - 40
        if local_port == 0:
            free_port(tcp, source, remote)
        elif _exists(tcp, (source, local_port), remote):
            raise OSError(EADDRINUSE)
        try:
            self._open(remote, now)
        except MemoryError:
            self.drop()
            raise OSError(ENOMEM, "no memory for the receive buffer: set a smaller SO_RCVBUF")
        except OSError:
            self.drop()
            raise

    def _open(self, remote, now):
        observer = self.tcp.observer
        before = None if observer is None else array("I", self.tcb)
        size = self.tcb[fast.RCV_SIZE]
        self.place(remote, size)
        if not self.tcb[fast.RCV_RING_SIZE]:
            try:
                self.set_ring(fast.RCV_SIZE, size)
            except MemoryError:
                take_back(self.tcp)
                self.set_ring(fast.RCV_SIZE, size)
        self.begin(now, SYN_SENT)
        if before is not None:
            observer.moved(self, CLOSED, "active open")
        self._send_syn(now)
        if before is not None:
            observer.changed("connect", self, before)
        if self.keepalive:
            self.keep(now)

    def place(self, remote, n):
        """Gives the connection a slot and an entry in the hash table. Raises OSError(ENOMEM).

        Both ends stand in `secret`, the peer's in `remote`, too. n: bytes of the receive buffer's ring, which it gets if one of that size is
        kept.
        """
        tcp = self.tcp
        connections = tcp.connections
        self.slot = connections.index(None) if None in connections else self._grow()
        self.remote = remote
        if fast.place(tcp, self, tcp.ip.link.mac, n) > LOOKUP_MOST:
            tidy(tcp)

    def begin(self, now, state):
        """Sets what the connection begins with: state and numbers, from the ends that still stand in `secret`."""
        tcb = self.tcb
        tcp = self.tcp
        fast.begin(tcb, sha256(tcp.secret).digest(), now, state)
        if self.remote[0] == tcp.ip.address or self.remote[0][0] == 127:
            tcb[FLAGS] |= fast.FLAG_LOOP
        if tcb[FLAGS] & fast.FLAG_LOOP and self.way is not None:
            self.way.begin(self)

    def _grow(self):
        # Makes a slot where none is free.
        tcp = self.tcp
        slot = len(tcp.connections)
        if slot == CONNECTIONS:
            oldest = self.oldest_time_wait()
            if oldest is not None:
                slot = oldest.slot
                oldest.compress()
            if oldest is None or tcp.connections[slot] is not None:
                raise OSError(ENOMEM, "all connections are in use")
            return slot
        try:
            # The table that counts grows last, so that running out of memory in between leaves nothing inconsistent.
            for table, empty in ((tcp.tcbs, NEW), (tcp.rcv, None), (tcp.snd, None), (tcp.connections, None)):
                if len(table) == slot:
                    table.append(empty)
        except MemoryError:
            raise OSError(ENOMEM)
        return slot

    def unlist(self):
        """No segment finds the connection any more."""
        slot = self.slot
        if slot >= 0:
            keys = self.tcp.keys
            keys[2 * slot] = keys[2 * slot + 1] = 0

    def drop(self):
        """Ends a connection that could not open."""
        self._end(0)
        self.delete()

    def delete(self):
        """Frees the connection's slot and buffers (the last step of its life)."""
        tcp = self.tcp
        slot = self.slot
        if slot < 0:
            return
        if tcp.observer is not None:
            tcp.observer.moved(self, self.tcb[STATE], "delete")
        tcp.connections[slot] = None
        if tcp.rcv[slot] is not None or tcp.snd[slot] is not None:
            self.free_ring(tcp.rcv, fast.RCV_RING)
            self.free_ring(tcp.snd, fast.SND_RING)
        tcp.tcbs[slot] = NEW
        tcp.words[fast.C_SLOT] = tcp.words[fast.C_TCB] = 0
        self.slot = -1

    def free_ring(self, rings, at):
        """Takes away the ring that stands in the list `rings` and whose address is in word `at` of the control block."""
        slot = self.slot
        tcp = self.tcp
        if rings[slot] is not None:
            tcp.objects[fast.O_RING] = rings[slot]
            rings[slot] = None
            if rings is tcp.snd:
                fast.let_go(tcp.words, tcp.objects)
        self.tcb[at] = 0  # the collector takes it for a pointer
        self.tcb[at + 2] = 0  # its size

    @property
    def state(self):
        return self.tcb[STATE]

    @property
    def local(self):
        """Our end, which stands in the template."""
        if self.remote is None:
            return None
        address = bytearray(4)
        fast.copy(address, self.tcb, 4, 0, fast.TEMPLATE * 4 + 26)
        return bytes(address), fast.number(self.tcb, fast.TEMPLATE * 4 + 34) >> 16

    def configure(self, nodelay, ttl=64, tos=0):
        """Sets whether small segments leave at once (Nagle's algorithm off), and time to live and type of service (RFC 2474) of its packets."""
        tcb = self.tcb
        tcb[FLAGS] = tcb[FLAGS] & ~FLAG_NODELAY | (FLAG_NODELAY if nodelay else 0)
        fast.copy(tcb, bytes((tos,)), 1, fast.TEMPLATE * 4 + 15, 0)
        fast.copy(tcb, bytes((ttl,)), 1, fast.TEMPLATE * 4 + 22, 0)

    def readable(self):
        """Returns how many bytes wait in the receive buffer."""
        return self.tcb[fast.RCV_LEN]

    def at_end(self):
        """True when nothing more will come: the peer has closed (or the connection is gone) and all has been read."""
        return self.tcb[fast.RCV_LEN] == 0 and not SYN_SENT <= self.tcb[STATE] <= FIN_WAIT_2

    def in_flight(self, seq):
        """True for a sequence number that was sent and is not confirmed, or the next one."""
        return difference(seq, self.tcb[SND_UNA]) >= 0 >= difference(seq, self.tcb[SND_NXT])

    def writable(self):
        """Returns how many bytes the send buffer takes now."""
        tcb = self.tcb
        if tcb[STATE] != ESTABLISHED and tcb[STATE] != CLOSE_WAIT or tcb[FLAGS] & FLAG_FIN:
            return 0
        n = tcb[fast.SND_LEN]
        if n and n == tcb[fast.SND_RING_SIZE]:
            self.make_room(fast.SND_SIZE, 1)
            return tcb[fast.SND_RING_SIZE] - n
        return tcb[fast.SND_SIZE] - n

    def make_room(self, size, n):
        """Lets the ring of the receive buffer (size: fast.RCV_SIZE) or of the send buffer (fast.SND_SIZE) grow to take n bytes more.

        Where memory is plenty it becomes as large as the buffer may be; so it does for the first write of a connection that the program has opened. Else
        it takes what must lie in it, and from what others send no more than leaves the program _RESERVE; but _RING_STEP bytes always, so that a
        connection moves on while others hold the memory.
        Where no piece is as large, it takes half, or less. Raises MemoryError without memory for the first ring.
        """
        global _piece
        tcb = self.tcb
        tcp = self.tcp
        receiving = size == fast.RCV_SIZE
        most = tcb[size]
        now = tcb[fast.RCV_RING_SIZE if receiving else fast.SND_RING_SIZE]
        need = min(n + tcb[size + 2], most)
        if need <= now:
            return
        if not receiving and not now and not tcb[FLAGS] & fast.FLAG_PASSIVE:
            try:
                return self.set_ring(size, most)
            except MemoryError:
                _piece = most >> 1 & -_RING_STEP
        need = min(max(need + _RING_STEP - 1 & -_RING_STEP, 2 * now), most)
        keep = _RESERVE if receiving else 0
        if spare(tcp, need, keep, False) or _asked == tcp.words[fast.C_NOW] and take_back(tcp) and spare(tcp, need, keep):
            if spare(tcp, most - need, max(most, PLENTY), False):
                need = most
        elif now:
            return
        else:
            need = _RING_STEP
        if need > _piece:
            need = _piece
        while need > now:
            try:
                self.set_ring(size, need)
                now = need
            except MemoryError:
                # Enough may be free, but in small pieces. A search that fails collects the heap: none as large for the next _FREE_MS.
                need = need >> 1 & -_RING_STEP
                _piece = max(need, _RING_STEP)
        if now == 0:
            raise MemoryError
        if not receiving and _piece < most and now >= _ENOUGH:
            tcb[size] = now  # plain Python need not look for more at each write

    def set_ring(self, size, n):
        """Gives the buffer `size` (see make_room) a ring of n bytes; what lies in the old one moves. Raises MemoryError."""
        if size == fast.RCV_SIZE:
            at = fast.RCV_RING
            rings = self.tcp.rcv
        else:
            at = fast.SND_RING
            rings = self.tcp.snd
        ring = self.tcp.objects[fast.O_RING]
        self.tcp.objects[fast.O_RING] = None
        if ring is None or len(ring) != n:
            ring = None  # its memory may be what is needed
            ring = bytearray(n)
        if self.tcb[at + 2]:
            self._fill_ring(ring, rings[self.slot], size)
            fast.let_go(self.tcp.words, self.tcp.objects)
        self.tcb[size + 1] = 0
        rings[self.slot] = ring
        fast.point(self.tcb, at, ring)
        self.tcb[at + 2] = n

    def _fill_ring(self, ring, old, size):
        head = self.tcb[size + 1]
        fast.copy(ring, old, len(old) - head, 0, head)
        fast.copy(ring, old, head, len(old) - head, 0)

    def read(self, buffer, n, peek=False, at=0):
        """Copies at most n bytes of the receive buffer to buffer[at:], keeping them with `peek`; returns how many."""
        return fast.read(buffer, self.slot, self.tcp.words, self.tcp.objects, at, n, 1 if peek else 0)

    def write(self, buffer, offset, n):
        """Copies at most n bytes of buffer[offset:] into the send buffer; returns how many fitted. output() sends them.

        Raises MemoryError when there is not even room for a few.
        """
        if self.writable() == 0:
            return 0
        if n > self.tcb[fast.SND_RING_SIZE] - self.tcb[fast.SND_LEN]:
            self.make_room(fast.SND_SIZE, n)
        tcb = self.tcb
        observer = self.tcp.observer
        before = None if observer is None else array("I", tcb)
        size = tcb[fast.SND_RING_SIZE]
        n = min(n, size - tcb[fast.SND_LEN])
        if n <= 0:
            return 0
        tail = (tcb[fast.SND_HEAD] + tcb[fast.SND_LEN]) % size
        first = min(n, size - tail)
        ring = self.tcp.snd[self.slot]
        fast.copy(ring, buffer, first, tail, offset)
        fast.copy(ring, buffer, n - first, 0, offset + first)
        tcb[fast.SND_LEN] += n
        tcb[FLAGS] |= FLAG_OUTPUT
        if before is not None:
            observer.changed("write", self, before)
        return n

    def output(self, now):
        """Sends what may leave now."""
        tcp = self.tcp
        if self.tcb[STATE] < ESTABLISHED:
            return
        if tcp.observer is None and not self.tcb[FLAGS] & fast.FLAG_LOOP:
            fast.output(tcp.words, now, tcp.objects, self.slot)
        else:
            self._output(now)

    def _output(self, now):
        tcp = self.tcp
        before = None if tcp.observer is None else array("I", self.tcb)
        sent = self._loop(now) if self.tcb[FLAGS] & fast.FLAG_LOOP else fast.output(tcp.words, now, tcp.objects, self.slot)
        if before is not None and sent:
            tcp.observer.changed("send", self, before)

    def _loop(self, now):
        """Sends what takes the way through the IP layer: frames to a peer on this board, and those with IP options."""
        words = self.tcp.words
        ip = self.tcp.ip
        sent = 0
        while len(ip.looped) < _LOOPED:
            i = words[fast.C_TX_NEXT]
            if not fast.output(words, now, self.tcp.objects, self.slot):
                return sent
            sent += 1
            pool = ip.link.pool
            packet = pool.frames[pool.receive + i][14 : words[fast.C_LOOPED]]
            if self.way is None:
                ip.loop(packet)
            else:
                self.way.segment(packet, now)
        words[fast.C_OUTPUT] = 1  # the rest follows when these have arrived
        return sent

    def shutdown(self, now):
        """No more will be written: FIN follows what is in the send buffer (RFC 9293 section 3.10.4)."""
        if self.tcb[FLAGS] & FLAG_FIN:
            return
        state = self.tcb[STATE]
        if state == SYN_SENT:
            self._end(0)
            return
        if state == SYN_RECEIVED:
            self.tcb[FLAGS] |= FLAG_FIN  # leaves once the handshake is done
            return
        if state == ESTABLISHED or state == CLOSE_WAIT:
            self.tcb[FLAGS] |= FLAG_FIN | FLAG_OUTPUT
            move(self, "close")
            self.output(now)

    def close(self, now, reset=False):
        """The program is done with the connection; reset: at once, with RST.

        Unread data, or data that still arrives, is answered with RST: the peer must learn that it was lost (RFC 1122 section 4.2.2.13).
        """
        tcb = self.tcb
        tcp = self.tcp
        if tcb[STATE] == ESTABLISHED and not (reset or tcb[fast.RCV_LEN] or tcb[FLAGS] & (FLAG_FIN | fast.FLAG_LOOP) or tcp.observer):
            # What nearly every connection does, in a few steps.
            tcb[STATE] = FIN_WAIT_1
            tcb[FLAGS] |= FLAG_ORPHAN | FLAG_FIN | FLAG_OUTPUT
            fast.output(tcp.words, now, tcp.objects, self.slot)
            fast.free_rings(tcp.objects, self.slot)
            return
        if tcb[FLAGS] & FLAG_ORPHAN:
            return
        if reset or (tcb[fast.RCV_LEN] and tcb[STATE] >= ESTABLISHED and tcb[STATE] != TIME_WAIT):
            tcb[FLAGS] |= FLAG_ORPHAN
            self.abort(now)
            return
        tcb[FLAGS] |= FLAG_ORPHAN
        self.shutdown(now)
        if tcb[STATE] == CLOSED:
            self.delete()
            return
        fast.free_rings(self.tcp.objects, self.slot)
        if tcb[STATE] == FIN_WAIT_2:
            self._wait(now, TIME_WAIT_MS)

    def abort(self, now):
        """Tells the peer with RST and ends at once (RFC 9293 section 3.10.5)."""
        state = self.tcb[STATE]
        if state in (SYN_RECEIVED, ESTABLISHED, FIN_WAIT_1, FIN_WAIT_2, CLOSE_WAIT):
            try:
                # Where the peer must be unless something was lost; then it asks back (RFC 5961). A byte sent as a probe is not taken yet.
                seq = self.tcb[SND_UNA if self.tcb[FLAGS] & FLAG_PERSIST else SND_NXT]
                self._control(RST | ACK, seq, now)
            except OSError:
                pass  # the route is gone: the peer will find out by itself
        self._end(ECONNABORTED if not self.tcb[FLAGS] & FLAG_ORPHAN else 0, "abort")

    def reopens(self, frame, start, header_end, flags):
        """True for a SYN that may open a TIME_WAIT pair of addresses anew."""
        if flags & (SYN | ACK | RST) != SYN or self.local[1] not in self.tcp.listeners:
            return False
        return late.load("tcp.time_wait").reopens_connection(self, frame, start, header_end)

    def open_passive(self, frame, start, now, above):
        """Passive open: a SYN for a listening port has arrived; answers SYN+ACK (RFC 9293 section 3.10.7.2).

        above: SND.NXT of an old connection between the same ends, or None: the new ISS must lie beyond (RFC 9293 section 3.10.7.4).
        """
        tcb = self.tcb
        self.begin(now, SYN_RECEIVED)
        if above is not None and difference(tcb[ISS], above) <= 0:
            self._begin_at((above + 0x10000) & 0xFFFFFFFF, now)
        self._take_syn(frame, start)
        if self.tcp.observer is not None:
            self.tcp.observer.moved(self, LISTEN, "SYN")
        self._send_syn(now)

    def _begin_at(self, iss, now):
        # As begin(), with an ISS that follows from something else.
        tcb = self.tcb
        fast.begin(tcb, array("I", ((iss - now * 252) & 0xFFFFFFFF, tcb[fast.TS_OFFSET] >> 8)), now, SYN_RECEIVED)

    def open_cookie(self, irs, iss, mss, now):
        """Passive open by the answer to a cookie: no options but the MSS. input() takes the segment itself."""
        tcb = self.tcb
        self.begin(now, SYN_RECEIVED)
        self._begin_at(iss, now)
        tcb[IRS] = irs
        tcb[fast.SND_MSS] = mss
        self._expect(0)
        if self.tcp.observer is not None:
            self.tcp.observer.moved(self, LISTEN, "SYN")
        tcb[RETRIES] = 1  # nobody knows when the SYN+ACK left

    def input(self, frame, start, end, flags, now):
        """Takes one segment whose checksum is right (RFC 9293 section 3.10.7.3 and 3.10.7.4); its TCP header is at frame[start]."""
        tcb = self.tcb
        observer = self.tcp.observer
        before = array("I", tcb) if observer is not None else None
        expected = tcb[RCV_NXT]
        if tcb[STATE] == SYN_SENT:
            self._input_syn_sent(frame, start, flags, now)
        else:
            self._input_synchronised(frame, start, end, flags, now)
        if observer is not None:
            observer.changed("receive", self, before)
        due = tcb[FLAGS] & (FLAG_ACK_NOW | FLAG_OUTPUT)
        if due == FLAG_ACK_NOW and tcb[RCV_NXT] != expected and tcb[fast.OUT_OF_ORDER] == 0:
            words = self.tcp.words
            words[fast.C_OUTPUT] = fast.SEVERAL if words[fast.C_OUTPUT] else self.slot + 1  # its ACK leaves behind the last of the frames that wait, as in fast.receive()
        elif due:
            self.output(now)

    def _input_syn_sent(self, frame, start, flags, now):
        good_ack = flags & ACK and fast.number(frame, start + 8) == self.tcb[SND_NXT]
        if flags & ACK and not good_ack:
            if not flags & RST:
                self._reset(frame, start, now)
            return
        if flags & RST:
            if good_ack:
                self._end(ECONNREFUSED)
            return
        if not flags & SYN:
            return
        self._take_syn(frame, start)
        if good_ack:
            self._established(frame, start, now, "SYN+ACK")
        else:
            move(self, "SYN")  # simultaneous open
            self._send_syn(now)

    def _reset(self, frame, start, now):
        # Answers an ACK of what was never sent.
        self.tcp.reset(frame, start, 0, fast.number(frame, start + 8), self.remote[0], now)

    def _input_synchronised(self, frame, start, end, flags, now):
        tcb = self.tcb
        seq = fast.number(frame, start + 4)
        ack = fast.number(frame, start + 8)
        ahead = difference(seq, tcb[RCV_NXT])
        window = difference(tcb[fast.RCV_ADV], tcb[RCV_NXT])
        if flags & RST:
            # RFC 5961 section 3: only the exact next number resets; one elsewhere in the window may be a guess.
            if ahead == 0:
                self.settle(now)  # the fast path may have taken a FIN just before
                code = ECONNRESET
                if tcb[STATE] == SYN_RECEIVED and self.listener is None:
                    code = ECONNREFUSED
                elif tcb[STATE] in (CLOSED, TIME_WAIT):
                    code = 0  # nothing is lost: a peer that is done answers the second ACK of its repeated FIN so (section 3.10.7.4)
                self._end(code, "RST")
            elif 0 < ahead < window:
                self._challenge(now)
            else:
                self.tcp.drops["reset out of window"] += 1
            return
        if flags & SYN:
            if tcb[STATE] == SYN_RECEIVED and seq == tcb[IRS]:
                if frame[14] != 0x45:
                    late.load("tcp.ip_options").arrived(self, frame)
                if flags & ACK and ack == tcb[SND_NXT] and self.listener is None:
                    # The other half of a simultaneous open.
                    self._established(frame, start, now, "ACK of SYN")
                    tcb[FLAGS] |= FLAG_ACK_NOW
                else:
                    self._send_syn(now)  # our SYN+ACK was lost
            else:
                self._challenge(now)  # RFC 5961 section 4
            return
        if not flags & ACK:
            self.tcp.drops["no ACK"] += 1
            return
        if tcb[STATE] == SYN_RECEIVED:
            if not 0 <= ahead <= window:
                self._control(ACK, tcb[SND_NXT], now)
                return
            if ack != tcb[SND_NXT]:
                self._reset(frame, start, now)
                return
            self._established(frame, start, now, "ACK of SYN")
            if self.listener is not None:
                self.listener.ready(self)
        if tcb[FLAGS] & FLAG_ORPHAN and difference(seq + end - start - (frame[start + 12] >> 4 << 2), tcb[RCV_NXT]) > 0 and ahead < window:
            self.abort(now)  # nobody will read it (RFC 9293 section 3.6.1, SHLD-3); there is no buffer for it any more
            return
        reach = min(difference(seq, tcb[RCV_NXT]) + end - start - (frame[start + 12] >> 4 << 2), window)
        if reach > tcb[fast.RCV_RING_SIZE] - tcb[fast.RCV_LEN] and ahead < window and ESTABLISHED <= tcb[STATE] <= FIN_WAIT_2:
            try:
                self.make_room(fast.RCV_SIZE, reach)
            except MemoryError:
                pass
            if reach > tcb[fast.RCV_RING_SIZE] - tcb[fast.RCV_LEN]:
                self.tcp.drops["out of memory"] += 1  # arrive() takes what fits; the peer repeats the rest
        words = self.tcp.words
        words[fast.C_SEGMENT] = start
        words[fast.C_SEGMENT_END] = end
        found = fast.arrive(words, self.tcp.objects, self.slot, frame, now)
        if frame[14] != 0x45 and not found & fast.ARRIVED_REFUSED:
            late.load("tcp.ip_options").arrived(self, frame)
        if flags & URG and not found & fast.ARRIVED_REFUSED:
            self.urgent = seq + (frame[start + 18] << 8 | frame[start + 19])
        again = flags & FIN and tcb[STATE] == TIME_WAIT
        self.settle(now)
        if again:
            self._wait(now, TIME_WAIT_MS)  # our last ACK was lost: the wait starts again

    def settle(self, now):
        """Lets the state follow what arrive() noted, the ACK of our FIN and the peer's FIN, where fast.settle() does not."""
        tcb = self.tcb
        state = tcb[STATE]
        if tcb[FLAGS] & fast.FLAG_ROUND:
            tcb[FLAGS] &= ~fast.FLAG_ROUND
            self.tcp.congestion.grow(tcb, now)
        if tcb[FLAGS] & FLAG_FIN_ACKED and (state == FIN_WAIT_1 or state == CLOSING or state == LAST_ACK):
            if state == LAST_ACK:
                self._end(0, "ACK of FIN")
                return
            move(self, "ACK of FIN")
            if state == CLOSING:
                self._enter_time_wait(now)
            elif tcb[FLAGS] & (FLAG_ORPHAN | FLAG_FIN_IN) == FLAG_ORPHAN:
                self._wait(now, TIME_WAIT_MS)
                fast.free_rings(self.tcp.objects, self.slot)
        if tcb[FLAGS] & FLAG_FIN_IN and ESTABLISHED <= tcb[STATE] <= FIN_WAIT_2:
            move(self, "FIN")
            if tcb[STATE] == TIME_WAIT:
                self._enter_time_wait(now)

    def expire(self, now):
        """Runs the timers that are due."""
        tcb = self.tcb
        flags = tcb[FLAGS]
        if flags & FLAG_ACK_LATER and ticks.reached(now, tcb[fast.ACK_AT]):
            tcb[FLAGS] = flags = flags & ~FLAG_ACK_LATER | FLAG_ACK_NOW
        if flags & fast.FLAG_TIMERS and ticks.reached(now, tcb[RTX_AT]):
            if flags & FLAG_RTX:
                self._retransmit(now)
            elif flags & FLAG_PERSIST:
                self._probe_window(now)
            elif flags & fast.FLAG_TAIL:
                self._probe_tail(now)
            else:
                fast.recover(self.tcp.words, tcb, tcb, 1, 0, now)  # RACK's reordering window is over
        if tcb[FLAGS] & FLAG_WAIT and ticks.reached(now, tcb[WAIT_AT]):
            self._waited(now)
        if tcb[FLAGS] & (FLAG_ACK_NOW | FLAG_OUTPUT):
            self.output(now)

    def failed(self, code, now):
        """An ICMP error or a neighbour that does not answer concerns this connection; while it opens, that ends it (RFC 5927 section 5)."""
        if code == EMSGSIZE:
            self.use_mtu(self.tcp.ip.part("path_mtu").next_hop_mtu)  # believed, and in IP.paths, when we return
            self.output(now)
        elif self.tcb[STATE] in (SYN_SENT, SYN_RECEIVED):
            self._end(code)
        else:
            self.soft_error = code

    def use_mac(self, mac):
        """Takes the MAC address that our frames go to into the header template."""
        fast.copy(self.tcb, mac, 6, fast.TEMPLATE * 4, 0)

    def keep(self, now):
        """Starts the keep-alive timer, when keep-alive is on."""
        if self.keepalive and SYN_SENT <= self.tcb[STATE] <= CLOSE_WAIT:
            self._wait(now, self.keepalive)

    def _take_syn(self, frame, start):
        self._expect(fast.syn(self.tcb, frame, start, start + (frame[start + 12] >> 4 << 2)))

    def _expect(self, offered):
        # Sets what follows from the peer's SYN: see fast.expect().
        ip = self.tcp.ip
        mss = ip.paths.get(self.remote[0], ip.mtu) - 40
        fast.expect(self.tcp.words, self.tcb, offered, mss)
        if self.tcb[FLAGS] & fast.FLAG_LOOP:
            self.tcb[fast.SND_MSS] -= self.options_size  # what has IP options has this flag

    def _send_syn(self, now):
        if not fast.synchronise(self, self.tcp.ip.neighbour_mac(self.remote[0], now), now):
            tcb = self.tcb
            self._control(SYN if tcb[STATE] == SYN_SENT else SYN | ACK, tcb[ISS], now)

    def _established(self, frame, start, now, event):
        before = self.tcb[STATE]
        fast.establish(self.tcp.words, self.tcb, frame, start, now, 0)
        if self.tcb[fast.TEMPLATE] == 0:
            self.use_mac(self.tcp.ip.neighbour_mac(self.remote[0], now) or frame[6:12])
        if self.tcp.observer is not None:
            self.tcp.observer.moved(self, before, event)
        if event == "SYN+ACK":
            self.tcb[FLAGS] |= FLAG_ACK_NOW
        if self.tcb[FLAGS] & FLAG_FIN:
            self.tcb[FLAGS] |= FLAG_OUTPUT
            move(self, "close")

    def _gives_up(self, now):
        """True when the peer has confirmed nothing for too long (RFC 9293 section 3.8.3; the limit may be set: RFC 5482)."""
        if self.user_timeout:
            return ticks.diff(now, self.tcb[fast.PROGRESS_AT]) >= self.user_timeout
        return self.tcb[RETRIES] > DATA_TRIES

    def _retransmit(self, now):
        tcb = self.tcb
        self._refresh_mac(now)
        tcb[FLAGS] &= ~fast.FLAG_TIMERS
        tcb[RETRIES] += 1
        tcb[RTO] = min(tcb[RTO] << 1, fast.RTO_MAX)
        if tcb[STATE] in (SYN_SENT, SYN_RECEIVED):
            if tcb[RETRIES] >= (SYN_TRIES if tcb[STATE] == SYN_SENT else SYN_ACK_TRIES) or self.user_timeout and self._gives_up(now):
                self._end(ETIMEDOUT)
            else:
                tcb[fast.RETRANSMITS] += 1
                self._send_syn(now)
            return
        # A peer that answers with a closed window is alive (RFC 9293 section 3.8.6.1, MUST-37).
        if self._gives_up(now) and (tcb[SND_WND] or ticks.diff(now, tcb[fast.LAST_ARRIVAL]) > _DEAD_MS):
            self._end(self.soft_error)
            return
        mtu = _BLACK_HOLE_MTU.get(tcb[RETRIES])
        if mtu is not None:
            self.use_mtu(mtu)
        fast.time_out(self.tcp.words, tcb)

    def use_mtu(self, mtu):
        """Cuts segments for a path that takes packets of `mtu` bytes; what is in flight and too long is cut anew (RFC 1191 section 6.4)."""
        tcb = self.tcb
        mss = mtu - 40 - (12 if tcb[FLAGS] & fast.FLAG_TS else 0) - self.options_size
        if mss >= tcb[fast.SND_MSS]:
            return
        tcb[fast.SND_MSS] = mss
        if tcb[STATE] >= ESTABLISHED:
            fast.forget_flight(tcb)

    def _probe_tail(self, now):
        """Sends one segment more, so that the peer's answer tells whether the last ones were lost (RFC 8985 section 7.3)."""
        tcb = self.tcb
        before = tcb[fast.RECORD_COUNT]
        tcb[FLAGS] = tcb[FLAGS] & ~fast.FLAG_TIMERS | fast.FLAG_TAIL_OUT | fast.FLAG_FORCE | FLAG_OUTPUT
        self.output(now)
        if tcb[fast.RECORD_COUNT] == before:
            fast.lose_last(tcb)
            tcb[FLAGS] |= fast.FLAG_TAIL_AGAIN | fast.FLAG_FORCE | FLAG_OUTPUT
            self.output(now)
        fast.copy(tcb, tcb, 4, 4 * fast.TAIL_SEQ, 4 * fast.SND_NXT)  # its acknowledgement ends the episode; as an int it might need heap
        if tcb[FLAGS] & fast.FLAG_TIMERS == 0:
            fast.start_timer(self.tcp.words, tcb, now)

    def _probe_window(self, now):
        tcb = self.tcb
        self._refresh_mac(now)
        tcb[RETRIES] += 1
        if self._gives_up(now) and ticks.diff(now, tcb[fast.LAST_ARRIVAL]) > _DEAD_MS:
            self._end(ETIMEDOUT)
            return
        if tcb[FLAGS] & FLAG_ORPHAN and tcb[RETRIES] > ORPHAN_PROBES:
            self.abort(now)
            return
        self._timer(RTX_AT, now, min(tcb[RTO] << min(tcb[RETRIES], 10), fast.RTO_MAX))
        if tcb[fast.RECORD_COUNT]:
            fast.lose(tcb)  # the last probe has got no room: the same again
            tcb[FLAGS] |= fast.FLAG_FORCE
        tcb[FLAGS] |= FLAG_PROBE | FLAG_OUTPUT

    def _waited(self, now):
        tcb = self.tcb
        tcb[FLAGS] &= ~FLAG_WAIT
        state = tcb[STATE]
        if state == TIME_WAIT:
            self._end(0, "timeout")
        elif state == FIN_WAIT_2 and tcb[FLAGS] & FLAG_ORPHAN:
            self._end(ETIMEDOUT)
        elif state < ESTABLISHED:
            self.keep(now)  # it counts from here on, at most
        elif self.keepalive and state <= CLOSE_WAIT:
            silent = ticks.diff(now, tcb[fast.LAST_ARRIVAL])
            if silent < self.keepalive:
                self._wait(now, self.keepalive - silent)
            elif tcb[fast.SND_LEN] or tcb[SND_UNA] != tcb[SND_NXT]:
                self._wait(now, self.keep_interval)  # what is in flight finds out (RFC 9293 section 3.8.4, MUST-26)
            elif silent >= self.keepalive + self.keep_interval * self.keep_count:
                self.abort(now)
                self.error = self.soft_error
            else:
                # One byte before the window: the peer must answer with an ACK (RFC 9293 section 3.8.4).
                self._wait(now, self.keep_interval)
                self._control(ACK, (tcb[SND_UNA] - 1) & 0xFFFFFFFF, now)

    def _challenge(self, now):
        """Answers a suspicious segment with an ACK that makes an honest peer send the right RST; limited in rate (RFC 5961 section 7)."""
        tcp = self.tcp
        if ticks.diff(now, tcp.challenged) >= 1000 or ticks.diff(now, tcp.challenged) < 0:
            tcp.challenged = now
            tcp.challenges = 0
        if tcp.challenges >= _CHALLENGES:
            tcp.drops["challenge limit"] += 1
            return
        tcp.challenges += 1
        self.tcb[FLAGS] |= FLAG_ACK_NOW

    def _refresh_mac(self, now):
        ip = self.tcp.ip
        if self.tcb[FLAGS] & fast.FLAG_LOOP:
            return
        mac = ip.neighbour_mac(self.remote[0], now)
        hop = ip.next_hop(self.remote[0])
        if mac is not None:
            self.use_mac(mac)
        elif hop is not None:
            ip.arp.ask(hop, now)  # its answer reaches us through arp.changed

    def _control(self, flags, seq, now):
        self.tcp.send_control(self.tcb, self.remote[0], flags, seq, now, self.way)

    def _enter_time_wait(self, now):
        # When there are more than a few, the oldest gives up its control block, and from then on each does so at once.
        tcb = self.tcb
        tcp = self.tcp
        tcb[FLAGS] &= ~fast.FLAG_TIMERS
        if tcb[FLAGS] & FLAG_ACK_NOW:
            self.output(now)  # the ACK of the FIN: the control block may go now
        if tcp.time_waits is not None and tcb[FLAGS] & FLAG_ORPHAN:
            tcb[WAIT_AT] = ticks.add(now, TIME_WAIT_MS)
            self.compress()
            return
        self._wait(now, TIME_WAIT_MS)
        fast.free_rings(self.tcp.objects, self.slot)
        self._thin_out()

    def _thin_out(self):
        count = 0
        for other in self.tcp.connections:
            if other is not None and other.tcb[STATE] == TIME_WAIT:
                count += 1
        if count > TIME_WAITS:
            self.oldest_time_wait().compress()

    def oldest_time_wait(self):
        """Returns the connection, but this one, that is longest in TIME_WAIT, or None."""
        oldest = None
        for connection in self.tcp.connections:
            if connection is not None and connection is not self and connection.tcb[STATE] == TIME_WAIT:
                if oldest is None or ticks.diff(connection.tcb[WAIT_AT], oldest.tcb[WAIT_AT]) < 0:
                    oldest = connection
        return oldest

    def compress(self):
        """Gives up the control block of a TIME_WAIT for 28 bytes."""
        tcp = self.tcp
        try:
            if tcp.time_waits is None:
                tcp.time_waits = late.load("tcp.time_wait").TimeWaits(tcp.objects)
            tcp.time_waits.add(self)
        except MemoryError:
            pass  # the oldest of them all is forgotten sooner
        self._end(0, "timeout")

    def _wait(self, now, ms):
        self.tcb[FLAGS] |= FLAG_WAIT
        self._timer(WAIT_AT, now, ms)

    def _timer(self, word, now, ms):
        """Sets a timer of the control block, whose flag says that it runs, and sees to it that the poll looks at it then."""
        at = self.tcb[word] = ticks.add(now, ms)
        words = self.tcp.words
        if at - words[fast.C_NEXT_TIMER] & 0x20000000:  # the sign of ticks.diff()
            words[fast.C_NEXT_TIMER] = at

    def _end(self, code, event="abort"):
        """The connection is over: no timers, no more segments. Received data stays readable until the program closes it."""
        move(self, event)
        if code and not self.error:
            self.error = code
        self.tcb[FLAGS] &= FLAG_ORPHAN
        self.unlist()
        if self.listener is not None:
            self.listener.gone(self)
        if self.tcb[FLAGS] & FLAG_ORPHAN:
            self.delete()
