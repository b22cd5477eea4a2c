"""The IPv4 layer (ip.py) on a cable of its own; tests/wire/test_ip.py shows it inside the stack."""

from device import ON_DEVICE
from grouped import grouped

if ON_DEVICE:
    from barenet import fast
    from barenet.ip import LIMITED_BROADCAST
    from doubles import (
        ANY,
        MAC,
        MASK,
        OTHER,
        OURS,
        PEER,
        PEER_MAC,
        Random,
        arrive,
        frame_of,
        make_ip,
        mutate,
        raises,
        same,
    )

    FAR = b"\xc0\0\2\7"
    TEST = 253
    EHOSTUNREACH, EMSGSIZE = 113, 90


@grouped
def test_output_has_these_bytes():
    ip = make_ip()
    ip.identification = 0xFFFF
    assert ip.output(17, PEER, b"header", b"payload", now=0, ttl=5, tos=0x10)
    # 4510 + 0021 + 0000 + 4000 + 0511 + 0a4d + 0002 + 0a4d + 0001 = 9edf, inverted 6120.
    same(
        ip.link.sent,
        [PEER_MAC + MAC + b"\x08\0" + b"\x45\x10\0\x21\0\0\x40\0\x05\x11\x61\x20" + OURS + PEER + b"headerpayload"],
    )


@grouped
def test_every_header_that_leaves_has_a_right_checksum_and_a_new_identification():
    ip = make_ip()
    seen = set()
    for i in range(300):
        ip.output(TEST, PEER, bytes(i % 7), bytes(i), now=0)
        frame = ip.link.sent.pop()
        same(fast.add(frame, 0, 20, 14), 0xFFFF)
        seen.add(bytes(frame[18:20]))
    same(len(seen), 300)


@grouped
def test_next_hop():
    ip = make_ip()
    for destination, hop in (
        (PEER, PEER),
        (OTHER, OTHER),
        (FAR, PEER),
        (b"\x0a\x4d\x01\x01", PEER),
        (LIMITED_BROADCAST, LIMITED_BROADCAST),
    ):
        same(ip.next_hop(destination), hop)
    ip.configure(OURS, MASK, ANY)
    same((ip.next_hop(PEER), ip.next_hop(FAR)), (PEER, None))
    raises(EHOSTUNREACH, ip.output, TEST, FAR, b"")
    ip.configure(ANY, ANY, ANY)
    same((ip.next_hop(PEER), ip.next_hop(LIMITED_BROADCAST)), (None, LIMITED_BROADCAST))


@grouped
def test_broadcast_address_follows_the_netmask():
    ip = make_ip()
    for address, mask, broadcast in (
        (b"\x0a\x4d\0\2", b"\xff\xff\xff\0", b"\x0a\x4d\0\xff"),
        (b"\xc0\xa8\x13\x25", b"\xff\xff\xf0\0", b"\xc0\xa8\x1f\xff"),
        (b"\x0a\0\0\5", b"\xff\xff\xff\xfc", b"\x0a\0\0\7"),
        (b"\x0a\0\0\4", b"\xff\xff\xff\xfe", LIMITED_BROADCAST),  # RFC 3021
        (b"\x0a\0\0\4", b"\xff\xff\xff\xff", LIMITED_BROADCAST),
        (ANY, ANY, LIMITED_BROADCAST),
    ):
        ip.configure(address, mask, ANY)
        same(ip.broadcast, broadcast)
        assert ip.is_broadcast(LIMITED_BROADCAST) and not ip.is_broadcast(address)


@grouped
def test_own_address_reaches_the_fast_path_as_it_stands_in_a_frame():
    ip = make_ip()
    for address in (OURS, b"\xff\xfe\xfd\xfc", b"\x01\0\0\x80"):
        ip.configure(address, MASK, PEER)
        same(ip.link.words[fast.C_ADDRESS], int.from_bytes(address, "little"))


@grouped
def test_pseudo_header_and_checksum_of_an_example():
    # The UDP datagram of 10.77.0.1:53 to 10.77.0.2:1000 with the text "abc".
    ip = make_ip()
    datagram = bytearray(b"\0\x35\x03\xe8\0\x0b\0\0abc")
    # 0a4d + 0001 + 0a4d + 0002 + 0011 + 000b + 0035 + 03e8 + 000b + 6162 + 6300 = dd43, inverted 22bc.
    check = ~ip.checksum(datagram, 0, 11, ip.pseudo(PEER, OURS, 17, 11)) & 0xFFFF
    same(check.to_bytes(2, "little"), b"\x22\xbc")


@grouped
def test_packet_too_large_for_the_mtu_is_refused():
    ip = make_ip()
    assert ip.output(TEST, PEER, bytes(8), bytes(1472))
    same(len(ip.link.sent[0]), 1514)
    raises(EMSGSIZE, ip.output, TEST, PEER, bytes(8), bytes(1473))


@grouped
def test_full_transmit_ring_is_told():
    ip = make_ip()
    ip.link.full = True
    same(ip.output(TEST, PEER, b"x"), False)


@grouped
def test_without_an_address_every_unicast_may_be_the_offer_we_wait_for():
    ip = make_ip(ANY)
    got = []
    ip.handlers[17] = lambda frame, start, end, source, destination, now: got.append(destination)
    for destination in (OURS, OTHER, LIMITED_BROADCAST):
        arrive(ip, frame_of(17, b"offer", destination=destination))
    same(got, [OURS, OTHER, LIMITED_BROADCAST])


@grouped
def test_groups_that_were_joined_are_for_us():
    ip = make_ip()
    got = []
    ip.handlers[17] = lambda frame, start, end, source, destination, now: got.append(destination)
    group = b"\xe0\0\0\xfb"
    arrive(ip, frame_of(17, b"x", destination=group))
    ip.groups.add(group)
    arrive(ip, frame_of(17, b"x", destination=group))
    same((got, ip.drops["not for us"]), ([group], 1))


@grouped
def test_damaged_packets_raise_nothing_and_reach_no_handler_outside_their_frame():
    ip = make_ip()
    ends = []
    ip.handlers[17] = lambda frame, start, end, source, destination, now: ends.append(34 <= start <= end <= len(frame))
    random = Random(3)
    good = frame_of(17, bytes(40))
    for i in range(3000):
        frame = mutate(good, random)
        if i & 1 and len(frame) >= 34:
            frame[24] = frame[25] = 0
            check = ~fast.add(frame, 0, min((frame[14] & 15) << 2, len(frame) - 14), 14) & 0xFFFF
            frame[24] = check & 255
            frame[25] = check >> 8
        arrive(ip, frame)
    assert len(ends) > 100 and all(ends)
