"""Datagrams larger than the MTU, against the Linux kernel's own fragments and reassembly."""

import pytest
from linux import BOARD, BURST, LINUX, run, running, taken, value

SIZES = [1473, 2952, 4000, 8192]


@pytest.fixture
def port(board):
    """A UDP socket `u` of the board at port 7000 with room for the largest of them."""
    run(
        board,
        """
        u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        u.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8300)
        u.bind(("", 7000))
        u.settimeout(5)
        """,
    )
    yield 7000
    run(board, "u.close()")


@pytest.mark.parametrize("size", SIZES)
def test_large_datagrams_cross_in_both_directions(board, linux, port, size):
    data = bytes((i * 7 + (i >> 8)) & 255 for i in range(size))
    with linux.udp() as s, running(board, "data, peer = u.recvfrom(8300); u.sendto(data, peer)"):
        s.sendto(data, (BOARD, port))
        assert s.recv(65536) == data


def test_more_fragments_than_the_transmit_ring_has_frames_reach_linux(board, linux, port):
    with linux.udp(7001) as s:
        run(board, f"u.sendto(b'0123456789' * 800, ('{LINUX}', 7001))")
        assert s.recv(65536) == b"0123456789" * 800


def test_datagrams_that_lose_a_fragment_do_not_use_up_memory(board, linux, port):
    """The first fragment of a datagram, copied from the kernel, comes 240 times with other identifications."""
    with linux.packets() as wire, linux.udp() as s:
        s.sendto(bytes(4000), (BOARD, port))
        assert value(board, "len(u.recv(8300))") == 4000
        fragments = []
        while len(fragments) < 3:
            frame = wire.recv(2000)
            if frame[12:14] == b"\x08\x00" and frame[23] == 17 and frame[20] & 0x3F | frame[21]:
                fragments.append(frame)
        before = value(board, "[gc.collect(), gc.mem_free()][1]")

        def send(ident):
            first = bytearray(fragments[0])
            first[18:20] = ident.to_bytes(2, "big")
            first[24:26] = bytes(2)
            total = sum(int.from_bytes(first[i : i + 2], "big") for i in range(14, 34, 2))
            total = (total & 0xFFFF) + (total >> 16)
            first[24:26] = (~((total & 0xFFFF) + (total >> 16)) & 0xFFFF).to_bytes(2, "big")
            wire.send(first)

        for ident in range(0, 240, BURST):
            for i in range(BURST):
                send(ident + i)
            taken(board)
        assert value(board, "lan.stack.ip.part('fragments').drops['no room']") > 190
        assert before - value(board, "[gc.collect(), gc.mem_free()][1]") < 10_000
        s.sendto(bytes(4000), (BOARD, port))
        assert value(board, "len(u.recv(8300))") == 4000
    assert value(board, "lan.stack.errors") == 0
