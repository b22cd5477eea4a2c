"""The state machine (tcp/states.py) against figure 5 of RFC 9293."""

from device import ON_DEVICE
from grouped import grouped

if ON_DEVICE:
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
