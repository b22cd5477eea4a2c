"""ICMP against the Linux kernel."""

import re
import socket
import struct
import time

import pytest
from linux import BOARD, LINUX, checksum, run, running, until, value


def ping(board, *arguments):
    """Runs Linux's ping to the board; returns (sent, received)."""
    done = board.run(["ping", "-n", *map(str, arguments), BOARD], capture_output=True, text=True, timeout=30)
    found = re.search(r"(\d+) packets transmitted, (\d+) received", done.stdout)
    assert found, done.stdout + done.stderr
    return int(found[1]), int(found[2])


@pytest.mark.parametrize("size", [0, 1, 17, 56, 57, 1471, 1472, 1473, 4000, 8000])
def test_linux_gets_its_bytes_back(board, size):
    # ping compares the payload itself and says so. Without -w it waits no longer than two round trips of the first.
    done = board.run(["ping", "-n", "-c", "2", "-i", "0.01", "-w", "5", "-s", str(size), BOARD], capture_output=True, text=True, timeout=10)
    assert "2 received" in done.stdout and "wrong data" not in done.stdout, done.stdout


def test_a_flood_of_1000_is_answered_while_a_program_waits_in_a_socket_call(board, linux):
    code = "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('', 7)); s.recv(10); s.close()"
    with running(board, code), linux.udp() as s:
        time.sleep(0.1)
        sent, received = ping(board, "-f", "-c", 1000, "-w", 15)
        s.sendto(b"enough", (BOARD, 7))
    assert sent >= 1000 and received >= 990


def test_a_flood_is_answered_while_the_prompt_waits(board):
    assert ping(board, "-f", "-c", 100, "-w", 15) == (100, 100)


def test_a_flood_does_not_keep_the_program_from_running(board, linux):
    echo = linux.socket(socket.SOCK_RAW, protocol=socket.IPPROTO_ICMP)
    request = struct.pack(">BBHHH", 8, 0, 0, 7, 1) + bytes(56)
    request = request[:2] + checksum(request) + request[4:]
    began = time.monotonic()
    for _ in range(300):
        echo.sendto(request, (BOARD, 0))
    assert value(board, "6 * 7") == 42
    assert time.monotonic() - began < 5


def test_an_echo_request_to_a_broadcast_address_is_not_answered(board, linux):
    linux.sysctl("net.ipv4.icmp_echo_ignore_broadcasts", 1)
    before = value(board, "lan.status('counters')['icmp']['broadcast']")
    for broadcast in "10.77.0.255", "255.255.255.255":
        done = board.run(
            ["ping", "-n", "-b", "-c", "1", "-W", "0.3", "-I", "tap0", broadcast], capture_output=True, text=True, timeout=10
        )
        assert "0 received" in done.stdout, done.stdout + done.stderr
    until(lambda: value(board, "lan.status('counters')['icmp']['broadcast']") == before + 2, "both are counted")


@pytest.mark.parametrize("size", [0, 1, 56, 1472, 1473, 4000])
def test_the_board_pings_linux(board, size):
    times = value(board, f"lan.ping('{LINUX}', count=3, size={size})")
    assert len(times) == 3 and all(t is not None and t < 500 for t in times)


def test_the_board_pings_a_host_that_does_not_exist(board):
    began = time.monotonic()
    assert value(board, "lan.ping('10.77.0.99', count=2, timeout=0.5)") == [None, None]
    assert time.monotonic() - began < 3


def test_a_ping_larger_than_ip_can_carry_is_refused(board):
    code = f"""
        try:
            lan.ping("{LINUX}", size=65508)
        except OSError as e:
            print(e.errno == barenet.errors.EMSGSIZE)
    """
    assert run(board, code) == ["True"]


def test_linux_is_told_that_a_udp_port_is_closed(board, linux):
    with linux.udp() as s:
        s.connect((BOARD, 9))
        s.send(b"nobody there")
        with pytest.raises(ConnectionRefusedError):
            s.recv(10)


def test_linux_is_told_that_a_protocol_is_unknown(board, linux):
    with linux.socket(socket.SOCK_RAW, protocol=132) as s:  # SCTP
        s.connect((BOARD, 0))
        s.send(bytes(12))
        with pytest.raises(OSError, match="Protocol not available"):
            s.recv(10)


def test_errors_are_limited_in_rate_and_the_rest_is_counted(board, linux):
    time.sleep(0.7)
    before = value(board, "lan.status('counters')['icmp']['rate']")
    with linux.capture() as capture, linux.udp() as s:
        for _ in range(50):
            s.sendto(b"x", (BOARD, 9))
        until(lambda: value(board, "lan.status('counters')['icmp']['rate']") > before, "the limit")
        time.sleep(0.1)
    told = [f for _, from_board, f in capture.frames if from_board and f[23] == 1 and f[34] == 3]
    assert 1 <= len(told) <= 12


def test_the_board_learns_that_a_udp_port_of_linux_is_closed(board):
    code = f"""
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        s.settimeout(2)
        s.connect(("{LINUX}", 9))
        s.send(b"x")
        try:
            s.recv(10)
        except OSError as e:
            print(e.errno == errno.ECONNREFUSED)
        s.close()
    """
    assert run(board, code) == ["True"]
