"""Connections in TIME_WAIT by the hundred, in 28 bytes each: what is left to do for them is to answer, and to keep old segments out."""

from array import array

from barenet import fast, ticks
from barenet.fast import ACK, FIN, RST, SYN, TIME_WAIT_ENTRIES, TIME_WAIT_WORDS
from micropython import const

_FEW = const(40)  # the table has room for few, then for all: a server in use does not let it grow again and again

# The words of an entry, which fast.settle() writes, too; the first two are the key as it stands in a received frame.
_SND_NXT = const(2)
_RCV_NXT = const(3)
_TS_RECENT = const(4)
_TS_OFFSET = const(5)  # its lowest bit: they are agreed
_EXPIRES = const(6)


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
    """A table of connections in TIME_WAIT, the oldest first; when it is full the oldest makes room.

    Its first word tells how many are in use.
    """

    def __init__(self, objects):
        self.table = objects[fast.O_TIME_WAITS] = array("I", bytearray(4 + 4 * TIME_WAIT_WORDS * _FEW))
        self.table[0] = 1

    def add(self, connection):
        """Takes over what must be remembered of a connection that nobody reads any more; without memory the oldest makes room."""
        table = self.table
        if table[0] == 1 + _FEW * TIME_WAIT_WORDS == len(table):
            try:
                table.extend(array("I", bytearray(4 * TIME_WAIT_WORDS * (TIME_WAIT_ENTRIES - _FEW))))
            except MemoryError:
                pass
        if table[0] == len(table):
            self._remove(1)
        keys = connection.tcp.keys
        slot = connection.slot
        tcb = connection.tcb
        at = table[0]
        table[at] = keys[2 * slot]
        table[at + 1] = keys[2 * slot + 1]
        table[at + _SND_NXT] = tcb[fast.SND_NXT]
        table[at + _RCV_NXT] = tcb[fast.RCV_NXT]
        table[at + _TS_RECENT] = tcb[fast.TS_RECENT]
        table[at + _TS_OFFSET] = tcb[fast.TS_OFFSET] | (1 if tcb[fast.FLAGS] & fast.FLAG_TS else 0)
        table[at + _EXPIRES] = tcb[fast.WAIT_AT]
        table[0] = at + TIME_WAIT_WORDS

    def find(self, frame, start, now):
        """Returns where the entry begins that the segment at frame[start:] belongs to, or 0."""
        table = self.table
        while table[0] > 1 and ticks.reached(now, table[1 + _EXPIRES]):
            self._remove(1)
        return fast.find(table, frame, start)

    def input(self, at, tcp, frame, start, header_end, flags, listening, now):
        """Answers a segment for the entry that begins at word `at` (RFC 9293 section 3.10.7.4).

        Returns None when it is dealt with; for a SYN that opens the pair of addresses anew, the old SND.NXT: the new ISS must lie beyond.
        """
        table = self.table
        seq = fast.number(frame, start + 4)
        rcv_nxt = table[at + _RCV_NXT]
        offset = table[at + _TS_OFFSET]
        stamped = offset & 1
        if flags & RST:
            if seq == rcv_nxt:
                self._remove(at)  # another one is old, or a guess (RFC 5961 section 3)
            return None
        if listening and flags & (SYN | ACK) == SYN:
            if reopens(seq, _stamp(frame, start, header_end), rcv_nxt, table[at + _TS_RECENT] if stamped else None):
                above = table[at + _SND_NXT]
                self._remove(at)
                return above
        local = (tcp.ip.address, frame[start + 2] << 8 | frame[start + 3])
        remote = (bytes(frame[26:30]), frame[start] << 8 | frame[start + 1])
        tcb = tcp.block(local, remote, rcv_nxt, 0)
        if stamped:
            tcb[fast.FLAGS] = fast.FLAG_TS
            tcb[fast.TS_OFFSET] = offset & ~1
            tcb[fast.TS_RECENT] = table[at + _TS_RECENT]
        tcp.send_control(tcb, remote[0], ACK, table[at + _SND_NXT], now)
        if flags & FIN:
            # Our last ACK was lost: the wait starts again, behind all others.
            entry = array("I", table[at : at + TIME_WAIT_WORDS])
            self._remove(at)
            entry[_EXPIRES] = ticks.add(now, fast.TIME_WAIT_MS)
            at = table[0]
            table[at : at + TIME_WAIT_WORDS] = entry
            table[0] = at + TIME_WAIT_WORDS
        return None

    def _remove(self, at):
        table = self.table
        end = table[0] - TIME_WAIT_WORDS
        fast.copy(table, table, 4 * (end - at), 4 * at, 4 * (at + TIME_WAIT_WORDS))  # a word after the other, so that they may overlap
        table[0] = end
