"""Bulk data over one TCP connection to the Linux kernel, with the board's heap locked: the data path allocates nothing."""

import hashlib
import random
import threading
import time

import pytest
from linux import LINUX, Linux, receive_all, receive_exactly, run, running, value

from host_tools.virtual_board import VirtualBoard

BLOCK = 4096
BLOCKS = 5120
SIZE = BLOCK * BLOCKS  # 20 MiB

# In a function, because a new global may enlarge the dictionary of globals.
LOCKED = """
def locked(transfer):
    import micropython
    micropython.heap_lock()
    try:
        transfer()
    finally:
        micropython.heap_unlock()
"""


@pytest.fixture(scope="module", params=[("tap", 32), ("tap", 64), ("emac", 32)], ids=["tap-32", "tap-64", "emac-32"])
def board(request):
    driver, bits = request.param
    # Objects of the 64-bit interpreter are twice as large.
    with VirtualBoard(driver=driver, bits=bits, heap={32: "160k", 64: "320k"}[bits]) as board:
        if board.description["interpreter"]["bits"] != bits:
            pytest.skip(f"there is no {bits}-bit MicroPython here")
        run(board, LOCKED)
        yield board
        assert value(board, "(lan.stack.errors, lan.stack.last_error)") == (0, None)


@pytest.fixture(scope="module")
def linux(board):
    with Linux(board) as linux:
        yield linux


def report(what, began):
    print(f"{what}: {SIZE / (time.monotonic() - began) / 1e6:.1f} MB/s")


def block(i):
    """Block i of the board's data: random bytes with the block's number in front, so that no two are the same."""
    return i.to_bytes(4, "little") + random.Random(7).randbytes(BLOCK - 4)


def test_20_MB_to_the_board_with_its_heap_locked(board, linux):
    data = random.Random(1).randbytes(SIZE)
    receiving = f"""
        import hashlib
        s = socket.socket()
        s.connect(("{LINUX}", 7010))
        h = hashlib.sha256()
        buffer = bytearray({BLOCK})
        def transfer():
            for _ in range({BLOCKS}):
                s.readinto(buffer)
                h.update(buffer)
        locked(transfer)
        print(h.digest().hex(), s.recv(1))
        print(lan.stack.errors)
        s.close()
    """
    with linux.listen(7010) as listener:
        with running(board, receiving, 60) as future, listener.accept()[0] as c:
            began = time.monotonic()
            c.settimeout(60)
            c.sendall(data)
            c.shutdown(1)
            assert future.result(60) == [f"{hashlib.sha256(data).hexdigest()} b''", "0"]
            report("Linux to board", began)


def test_20_MB_from_the_board_with_its_heap_locked(board, linux):
    sending = f"""
        import hashlib
        s = socket.socket()
        s.connect(("{LINUX}", 7011))
        h = hashlib.sha256()
        buffer = bytearray(4) + s.recv({BLOCK - 4})
        while len(buffer) < {BLOCK}:
            buffer += s.recv({BLOCK} - len(buffer))
        s.sendall(buffer)  # the send buffer comes with the first bytes
        h.update(buffer)
        def transfer():
            for i in range(1, {BLOCKS}):
                buffer[0] = i & 255
                buffer[1] = i >> 8
                h.update(buffer)
                s.sendall(buffer)
        locked(transfer)
        s.close()
        print(h.digest().hex())
        print(lan.stack.errors)
    """
    body = block(0)[4:]
    expected = hashlib.sha256()
    for i in range(BLOCKS):
        expected.update(i.to_bytes(4, "little") + body)
    with linux.listen(7011) as listener:
        with running(board, sending, 60) as future, listener.accept()[0] as c:
            began = time.monotonic()
            c.sendall(body)
            c.settimeout(60)
            data = receive_all(c)
            report("board to Linux", began)
        assert future.result(60) == [expected.hexdigest(), "0"]
        assert len(data) == SIZE and hashlib.sha256(data).hexdigest() == expected.hexdigest()


def test_5_MB_of_echo_in_reads_of_random_sizes_with_the_heap_locked(board, linux):
    size = 5_000_000
    echo = f"""
        s = socket.socket()
        s.connect(("{LINUX}", 7012))
        buffer = bytearray(5000)
        s.write(buffer, s.recv_into(buffer))  # the send buffer comes with the first bytes
        def transfer():
            seed = n = 1
            while n:
                seed = seed * 77 + 29 & 0xFFFF
                n = s.recv_into(buffer, seed % 4999 + 1)
                s.write(buffer, n)
        locked(transfer)
        s.close()
        print(lan.stack.errors)
    """
    data = random.Random(2).randbytes(size)
    with linux.listen(7012) as listener:
        with running(board, echo, 60) as future, listener.accept()[0] as c:
            c.settimeout(60)

            def feed():
                rest = memoryview(data)
                sizes = random.Random(3)
                while rest:
                    n = sizes.randint(1, 20_000)
                    c.sendall(rest[:n])
                    rest = rest[n:]
                c.shutdown(1)

            feeder = threading.Thread(target=feed, daemon=True)
            feeder.start()
            got = receive_exactly(c, size)
            assert c.recv(1) == b""
            feeder.join(10)
        assert future.result(60) == ["0"]
    assert hashlib.sha256(got).digest() == hashlib.sha256(data).digest()


def test_a_clean_transfer_has_no_retransmission_and_no_superfluous_ack(board, linux):
    size = 1_000_000
    echo = f"""
        s = socket.socket()
        s.connect(("{LINUX}", 7013))
        buffer = bytearray(4000)
        n = {size}
        while n:
            n -= s.readinto(buffer, min(n, 4000))
        n = {size}
        while n:
            n -= s.write(buffer, min(n, 4000))
        s.close()
    """
    linux.patient()
    with linux.listen(7013) as listener, linux.capture() as capture:
        with running(board, echo, 60) as future, listener.accept()[0] as c:
            c.sendall(bytes(size))
            assert len(receive_all(c)) == size
        future.result(30)
    segments = capture.tcp(7013)
    for from_board in True, False:
        sent = [s for s in segments if s.from_board == from_board and s.data]
        assert sum(len(s.data) for s in sent) == size, "something was sent twice"
        assert all((b.seq - a.seq) & 0xFFFFFFFF == len(a.data) for a, b in zip(sent, sent[1:])), "out of order"
    bare = [s for s in segments if s.from_board and s.flags == 0x10 and not s.data]
    same = [b for a, b in zip(bare, bare[1:]) if (a.ack, a.window) == (b.ack, b.window)]
    assert not same, f"{len(same)} duplicate ACKs of {len(bare)}: {same[:5]}"
    # Every second full segment is acknowledged (RFC 9293 section 3.8.6.3), those that waited together once; window updates come on top.
    assert size / 1460 / 8 * 0.9 < len(bare) < size / 1460 * 1.5, len(bare)
