"""Groups and broadcasts between the board and the Linux kernel, and what a router would hear of it."""

import socket
import struct

import pytest
from linux import BOARD, FRAMES_IN, LINUX, run, running, taken, value

MDNS = "224.0.0.251"
V3_ROUTERS = socket.inet_aton("224.0.0.22")
ALERT = b"\x94\x04\0\0"
IP_RECVTTL = 12  # linux/in.h


@pytest.fixture(scope="module")
def heard(board, linux):
    """A packet socket that hears what the board sends to any group."""
    linux.ip("link", "set", "tap0", "allmulticast", "on")
    with linux.packets() as heard:
        heard.settimeout(5)
        yield heard


def igmp(heard):
    """Returns (destination, message) of the board's next IGMP message."""
    while True:
        frame, address = heard.recvfrom(2000)
        if address[2] != socket.PACKET_OUTGOING and frame[12:14] == b"\x08\0" and frame[23] == 2:
            assert frame[14] == 0x46 and frame[22] == 1 and frame[34:38] == ALERT
            return frame[30:34], frame[38 : 14 + int.from_bytes(frame[16:18], "big")]


def test_datagrams_to_a_group_arrive_after_joining_and_the_router_is_told(board, linux, heard):
    run(
        board,
        f"""
        m = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        m.bind(("", 5353))
        m.settimeout(3)
        group = socket.inet_pton(socket.AF_INET, "{MDNS}") + bytes(4)
        m.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
        """,
    )
    joined = bytes.fromhex("2200") + b".." + bytes.fromhex("00000001 04000000") + socket.inet_aton(MDNS)
    for _ in range(2):
        destination, message = igmp(heard)
        assert destination == V3_ROUTERS and message[:2] + b".." + message[4:] == joined
    with linux.udp() as s:
        s.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(LINUX))
        s.sendto(b"who is there?", (MDNS, 5353))
        assert value(board, "m.recvfrom(50)[0]") == b"who is there?"


def test_a_query_is_answered(board, linux, heard):
    query = bytearray(bytes.fromhex("110a0000 00000000 027d0000"))
    query[2:4] = (~(0x110A + 0x027D) & 0xFFFF).to_bytes(2, "big")
    options = [(socket.IPPROTO_IP, socket.IP_TTL, 1), (socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 1)]
    options += [(socket.IPPROTO_IP, socket.IP_OPTIONS, ALERT), (socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(LINUX))]
    with linux.socket(socket.SOCK_RAW, protocol=socket.IPPROTO_IGMP, options=options) as router:
        router.sendto(query, ("224.0.0.1", 0))
        destination, message = igmp(heard)
    assert destination == V3_ROUTERS and message[8:] == b"\x02\0\0\0" + socket.inet_aton(MDNS)


def test_linux_gets_the_board_s_datagrams_to_a_group(board, linux):
    member = socket.inet_aton(MDNS) + socket.inet_aton(LINUX)
    with linux.socket(socket.SOCK_DGRAM, bind=("", 5353), options=[(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)]) as s:
        run(board, f"m.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 255); m.sendto(b'here', ('{MDNS}', 5353))")
        assert s.recv(50) == b"here"
    assert value(board, "m.recvfrom(50)") == (b"here", (BOARD, 5353))  # its own, because it is a member


def test_leaving_is_told_and_ends_it(board, linux, heard):
    run(board, "m.setsockopt(socket.IPPROTO_IP, socket.IP_DROP_MEMBERSHIP, group)")
    while True:
        destination, message = igmp(heard)
        if message[8] == 3:
            break
    assert destination == V3_ROUTERS and message[12:16] == socket.inet_aton(MDNS)
    taken(board)
    with linux.udp() as s:
        s.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(LINUX))
        before = value(board, FRAMES_IN)
        for _ in range(20):
            s.sendto(b"nobody", (MDNS, 5353))
        s.sendto(b"you", (BOARD, 5353))
        assert value(board, "m.recv(50)") == b"you"
        if board.description["driver"] == "emac":
            assert value(board, FRAMES_IN) - before < 20, "the MAC lets the group through"
    run(board, "m.close()")


@pytest.mark.parametrize("destination", ["255.255.255.255", "10.77.0.255"])
def test_broadcasts_arrive(board, linux, destination):
    run(board, "b = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); b.bind(('', 6000)); b.settimeout(3)")
    device = [(socket.SOL_SOCKET, socket.SO_BROADCAST, 1), (socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"tap0\0")]
    with linux.socket(socket.SOCK_DGRAM, options=device) as s, running(board, "print(b.recvfrom(20)); b.close()") as got:
        s.sendto(b"everybody", (destination, 6000))
    assert eval(got.result()[0])[0] == b"everybody"


def test_the_board_pings_itself_and_nothing_of_it_is_on_the_cable(board, linux):
    with linux.capture() as capture:
        assert all(t is not None for t in value(board, "lan.ping('127.0.0.1') + lan.ping('10.77.0.2', size=3000)"))
    # IGMP may still repeat that the board has left a group.
    ipv4 = [frame for _, from_board, frame in capture.frames if from_board and frame[12:14] == b"\x08\0"]
    assert not [frame for frame in ipv4 if frame[23] != 2]


def test_ttl_and_tos_are_seen_by_linux(board, linux):
    with linux.socket(socket.SOCK_DGRAM, bind=(LINUX, 6001), options=[(0, IP_RECVTTL, 1), (0, socket.IP_RECVTOS, 1)]) as s:
        run(
            board,
            f"""
            t = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            t.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 9)
            t.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, 0xb8)
            t.sendto(b"x", ("{LINUX}", 6001))
            t.close()
            """,
        )
        _, ancillary, _, _ = s.recvmsg(10, 100)
    found = {kind: data for _, kind, data in ancillary}
    assert struct.unpack("i", found[socket.IP_TTL]) == (9,) and found[socket.IP_TOS] == b"\xb8"
