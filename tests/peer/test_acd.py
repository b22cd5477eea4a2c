"""Address conflicts and link-local addresses with the Linux kernel as the other host."""

import socket
import struct
import time

import pytest
from linux import BOARD, BOARD_MAC, LINUX, run, until, value
from test_dhcp import ACK, DECLINE, DISCOVER, OFFER, REQUEST, REQUESTED, SERVER, Server, down, packed, server, state  # noqa: F401

from host_tools.virtual_board import VirtualBoard

TAKEN, FREE = "10.77.0.80", "10.77.0.81"
MAC = bytes.fromhex(BOARD_MAC.replace(":", ""))


@pytest.fixture(scope="module")
def board():
    with VirtualBoard(network="dhcp", main=False) as board:
        board.exec("import barenet; lan = barenet.LAN(link_local=True); clock = lan.stack.clock; ahead = 0")
        board.exec("lan.stack.clock = lambda: clock() + ahead & 0x3FFFFFFF")
        yield board
        assert value(board, "(lan.stack.errors, lan.stack.last_error)") == (0, None)


def advance(board, ms):
    """Lets the board believe that `ms` milliseconds have passed."""
    run(board, f"ahead += {ms}")


def arp(packets, timeout=10):
    """Returns (operation, sender, target) of the next ARP packet of the board."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        frame, address = packets.recvfrom(2000)
        if address[2] != socket.PACKET_OUTGOING and frame[6:12] == MAC:
            return frame[21], socket.inet_ntoa(frame[28:32]), socket.inet_ntoa(frame[38:42])
    raise AssertionError("no ARP packet")


def acknowledge(server, address):  # noqa: F811
    server.reply(server.receive(DISCOVER, timeout=12), server.options(OFFER), address)
    server.reply(server.receive(REQUEST), server.options(ACK), address)


def test_a_lease_that_linux_uses_is_declined_and_another_one_taken(down, linux, server):  # noqa: F811
    linux.ip("address", "add", TAKEN + "/32", "dev", "tap0")
    try:
        run(down, "lan.active(True)")
        with linux.packets(ethertype=0x0806) as packets:
            acknowledge(server, TAKEN)
            assert arp(packets) == (1, "0.0.0.0", TAKEN)
            declined = server.receive(DECLINE)
            assert declined.options[REQUESTED] == packed(TAKEN) and declined.options[SERVER] == packed(LINUX)
            assert value(down, "lan.ifconfig()[0]") == "0.0.0.0"
            advance(down, 10_000)
            acknowledge(server, FREE)
            assert [arp(packets) for _ in range(4)] == [(1, "0.0.0.0", FREE)] * 3 + [(1, FREE, FREE)]
        until(lambda: value(down, "lan.ifconfig()[0]") == FREE, "the second lease")
        assert state(down) == "BOUND"
    finally:
        linux.ip("address", "del", TAKEN + "/32", "dev", "tap0")


def test_memory_is_as_before_when_the_address_has_been_announced(down, linux, server):  # noqa: F811
    def lease():
        run(down, "lan.active(True)")
        acknowledge(server, FREE)
        until(lambda: state(down) == "BOUND", "the lease")
        advance(down, 30_000)
        until(lambda: value(down, "[p.name for p in lan.stack.ip.late]") == [], "it is unloaded")
        run(down, "lan.active(False)")
        return value(down, "[gc.collect(), gc.collect(), gc.mem_free()][-1]")

    first = lease()
    assert abs(first - lease()) < 500


def test_linux_finds_out_that_the_board_has_its_address(down, linux):  # noqa: F811
    """Linux announces the board's address as its own; the board defends it once."""
    try:
        with linux.packets(ethertype=0x0806) as packets:
            run(down, f"lan.active(True); lan.ifconfig(('{BOARD}', '255.255.255.0', '{LINUX}', '{LINUX}'))")
            assert arp(packets) == (1, BOARD, BOARD)  # it says so when the link is up
            claim = b"\xff" * 6 + b"\x02\0\0\0\0\x63\x08\x06" + struct.pack(">HHBBH", 1, 0x0800, 6, 4, 1)
            claim += b"\x02\0\0\0\0\x63" + packed(BOARD) + bytes(6) + packed(BOARD) + bytes(18)
            for _ in range(3):
                packets.send(claim)
            assert arp(packets) == (1, BOARD, BOARD)
            packets.settimeout(0.3)
            with pytest.raises(TimeoutError):
                arp(packets)
    finally:
        run(down, "lan.ifconfig('dhcp')")


def test_without_a_server_the_board_takes_a_link_local_address_and_linux_reaches_it(down, linux):  # noqa: F811
    run(down, "lan.active(True)")

    def address():
        advance(down, 1000)
        found = value(down, "lan.ifconfig()[0]")
        return found != "0.0.0.0" and found

    found = until(address, "an address", 30)
    assert found.startswith("169.254.") and value(down, "lan.isconnected()")
    linux.ip("address", "add", "169.254.7.7/16", "dev", "tap0")
    try:
        assert down.run(["ping", "-n", "-c", "2", "-W", "2", found], capture_output=True, timeout=10).returncode == 0
        assert value(down, "lan.ping('169.254.7.7', count=1)")[0] is not None
    finally:
        linux.ip("address", "del", "169.254.7.7/16", "dev", "tap0")


def test_a_server_that_comes_back_replaces_the_link_local_address(down, linux, server):  # noqa: F811
    run(down, "lan.active(True)")

    def link_local():
        advance(down, 1000)
        return value(down, "lan.ifconfig()[0]").startswith("169.254.")

    until(link_local, "a link-local address", 30)
    advance(down, 64_000)
    while True:
        try:
            server.socket.settimeout(0.01)
            server.socket.recv(2000)
        except TimeoutError:
            break
    advance(down, 64_000)
    acknowledge(server, FREE)
    until(lambda: value(down, "lan.ifconfig()[0]") == FREE, "the lease")
