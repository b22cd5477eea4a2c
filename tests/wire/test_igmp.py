"""IGMP, the host's part: RFC 3376 (version 3), RFC 2236 (version 2), RFC 1112 (version 1)."""

from device import ON_DEVICE
from wire import on_wire

if ON_DEVICE:
    from rig import MAC, OURS, PEER, Wire, fast, packet

    MDNS = b"\xe0\0\0\xfb"
    GROUP = b"\xef\x01\x02\x03"
    ALL_SYSTEMS = b"\xe0\0\0\1"
    ALL_ROUTERS = b"\xe0\0\0\2"
    V3_ROUTERS = b"\xe0\0\0\x16"
    ALERT = b"\x94\x04\0\0"
    V1, V2, V3 = 0x12, 0x16, 0x22

    def mac_of(group):
        return b"\x01\0\x5e" + bytes((group[1] & 127,)) + group[2:]

    def summed(data):
        data = bytearray(data)
        check = ~fast.add(data, 0, len(data), 0) & 0xFFFF
        data[2] = check & 255
        data[3] = check >> 8
        return data

    def query(group=b"\0\0\0\0", code=100, version=3, to=ALL_SYSTEMS, **changes):
        """Returns a router's query."""
        message = summed(bytes((0x11, code, 0, 0)) + group + (b"\x02\x7d\0\0" if version == 3 else b""))
        changes.setdefault("ip_options", ALERT)
        changes.setdefault("ttl", 1)
        return packet(2, message, destination=to, to=mac_of(to), **changes)

    def record(kind, group):
        return bytes((kind, 0, 0, 0)) + group

    def expect_report(wire, destination, message, within=0):
        """The next frame is this IGMP message, with TTL 1 and the router alert option, and leaves within so many ms."""
        while not wire.frames and within > 0:
            wire.advance(min(50, within))
            within -= 50
        frame = wire.next_frame()
        message = summed(message)
        total = 24 + len(message)
        assert frame[0:14] == mac_of(destination) + MAC + b"\x08\0", frame.hex()
        assert frame[14:18] == bytes((0x46, 0xC0, 0, total)) and frame[20:24] == b"\x40\0\x01\x02", frame.hex()
        assert fast.add(frame, 0, 24, 14) == 0xFFFF
        assert frame[26:38] == OURS + destination + ALERT, frame.hex()
        assert frame[38 : 14 + total] == message, frame.hex() + " is not " + message.hex()

    def v3(*records):
        return bytes((V3, 0, 0, 0, 0, 0, 0, len(records))) + b"".join(records)

    def quiet(wire, *groups):
        """Joins groups and lets the reports of that pass; returns the IGMP part."""
        igmp = wire.ip.part("igmp")
        for group in groups:
            igmp.join(group, wire.stack.now())
        wire.advance(21_000)
        wire.frames.clear()
        return igmp


@on_wire
def test_joining_is_reported_twice_within_a_second():
    # RFC 3376 section 5.1: CHANGE_TO_EXCLUDE_MODE {} to 224.0.0.22, robustness variable 2.
    wire = Wire()
    wire.ip.part("igmp").join(MDNS, wire.stack.now())
    expect_report(wire, V3_ROUTERS, v3(record(4, MDNS)), 100)
    expect_report(wire, V3_ROUTERS, v3(record(4, MDNS)), 1100)
    wire.advance(60_000)
    wire.expect_nothing()


@on_wire
def test_leaving_is_reported_twice_and_only_by_the_last_member():
    wire = Wire()
    igmp = quiet(wire, MDNS, MDNS)
    igmp.leave(MDNS, wire.stack.now())
    wire.advance(5000)
    wire.expect_nothing()
    assert MDNS in wire.ip.groups
    igmp.leave(MDNS, wire.stack.now())
    assert MDNS not in wire.ip.groups and not wire.ip.groups and not wire.stack.link.groups
    expect_report(wire, V3_ROUTERS, v3(record(3, MDNS)), 100)
    expect_report(wire, V3_ROUTERS, v3(record(3, MDNS)), 1100)
    wire.advance(60_000)
    wire.expect_nothing()
    assert not igmp._groups


@on_wire
def test_datagrams_of_a_group_arrive_while_it_is_joined():
    wire = Wire()
    endpoint = wire.stack.udp.endpoint()
    endpoint.bind(port=5353)
    datagram = packet(17, b"\x14\xe9\x14\xe9\0\x0b\0\0abc", destination=MDNS, to=mac_of(MDNS))
    wire.receive(datagram)
    assert wire.drops() == {("ethernet", "not ours"): 1}
    igmp = quiet(wire, MDNS)
    wire.receive(datagram)
    assert endpoint.pull(bytearray(9), 9, 0) == 3 and endpoint.sender() == (PEER, 5353)
    igmp.leave(MDNS, wire.stack.now())
    wire.receive(datagram)
    assert endpoint.pull(bytearray(9), 9, 0) < 0
    wire.advance(3000)
    wire.frames.clear()


@on_wire
def test_a_general_query_is_answered_for_all_groups_at_once_within_its_time():
    # RFC 3376 section 5.2: MODE_IS_EXCLUDE {}, records packed; 224.0.0.1 is never reported.
    wire = Wire()
    quiet(wire, MDNS, GROUP, ALL_SYSTEMS)
    for _ in range(5):
        wire.receive(query(code=20))
        while not wire.frames:
            wire.advance(50)
        frame = wire.frames[0][1]
        order = (MDNS, GROUP) if frame[50:54] == MDNS else (GROUP, MDNS)
        expect_report(wire, V3_ROUTERS, v3(*(record(2, group) for group in order)))
        wire.advance(10_000)
        wire.expect_nothing()


@on_wire
def test_answers_are_spread_over_the_time_that_the_query_gives():
    wire = Wire()
    quiet(wire, GROUP)
    delays = []
    for _ in range(12):
        wire.receive(query(code=0x80 | 1))  # 17 << 3 tenths: 13.6 s (RFC 3376 section 4.1.1)
        start = wire.now
        while not wire.frames:
            wire.advance(50)
        delays.append(wire.now - start)
        wire.frames.clear()
    assert max(delays) <= 13_700 and max(delays) - min(delays) > 1000, delays


@on_wire
def test_a_query_about_a_group_is_answered_by_its_members():
    wire = Wire()
    quiet(wire, MDNS, GROUP)
    wire.receive(query(GROUP, 10, to=GROUP))
    expect_report(wire, V3_ROUTERS, v3(record(2, GROUP)), 1100)
    wire.receive(query(b"\xef\x09\x09\x09", 10))
    wire.receive(query(ALL_SYSTEMS, 10))
    wire.advance(3000)
    wire.expect_nothing()


@on_wire
def test_with_a_version_2_router_reports_go_to_the_group_and_leaves_to_the_routers():
    # RFC 2236 section 3, RFC 3376 section 7.2.1.
    wire = Wire()
    igmp = quiet(wire, GROUP)
    wire.receive(query(code=10, version=2))
    expect_report(wire, GROUP, bytes((V2, 0, 0, 0)) + GROUP, 1100)
    igmp.join(MDNS, wire.stack.now())
    expect_report(wire, MDNS, bytes((V2, 0, 0, 0)) + MDNS, 100)
    expect_report(wire, MDNS, bytes((V2, 0, 0, 0)) + MDNS, 10_100)
    igmp.leave(MDNS, wire.stack.now())
    expect_report(wire, ALL_ROUTERS, bytes((0x17, 0, 0, 0)) + MDNS, 100)
    wire.advance(20_000)
    wire.expect_nothing()


@on_wire
def test_with_a_version_1_router_nothing_is_said_when_leaving():
    # RFC 2236 section 4: max response time 0 means 10 s.
    wire = Wire()
    igmp = quiet(wire, GROUP)
    wire.receive(query(code=0, version=2, ip_options=b""))
    expect_report(wire, GROUP, bytes((V1, 0, 0, 0)) + GROUP, 10_100)
    igmp.leave(GROUP, wire.stack.now())
    wire.advance(20_000)
    wire.expect_nothing()
    assert not igmp._groups


@on_wire
def test_the_older_router_is_forgotten_after_260_s():
    wire = Wire()
    quiet(wire, GROUP)
    wire.receive(query(code=10, version=2))
    wire.advance(261_000)
    wire.frames.clear()
    wire.receive(query(code=10))
    expect_report(wire, V3_ROUTERS, v3(record(2, GROUP)), 1100)


@on_wire
def test_another_member_s_report_is_enough_for_a_version_2_router():
    # RFC 2236 section 3: report suppression.
    wire = Wire()
    quiet(wire, GROUP)
    for kind in (V1, V2):
        wire.receive(query(code=100, version=2))
        if not wire.frames:  # it may be sent at once
            wire.receive(packet(2, summed(bytes((kind, 0, 0, 0)) + GROUP), destination=GROUP, to=mac_of(GROUP), ttl=1))
        wire.frames.clear()
        wire.advance(20_000)
        wire.expect_nothing()
    wire.advance(261_000)
    wire.receive(query(code=100))
    wire.receive(packet(2, summed(bytes((V2, 0, 0, 0)) + GROUP), destination=GROUP, to=mac_of(GROUP), ttl=1))
    expect_report(wire, V3_ROUTERS, v3(record(2, GROUP)), 10_100)


@on_wire
def test_queries_that_no_router_sends_are_dropped_by_reason():
    wire = Wire()
    igmp = quiet(wire, GROUP)
    damaged = query()
    damaged[38] ^= 1
    long = packet(2, summed(b"\x11\x0a\0\0\0\0\0\0\0\0"), destination=ALL_SYSTEMS, to=mac_of(ALL_SYSTEMS), ttl=1)
    for reason, frame in (
        ("TTL", query(ttl=64)),
        ("router alert", query(ip_options=b"")),
        ("router alert", query(version=2, ip_options=b"")),
        ("checksum", damaged),
        ("length", long),
        ("short", packet(2, b"\x11\x0a\xee\xf5", destination=ALL_SYSTEMS, to=mac_of(ALL_SYSTEMS), ttl=1)),
        ("type", packet(2, summed(b"\x13\0\0\0\0\0\0\0"), destination=ALL_SYSTEMS, to=mac_of(ALL_SYSTEMS), ttl=1)),
    ):
        before = igmp.drops[reason]
        wire.receive(frame)
        assert igmp.drops[reason] == before + 1, reason
    wire.advance(20_000)
    wire.expect_nothing()


@on_wire
def test_groups_are_reported_again_from_a_new_address():
    wire = Wire()
    quiet(wire, GROUP)
    wire.stack.configure(b"\x0a\x4d\0\x07", b"\xff\xff\xff\0", PEER, [])
    wire.settle()
    wire.frames.clear()
    wire.advance(100)
    frame = wire.next_frame()
    assert frame[26:30] == b"\x0a\x4d\0\x07" and frame[38] == V3 and frame[46:54] == record(4, GROUP)
    wire.advance(1100)
    assert wire.next_frame()[38] == V3


@on_wire
def test_groups_with_one_mac_address_leave_it_one_by_one():
    wire = Wire()
    twin = b"\xe0\x81\x02\x03"
    igmp = quiet(wire, GROUP, twin)
    assert wire.stack.link.groups == {mac_of(GROUP), mac_of(ALL_SYSTEMS)}
    igmp.leave(twin, wire.stack.now())
    assert wire.stack.link.groups == {mac_of(GROUP), mac_of(ALL_SYSTEMS)}
    igmp.leave(GROUP, wire.stack.now())
    assert not wire.stack.link.groups
    wire.advance(3000)
    wire.frames.clear()


@on_wire
def test_what_we_send_to_a_group_of_ours_comes_back_unless_the_socket_does_not_want_it():
    wire = Wire()
    quiet(wire, MDNS)
    endpoint = wire.stack.udp.endpoint()
    endpoint.bind(port=5353)
    endpoint.group_ttl = 255
    for loop in (True, False):
        endpoint.loop = loop
        assert endpoint.send(b"hello", MDNS, 5353, wire.now)
        wire.stack.flush()
        wire.settle()
        frame = wire.next_frame()
        assert frame[0:6] == mac_of(MDNS) and frame[22] == 255
        assert (endpoint.pull(bytearray(9), 9, 0) == 5 and endpoint.sender() == (OURS, 5353)) is loop
