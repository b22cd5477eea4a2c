"""Many connections, opened and closed one after another, leave the board's memory as it was.

In `make test` some hundred each way; `make soak` runs 10,000 (CONNECTIONS=).
"""

import os
import threading
import time

import pytest
from linux import LINUX, linger_zero, receive_exactly, run, running

CONNECTIONS = int(os.environ.get("SOAK", 400))
WARM_UP = 100
TOLERANCE = 512  # bytes of heap: what dictionaries and lists may have grown to meanwhile
TIMEOUT = 60 + CONNECTIONS / 20  # s; 20 connections a second are slow
MESSAGE = b"0123456789" * 7

pytestmark = pytest.mark.timeout(TIMEOUT + 60)

# In a function: its variables are no globals whose dictionary grows. Each prints the free heap after WARM_UP connections and at the end.
AS_CLIENT = f"""
def client():
    for i in range({CONNECTIONS}):
        s = socket.socket()
        s.settimeout(20)
        s.connect(("{LINUX}", 7300))
        s.write({MESSAGE})
        assert s.read({len(MESSAGE)}) == {MESSAGE}
        s.close()
        if i + 1 in ({WARM_UP}, {CONNECTIONS}):
            settle()
            print(gc.mem_free(), time.ticks_ms())
"""
AS_SERVER = f"""
def server():
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("0.0.0.0", 7301))
    listener.listen(4)
    listener.settimeout(20)
    print("listening")
    for i in range({CONNECTIONS}):
        s, _ = listener.accept()
        s.settimeout(20)
        s.write(s.read({len(MESSAGE)}))
        try:
            s.read(1)  # until Linux closes
        except OSError as e:
            assert e.errno == errno.ECONNRESET
        s.close()
        if i + 1 in ({WARM_UP}, {CONNECTIONS}):
            settle()
            print(gc.mem_free(), time.ticks_ms())
    listener.close()
"""
# What is on its way out has left after this, and the table of those that wait (TIME_WAIT) is as full as it gets: it is bounded.
SETTLE = """
def settle():
    for _ in range(20):
        lan.stack.poll()
        time.sleep_ms(10)
    gc.collect()
"""


def check(lines):
    """Compares what the board printed, and reports the rate."""
    (first, began), (last, ended) = (map(int, line.split()) for line in lines)
    rate = (CONNECTIONS - WARM_UP) / max((ended - began) / 1000 - 0.2, 0.001)
    print(f"{CONNECTIONS} connections, {rate:.0f}/s; free heap after {WARM_UP}: {first}, at the end: {last}")
    assert last >= first - TOLERANCE


def test_the_board_as_client_has_the_same_memory_after_many_connections(board, linux):
    def serve(listener):
        for _ in range(CONNECTIONS):
            c = listener.accept()[0]
            with c:
                c.sendall(receive_exactly(c, len(MESSAGE)))
                c.recv(1)  # until the board closes

    with linux.listen(7300) as listener:
        thread = threading.Thread(target=serve, args=[listener], daemon=True)
        thread.start()
        run(board, SETTLE + AS_CLIENT)
        check(run(board, "client()", TIMEOUT))
        thread.join(10)
        assert not thread.is_alive()


def test_the_board_as_server_has_the_same_memory_after_many_connections(board, linux):
    run(board, SETTLE + AS_SERVER)
    with running(board, "server()", TIMEOUT) as future:
        time.sleep(0.5)
        for i in range(CONNECTIONS):
            with linux.connect(7301) as c:
                c.sendall(MESSAGE)
                assert receive_exactly(c, len(MESSAGE)) == MESSAGE
                if i % 10 == 9:
                    linger_zero(c)  # a peer that aborts, now and then
    lines = future.result(TIMEOUT)
    assert lines.pop(0) == "listening"
    check(lines)
