"""The connection's states and what moves it from one to the next (RFC 9293, section 3.3.2 and figure 5).

Theory of operation
-------------------

A connection is two one-way streams, each opened by SYN and closed by FIN, each confirmed by the other side's ACK. The state tells which of these
four confirmations are still missing:

* Opening. `connect` sends SYN (SYN_SENT); the answer SYN+ACK opens both streams at once. A listening socket answers a SYN with SYN+ACK (SYN_RECEIVED)
  and waits for the ACK. When both sides connect at the same moment, each sees a bare SYN first: a simultaneous open, by way of SYN_RECEIVED.
* ESTABLISHED: both streams are open.
* Closing. The side that closes first sends FIN and goes through FIN_WAIT_1 (its FIN is not acknowledged), FIN_WAIT_2 (it is, but the peer still sends)
  and TIME_WAIT. The other side learns of it (CLOSE_WAIT), may go on sending, and closes with its own FIN (LAST_ACK). When both close at the
  same moment, each gets a FIN while its own is unacknowledged (CLOSING).
* TIME_WAIT keeps the control block for twice the longest life of a segment, so that the last ACK can be repeated and no late segment can be taken
  for part of a new connection.
* RST, or giving up on retransmission, leads to CLOSED from everywhere.

The table is the whole machine: code that handles segments and calls names an event, and `move` looks up the next state. An event that a
state does not list does not move it. What nearly every connection does, while nobody observes it, is done in viper, where a call costs less than half:
fast.begin(), establish() and settle() set the states that stand here (a test compares them), and so does the usual Connection.close().
"""

from barenet.fast import (
    CLOSE_WAIT,
    CLOSED,
    CLOSING,
    ESTABLISHED,
    FIN_WAIT_1,
    FIN_WAIT_2,
    LAST_ACK,
    LISTEN,
    STATE,
    SYN_RECEIVED,
    SYN_SENT,
    TIME_WAIT,
)

TRANSITIONS = {
    CLOSED: {"active open": SYN_SENT, "passive open": LISTEN},
    LISTEN: {"SYN": SYN_RECEIVED, "close": CLOSED},
    SYN_SENT: {"SYN": SYN_RECEIVED, "SYN+ACK": ESTABLISHED, "close": CLOSED},
    SYN_RECEIVED: {"ACK of SYN": ESTABLISHED, "close": FIN_WAIT_1},
    ESTABLISHED: {"close": FIN_WAIT_1, "FIN": CLOSE_WAIT},
    FIN_WAIT_1: {"ACK of FIN": FIN_WAIT_2, "FIN": CLOSING},
    FIN_WAIT_2: {"FIN": TIME_WAIT},
    CLOSE_WAIT: {"close": LAST_ACK},
    CLOSING: {"ACK of FIN": TIME_WAIT},
    LAST_ACK: {"ACK of FIN": CLOSED},
    TIME_WAIT: {"timeout": CLOSED},
}


def move(connection, event):
    """Moves a Connection to the state that follows on `event` and tells the observer.

    "RST" and "abort" close from everywhere, an event not listed changes nothing.
    """
    tcb = connection.tcb
    before = tcb[STATE]
    row = TRANSITIONS[before]
    if event in row:
        tcb[STATE] = row[event]
    elif event == "RST" or event == "abort":
        tcb[STATE] = CLOSED
    if connection.tcp.observer is not None:
        connection.tcp.observer.moved(connection, before, event)
