"""Path-MTU discovery with the Linux kernel as the router to a network of a smaller MTU."""

import pytest
from linux import LINUX, run, until, value

FAR = "10.78.0.9"
MTU = 1000


@pytest.fixture(scope="module")
def far(linux):
    """A packet socket in a network behind Linux, where packets of at most 1000 bytes go."""
    linux.sysctl("net.ipv4.ip_forward", 1)
    linux.ip("link", "add", "far0", "mtu", str(MTU), "type", "veth", "peer", "name", "far1")
    linux.ip("address", "add", "10.78.0.1/24", "dev", "far0")
    for end in "far0", "far1":
        linux.ip("link", "set", end, "up")
    linux.ip("neighbour", "add", FAR, "lladdr", "02:00:00:00:00:09", "dev", "far0")
    with linux.packets("far1") as far:
        far.settimeout(2)
        yield far


def datagram(far):
    """Returns (frames, payload) of the next UDP datagram that arrives there, whole or in fragments."""
    frames, data = 0, b""
    while True:
        frame = far.recv(2000)
        if frame[12:14] != b"\x08\x00" or frame[23] != 17:
            continue
        total = int.from_bytes(frame[16:18], "big")
        assert total <= MTU
        frames += 1
        data += frame[34 : 14 + total]
        if not frame[20] & 0x20:
            return frames, data[8:]


def test_the_second_datagram_arrives_in_fragments_that_fit(board, linux, far):
    run(board, "u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)")
    data = "bytes(i & 255 for i in range(1472))"
    run(board, f"u.sendto({data}, ('{FAR}', 7))")
    until(lambda: value(board, "lan.stack.ip.paths") == {b"\x0a\x4e\0\x09": MTU}, "the path MTU")
    run(board, f"u.sendto({data}, ('{FAR}', 7))")
    assert datagram(far) == (2, bytes(i & 255 for i in range(1472)))
    run(board, f"u.sendto(b'x' * 972, ('{FAR}', 7)); u.close()")
    assert datagram(far) == (1, b"x" * 972)


def test_the_path_to_the_router_itself_is_not_affected(board, linux, far):
    assert value(board, f"lan.stack.ip.path_mtu(bytes(map(int, '{LINUX}'.split('.'))))") == 1500
    times = value(board, f"lan.ping('{LINUX}', count=1, size=1472)")
    assert times[0] is not None


def test_a_ping_finds_the_path_mtu_too(board, linux, far):
    run(board, "lan.stack.ip.paths.clear()")
    assert value(board, f"lan.ping('{FAR}', count=1, size=1200, timeout=0.2)") == [None]
    assert value(board, "lan.stack.ip.paths") == {b"\x0a\x4e\0\x09": MTU}
