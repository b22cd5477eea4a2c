"""Frames that are wrong in every way, sent at a board that is at work: dropped and counted by reason, and the next good packet is served."""

import contextlib
import random
import socket
import struct
import time

import pytest
from linux import BOARD, BOARD_MAC, LINUX, Linux, checksum, receive_exactly, run, taken, until, value

from host_tools.virtual_board import VirtualBoard

MAC = bytes.fromhex(BOARD_MAC.replace(":", ""))
OTHER_MAC = b"\x02\0\0\0\0\x66"
BROADCAST = b"\xff" * 6
STRANGER = "10.77.0.66"
UDP_PORT, TCP_PORT = 7300, 7301


def ethernet(payload, kind=0x0800, to=MAC, source=OTHER_MAC):
    return to + source + struct.pack(">H", kind) + payload


def ip(payload, protocol, source=STRANGER, to=BOARD, options=b"", **fields):
    """An IPv4 packet; fields: version, ihl, total, fragment, check replace what would be right."""
    length = 20 + len(options)
    header = struct.pack(
        ">BBHHHBBH4s4s",
        fields.get("version", 4) << 4 | fields.get("ihl", length // 4),
        0,
        fields.get("total", length + len(payload)),
        7,
        fields.get("fragment", 0),
        64,
        protocol,
        0,
        socket.inet_aton(source),
        socket.inet_aton(to),
    )
    header += options
    check = checksum(header)
    if "check" in fields:
        check = bytes(a ^ b for a, b in zip(check, fields["check"]))
    return header[:10] + check + header[12:] + payload


def pseudo(source, to, protocol, length):
    return socket.inet_aton(source) + socket.inet_aton(to) + struct.pack(">BBH", 0, protocol, length)


def udp(data, port=UDP_PORT, source=STRANGER, to=BOARD, length=None, check=b"\0\0"):
    length = 8 + len(data) if length is None else length
    header = struct.pack(">HHHH", 5000, port, length, 0)
    right = checksum(pseudo(source, to, 17, len(header + data)) + header + data)
    return header[:6] + bytes(a ^ b for a, b in zip(right, check)) + data


def tcp(flags, seq=1, ack=0, data=b"", options=b"", port=TCP_PORT, source=STRANGER, to=BOARD, from_port=5000, offset=None, check=b"\0\0"):
    offset = 5 + len(options) // 4 if offset is None else offset
    header = struct.pack(">HHIIBBHHH", from_port, port, seq, ack, offset << 4, flags, 1000, 0, 0) + options
    right = checksum(pseudo(source, to, 6, len(header + data)) + header + data)
    return header[:16] + bytes(a ^ b for a, b in zip(right, check)) + header[18:] + data


def icmp(kind, code=0, rest=bytes(4), data=b"", check=b"\0\0"):
    message = struct.pack(">BBH", kind, code, 0) + rest + data
    return message[:2] + bytes(a ^ b for a, b in zip(checksum(message), check)) + message[4:]


def arp(operation=1, sender_mac=OTHER_MAC, sender=STRANGER, target=BOARD, fixed=b"\0\x01\x08\0\x06\x04"):
    return fixed + struct.pack(">H", operation) + sender_mac + socket.inet_aton(sender) + bytes(6) + socket.inet_aton(target)


WRONG = b"\x12\x34"
FIN, SYN, RST, ACK = 0x01, 0x02, 0x04, 0x10
SYN_RECEIVED = 3  # state
good_udp = ip(udp(b"data"), 17)

# name: (frame, layer and reason that count it). None: not an error, only harmless.
FRAMES = {
    "an Ethernet header alone": (ethernet(b""), ("ip", "short")),
    "a frame for another MAC address": (ethernet(good_udp, to=b"\x02\0\0\0\0\x77"), ("ethernet", "not ours")),
    "an unknown EtherType": (ethernet(bytes(46), 0x88CC), ("ethernet", "unknown type")),
    "IEEE 802.3 with a length": (ethernet(bytes(46), 46), ("ethernet", "unknown type")),
    "IPv6": (ethernet(b"\x60" + bytes(60), 0x86DD), ("ethernet", "unknown type")),
    "a VLAN tag": (ethernet(b"\0\x01\x08\0" + good_udp, 0x8100), ("ethernet", "unknown type")),
    "half an IP header": (ethernet(good_udp[:10]), ("ip", "short")),
    "IP version 5": (ethernet(ip(udp(b""), 17, version=5)), ("ip", "version")),
    "IP version 0": (ethernet(ip(udp(b""), 17, version=0)), ("ip", "version")),
    "an IP header of 16 bytes": (ethernet(ip(udp(b""), 17, ihl=4)), ("ip", "header length")),
    "an IP header beyond its packet": (ethernet(ip(b"", 17, ihl=15)), ("ip", "header length")),
    "a total length beyond the frame": (ethernet(ip(udp(b""), 17, total=1500)), ("ip", "total length")),
    "a total length of 0": (ethernet(ip(udp(b""), 17, total=0)), ("ip", "header length")),
    "a total length of 65535": (ethernet(ip(udp(b""), 17, total=65535)), ("ip", "total length")),
    "a wrong IP checksum": (ethernet(ip(udp(b""), 17, check=WRONG)), ("ip", "checksum")),
    "a wrong IP checksum of a TCP segment": (ethernet(ip(tcp(ACK), 6, check=WRONG)), ("ip", "checksum")),
    "a packet for another address": (ethernet(ip(udp(b""), 17, to="10.77.0.55")), ("ip", "not for us")),
    "a packet for a group nobody joined": (ethernet(ip(udp(b""), 17, to="224.0.0.251"), to=BROADCAST), ("ip", "not for us")),
    "a first fragment of odd length": (ethernet(ip(udp(b"x" * 101), 17, fragment=0x2000)), ("fragments", "odd")),
    "a tiny fragment": (ethernet(ip(b"x" * 16, 6, fragment=0x2001)), ("fragments", "tiny")),
    "a fragment beyond 64 KiB": (ethernet(ip(b"x" * 100, 1, fragment=0x1FFF)), ("fragments", "oversize")),
    "a source in a group": (ethernet(ip(udp(b""), 17, source="224.0.0.1")), ("ip", "source")),
    "a broadcast source": (ethernet(ip(udp(b""), 17, source="10.77.0.255")), ("ip", "source")),
    "a loopback source": (ethernet(ip(udp(b""), 17, source="127.0.0.1")), ("ip", "source")),
    "our own address as source": (ethernet(ip(udp(b"", source=BOARD), 17, source=BOARD)), ("ip", "source")),
    "a land attack": (ethernet(ip(tcp(SYN, source=BOARD, from_port=TCP_PORT), 6, source=BOARD)), ("ip", "source")),
    "an unknown protocol": (ethernet(ip(bytes(20), 99)), ("ip", "unknown protocol")),
    "IP options that never end": (ethernet(ip(udp(b"data"), 17, options=b"\x07\x00" + bytes(38))), ("ip_options", "length")),
    "IP options that end": (ethernet(ip(udp(b"data"), 17, options=b"\x01\x01\x01\x00")), None),
    "an IP option that points outside": (ethernet(ip(udp(b"data"), 17, options=b"\x83\xff\xff\xff")), ("ip_options", "length")),
    "a source route through ourselves": (ethernet(ip(udp(b"data"), 17, options=b"\x83\x07\x08\x0a\x4d\x00\x02\0")), ("ip_options", "route")),
    "a source route that leads on": (ethernet(ip(udp(b"data"), 17, options=b"\x89\x07\x04\x0a\x4d\x00\x33\0")), ("ip_options", "route leads on")),
    "two source routes": (ethernet(ip(udp(b"data"), 17, options=b"\x83\x03\x04\x89\x03\x04\0\0")), ("ip_options", "two routes")),
    "a cut UDP header": (ethernet(ip(b"\x13\x88", 17)), ("udp", "short")),
    "a UDP length of 7": (ethernet(ip(udp(b"", length=7), 17)), ("udp", "length")),
    "a UDP length beyond the packet": (ethernet(ip(udp(b"", length=1000), 17)), ("udp", "length")),
    "a wrong UDP checksum": (ethernet(ip(udp(b"data", check=WRONG), 17)), ("udp", "checksum")),
    "a UDP port that is closed": (ethernet(ip(udp(b"", port=9), 17)), ("udp", "port")),
    "UDP port 0": (ethernet(ip(udp(b"", port=0), 17)), ("udp", "port")),
    "a cut TCP header": (ethernet(ip(tcp(SYN)[:12], 6)), ("tcp", "short")),
    "a TCP header of 16 bytes": (ethernet(ip(tcp(SYN, offset=4), 6)), ("tcp", "header length")),
    "a TCP header beyond the packet": (ethernet(ip(tcp(SYN, offset=15), 6)), ("tcp", "header length")),
    "a TCP ACK with a header beyond the packet": (ethernet(ip(tcp(ACK, offset=15), 6)), ("tcp", "header length")),
    "a wrong TCP checksum": (ethernet(ip(tcp(SYN, check=WRONG), 6)), ("tcp", "checksum")),
    "a TCP segment to a broadcast": (ethernet(ip(tcp(SYN, to="10.77.0.255"), 6, to="10.77.0.255"), to=BROADCAST), ("tcp", "not unicast")),
    "a SYN in a broadcast frame": (ethernet(ip(tcp(SYN), 6), to=BROADCAST), ("tcp", "source")),
    "a SYN to a closed port": (ethernet(ip(tcp(SYN, port=9), 6)), ("tcp", "no connection")),
    "an ACK of nothing": (ethernet(ip(tcp(ACK, ack=99), 6)), ("tcp", "no connection")),
    "a RST of nothing": (ethernet(ip(tcp(RST), 6)), ("tcp", "no connection")),
    "a FIN of nothing": (ethernet(ip(tcp(FIN | ACK, ack=5), 6)), ("tcp", "no connection")),
    "all TCP flags": (ethernet(ip(tcp(0x3F), 6)), ("tcp", "no connection")),
    "no TCP flags": (ethernet(ip(tcp(0), 6)), ("tcp", "no connection")),
    "TCP from port 0": (ethernet(ip(tcp(SYN, from_port=0), 6)), ("tcp", "no connection")),
    "a cut ICMP header": (ethernet(ip(b"\x08\0\0", 1)), ("icmp", "short")),
    "a wrong ICMP checksum": (ethernet(ip(icmp(8, check=WRONG), 1)), ("icmp", "checksum")),
    "an ICMP redirect": (ethernet(ip(icmp(5, 1, socket.inet_aton(STRANGER), good_udp[:28]), 1)), ("icmp", "type")),
    "a timestamp request": (ethernet(ip(icmp(13, data=bytes(12)), 1)), ("icmp", "type")),
    "an echo reply to no request": (ethernet(ip(icmp(0, data=bytes(8)), 1)), ("icmp", "no request")),
    "an ICMP error without a packet in it": (ethernet(ip(icmp(3, 3), 1)), ("icmp", "quote")),
    "an ICMP error about half a packet": (ethernet(ip(icmp(3, 3, data=good_udp[:22]), 1)), ("icmp", "quote")),
    "an ICMP error about somebody else's packet": (ethernet(ip(icmp(3, 3, data=good_udp), 1)), ("icmp", "not ours")),
    "an ICMP error about a packet with a header of 60": (ethernet(ip(icmp(11, data=b"\x4f" + good_udp[1:]), 1)), ("icmp", "quote")),
    "ARP that is cut": (ethernet(arp()[:20], 0x0806), ("arp", "malformed")),
    "ARP of other hardware": (ethernet(arp(fixed=b"\0\x06\x08\0\x06\x04") + bytes(18), 0x0806), ("arp", "malformed")),
    "ARP with addresses of 255 bytes": (ethernet(arp(fixed=b"\0\x01\x08\0\xff\xff") + bytes(18), 0x0806), ("arp", "malformed")),
    "ARP of an unknown operation": (ethernet(arp(9) + bytes(18), 0x0806), ("arp", "malformed")),
    "ARP from a group": (ethernet(arp(sender_mac=BROADCAST) + bytes(18), 0x0806, source=BROADCAST), ("arp", "malformed")),
    "ARP that lies about its sender": (ethernet(arp(sender_mac=b"\x02\0\0\0\0\x67") + bytes(18), 0x0806), ("arp", "malformed")),
    "ARP for somebody else": (ethernet(arp(target="10.77.0.44") + bytes(18), 0x0806, to=BROADCAST), ("arp", "not for us")),
    "ARP that claims our address": (ethernet(arp(2, sender=BOARD) + bytes(18), 0x0806, to=BROADCAST), ("arp", "conflict")),
    "ARP from nowhere": (ethernet(arp(sender="0.0.0.0") + bytes(18), 0x0806, to=BROADCAST), None),
    "ARP from a broadcast address": (ethernet(arp(2, sender="255.255.255.255") + bytes(18), 0x0806), None),
    "DHCP nobody waits for": (ethernet(ip(udp(bytes(300), port=68), 17)), ("udp", "port")),
}  # fmt: skip
# Where the EMAC comes before the stack: no frame is shorter than 60 bytes there, and its filter drops what is for others.
THROUGH_THE_MAC = {
    "an Ethernet header alone": ("ip", "version"),
    "a frame for another MAC address": None,
    "half an IP header": ("ip", "checksum"),
    "ARP that is cut": ("arp", "not for us"),
}


@pytest.fixture(scope="module", autouse=True)
def work(board):
    """The board listens on a TCP and a UDP port."""
    code = f"""
        u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        u.bind(("", {UDP_PORT}))
        u.settimeout(3)
        d = socket.socket()
        d.bind(("", {TCP_PORT}))
        d.listen(2)
        d.settimeout(3)
        def drain():
            u.setblocking(False)
            try:
                while True:
                    u.recv(1)
            except OSError:
                u.settimeout(3)
    """
    run(board, code)


@pytest.fixture(scope="module")
def wire(linux):
    """A packet socket that sends frames to the board, which knows the stranger's MAC address."""
    with linux.packets(ethertype=0) as wire:
        wire.send(ethernet(arp() + bytes(18), 0x0806))
        yield wire


def listen(board, buffer=5840):
    """Lets the board listen anew, with buffers of so many bytes; what waited at its port is reset."""
    code = f"""
        d.close()
        d = socket.socket()
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            d.setsockopt(socket.SOL_SOCKET, option, {buffer})
        d.bind(("", {TCP_PORT}))
        d.listen(2)
        d.settimeout(3)
    """
    run(board, code)


def states(board):
    """Returns the states of the board's connections."""
    return value(board, "[c.state for c in lan.stack.tcp.connections if c]")


def forget_connections(board):
    run(board, "s = None\nstack = lan.stack\nstack.enter()\nstack.tcp.abort_all(stack.now())\nstack.leave()")


def counters(board):
    return {(layer, reason): n for layer, counts in value(board, "lan.status('counters')").items() for reason, n in counts.items()}


def send(wire, frame):
    """Sends one of many frames: no faster than the board takes them out of the EMAC's 8 receive descriptors."""
    wire.send(frame)
    time.sleep(0.002)


def check_service(board, linux):
    """ping, UDP and TCP work, and no handler has raised."""
    assert value(board, "(lan.stack.errors, lan.stack.last_error)") == (0, None)
    assert board.run(["ping", "-n", "-c", "1", "-W", "2", BOARD], capture_output=True, timeout=10).returncode == 0
    run(board, "drain()")
    with linux.udp() as s:
        s.sendto(b"datagram", (BOARD, UDP_PORT))
        assert value(board, "u.recv(20)") == b"datagram"
    with linux.connect(TCP_PORT) as c:
        c.sendall(b"stream")
        run(board, "s, _ = d.accept(); s.settimeout(3); s.write(s.read(6) * 3); s.close()")
        assert receive_exactly(c, 18) == b"stream" * 3


@pytest.mark.parametrize("what", FRAMES)
def test_a_bad_frame_is_counted_under_its_reason(board, wire, what):
    if what == "a VLAN tag" and board.description["link"] == "veth":
        pytest.skip("the kernel takes the tag off before the packet socket behind a veth pair gives the frame to the board")
    frame, counter = FRAMES[what]
    if board.description["driver"] == "emac":
        counter = THROUGH_THE_MAC.get(what, counter)
    check_counter(board, wire, frame, counter)


def test_on_a_bare_cable_the_stack_itself_refuses_what_a_mac_pads_or_filters():
    with VirtualBoard(driver="tap") as board, Linux(board) as linux, linux.packets(ethertype=0) as wire:
        for what in THROUGH_THE_MAC:
            check_counter(board, wire, *FRAMES[what])


def check_counter(board, wire, frame, counter):
    """Sends a frame, after which that counter (None: none) and no other has grown."""
    run(board, "lan.stack.ip.part('fragments'); lan.stack.ip.part('ip_options')")
    before = counters(board)
    wire.send(frame)
    if counter:
        until(lambda: counters(board)[counter] > before[counter], f"counted as {counter}")
    else:
        taken(board)
    after = counters(board)
    counted = {key for key in after if after[key] != before[key] and key[0] != "frames" and key != ("arp", "not for us")}
    assert counted - {counter} == set(), counted
    assert after["frames", "handler errors"] == 0


def test_all_of_it_three_times_leaves_no_memory_and_the_board_serves(board, linux, wire):
    def storm():
        for frame, _ in FRAMES.values():
            send(wire, frame)
        taken(board)
        run(board, "drain()")

    for _ in range(3):  # the table of TIME_WAITs is loaded, and some lists grow
        storm()
        check_service(board, linux)
    forget_connections(board)
    used = "(gc.collect(), gc.mem_alloc())[1]"
    before = value(board, used)
    for _ in range(3):
        storm()
        check_service(board, linux)
    forget_connections(board)
    # Not at once: the collector takes any word for a pointer, and one on the C stack may still be that of a control block.
    until(lambda: value(board, used) - before < 512, "the memory is free again")


@pytest.mark.parametrize(
    "options",
    [
        b"\x02\x00\x05\xb4",  # MSS of length 0: never ends
        b"\x02\x01\x05\xb4",
        b"\x02\xff\x05\xb4",  # beyond the header
        b"\x02\x04\0\0",  # MSS 0
        b"\x02\x04\0\x01",
        b"\x01" * 40,
        b"\x01" * 39 + b"\x02",  # cut behind its kind
        b"\xfe\x00" * 20,
        b"\x05\x02" * 20,  # empty SACKs
        b"\x03\x03\xff\x00",  # window scale 255
        b"\x08\x0a" + bytes(10),  # timestamps nobody asked for
    ],
    ids=lambda o: o[:4].hex(),
)
def test_a_syn_with_odd_options_gets_its_connection(board, linux, wire, options):
    source = "10.77.0.1"
    linux.ip("neigh", "flush", "all")
    with linux.capture() as capture:
        wire.send(ethernet(ip(tcp(SYN, 1000, options=options, source=source, from_port=6000), 6, source=source)))
        time.sleep(0.1)
    answers = [s for s in capture.tcp(6000) if s.from_board]
    assert answers and answers[0].flags == SYN | ACK and answers[0].ack == 1001
    # The kernel knows nothing of the connection and resets it.
    until(lambda: SYN_RECEIVED not in states(board), "reset")


def test_a_connection_survives_segments_that_do_not_belong_to_it(board, linux, wire):
    """RST and SYN somewhere in the window, data before and behind it, wrong ACKs, overlapping text: RFC 9293, RFC 5961.

    They have Linux's own timestamps, without which the board would look at few of them (RFC 7323 section 3.2).
    """
    with linux.capture() as capture, linux.connect(TCP_PORT) as c:
        port = c.getsockname()[1]
        run(board, "s, _ = d.accept(); s.settimeout(3)")
        c.sendall(b"first")
        assert value(board, "s.recv(5)") == b"first"
        time.sleep(0.1)
        last = [s for s in capture.tcp(port) if not s.from_board][-1]
        seq, ack = last.seq + len(last.data), last.ack

        stamps = last.options
        assert stamps[:4] == b"\x01\x01\x08\x0a"

        def attack(flags, seq, ack, data=b"", options=stamps, **more):
            segment = tcp(flags, seq & 0xFFFFFFFF, ack & 0xFFFFFFFF, data, options, source=LINUX, from_port=port, **more)
            send(wire, ethernet(ip(segment, 6, source=LINUX)))

        for offset in (1, 100, 5000, 6000, 70_000, 1 << 30, 1 << 31, -1, -100):
            attack(RST, seq + offset, ack)
        for offset in (0, 1, 100, -1, 1 << 31):
            attack(SYN, seq + offset, ack)
            attack(SYN | ACK, seq + offset, ack)
        for offset in (6000, 70_000, 1 << 30, 1 << 31, -40, -1400):
            attack(ACK, seq + offset, ack, b"evil" * 10)
        for offset in (1, 1000, 1 << 30, 1 << 31, -1_000_000):
            attack(ACK, seq, ack + offset, b"evil")
        attack(0, seq, ack, b"evil")  # without ACK
        attack(ACK, seq, ack, b"evil", check=WRONG)
        attack(ACK | FIN, seq + 500, ack)
        attack(ACK | FIN, seq - 1, ack)
        old = (int.from_bytes(stamps[4:8], "big") - 1 & 0xFFFFFFFF).to_bytes(4, "big")
        for wrong in (b"", b"\x01" * 12, stamps[:4] + old + stamps[8:]):
            attack(ACK, seq, ack, b"evil", options=wrong)
            attack(ACK | FIN, seq, ack, options=wrong)
        taken(board)
        assert not value(board, "s._connection.readable()")
        # Overlaps: old text again with new text behind it is taken from where it is new.
        attack(ACK, seq - 5, ack, b"firstmore")
        assert value(board, "s.recv(20)") == b"more"
        run(board, "s.write(b'still here'); s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0)); s.close()")
    assert value(board, "lan.stack.errors") == 0
    check_service(board, linux)


def test_a_fin_in_the_middle_of_lost_data_does_not_end_the_connection(board, linux, wire):
    with linux.capture() as capture, linux.connect(TCP_PORT) as c:
        port = c.getsockname()[1]
        run(board, "s, _ = d.accept(); s.settimeout(1)")
        time.sleep(0.1)
        last = [s for s in capture.tcp(port) if not s.from_board][-1]
        segment = tcp(FIN | ACK, last.seq + 100, last.ack, b"end", source=LINUX, from_port=port)
        wire.send(ethernet(ip(segment, 6, source=LINUX)))
        taken(board)
        c.sendall(b"the middle")
        assert value(board, "s.recv(20)") == b"the middle"
        run(board, "s.close()")


def test_somebody_who_claims_our_address_does_not_take_it_away(board, linux, wire):
    for operation in (1, 2):
        for target in (BOARD, LINUX):
            wire.send(ethernet(arp(operation, sender=BOARD, target=target) + bytes(18), 0x0806, to=BROADCAST))
    taken(board)
    assert value(board, "lan.ifconfig()[0]") == BOARD
    linux.ip("neigh", "flush", "all")
    check_service(board, linux)


def test_a_flood_of_syns_does_not_keep_others_out(board, linux, wire):
    """What the backlog has no place for is answered with cookies: others get in although the backlog is full.

    Small buffers, because the half-open connections hold theirs, and each new one must leave the program as much memory again.
    """
    listen(board, 1460)
    before = counters(board)
    for i in range(200):
        source = f"10.77.0.{100 + i % 100}"
        send(wire, ethernet(ip(tcp(SYN, i, source=source, from_port=2000 + i), 6, source=source)))
    taken(board)
    cookie = "tcp", "backlog full, cookie sent"
    assert counters(board)[cookie] - before[cookie] > 150
    assert states(board).count(SYN_RECEIVED) == 2  # which give up later
    check_service(board, linux)
    listen(board)


@pytest.mark.parametrize("seed", range(4))
def test_random_frames_do_no_harm(board, linux, wire, seed):
    seeded = random.Random(seed)
    good = [frame for frame, _ in FRAMES.values()] + [ethernet(good_udp), ethernet(ip(icmp(8, data=b"ping"), 1)), ethernet(ip(tcp(SYN), 6))]
    for _ in range(250):
        kind = seeded.randrange(4)
        if kind == 0:
            frame = ethernet(seeded.randbytes(seeded.randrange(1, 1500)), seeded.choice((0x0800, 0x0806)))
        elif kind == 1:
            frame = ethernet(ip(seeded.randbytes(seeded.randrange(1, 1400)), seeded.choice((1, 6, 17)), source=STRANGER))
        else:
            frame = bytearray(seeded.choice(good))
            for _ in range(seeded.randrange(1, 4)):
                frame[seeded.randrange(12, len(frame))] = seeded.randrange(256)
            if kind == 3:
                frame = frame[: seeded.randrange(14, len(frame) + 1)]
        send(wire, bytes(frame))
    taken(board)
    listen(board)
    check_service(board, linux)


def test_frames_of_every_length(board, linux, wire):
    for length in [*range(14, 80), 1499, 1500, 1513, 1514]:
        send(wire, ethernet(ip(udp(b""), 17)).ljust(length, b"\0")[:length])
    taken(board)
    check_service(board, linux)


def test_frames_beyond_the_mtu_do_no_harm(board, linux, wire):
    linux.ip("link", "set", "tap0", "mtu", "4000")
    try:
        for length in (1515, 1518, 1522, 1535, 1536, 1537, 1600, 3000, 4000):
            with contextlib.suppress(OSError):  # a veth pair takes none beyond its other end's MTU
                wire.send(ethernet(ip(udp(bytes(length - 42)), 17)))
                wire.send(ethernet(ip(tcp(ACK, data=bytes(length - 54)), 6)))
        taken(board)
    finally:
        linux.ip("link", "set", "tap0", "mtu", "1500")
    check_service(board, linux)
