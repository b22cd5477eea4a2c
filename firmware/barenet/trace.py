"""Watch the stack work: every frame and every change of a connection, as it happens.

    from barenet import trace
    trace.on()        # one line for each frame, state change and changed control block
    trace.off()

While a trace is on, every segment goes through plain Python, a few milliseconds each on a board.
"""

import json
import sys

from barenet import fast
from barenet.lan import text
from barenet.stack import current
from barenet.tcp.names import NAMES

# What a person wants to see of a control block: name, word, and the word it counts from.
FIELDS = (
    ("SND_UNA", fast.SND_UNA, fast.ISS),
    ("SND_NXT", fast.SND_NXT, fast.ISS),
    ("SND_WND", fast.SND_WND, None),
    ("SND_LEN", fast.SND_LEN, None),
    ("SND_MSS", fast.SND_MSS, None),
    ("CWND", fast.CWND, None),
    ("RCV_NXT", fast.RCV_NXT, fast.IRS),
    ("RCV_ADV", fast.RCV_ADV, fast.IRS),
    ("RCV_LEN", fast.RCV_LEN, None),
    ("RTO", fast.RTO, None),
)
_FLAGS = ((fast.SYN, "SYN"), (fast.FIN, "FIN"), (fast.RST, "RST"), (fast.PSH, "PSH"), (fast.ACK, "ACK"))
_ARP = {1: "who-has", 2: "is-at"}
_DHCP = {1: "DISCOVER", 2: "OFFER", 3: "REQUEST", 4: "DECLINE", 5: "ACK", 6: "NAK", 7: "RELEASE"}


def block(tcb):
    """Returns the control block in words: {name: number}, sequence numbers counted from the initial ones."""
    values = {"STATE": NAMES[tcb[fast.STATE]]}
    for name, word, base in FIELDS:
        value = tcb[word]
        if base is not None:
            value = (value - tcb[base]) & 0xFFFFFFFF if tcb[base] else 0
        values[name] = value
    return values


def info(tcb):
    """Returns what a person asks about a connection: {name: value}, times in ms, windows in bytes (RFC 9293, 6298, 5681, 7323, 2018)."""
    flags = tcb[fast.FLAGS]
    agreed = [name for bit, name in ((fast.FLAG_SACK, "SACK"), (fast.FLAG_TS, "timestamps"), (fast.FLAG_SCALE, "window scaling")) if flags & bit]
    return {
        "SRTT": tcb[fast.SRTT] >> 3,
        "RTTVAR": tcb[fast.RTTVAR] >> 2,
        "MIN_RTT": tcb[fast.MIN_RTT],
        "SSTHRESH": tcb[fast.SSTHRESH],
        "RCV_WND": (tcb[fast.RCV_ADV] - tcb[fast.RCV_NXT]) & 0xFFFFFFFF,
        "IN_FLIGHT": (tcb[fast.SND_NXT] - tcb[fast.SND_UNA]) & 0xFFFFFFFF,
        "PIPE": tcb[fast.PIPE],
        "LOST": tcb[fast.LOST],
        "SACKED": tcb[fast.SACKED],
        "RETRANSMITS": tcb[fast.RETRANSMITS],
        "RETRIES": tcb[fast.RETRIES],
        "OUT_OF_ORDER": tcb[fast.OUT_OF_ORDER],
        "RECOVERY": "timeout" if flags & fast.FLAG_TIMEOUT else "fast" if flags & fast.FLAG_RECOVERY else "",
        "SEGMENTS_IN": tcb[fast.SEGMENTS_IN],
        "SEGMENTS_OUT": tcb[fast.SEGMENTS_OUT],
        "BYTES_IN": tcb[fast.BYTES_IN],
        "BYTES_OUT": tcb[fast.BYTES_OUT],
        "OPTIONS": agreed,
        "SND_SCALE": tcb[fast.SND_SCALE],
        "RCV_SCALE": tcb[fast.RCV_SCALE],
    }


def describe(frame, length):
    """Returns one frame in words: {"protocol": …, …}."""
    kind = frame[12] << 8 | frame[13]
    if kind == 0x0806 and length >= 42:
        ask = frame[21] == 1
        return {
            "protocol": "ARP",
            "what": _ARP.get(frame[21], "?"),
            "address": text(frame[38:42] if ask else frame[28:32]),
            "from": text(frame[28:32]),
        }
    if kind != 0x0800 or length < 34:
        return {"protocol": "type %04x" % kind}
    words = {"protocol": "IP %d" % frame[23], "from": text(frame[26:30]), "to": text(frame[30:34])}
    at = 14 + ((frame[14] & 15) << 2)
    end = 14 + (frame[16] << 8 | frame[17])
    if end > length or at + 8 > end:
        return words
    if frame[23] == 1:
        words["protocol"] = "ICMP"
        words["what"] = {0: "echo reply", 3: "unreachable", 8: "echo request", 11: "time exceeded"}.get(frame[at], "type %d" % frame[at])
        return words
    ports = (frame[at] << 8 | frame[at + 1], frame[at + 2] << 8 | frame[at + 3])
    words["ports"] = ports
    if frame[23] == 17:
        words["protocol"] = "UDP"
        words["length"] = end - at - 8
        if 53 in ports:
            words["protocol"] = "DNS"
            words["what"] = "answer" if frame[at + 10] & 0x80 else "query"
        elif ports in ((67, 68), (68, 67)) and end > at + 250:
            words["protocol"] = "DHCP"
            words["what"] = _DHCP.get(frame[at + 250], "?")
    elif frame[23] == 6 and at + 20 <= end:
        words["protocol"] = "TCP"
        words["flags"] = " ".join(name for bit, name in _FLAGS if frame[at + 13] & bit)
        words["seq"] = int.from_bytes(bytes(frame[at + 4 : at + 8]), "big")
        words["ack"] = int.from_bytes(bytes(frame[at + 8 : at + 12]), "big")
        words["window"] = frame[at + 14] << 8 | frame[at + 15]
        words["length"] = max(0, end - at - (frame[at + 12] >> 4 << 2))
    return words


def show(line):
    """Writes a line in one piece: print() writes its end apart, and the echo of a key that is typed may come in between."""
    sys.stdout.write(line + "\n")


class Trace:
    """An observer (stack.observe) that writes one line for each thing that happens.

    write(line): where lines go. style: "text" for people, "json" for programs: one object a line behind "@", with "event" (received, sent,
    state, block), "ms" and what belongs to it.
    """

    def __init__(self, write=show, style="text"):
        self._write = write
        self._json = style == "json"

    def received(self, frame, length, now):
        self._frame("received", frame, length, now)

    def sent(self, frame, length, now):
        self._frame("sent", frame, length, now)

    def moved(self, connection, before, event):
        after = connection.state
        peer = self._peer(connection)
        if self._json:
            self._line({"event": "state", "peer": peer, "why": event, "before": NAMES[before], "after": NAMES[after]})
        else:
            self._write("   %s  %s: %s -> %s" % (peer, event, NAMES[before], NAMES[after]))

    def changed(self, step, connection, before):
        old = block(before)
        new = block(connection.tcb)
        if self._json:
            self._line({"event": "block", "step": step, "peer": self._peer(connection), "before": old, "after": new})
            return
        parts = ["%s %s->%s" % (name, old[name], new[name]) for name, _, _ in FIELDS if old[name] != new[name]]
        if parts:
            self._write("   %s  %s: %s" % (self._peer(connection), step, ", ".join(parts)))

    def _frame(self, event, frame, length, now):
        words = describe(frame, length)
        if self._json:
            words["event"] = event
            words["ms"] = now
            self._line(words)
            return
        line = "%6d.%03d %s %s" % (now // 1000, now % 1000, "<-" if event == "received" else "->", words["protocol"])
        for name in ("what", "address", "flags"):
            if name in words:
                line += " " + words[name]
        if words["protocol"] == "TCP":
            line += " seq=%d ack=%d win=%d len=%d" % (words["seq"], words["ack"], words["window"], words["length"])
        if "ports" in words:
            line += "  %s:%d > %s:%d" % (words["from"], words["ports"][0], words["to"], words["ports"][1])
        self._write(line)

    def _line(self, words):
        self._write("@" + json.dumps(words))

    def _peer(self, connection):
        if connection.remote is None:
            return "-"
        return "%s:%d" % (text(connection.remote[0]), connection.remote[1])


def on(write=show, style="text", stack=None):
    """Starts tracing `stack`, by default the running one; see Trace for the other arguments.

    Raises OSError(ENETDOWN) when no stack is given and the LAN is down.
    """
    (stack or current()).observe(Trace(write, style))


def off(stack=None):
    """Ends tracing."""
    (stack or current()).observe(None)
