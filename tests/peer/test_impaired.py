"""TCP over a cable that loses, delays, duplicates, reorders and corrupts frames: what arrives is what was sent."""

import contextlib
import hashlib
import random
import threading
import time

import pytest
from impairment import board_cable
from linux import LINUX, Linux, receive_exactly, running, value

from host_tools.virtual_board import VirtualBoard

SIZE = 300_000

ECHO = """
s = socket.socket()
s.connect(("{linux}", {port}))
s.settimeout(30)
buffer = bytearray(3000)
while True:
    n = s.recv_into(buffer)
    if n == 0:
        break
    s.write(buffer, n)
s.close()
"""


@pytest.fixture(scope="module")
def cable():
    """(board, its Linux side, the relay between them)."""
    with contextlib.ExitStack() as stack:
        parts = []

        def before(board):
            linux = stack.enter_context(Linux(board))
            parts.extend((linux, stack.enter_context(board_cable(linux))))

        with VirtualBoard(before=before) as board:
            yield board, *parts
            parts[1].set()
            assert value(board, "(lan.stack.errors, lan.stack.last_error)") == (0, None)


FAULTS = {
    "nothing": {},
    "delay 5 ms": {"delay": 0.005},
    "loss 3 %": {"loss": 0.03},
    "duplication 5 %": {"duplication": 0.05},
    "reordering 20 %": {"reordering": 0.2, "delay": 0.002},
    "corruption 2 %": {"corruption": 0.02},
    "all of it": {"loss": 0.01, "delay": 0.002, "duplication": 0.02, "reordering": 0.05, "corruption": 0.01},
}


@pytest.mark.parametrize("fault", FAULTS)
def test_an_echo_of_300_kB_arrives_intact(cable, fault):
    board, linux, relay = cable
    port = 7100 + list(FAULTS).index(fault)
    data = random.Random(port).randbytes(SIZE)
    relay.set(**FAULTS[fault])
    began = time.monotonic()
    try:
        with (
            linux.listen(port) as listener,
            running(board, ECHO.format(linux=LINUX, port=port), 60),
            listener.accept()[0] as c,
        ):
            c.settimeout(40)

            def feed():
                c.sendall(data)
                c.shutdown(1)

            threading.Thread(target=feed, daemon=True).start()
            got = receive_exactly(c, SIZE)
            assert c.recv(1) == b""
    finally:
        faults = relay.faults
        print(f"{fault}: {time.monotonic() - began:.1f} s, {relay.passed} frames, {faults}")
        relay.set()
    assert hashlib.sha256(got).digest() == hashlib.sha256(data).digest()
    assert fault == "nothing" or fault == "delay 5 ms" or any(faults.values()), "the cable was too good"


def flags(frame):
    """Returns the flags of a TCP segment in a frame, 0 for another frame."""
    return frame[47] if frame[12:14] == b"\x08\x00" and frame[23] == 6 else 0


SYN, SYN_ACK, FIN_ACK = 0x02, 0x12, 0x11


@pytest.mark.parametrize("name, lost", [("SYN", [SYN]), ("SYN+ACK", [SYN_ACK]), ("both", [SYN, SYN_ACK]), ("FIN", [FIN_ACK])])
def test_a_lost_control_segment_is_repeated(cable, name, lost):
    board, linux, relay = cable
    to_lose = list(lost)

    def drop(frame):
        if flags(frame) in to_lose:
            to_lose.remove(flags(frame))
            return True
        return False

    relay.drop = drop
    try:
        with linux.listen(7120) as listener:
            code = f"s = socket.socket(); s.settimeout(20); s.connect(('{LINUX}', 7120)); print(s.recv(5)); s.close()"
            with running(board, code, 30) as future, listener.accept()[0] as c:
                c.sendall(b"hello")
                assert future.result(30) == ["b'hello'"]
                assert c.recv(1) == b""
    finally:
        relay.set()
    assert not to_lose
