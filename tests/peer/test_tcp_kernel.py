"""TCP against the Linux kernel: opening, closing, windows, errors, many connections."""

import errno
import hashlib
import select
import socket
import struct
import time

import pytest
from linux import BOARD, LINUX, advance, linger_zero, receive_all, run, running, until, value

SYN, ACK = 0x02, 0x10
SND_LEN = 13  # as in fast.py

# For the board: says what became of a call.
ATTEMPT = """
def attempt(call, *arguments):
    try:
        print(call(*arguments))
    except OSError as e:
        names = [n for n in dir(errno) if getattr(errno, n) == e.errno]
        print(names[0] if names else e.errno)
"""


@pytest.fixture(scope="module", autouse=True)
def helpers(board):
    run(board, ATTEMPT)


@pytest.fixture(autouse=True)
def no_old_connections(board):
    """Each test begins without connections, those in TIME_WAIT included, and without what a test that failed has left in the board's heap."""
    board.exec("d = s = f = full = poller = c = data = None")  # first, and alone: there may be no memory for more
    code = """
        stack = lan.stack
        stack.enter()
        for listener in list(stack.tcp.listeners.values()):
            listener.close(stack.now())
        stack.tcp.abort_all(stack.now())
        for connection in stack.tcp.connections:
            if connection is not None:
                connection.delete()
        stack.leave()
        listener = connection = None
        del stack
    """
    run(board, code)


@pytest.fixture
def pair(board, linux):
    """(the kernel's socket): a connection that the board has opened, there it is `s`."""
    with linux.listen(7200) as listener:
        run(board, f"s = socket.socket(); s.settimeout(5); s.connect(('{LINUX}', 7200))")
        with listener.accept()[0] as c:
            c.settimeout(10)
            yield c
            run(board, "s.close()")


@pytest.fixture
def guest(board, linux):
    """(the kernel's socket): a connection that Linux has opened, on the board it is `s`."""
    run(board, "d = socket.socket(); d.settimeout(5); d.bind(('', 7201)); d.listen(2)")
    with linux.connect(7201) as c:
        run(board, "s, _ = d.accept(); d.close(); s.settimeout(5)")
        yield c
        run(board, "s.close()")


def connections(board):
    """Returns the states of the board's connections."""
    return value(board, "[c.state for c in lan.stack.tcp.connections if c]")


CLOSED, FIN_WAIT_2, CLOSE_WAIT, TIME_WAIT = 0, 6, 7, 10


# Closing


def test_the_board_closes_first_and_stays_in_time_wait(board, linux, pair):
    assert value(board, "s.close()") is None
    assert pair.recv(10) == b""
    pair.close()
    until(lambda: connections(board) == [TIME_WAIT], "TIME_WAIT")
    advance(board, 61_000)
    until(lambda: connections(board) == [], "its end after 60 s")


def test_linux_closes_first_and_the_board_forgets_at_once(board, pair):
    pair.shutdown(socket.SHUT_RDWR)
    assert value(board, "s.recv(10)") == b""
    run(board, "s.close()")
    until(lambda: connections(board) == [], "no connection left")


def test_both_close_at_once(board, linux, pair):
    run(board, "lan.stack.enter()")  # nothing is received until leave()
    try:
        pair.shutdown(socket.SHUT_WR)
        time.sleep(0.1)
    finally:
        run(board, "c = s._connection; c.shutdown(lan.stack.now()); lan.stack.leave()")
    assert pair.recv(1) == b""
    assert value(board, "s.recv(1)") == b""
    until(lambda: connections(board) == [TIME_WAIT], "TIME_WAIT")
    run(board, "s.close()")
    advance(board, 61_000)
    until(lambda: connections(board) == [], "its end after 60 s")


def test_half_close_by_the_board_leaves_the_other_direction_open(board, pair):
    run(board, "s.send(b'question'); s.shutdown(socket.SHUT_WR)")
    assert receive_all(pair) == b"question"
    until(lambda: connections(board) == [FIN_WAIT_2], "FIN_WAIT_2")
    pair.sendall(b"a long answer " * 400)
    pair.shutdown(socket.SHUT_WR)
    assert value(board, "s.read() == b'a long answer ' * 400")


def test_half_close_by_linux_leaves_the_other_direction_open(board, guest):
    guest.sendall(b"question")
    guest.shutdown(socket.SHUT_WR)
    assert value(board, "s.read()") == b"question"
    assert connections(board) == [CLOSE_WAIT]
    with running(board, "s.write(b'a long answer ' * 400); s.close()"):
        assert receive_all(guest) == b"a long answer " * 400


def test_data_before_the_close_is_delivered_first(board, guest):
    guest.sendall(b"x" * 4000)
    guest.close()
    until(lambda: connections(board) == [CLOSE_WAIT], "CLOSE_WAIT")
    assert value(board, "len(s.read())") == 4000


def test_linux_resets_the_connection(board, guest):
    linger_zero(guest)
    guest.close()
    until(lambda: connections(board) == [CLOSED], "CLOSED")
    assert run(board, "attempt(s.recv, 1); attempt(s.recv, 1); attempt(s.send, b'x')") == ["ECONNRESET", "b''", str(errno.EPIPE)]


def test_the_board_resets_the_connection_with_linger_0(board, pair):
    run(board, "s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0)); s.close()")
    with pytest.raises(ConnectionResetError):
        pair.recv(1)
    assert connections(board) == []


def test_closing_with_unread_data_resets(board, pair):
    pair.sendall(b"never read")
    until(lambda: value(board, "s._connection.readable()"), "arrived")
    run(board, "s.close()")
    with pytest.raises(ConnectionResetError):
        pair.recv(1)


def test_data_for_a_closed_socket_is_answered_with_a_reset(board, pair):
    run(board, "s.close()")
    assert pair.recv(1) == b""
    pair.sendall(b"too late")
    until(lambda: connections(board) == [], "reset")
    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        for _ in range(10):
            pair.sendall(b"much too late")
            time.sleep(0.05)


def test_linger_waits_until_all_has_arrived(board, pair):
    code = """
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 5))
        s.write(bytes(5000))
        c = s._connection
        s.close()
        print(c.tcb[%d])
    """
    with running(board, code % SND_LEN) as future:
        assert receive_all(pair) == bytes(5000)
        assert future.result(10) == ["0"]


# Opening


def test_connection_refused_both_ways(board, linux):
    assert run(board, f"s = socket.socket(); attempt(s.connect, ('{LINUX}', 9)); s.close()") == ["ECONNREFUSED"]
    with pytest.raises(ConnectionRefusedError):
        linux.connect(9)
    assert connections(board) == []


def test_a_connect_that_nobody_answers_ends_with_its_timeout(board, linux):
    with linux.listen(7210, backlog=0) as _listener:
        # A full backlog: the kernel is silent.
        code = f"""
            full = [socket.socket() for _ in range(2)]
            for f in full:
                f.settimeout(0.3)
                attempt(f.connect, ("{LINUX}", 7210))
        """
        run(board, code)
        code = f"""
            s = socket.socket()
            s.settimeout(0.5)
            start = time.ticks_ms()
            attempt(s.connect, ("{LINUX}", 7210))
            print(480 < time.ticks_diff(time.ticks_ms(), start) < 1000)
            s.close()
            for f in full: f.close()
        """
        assert run(board, code) == ["ETIMEDOUT", "True"]
    advance(board, 61_000)
    until(lambda: connections(board) == [], "no connection left")


def test_a_connect_that_nobody_ever_answers_gives_up_by_itself(board, linux):
    # The kernel answers ARP for an address whose packets it then throws away.
    linux.ip("address", "add", "10.77.0.33/32", "dev", "tap0")
    linux.ip("rule", "add", "to", "10.77.0.2", "from", "10.77.0.33", "blackhole")
    try:
        code = """
            s = socket.socket()
            s.setblocking(False)
            attempt(s.connect, ("10.77.0.33", 80))
        """
        with linux.capture() as capture:
            assert run(board, code) == ["EINPROGRESS"]
            for _ in range(11):
                time.sleep(0.15)
                advance(board, 33_000)
            time.sleep(0.2)
        assert [s.flags for s in capture.tcp(80) if s.from_board] == [SYN] * 8  # SYN_TRIES
        assert run(board, "print(s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ETIMEDOUT); s.close()") == ["True"]
    finally:
        linux.ip("rule", "del", "to", "10.77.0.2", "from", "10.77.0.33", "blackhole")
        linux.ip("address", "del", "10.77.0.33/32", "dev", "tap0")


def test_the_options_of_the_handshake(board, linux):
    with linux.capture() as capture, linux.listen(7202) as listener:
        run(board, f"s = socket.socket(); s.connect(('{LINUX}', 7202))")
        listener.accept()[0].close()
        run(board, "s.close()")
        time.sleep(0.1)
    syn, syn_ack, ack = capture.tcp(7202)[:3]
    assert (syn.flags, syn_ack.flags, ack.flags) == (SYN, SYN | ACK, ACK)
    assert syn.options[:4] == b"\x02\x04" + struct.pack(">H", 1460)
    assert syn_ack.ack == syn.seq + 1 & 0xFFFFFFFF and ack.ack == syn_ack.seq + 1 & 0xFFFFFFFF


def test_a_small_mss_of_the_peer_is_obeyed(board, linux):
    linux.ip("route", "replace", "10.77.0.0/24", "dev", "tap0", "src", LINUX, "advmss", "500")
    try:
        with linux.capture() as capture, linux.listen(7203) as listener:
            with running(board, f"s = socket.socket(); s.connect(('{LINUX}', 7203)); s.write(bytes(5000)); s.close()"):
                with listener.accept()[0] as c:
                    assert receive_all(c) == bytes(5000)
        lengths = [len(s.data) for s in capture.tcp(7203) if s.from_board and s.data]
        assert max(lengths) == 488 and len(lengths) == 11  # 12 bytes of each segment are for timestamps
    finally:
        linux.ip("route", "replace", "10.77.0.0/24", "dev", "tap0", "src", LINUX)


# Data


def test_the_window_closes_when_nobody_reads_and_opens_again(board, linux, pair):
    data = bytes(i & 255 for i in range(30_000))
    with linux.capture() as capture:
        pair.setblocking(False)
        sent = 0
        for _ in range(10):
            try:
                sent += pair.send(data[sent:])
            except BlockingIOError:
                pass
            if sent == len(data):
                break
            time.sleep(0.02)
        time.sleep(1.2)  # long enough for probes
        waiting = value(board, "s._connection.readable()")
        assert waiting == value(board, "s.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)")
        pair.settimeout(10)
        code = """
            import hashlib
            h = hashlib.sha256()
            n = 30000
            while n:
                data = s.recv(min(n, 1000))
                n -= len(data)
                h.update(data)
            print(h.digest().hex())
        """
        with running(board, code) as future:
            pair.sendall(data[sent:])
            assert future.result(10) == [hashlib.sha256(data).hexdigest()]
    segments = capture.tcp(7200)
    assert any(s.from_board and s.window == 0 for s in segments)
    probes = [s for s in segments if not s.from_board and len(s.data) == 0]
    assert probes, "the kernel did not probe the window"


def test_the_board_waits_while_the_window_of_linux_is_closed_and_goes_on(board, linux):
    with linux.listen(7204) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        code = f"""
            s = socket.socket()
            s.connect(("{LINUX}", 7204))
            s.settimeout(10)
            for i in range(100):
                s.write(bytes((i,)) * 1000)
            s.close()
        """
        with running(board, code) as future, listener.accept()[0] as c:
            time.sleep(1.5)
            assert not future.done()
            got = receive_all(c)
    assert got == b"".join(bytes((i,)) * 1000 for i in range(100))


def small_writes(board, linux, nodelay, port):
    """Lets the board write 20 times 10 bytes at once; returns how many segments came."""
    with linux.capture() as capture, linux.listen(port) as listener:
        code = f"""
            s = socket.socket()
            s.connect(("{LINUX}", {port}))
            s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, {nodelay})
            for _ in range(20):
                s.write(b"0123456789")
            time.sleep_ms(200)
            s.close()
        """
        with running(board, code), listener.accept()[0] as c:
            assert receive_all(c) == b"0123456789" * 20
    # One may come twice: when the board is late to see the ACKs, it sends a tail loss probe (RFC 8985 section 7).
    return len({s.seq for s in capture.tcp(port) if s.from_board and s.data})


def test_nagle_gathers_small_writes(board, linux):
    assert small_writes(board, linux, 0, 7205) <= 5


def test_without_nagle_each_write_is_a_segment(board, linux):
    assert small_writes(board, linux, 1, 7206) == 20


def test_a_single_small_segment_is_acknowledged_within_the_delay(board, linux, pair):
    with linux.capture() as capture:
        pair.sendall(b"x")
        time.sleep(0.3)
    data, ack = [s for s in capture.tcp(7200)][:2]
    assert data.data == b"x" and ack.from_board and ack.ack == data.seq + 1
    assert ack.time - data.time < 0.2


def test_urgent_data_arrives_in_line(board, pair):
    pair.sendall(b"before ")
    pair.send(b"!", socket.MSG_OOB)
    pair.sendall(b" after")
    pair.shutdown(socket.SHUT_WR)
    assert value(board, "s.read()") == b"before ! after"


def test_keepalive_probes_of_linux_are_answered(board, linux):
    run(board, "d = socket.socket(); d.settimeout(5); d.bind(('', 7207)); d.listen(2)")
    options = [
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 1),
    ]
    with linux.connect(7207, options) as c:
        run(board, "s, _ = d.accept(); d.close()")
        time.sleep(2.5)
        c.sendall(b"still there")
        assert value(board, "s.recv(20)") == b"still there"
    run(board, "s.close()")


# Many


def test_100_connections_one_after_the_other_leave_no_memory_behind(board, linux):
    with linux.listen(7208) as listener:
        run(board, f"""
def once():
    s = socket.socket()
    s.connect(("{LINUX}", 7208))
    s.write(b"hello")
    s.read()
    s.close()
""")

        def round():
            with running(board, "once()"):
                with listener.accept()[0] as c:
                    assert c.recv(5) == b"hello"
                    c.shutdown(socket.SHUT_WR)
                    assert c.recv(1) == b""

        for _ in range(3):
            round()
        advance(board, 61_000)
        until(lambda: connections(board) == [], "no connection left")
        before = value(board, "(gc.collect(), gc.mem_alloc())[1]")
        for _ in range(100):
            round()
        advance(board, 61_000)
        until(lambda: connections(board) == [], "no connection left")
        after = value(board, "(gc.collect(), gc.mem_alloc())[1]")
    # One buffer may look used: the collector takes any word for an address. 80 bytes for each connection would be more.
    assert after - before < 1024 + 6000, f"{after - before} bytes"


def test_a_port_is_used_again_while_time_wait_lasts(board, linux):
    """Linux opens the same pair of ports anew: TIME_WAIT gives way to the new SYN (RFC 9293 section 3.10.7.4)."""
    run(board, "d = socket.socket(); d.settimeout(5); d.bind(('', 7209)); d.listen(2)")
    for _ in range(3):
        c = linux.socket(bind=(LINUX, 40_001), options=[(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)])
        c.connect((BOARD, 7209))
        run(board, "s, _ = d.accept(); s.send(b'bye'); s.close()")  # the board closes first
        assert receive_all(c) == b"bye"
        c.close()
        until(lambda: TIME_WAIT in connections(board), "TIME_WAIT")
    run(board, "d.close()")
    advance(board, 61_000)
    until(lambda: connections(board) == [], "its end after 60 s")


def test_20_clients_at_the_same_time(board, linux):
    """Twenty connections fit into the heap with small buffers, and all are served at once."""
    code = """
        d = socket.socket()
        d.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 536)
        d.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 536)
        d.bind(("", 7220))
        d.listen(20)
    """
    run(board, code)
    clients = []
    while len(clients) < 20:
        # Of twenty SYNs at once the EMAC would lose those that find no descriptor, and Linux repeats a SYN only after a second.
        burst = [linux.socket() for _ in range(4)]
        for c in burst:
            c.setblocking(False)
            assert c.connect_ex((BOARD, 7220)) == errno.EINPROGRESS
        clients += burst
        for c in burst:
            assert select.select([], [c], [], 5)[1], f"{len(clients)} clients"
            c.settimeout(10)
    code = """
        d.settimeout(5)
        poller = select.poll()
        for _ in range(20):
            poller.register(d.accept()[0], select.POLLIN)
        d.close()
        served = 0
        while served < 20:
            for s, event in poller.poll(5000):
                data = s.read(8)
                s.write(data * 50)
                poller.unregister(s)
                s.close()
                served += 1
        print(served, lan.stack.errors)
        del poller, s
    """
    with running(board, code) as future:
        for i, c in reversed(list(enumerate(clients))):
            c.sendall(b"%08d" % i)
        for i, c in enumerate(clients):
            assert receive_all(c) == b"%08d" % i * 50
            c.close()
        assert future.result(20) == ["20 0"]


def test_a_full_backlog_is_silent_and_the_client_gets_in_later(board, linux):
    code = """
        d = socket.socket()
        d.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1460)  # a heap in use may have no room for two of the usual size
        d.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1460)
        d.bind(("", 7221))
        d.listen(1)
    """
    before = value(board, "lan.status('counters')['tcp']['backlog full']")
    run(board, code)
    with linux.connect(7221) as first:
        second = linux.socket()
        second.setblocking(False)
        second.connect_ex((BOARD, 7221))
        until(lambda: value(board, "lan.status('counters')['tcp']['backlog full']") > before, "dropped")
        run(board, "d.settimeout(5); a, _ = d.accept(); a.close()")
        second.settimeout(5)
        second.sendall(b"made it")  # by the SYN's retransmission, 1 s later
        run(board, "b, _ = d.accept(); d.close(); b.settimeout(5)")
        assert value(board, "b.recv(10)") == b"made it"
        run(board, "b.close()")
        first.close()
        second.close()
