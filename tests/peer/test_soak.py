"""Many connections, opened and closed one after another, leave the board's memory as it was.

In `make test` some hundred each way; `make soak` runs 10,000 (CONNECTIONS=).
"""

import os
import threading
import time

import pytest
from linux import LINUX, linger_zero, receive_exactly, run, running, value

CONNECTIONS = int(os.environ.get("SOAK", 400))
WARM_UP = 100
TOLERANCE = 512  # bytes of heap: what dictionaries and lists may have grown to meanwhile
TRIES = 5  # The collector takes a number on the stack for a reference and keeps a buffer; after other connections it is another number, or none.
TIMEOUT = 60 + CONNECTIONS / 20  # s; 20 connections a second are slow
TIME_WAIT = 10  # as in fast.py
MESSAGE = b"0123456789" * 7

pytestmark = pytest.mark.timeout(TIMEOUT + 60)

# In functions: their variables are no globals, whose dictionary would grow.
PROGRAM = f"""
def client(n):
    for _ in range(n):
        s = socket.socket()
        # Small, because the peer may be late with its FIN, and until then a closed connection keeps its buffers.
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1024)
        s.settimeout(20)
        s.connect(("{LINUX}", 7300))
        s.write({MESSAGE})
        assert s.read({len(MESSAGE)}) == {MESSAGE}
        s.close()

def listen():
    s = socket.socket()
    s.bind(("", 7301))
    s.listen(4)
    s.settimeout(20)
    return s

def server(listener, n):
    for _ in range(n):
        s, _ = listener.accept()
        s.settimeout(20)
        s.write(s.read({len(MESSAGE)}))
        try:
            s.read(1)  # until Linux closes
        except OSError as e:
            assert e.errno == errno.ECONNRESET
        s.close()

def free():
    for _ in range(100):  # until what is on its way has arrived; of those in TIME_WAIT there are as many as there may be
        time.sleep_ms(20)
        lan.stack.poll()
        if all(c is None or c.state == {TIME_WAIT} for c in lan.stack.tcp.connections):
            break
    gc.collect()
    return gc.mem_free()
"""


def check(board, what, some):
    """Measures the heap after `some(WARM_UP)` and after the rest, compares, and reports the rate."""
    some(WARM_UP)
    first = value(board, "free()")
    began = time.monotonic()
    some(CONNECTIONS - WARM_UP)
    rate = (CONNECTIONS - WARM_UP) / (time.monotonic() - began)
    last = value(board, "free()")
    for _ in range(TRIES):
        if last >= first - TOLERANCE:
            break
        some(7)
        last = max(last, value(board, "free()"))
    print(f"{what}: {CONNECTIONS} connections, {rate:.0f}/s; free heap after {WARM_UP}: {first}, at the end: {last}")
    assert last >= first - TOLERANCE


def test_the_board_as_client_has_the_same_memory_after_many_connections(board, linux):
    def serve(n):
        for _ in range(n):
            with listener.accept()[0] as c:
                c.sendall(receive_exactly(c, len(MESSAGE)))
                c.recv(1)  # until the board closes

    def some(n):
        thread = threading.Thread(target=serve, args=[n], daemon=True)
        thread.start()
        run(board, f"client({n})", TIMEOUT)
        thread.join(10)
        assert not thread.is_alive()

    with linux.listen(7300) as listener:
        run(board, PROGRAM)
        check(board, "client", some)


def test_the_board_as_server_has_the_same_memory_after_many_connections(board, linux):
    def some(n):
        with running(board, f"server(listener, {n})", TIMEOUT):
            for i in range(n):
                with linux.connect(7301) as c:
                    c.sendall(MESSAGE)
                    assert receive_exactly(c, len(MESSAGE)) == MESSAGE
                    if i % 10 == 9:
                        linger_zero(c)  # now and then a peer aborts

    run(board, PROGRAM + "listener = listen()")
    check(board, "server", some)
    run(board, "listener.close()")
