"""As many connections at once as the board's heap holds; one more is refused cleanly, and none slows the others down."""

import time

import pytest
from linux import BOARD, receive_exactly, run, running, until, value

CONNECTIONS = 15  # established at once, with buffers of 1 KB each way; what the heap has room for now, the aim is 64
LIMIT = 64  # of the stack's table (tcp.CONNECTIONS)
BUFFER = 1024  # bytes, each way
PORT = 7400
ROUNDS = 300
SLOWER = 1.5  # at most, for an echo among all, in comparison with an echo alone

PROGRAM = f"""
def listen():
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, {BUFFER})
    s.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, {BUFFER})
    s.bind(("", {PORT}))
    s.listen(2)
    s.settimeout(0)
    return s

def accept():
    try:
        s, (_, port) = listener.accept()
    except OSError as e:
        if e.errno != errno.EAGAIN:
            raise
    else:
        s.settimeout(10)
        accepted[port] = s
    gc.collect()
    return len(accepted)

def echo(port, n):
    s = accepted[port]
    buffer = bytearray(10)
    for _ in range(n):
        s.readinto(buffer)
        s.write(buffer)

def close(port):
    accepted.pop(port).close()

accepted = {{}}
listener = listen()
"""


def echo_time(board, c):
    """Returns the time of an echo on a connection, s: the best of some rounds, because the machine has other work, too."""
    port, best = c.getsockname()[1], 1.0
    for _ in range(3):
        with running(board, f"echo({port}, {ROUNDS})"):
            began = time.monotonic()
            for _ in range(ROUNDS):
                c.sendall(b"0123456789")
                assert receive_exactly(c, 10) == b"0123456789"
            best = min(best, (time.monotonic() - began) / ROUNDS)
    return best


def refusals(board):
    return value(board, "sum(lan.status('counters')['tcp'][name] for name in ('out of memory', 'backlog full'))")


@pytest.mark.timeout(180)
def test_many_connections_at_once_and_one_more_is_refused_cleanly(board, linux):
    run(board, PROGRAM)
    clients = []
    try:
        while len(clients) <= LIMIT:
            c = linux.socket()
            c.settimeout(1.6)  # one more SYN after the first
            try:
                c.connect((BOARD, PORT))
            except OSError:
                break
            clients.append(c)
            until(lambda: value(board, "accept()") == len(clients), f"connection {len(clients)}")
            if len(clients) == 1:
                alone = echo_time(board, c)
        many = len(clients)
        among_all = echo_time(board, clients[-1])
        print(f"{many} connections at once; an echo alone: {alone * 1e6:.0f} µs, among all: {among_all * 1e6:.0f} µs")
        assert CONNECTIONS <= many <= LIMIT
        assert refusals(board) > 0
        assert value(board, "(lan.stack.errors, lan.stack.last_error)") == (0, None)
        for client in clients:
            with running(board, f"echo({client.getsockname()[1]}, 1)"):
                client.sendall(b"still here")
                assert receive_exactly(client, 10) == b"still here"
        assert among_all < SLOWER * alone
        # Whoever leaves makes room for the one that was refused.
        run(board, f"close({clients[0].getsockname()[1]})")
        clients.pop(0).close()
        c.close()
        c = linux.connect(PORT)
        clients.append(c)
        until(lambda: value(board, "accept()") == many, "the one that was refused")
    finally:
        for client in [*clients, c]:
            client.close()
        run(board, "listener.close()\nfor s in accepted.values(): s.close()\ndel accepted")
