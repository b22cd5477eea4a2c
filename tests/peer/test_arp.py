"""ARP against the Linux kernel's neighbour table."""

import re
import time

from linux import BOARD, BOARD_MAC, LINUX, advance, run, until, value

OTHER = "02:00:00:00:be:ef"


def neighbour(linux):
    """Returns Linux's entry for the board: (MAC address or None, state)."""
    found = re.search(r"(?:lladdr (\S+) )?(\S+) *$", linux.ip("neigh", "show", BOARD).strip())
    return (found[1], found[2]) if found else (None, None)


def entry(board):
    """Returns the board's MAC address for Linux as text, None when it has none."""
    address = bytes(map(int, LINUX.split(".")))
    code = f"""
        e = lan.stack.arp.cache.get({address!r})
        print(None if e is None or e.mac is None else ":".join("%02x" % b for b in e.mac))
    """
    return run(board, code)[0]


def test_linux_resolves_the_board(board, linux):
    linux.ip("neigh", "flush", "all")
    assert board.run(["ping", "-n", "-c", "1", "-W", "2", BOARD], capture_output=True, timeout=10).returncode == 0
    assert neighbour(linux)[0] == BOARD_MAC


def test_the_board_announces_its_address_when_it_comes_up(board, linux):
    with linux.capture() as capture:
        value(board, "lan.active(False)")
        value(board, "lan.active(True)")
        until(lambda: value(board, "lan.isconnected()"), "connected")
        time.sleep(0.2)
    announced = [f for _, from_board, f in capture.frames if from_board and f[12:14] == b"\x08\x06" and f[28:32] == f[38:42]]
    assert announced and announced[0][28:32] == bytes((10, 77, 0, 2)) and announced[0][:6] == b"\xff" * 6


def test_an_aged_entry_is_confirmed_by_a_request_to_the_old_address_alone(board, linux):
    assert value(board, f"lan.ping('{LINUX}', count=1)")[0] is not None
    mac = entry(board)
    with linux.capture() as capture:
        advance(board, 61_000)
        assert value(board, f"lan.ping('{LINUX}', count=1)")[0] is not None
        time.sleep(0.2)
    requests = [f for _, from_board, f in capture.frames if from_board and f[12:14] == b"\x08\x06" and f[21] == 1]
    assert len(requests) == 1 and requests[0][:6] == bytes.fromhex(mac.replace(":", ""))
    assert entry(board) == mac


def test_an_entry_that_nobody_confirms_is_forgotten(board, linux):
    value(board, f"lan.ping('{LINUX}', count=1)")
    linux.ip("link", "set", "tap0", "arp", "off")
    try:
        advance(board, 61_000)
        for _ in range(4):
            value(board, f"lan.ping('{LINUX}', count=1, timeout=0.3)")
            advance(board, 1100)
        value(board, f"lan.ping('{LINUX}', count=1, timeout=0.3)")
        assert entry(board) == "None"
    finally:
        linux.ip("link", "set", "tap0", "arp", "on")
    time.sleep(0.1)
    assert until(lambda: value(board, f"lan.ping('{LINUX}', count=1)")[0] is not None, "Linux is found again")


def test_connecting_to_a_host_that_does_not_exist_fails_in_bounded_time(board):
    code = """
        s = socket.socket()
        start = time.ticks_ms()
        try:
            s.connect(("10.77.0.98", 80))
        except OSError as e:
            print(e.errno == errno.EHOSTUNREACH, 1000 < time.ticks_diff(time.ticks_ms(), start) < 5000)
        s.close()
    """
    before = value(board, "lan.status('counters')['arp']['no answer']")
    assert run(board, code) == ["True True"]
    assert value(board, "lan.status('counters')['arp']['no answer']") > before


def test_requests_for_a_silent_host_are_a_second_apart_and_end(board, linux):
    with linux.capture() as capture:
        value(board, "lan.ping('10.77.0.97', count=1, timeout=4)")
    asked = [at for at, from_board, f in capture.frames if from_board and f[12:14] == b"\x08\x06" and f[41] == 97]
    assert len(asked) == 3
    assert all(later - earlier > 0.95 for earlier, later in zip(asked, asked[1:]))


def test_a_new_mac_address_of_linux_is_followed_within_an_open_connection(board, linux):
    old = linux.ip("-br", "link", "show", "tap0").split()[2]
    with linux.listen(7001) as listener:
        run(board, f"s = socket.socket(); s.connect(('{LINUX}', 7001)); s.settimeout(10); s.send(b'before')")
        with listener.accept()[0] as c:
            assert c.recv(10) == b"before"
            try:
                linux.ip("link", "set", "tap0", "address", OTHER)
                c.sendall(b"news")
                assert value(board, "s.recv(10)") == b"news"
                board.run(["ping", "-n", "-c", "1", "-W", "2", BOARD], capture_output=True, timeout=10)
                linux.ip("neigh", "flush", "all")  # Linux asks for the board, and so shows its new address
                c.sendall(b"more")
                assert value(board, "s.recv(10)") == b"more"
                value(board, "s.send(b'after')")
                assert c.recv(10) == b"after"
                assert entry(board) == OTHER
            finally:
                linux.ip("link", "set", "tap0", "address", old)
                linux.ip("neigh", "flush", "all")
                value(board, "s.close()")


def test_the_boards_own_mac_address_can_be_changed_while_it_is_down(board, linux):
    run(board, "lan.active(False); mac = lan.config('mac'); lan.config(mac=b'\\x02\\0\\0\\0\\xca\\xfe'); lan.active(True)")
    try:
        linux.ip("neigh", "flush", "all")
        assert board.run(["ping", "-n", "-c", "1", "-W", "2", BOARD], capture_output=True, timeout=10).returncode == 0
        assert neighbour(linux)[0] == "02:00:00:00:ca:fe"
    finally:
        run(board, "lan.active(False); lan.config(mac=mac); lan.active(True)")
        linux.ip("neigh", "flush", "all")
