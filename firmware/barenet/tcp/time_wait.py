"""Connections in TIME_WAIT by the hundred, in 28 bytes each: what is left to do for them is to answer, and to keep old segments out."""

from array import array

from barenet import fast, ticks
from barenet.fast import ACK, FIN, RST, SYN
from micropython import const

_FEW = const(40)
_MOST = const(200)  # the table has room for few, then for all: a server in use does not let it grow again and again
_TIME_WAIT_MS = const(60_000)

# The words of an entry, which fast.remember() writes; the first two are the key as it stands in a received frame.
_SND_NXT = const(2)
_RCV_NXT = const(3)
_TS_RECENT = const(4)
_TS_OFFSET = const(5)  # 0: no timestamps
_EXPIRES = const(6)
_WORDS = const(7)


def reopens(seq, stamp, rcv_nxt, ts_recent):
    """True for a SYN that cannot belong to the old connection: newer by its timestamp or its number (RFC 6191 section 2, RFC 9293 3.10.7.4).

    stamp, ts_recent: the SYN's timestamp and the last one of the old connection, or None.
    """
    if stamp is not None and ts_recent is not None and stamp != ts_recent:
        return (stamp - ts_recent) & 0x80000000 == 0
    d = (seq - rcv_nxt) & 0xFFFFFFFF
    return 0 < d < 0x80000000


def reopens_connection(connection, frame, start, header_end):
    """True for a SYN, its header frame[start:header_end], that opens anew what still has its control block."""
    tcb = connection.tcb
    stamp = _stamp(frame, start, header_end)
    ts_recent = tcb[fast.TS_RECENT] if tcb[fast.FLAGS] & fast.FLAG_TS else None
    return reopens(fast.number(frame, start + 4), stamp, tcb[fast.RCV_NXT], ts_recent)


def _stamp(frame, start, header_end):
    tcb = array("I", bytearray(4 * fast.TCB_WORDS))
    return tcb[fast.TS_RECENT] if fast.syn(tcb, frame, start, header_end) & fast.FLAG_TS else None


class TimeWaits:
    """A table of connections in TIME_WAIT, the oldest first; when it is full the oldest makes room."""

    def __init__(self):
        self.table = array("I")
        self.count = 0

    def add(self, connection):
        """Takes over what must be remembered of a connection that nobody reads any more; without memory the oldest makes room. Raises MemoryError."""
        if self.count == _MOST:
            self._remove(0)
        if self.count * _WORDS == len(self.table):
            self._grow()
        fast.remember(self.table, self.count * _WORDS, connection.tcp.keys, connection.slot, connection.tcb)
        self.count += 1

    def _grow(self):
        try:
            self.table.extend(array("I", bytearray(4 * _WORDS * (_MOST - _FEW if self.count else _FEW))))
        except MemoryError:
            if self.count == 0:
                raise
            self._remove(0)

    def find(self, frame, start, now):
        """Returns the entry that the segment at frame[start:] belongs to, or -1."""
        while self.count and ticks.reached(now, self.table[_EXPIRES]):
            self._remove(0)
        return fast.find(self.table, self.count * _WORDS, _WORDS, frame, start)

    def input(self, i, tcp, frame, start, header_end, flags, listening, now):
        """Answers a segment for entry i (RFC 9293 section 3.10.7.4).

        Returns None when it is dealt with; for a SYN that opens the pair of addresses anew, the old SND.NXT: the new ISS must lie beyond.
        """
        table = self.table
        at = i * _WORDS
        seq = fast.number(frame, start + 4)
        rcv_nxt = table[at + _RCV_NXT]
        offset = table[at + _TS_OFFSET]
        if flags & RST:
            if seq == rcv_nxt:
                self._remove(i)  # another one is old, or a guess (RFC 5961 section 3)
            return None
        if listening and flags & (SYN | ACK) == SYN:
            if reopens(seq, _stamp(frame, start, header_end), rcv_nxt, table[at + _TS_RECENT] if offset else None):
                above = table[at + _SND_NXT]
                self._remove(i)
                return above
        local = (tcp.ip.address, frame[start + 2] << 8 | frame[start + 3])
        remote = (bytes(frame[26:30]), frame[start] << 8 | frame[start + 1])
        tcb = tcp.block(local, remote, rcv_nxt, 0)
        if offset:
            tcb[fast.FLAGS] = fast.FLAG_TS
            tcb[fast.TS_OFFSET] = offset & ~1
            tcb[fast.TS_RECENT] = table[at + _TS_RECENT]
        tcp.send_control(tcb, remote[0], ACK, table[at + _SND_NXT], now)
        if flags & FIN:
            # Our last ACK was lost: the wait starts again, behind all others.
            entry = array("I", table[at : at + _WORDS])
            self._remove(i)
            entry[_EXPIRES] = ticks.add(now, _TIME_WAIT_MS)
            table[self.count * _WORDS : (self.count + 1) * _WORDS] = entry
            self.count += 1
        return None

    def _remove(self, i):
        table = self.table
        end = self.count * _WORDS
        fast.move_words(table, i * _WORDS, (i + 1) * _WORDS, end - (i + 1) * _WORDS)
        self.count -= 1
