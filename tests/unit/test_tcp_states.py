"""The state machine (tcp/states.py) against figure 5 of RFC 9293."""

from device import ON_DEVICE
from grouped import grouped

if ON_DEVICE:
    from array import array

    from barenet import fast
    from barenet.tcp.names import NAMES
    from barenet.tcp.states import TRANSITIONS
    from barenet.tcp.states import move as move_connection

    class Connection:
        observer = None

        def __init__(self, state):
            self.tcp = self
            self.tcb = [state]

    def move(state, event):
        connection = Connection(state)
        move_connection(connection, event)
        return connection.tcb[fast.STATE]

    # RFC 9293 section 3.3.2, figure 5, arrow by arrow (without "delete TCB" and RST, which lead to CLOSED).
    FIGURE = """
        CLOSED        passive open  LISTEN
        CLOSED        active open   SYN_SENT
        LISTEN        close         CLOSED
        LISTEN        SYN           SYN_RECEIVED
        SYN_SENT      close         CLOSED
        SYN_SENT      SYN           SYN_RECEIVED
        SYN_SENT      SYN+ACK       ESTABLISHED
        SYN_RECEIVED  ACK of SYN    ESTABLISHED
        SYN_RECEIVED  close         FIN_WAIT_1
        ESTABLISHED   close         FIN_WAIT_1
        ESTABLISHED   FIN           CLOSE_WAIT
        FIN_WAIT_1    ACK of FIN    FIN_WAIT_2
        FIN_WAIT_1    FIN           CLOSING
        FIN_WAIT_2    FIN           TIME_WAIT
        CLOSE_WAIT    close         LAST_ACK
        CLOSING       ACK of FIN    TIME_WAIT
        LAST_ACK      ACK of FIN    CLOSED
        TIME_WAIT     timeout       CLOSED
    """


@grouped
def test_the_table_is_the_figure():
    figure = set()
    for line in FIGURE.strip().split("\n"):
        line = line.strip()
        figure.add((line[:14].strip(), line[14:28].strip(), line[28:].strip()))
    table = set()
    for state, events in TRANSITIONS.items():
        for event, after in events.items():
            table.add((NAMES[state], event, NAMES[after]))
    assert table == figure, (table - figure, figure - table)


@grouped
def test_names_are_those_of_the_numbers():
    assert len(NAMES) == len(TRANSITIONS) == 11
    for name in NAMES:
        assert NAMES[getattr(fast, name)] == name


@grouped
def test_reset_and_abort_close_from_everywhere():
    for state in TRANSITIONS:
        assert move(state, "RST") == move(state, "abort") == fast.CLOSED


@grouped
def test_event_that_is_not_listed_moves_nothing():
    for state in TRANSITIONS:
        for event in ("active open", "SYN", "ACK of FIN", "timeout", "nonsense"):
            assert move(state, event) == TRANSITIONS[state].get(event, state)


@grouped
def test_fast_path_relies_on_the_order_of_the_numbers():
    # receive(): the states that carry data lie between ESTABLISHED and CLOSE_WAIT; arrive(): those that take text
    # end at FIN_WAIT_2.
    order = ["ESTABLISHED", "FIN_WAIT_1", "FIN_WAIT_2", "CLOSE_WAIT", "CLOSING", "LAST_ACK", "TIME_WAIT"]
    assert [NAMES[fast.ESTABLISHED + i] for i in range(7)] == order


@grouped
def test_what_viper_moves_follows_the_table():
    # fast.settle() for the ends, fast.begin() and establish() for the beginning; Connection.close() says FIN_WAIT_1 itself.
    now = 5000
    frame = bytearray(60)
    for state, events in TRANSITIONS.items():
        assert fast.AFTER[state] == events.get("ACK of FIN", state)
        assert fast.AFTER[fast.STATES + state] == events.get("FIN", state)
        for flags, order in (
            (fast.FLAG_FIN_ACKED, ("ACK of FIN",)),
            (fast.FLAG_FIN_IN, ("FIN",)),
            (fast.FLAG_FIN_ACKED | fast.FLAG_FIN_IN, ("ACK of FIN", "FIN")),
        ):
            after = state
            for event in order:
                after = TRANSITIONS[after].get(event, after)
            for orphan in (0, fast.FLAG_ORPHAN):
                words = array("I", [0] * fast.C_WORDS)
                objects = [None] * fast.O_COUNT
                tcb = array("I", [0] * fast.TCB_WORDS)
                tcb[fast.STATE] = state
                tcb[fast.FLAGS] = flags | orphan
                for what, value in (
                    (fast.O_WORDS, words),
                    (fast.O_TCBS, [tcb]),
                    (fast.O_KEYS, array("I", [1, 2])),
                    (fast.O_RCV, [None]),
                    (fast.O_SND, [None]),
                    (fast.O_CONNECTIONS, [Connection(state)]),
                    (fast.O_FREE, array("I", [0] * fast.TCB_WORDS)),
                    (fast.O_TIME_WAITS, array("I", [1] + [0] * fast.TIME_WAIT_WORDS)),
                ):
                    objects[what] = value
                connection = objects[fast.O_CONNECTIONS][0]
                left = fast.settle(words, objects, 0, now)
                if after == state or after not in (fast.TIME_WAIT, fast.CLOSED):
                    assert left == -1 and tcb[fast.STATE] == after, (state, flags)
                elif not orphan:
                    assert left == 0 and tcb[fast.STATE] == state, (state, flags)  # Connection.settle()'s
                else:
                    # Nobody owns it: it is gone, but for an entry in the table of TIME_WAITs.
                    assert left == -1 and objects[fast.O_CONNECTIONS] == [None] and connection.slot == -1
                    assert list(objects[fast.O_KEYS]) == [0, 0] and tcb[fast.STATE] == fast.CLOSED
                    kept = objects[fast.O_TIME_WAITS]
                    if after == fast.TIME_WAIT:
                        assert list(kept) == [8, 1, 2, 0, 0, 0, 0, now + fast.TIME_WAIT_MS]
                    else:
                        assert kept[0] == 1
    for state, event in ((fast.CLOSED, "active open"), (fast.LISTEN, "SYN")):
        opening = TRANSITIONS[state][event]
        tcb = array("I", [0] * fast.TCB_WORDS)
        fast.begin(tcb, bytes(8), now, opening)
        assert tcb[fast.STATE] == opening
        frame[11] = 1  # ACK of ISS + 1
        tcb[fast.SND_NXT] = 1
        assert fast.establish(words, tcb, frame, 0, now, 0) == 1
        assert tcb[fast.STATE] == TRANSITIONS[opening]["SYN+ACK" if opening == fast.SYN_SENT else "ACK of SYN"]
    assert TRANSITIONS[fast.ESTABLISHED]["close"] == fast.FIN_WAIT_1
