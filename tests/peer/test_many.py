"""64 connections at once on a board's heap; one more is refused cleanly, and none slows the others down."""

import time

import pytest
from linux import BOARD, BURST, TIMEOUT, receive_exactly, run, running

CONNECTIONS = 64  # established at once: as many as the stack's table holds (tcp.CONNECTIONS)
BUFFER = 1024  # bytes, each way
PORT = 7400
ROUNDS = 300
TURNS = 5
SLOWER = 1.5  # at most, for a lookup among all, in comparison with one alone
SLOWER_ECHO = 3  # at most, for an echo, which a loaded machine disturbs more

# One function serves from the first connection to the last: to compile more of them takes memory that is not there in between.
PROGRAM = f"""
from barenet import fast

def listen():
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, {BUFFER})
    s.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, {BUFFER})
    s.bind(("", {PORT}))
    s.listen(8)
    s.settimeout(4)
    return s

def accept(listener, accepted, most):
    # Up to the refusal of a connection, after which none comes.
    for _ in range(most):
        try:
            accepted.append(listener.accept()[0])
        except OSError as e:
            if e.errno != errno.ETIMEDOUT:
                raise
            break

def echo(s, n):
    buffer = bytearray(10)
    for _ in range(n):
        s.readinto(buffer)
        s.write(buffer)

def lookup_time(s):
    frame = bytearray(54)
    frame[26:30] = bytes((10, 77, 0, 1))
    struct.pack_into(">HH", frame, 34, s.getpeername()[1], {PORT})
    objects, lookup, best = lan.stack.tcp.objects, fast.lookup, 1 << 29
    assert lookup(objects, frame, 34) >= 0
    for _ in range(20):
        began = time.ticks_us()
        for _ in range(1000):
            lookup(objects, frame, 34)
        best = min(best, time.ticks_diff(time.ticks_us(), began))
    return best

def serve():
    listener = listen()
    accepted = []  # in the order in which they connected
    try:
        accept(listener, accepted, 1)
        echo(accepted[0], {3 * ROUNDS})
        alone = lookup_time(accepted[0])
        accept(listener, accepted, 100)
        many = len(accepted)
        echo(accepted[-1], {3 * ROUNDS})
        for _ in range({1 + TURNS}):
            for s in accepted:
                echo(s, 1)
        print(many, lan.stack.tcp.drops["out of memory"], alone, sum(lookup_time(s) for s in accepted) / many)
        accepted[0].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        accepted.pop(0).close()  # with RST: a TIME_WAIT keeps its memory
        listener.settimeout(12)
        accept(listener, accepted, 1)
        echo(accepted[-1], 1)
        print(len(accepted))
    finally:
        listener.close()
        for s in accepted:
            s.close()
"""


def echo(c, text=b"0123456789"):
    c.sendall(text)
    assert receive_exactly(c, 10) == text


def echo_time(c):
    """Returns the time of an echo on a connection, s: the best of some rounds, because the machine has other work, too."""
    best = 1.0
    for _ in range(3):
        began = time.monotonic()
        for _ in range(ROUNDS):
            echo(c)
        best = min(best, (time.monotonic() - began) / ROUNDS)
    return best


@pytest.mark.timeout(180)
def test_many_connections_at_once_and_one_more_is_refused_cleanly(board, linux):
    run(board, PROGRAM)
    clients = []
    c = linux.socket()
    try:
        with running(board, "serve()") as served:
            time.sleep(0.5)  # it listens
            clients.append(linux.connect(PORT))
            alone = echo_time(clients[0])
            while len(clients) <= CONNECTIONS:
                c.settimeout(1.6)  # one more SYN after the first
                try:
                    c.connect((BOARD, PORT))
                except OSError:
                    break
                c.settimeout(TIMEOUT)
                clients.append(c)
                c = linux.socket()
            c.close()
            many = len(clients)
            among_all = echo_time(clients[-1])
            for client in clients:
                echo(client, b"still here")
            # All at once: what arrives for the others while the board serves one waits there.
            for turn in range(TURNS):
                for i, client in enumerate(clients):
                    client.sendall(b"%4d, %4d" % (turn, i))
                    if i % BURST == BURST - 1:
                        time.sleep(0.02)
                for i, client in enumerate(clients):
                    assert receive_exactly(client, 10) == b"%4d, %4d" % (turn, i)
            # Whoever leaves makes room for one that was refused.
            with pytest.raises(ConnectionResetError):
                clients[0].recv(1)
            clients.pop(0).close()
            clients.append(linux.connect(PORT))
            echo(clients[-1])
        first, last = served.result()
        accepted, refusals, lookup_alone, lookup_among_all = map(float, first.split())
        print(
            f"{many} connections at once; an echo alone: {alone * 1e6:.0f} µs, among all: {among_all * 1e6:.0f} µs; "
            f"a lookup alone: {lookup_alone:.0f} ns, among all: {lookup_among_all:.0f} ns"
        )
        assert accepted == many == int(last) == CONNECTIONS
        assert refusals > 0
        assert lookup_among_all < SLOWER * lookup_alone
        assert among_all < SLOWER_ECHO * alone
    finally:
        for client in [*clients, c]:
            client.close()
