"""IP options between the board and the Linux kernel, which here follows source routes: it is the router on the way, and the host at its end."""

import socket
import struct

import pytest
from linux import BOARD, LINUX, receive_exactly, run, running, value

BEHIND = "10.99.0.1"  # an address of Linux that is not on the cable
RECORD = bytes((7, 15, 4)) + bytes(12) + b"\0"
IP_RECVOPTS = 6
SIZE = 50_000


def packed(*addresses):
    return b"".join(map(socket.inet_aton, addresses))


def route(pointer, *addresses):
    return bytes((131, 3 + 4 * len(addresses), pointer)) + packed(*addresses)


@pytest.fixture(scope="module", autouse=True)
def routed(board, linux):
    """Linux follows source routes, on every interface, and has an address behind them; the board knows the way there."""
    for interface in ("all", "lo", "tap0"):
        linux.sysctl(f"net.ipv4.conf.{interface}.accept_source_route", 1)
        linux.sysctl(f"net.ipv4.conf.{interface}.rp_filter", 0)
        linux.sysctl(f"net.ipv4.conf.{interface}.accept_local", 1)
    linux.sysctl("net.ipv4.ip_forward", 1)
    linux.ip("address", "add", f"{BEHIND}/32", "dev", "lo")
    linux.ip("link", "set", "lo", "up")
    run(board, f"lan.stack.ip.gateway = {packed(LINUX)!r}")


def options(capture, from_board):
    """Returns the set of (destination, IP options) of the TCP segments in one direction."""
    frames = [f for _, ours, f in capture.frames if ours == from_board and f[12:14] == b"\x08\0" and f[23] == 6]
    return {(f[30:34], f[34 : 14 + (f[14] & 15) * 4]) for f in frames}


def test_a_ping_records_its_route(board):
    done = board.run(["ping", "-n", "-R", "-c", "1", "-W", "2", BOARD], capture_output=True, text=True, timeout=10)
    assert done.returncode == 0 and f"RR: \t{LINUX}\n\t{BOARD}\n" in done.stdout, done.stdout


def test_options_of_datagrams_both_ways(board, linux):
    with linux.udp(7001) as s:
        s.setsockopt(socket.IPPROTO_IP, IP_RECVOPTS, 1)
        run(
            board,
            f"""
            s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            s.bind(("", 7000))
            s.settimeout(5)
            s.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, {RECORD!r})
            s.setsockopt(socket.IPPROTO_IP, socket.IP_RECVOPTS, 1)
            s.setsockopt(socket.IPPROTO_IP, socket.IP_PKTINFO, 1)
            s.sendto(b"question", ("{LINUX}", 7001))
            """,
        )
        data, ancillary, _, address = s.recvmsg(100, 200)
        assert (data, address) == (b"question", (BOARD, 7000))
        # Linux has entered itself.
        assert [item[2][:7] for item in ancillary] == [b"\x07\x0f\x08" + packed(LINUX)]
        s.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, RECORD)
        s.sendto(b"answer", (BOARD, 7000))
    data, told, flags, address = value(board, "s.recvmsg(100, 100)")
    assert (data, flags, address) == (b"answer", 0, (LINUX, 7001))
    assert told == [(0, 8, struct.pack("<I", 1) + packed(BOARD, BOARD)), (0, 6, b"\x07\x0f\x08" + packed(LINUX) + bytes(8) + b"\0")]
    run(board, "s.close()")


@pytest.mark.parametrize("given", [RECORD, route(4, LINUX)], ids=["record-route", "source-route"])
def test_a_connection_of_the_board_with_options(board, linux, given):
    listener = linux.socket(bind=(BEHIND, 7002), options=[(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)])
    listener.listen(1)
    code = f"""
        s = socket.socket()
        s.settimeout(10)
        s.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, {given!r})
        s.connect(("{BEHIND}", 7002))
        data = bytes(range(250)) * 4
        for i in range({SIZE // 1000}):
            s.sendall(data)
        for i in range({SIZE // 1000}):
            part = s.read(1000)
            assert part == data, (i, part)
        assert s.read(1) == b""
        s.close()
    """
    with listener, linux.capture() as capture, running(board, code):
        s, address = listener.accept()
        with s:
            s.settimeout(10)
            assert address[0] == BOARD
            data = receive_exactly(s, SIZE)
            assert data == bytes(range(250)) * (SIZE // 250)
            s.sendall(data)
    first, wire = (LINUX, route(4, BEHIND) + b"\0") if given[0] == 131 else (BEHIND, RECORD)
    assert options(capture, True) == {(packed(first), wire)}


def test_a_connection_to_the_board_by_a_source_route(board, linux):
    code = f"""
        l = socket.socket()
        l.settimeout(10)
        l.bind(("", 7003))
        l.listen(1)
        print("ready")
        s, address = l.accept()
        s.settimeout(10)
        data = s.read({SIZE // 10})
        for i in range(10):
            s.sendall(data)
        print(s.getsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS))
        s.close()
        l.close()
    """
    with linux.capture() as capture, running(board, code) as done:
        client = linux.socket(bind=(BEHIND, 0), options=[(socket.IPPROTO_IP, socket.IP_OPTIONS, route(4, LINUX))])
        with client:
            for _ in range(100):
                try:
                    client.connect((BOARD, 7003))
                    break
                except (ConnectionRefusedError, ConnectionAbortedError):  # the second is how Linux answers a connect() after the first
                    pass
            data = bytes(range(250)) * (SIZE // 2500)
            client.sendall(data)
            assert receive_exactly(client, SIZE) == data * 10
            assert client.recv(1) == b""
        assert eval(done.result(10)[-1]) == route(4, LINUX)
    assert (packed(LINUX), route(4, BEHIND) + b"\0") in options(capture, True)
