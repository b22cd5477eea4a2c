"""ICMP: RFC 792 and RFC 1122 section 3.2.2, message by message."""

from device import ON_DEVICE, on_device

if ON_DEVICE:
    import gc

    from barenet.errors import ECONNREFUSED, EHOSTUNREACH, EMSGSIZE, ENOBUFS
    from barenet.icmp import ICMP
    from barenet.ticks import PERIOD
    from doubles import (
        ANY,
        BROADCAST,
        OTHER,
        OURS,
        PEER,
        Random,
        arrive,
        checked,
        frame_of,
        make_ip,
        mutate,
        only_drop,
        raises,
        same,
    )

    ICMP_PROTOCOL = 1
    UDP_PROTOCOL = 17
    EPROTO = 71

    ECHO_REQUEST = b"\x08\x00\x54\x35\x12\x34\x00\x01abcdefgh"
    ECHO_REPLY = b"\x00\x00\x5c\x35\x12\x34\x00\x01abcdefgh"

    # Of a datagram that we sent: 10.77.0.2 port 5000 to 10.77.0.1 port 7777.
    IP_HEADER = b"\x45\x00\x00\x21\x00\x00\x40\x00\x40\x11\x26\x30\x0a\x4d\x00\x02\x0a\x4d\x00\x01"
    UDP_HEADER = b"\x13\x88\x1e\x61\x00\x0d\x75\x7c"
    PORT_UNREACHABLE = b"\x03\x03\x55\x8a\x00\x00\x00\x00" + IP_HEADER + UDP_HEADER
    FRAGMENTATION_NEEDED = b"\x03\x04\x50\x11\x00\x00\x05\x78" + IP_HEADER + UDP_HEADER

    # A datagram to our closed port 9.
    DATAGRAM = b"\x1e\x61\x00\x09\x00\x0d\x88\xfbhello"

    def make(address=OURS):
        """Return an IP and an ICMP layer, and a list that fills with the errors given to UDP."""
        ip = make_ip(address)
        icmp = ICMP(ip, Random())
        errors = []
        ip.errors[UDP_PROTOCOL] = lambda code, destination, header, now: errors.append((code, destination, header))
        return ip, icmp, errors

    def message(ip, data):
        """Return an ICMP message with its checksum filled in."""
        return checked(ip, ICMP_PROTOCOL, data, 2, False)

    def refuse(icmp, frame, source=PEER, code=3, now=0):
        icmp.unreachable(memoryview(frame), source, code, now)


@on_device
def test_echo_is_answered_with_the_same_bytes():
    ip, icmp, errors = make()
    arrive(ip, frame_of(ICMP_PROTOCOL, ECHO_REQUEST))
    same(len(ip.link.sent), 1)
    same(ip.link.sent[0][23:24], b"\x01")
    same(ip.link.sent[0][26:34], OURS + PEER)
    same(ip.link.sent[0][34:50], ECHO_REPLY)


@on_device
def test_echo_as_large_as_the_mtu_and_without_payload():
    ip, icmp, errors = make()
    for size in (1472, 1471, 0):
        arrive(ip, frame_of(ICMP_PROTOCOL, message(ip, b"\x08\x00\0\0\x12\x34\x00\x01" + bytes(size))))
        reply = ip.link.sent.pop()
        same(len(reply), 34 + 8 + size)
        same(ip.checksum(reply, 34, len(reply)), 0xFFFF)


@on_device
def test_echo_reply_carries_the_request_s_tos():
    ip, icmp, errors = make()
    frame = frame_of(ICMP_PROTOCOL, ECHO_REQUEST)
    frame[15] = 0x10
    frame[24:26] = b"\0\0"
    check = ~ip.checksum(frame, 14, 34) & 0xFFFF
    frame[24] = check & 255
    frame[25] = check >> 8
    arrive(ip, frame)
    same(ip.link.sent[0][15], 0x10)


@on_device
def test_drop_short():
    ip, icmp, errors = make()
    arrive(ip, frame_of(ICMP_PROTOCOL, b"\x08\x00\xe5\xca\x12\x34\x00"))
    only_drop(icmp, "short")


@on_device
def test_drop_checksum():
    ip, icmp, errors = make()
    arrive(ip, frame_of(ICMP_PROTOCOL, b"\x08\x00\x54\x36\x12\x34\x00\x01abcdefgh"))
    only_drop(icmp, "checksum")
    same(ip.link.sent, [])


@on_device
def test_drop_broadcast_echo_is_not_answered():
    ip, icmp, errors = make()
    for destination in (BROADCAST, b"\x0a\x4d\x00\xff"):
        arrive(ip, frame_of(ICMP_PROTOCOL, ECHO_REQUEST, destination=destination, mac=b"\xff" * 6))
        only_drop(icmp, "broadcast")
    # To our address, but in a frame to everybody.
    arrive(ip, frame_of(ICMP_PROTOCOL, ECHO_REQUEST, mac=b"\xff" * 6))
    only_drop(icmp, "broadcast")
    arrive(ip, frame_of(ICMP_PROTOCOL, ECHO_REQUEST, source=ANY))
    only_drop(icmp, "broadcast")
    same(ip.link.sent, [])


@on_device
def test_drop_broadcast_echo_before_there_is_an_address():
    ip, icmp, errors = make(ANY)
    arrive(ip, frame_of(ICMP_PROTOCOL, ECHO_REQUEST))
    only_drop(icmp, "broadcast")
    same(ip.link.sent, [])


@on_device
def test_drop_type_of_what_nobody_needs():
    ip, icmp, errors = make()
    # Source quench (RFC 6633), redirect, router advertisement, timestamp, mask request, echo with a code.
    for kind in (b"\x04\0", b"\x05\x01", b"\x09\0", b"\x0d\0", b"\x11\0", b"\x08\x01"):
        arrive(ip, frame_of(ICMP_PROTOCOL, message(ip, kind + bytes(6) + IP_HEADER + UDP_HEADER)))
        only_drop(icmp, "type")
    same(ip.link.sent, [])


@on_device
def test_drop_busy_when_the_ring_is_full():
    ip, icmp, errors = make()
    ip.link.full = True
    arrive(ip, frame_of(ICMP_PROTOCOL, ECHO_REQUEST))
    only_drop(icmp, "busy")


@on_device
def test_port_unreachable_reaches_udp_as_econnrefused():
    ip, icmp, errors = make()
    arrive(ip, frame_of(ICMP_PROTOCOL, PORT_UNREACHABLE))
    same(errors, [(ECONNREFUSED, PEER, UDP_HEADER)])


@on_device
def test_fragmentation_needed_is_emsgsize_with_the_next_hop_s_mtu():
    ip, icmp, errors = make()
    arrive(ip, frame_of(ICMP_PROTOCOL, message(ip, FRAGMENTATION_NEEDED[:10] + b"\x05\xdc" + FRAGMENTATION_NEEDED[12:])))
    same(errors, [(EMSGSIZE, PEER, UDP_HEADER)])
    same(ip.part("path_mtu").next_hop_mtu, 1400)


@on_device
def test_errors_become_errnos():
    ip, icmp, errors = make()
    for kind, code, expected in (
        (3, 0, EHOSTUNREACH),
        (3, 1, EHOSTUNREACH),
        (3, 2, ECONNREFUSED),
        (3, 5, EHOSTUNREACH),
        (3, 13, EHOSTUNREACH),
        (3, 255, EHOSTUNREACH),
        (11, 0, EHOSTUNREACH),
        (11, 1, EHOSTUNREACH),
        (12, 0, EPROTO),
    ):
        arrive(ip, frame_of(ICMP_PROTOCOL, message(ip, bytes((kind, code)) + bytes(6) + IP_HEADER + UDP_HEADER), OTHER))
        same(errors.pop(), (expected, PEER, UDP_HEADER))


@on_device
def test_an_error_that_quotes_more_passes_twenty_bytes_on():
    ip, icmp, errors = make()
    # IP header of 6 words, then more than a TCP header.
    quoted = b"\x46" + IP_HEADER[1:] + b"\x01\x01\x01\x00" + bytes(range(60))
    arrive(ip, frame_of(ICMP_PROTOCOL, message(ip, b"\x03\x03" + bytes(6) + quoted)))
    same(errors, [(ECONNREFUSED, PEER, bytes(range(20)))])


@on_device
def test_drop_quote_that_is_cut_off_or_no_ipv4_or_a_later_fragment():
    ip, icmp, errors = make()
    for quoted in (
        b"",
        IP_HEADER[:19],
        IP_HEADER,
        IP_HEADER + UDP_HEADER[:7],
        b"\x65" + IP_HEADER[1:] + UDP_HEADER,
        b"\x44" + IP_HEADER[1:] + UDP_HEADER,
        b"\x4f" + IP_HEADER[1:] + UDP_HEADER,
        IP_HEADER[:6] + b"\x00\xb9" + IP_HEADER[8:] + UDP_HEADER,
        IP_HEADER[:6] + b"\x01\x00" + IP_HEADER[8:] + UDP_HEADER,
    ):
        arrive(ip, frame_of(ICMP_PROTOCOL, message(ip, b"\x03\x03" + bytes(6) + quoted)))
        only_drop(icmp, "quote")
    same(errors, [])


@on_device
def test_drop_not_ours_when_the_quoted_packet_has_another_source():
    ip, icmp, errors = make()
    quoted = IP_HEADER[:12] + OTHER + PEER + UDP_HEADER
    arrive(ip, frame_of(ICMP_PROTOCOL, message(ip, b"\x03\x03" + bytes(6) + quoted)))
    only_drop(icmp, "not ours")
    # Without an address nothing is ours, not even what we sent from 0.0.0.0.
    ip, icmp, errors = make(ANY)
    quoted = IP_HEADER[:12] + ANY + PEER + UDP_HEADER
    arrive(ip, frame_of(ICMP_PROTOCOL, message(ip, b"\x03\x03" + bytes(6) + quoted)))
    only_drop(icmp, "not ours")
    same(errors, [])


@on_device
def test_drop_protocol_that_nobody_has_registered():
    ip, icmp, errors = make()
    quoted = IP_HEADER[:9] + b"\x2f" + IP_HEADER[10:] + UDP_HEADER
    arrive(ip, frame_of(ICMP_PROTOCOL, message(ip, b"\x03\x02" + bytes(6) + quoted)))
    only_drop(icmp, "protocol")


@on_device
def test_unreachable_quotes_the_ip_header_and_eight_bytes():
    ip, icmp, errors = make()
    frame = frame_of(UDP_PROTOCOL, DATAGRAM)
    refuse(icmp, frame)
    sent = ip.link.sent[0]
    same(sent[26:34], OURS + PEER)
    same(sent[34:36], b"\x03\x03")
    same(ip.checksum(sent, 34, len(sent)), 0xFFFF)
    same(sent[38:42], b"\0\0\0\0")
    same(sent[42:], bytes(frame[14:34]) + DATAGRAM[:8])
    # The code does not stick to what is sent next.
    arrive(ip, frame_of(ICMP_PROTOCOL, ECHO_REQUEST))
    same(ip.link.sent[1][34:50], ECHO_REPLY)


@on_device
def test_unreachable_quotes_no_more_than_there_was():
    ip, icmp, errors = make()
    frame = frame_of(99, b"\x01\x02\x03") + bytes(20)
    refuse(icmp, frame, code=2)
    same(ip.link.sent[0][34:36], b"\x03\x02")
    same(ip.link.sent[0][42:], bytes(frame[14:37]))


@on_device
def test_unreachable_is_silent_where_rfc_1122_demands_it():
    ip, icmp, errors = make()
    refuse(icmp, frame_of(UDP_PROTOCOL, DATAGRAM, destination=BROADCAST))
    refuse(icmp, frame_of(UDP_PROTOCOL, DATAGRAM, destination=b"\x0a\x4d\x00\xff"))
    refuse(icmp, frame_of(UDP_PROTOCOL, DATAGRAM, destination=b"\xe0\x00\x00\xfb"))
    refuse(icmp, frame_of(UDP_PROTOCOL, DATAGRAM, mac=b"\xff" * 6))
    refuse(icmp, frame_of(UDP_PROTOCOL, DATAGRAM, mac=b"\x01\x00\x5e\x00\x00\xfb"))
    for source in (ANY, b"\x7f\x00\x00\x01", b"\xe0\x00\x00\x01", BROADCAST, b"\x0a\x4d\x00\xff"):
        refuse(icmp, frame_of(UDP_PROTOCOL, DATAGRAM, source), source)
    for fragment in (b"\x20\x00", b"\x00\x01", b"\x1f\x00"):
        frame = frame_of(UDP_PROTOCOL, DATAGRAM)
        frame[20:22] = fragment
        refuse(icmp, frame)
    for kind in (3, 5, 11, 12, 13):
        refuse(icmp, frame_of(ICMP_PROTOCOL, bytes((kind,)) + bytes(7)), code=2)
    same(ip.link.sent, [])
    same(sum(icmp.drops.values()), 0)
    ip, icmp, errors = make(ANY)
    refuse(icmp, frame_of(UDP_PROTOCOL, DATAGRAM, destination=OTHER))
    refuse(icmp, frame_of(UDP_PROTOCOL, DATAGRAM, destination=ANY))
    same(ip.link.sent, [])


@on_device
def test_drop_rate_six_at_once_then_ten_a_second():
    for start in (0, PERIOD - 500):
        ip, icmp, errors = make()
        frame = frame_of(UDP_PROTOCOL, DATAGRAM)
        for _ in range(10):
            refuse(icmp, frame, now=start)
        same(len(ip.link.sent), 6)
        same(icmp.drops["rate"], 4)
        ip.link.sent.clear()
        for ms in range(1, 2001):
            refuse(icmp, frame, now=(start + ms) % PERIOD)
        same(len(ip.link.sent), 20)
    # After a long silence, so long that the tick looks like the past, the whole burst is there again.
    ip.link.sent.clear()
    for _ in range(10):
        refuse(icmp, frame, now=(start + PERIOD // 2 + 5000) % PERIOD)
    same(len(ip.link.sent), 6)


@on_device
def test_our_echo_request_and_its_reply():
    ip, icmp, errors = make()
    echo = icmp.echo(PEER, 1000, size=8, ttl=9)
    sent = ip.link.sent[0]
    same(sent[22], 9)
    same(sent[34:36], b"\x08\x00")
    same(sent[40:42], b"\x00\x00")
    same(sent[42:50], b"\0\x01\x02\x03\x04\x05\x06\x07")
    same(ip.checksum(sent, 34, 50), 0xFFFF)
    same((echo.answered, echo.time, echo.error), (None, None, None))
    reply = message(ip, b"\x00\x00\0\0" + sent[38:50])
    arrive(ip, frame_of(ICMP_PROTOCOL, reply, ttl=61), 1012)
    same((echo.answered, echo.time, echo.ttl, echo.source, echo.error), (1012, 12, 61, PEER, None))
    # A duplicate is no news.
    arrive(ip, frame_of(ICMP_PROTOCOL, reply))
    only_drop(icmp, "no request")
    same(icmp.echo(PEER, 0).sequence, 1)


@on_device
def test_drop_no_request_for_replies_that_do_not_match():
    ip, icmp, errors = make()
    echo = icmp.echo(PEER, 0, size=8)
    rest = ip.link.sent[0][38:50]
    for data, source in (
        (rest, OTHER),
        (bytes((rest[0] ^ 1,)) + rest[1:], PEER),
        (rest[:3] + b"\x07" + rest[4:], PEER),
        (rest[:-1], PEER),
        (rest[:-1] + b"\xff", PEER),
    ):
        arrive(ip, frame_of(ICMP_PROTOCOL, message(ip, b"\x00\x00\0\0" + data), source))
        only_drop(icmp, "no request")
    same(echo.answered, None)


@on_device
def test_a_router_that_ends_our_echo_s_ttl_is_named():
    ip, icmp, errors = make()
    echo = icmp.echo(b"\x08\x08\x08\x08", 0, ttl=1)
    quoted = ip.link.sent[0][14:42]
    arrive(ip, frame_of(ICMP_PROTOCOL, message(ip, b"\x0b\x00" + bytes(6) + quoted)), 5)
    same((echo.answered, echo.time, echo.error, echo.source), (5, None, EHOSTUNREACH, PEER))


@on_device
def test_a_neighbour_that_does_not_answer_ends_our_echo():
    ip, icmp, errors = make()
    echo = icmp.echo(PEER, 0)
    ip.errors[ICMP_PROTOCOL](EHOSTUNREACH, PEER, ip.link.sent[0][34:42], 3000)
    same((echo.answered, echo.time, echo.error, echo.source), (3000, None, EHOSTUNREACH, None))


@on_device
def test_waiting_echoes_are_bounded():
    ip, icmp, errors = make()
    echoes = [icmp.echo(PEER, 0) for _ in range(8)]
    raises(ENOBUFS, icmp.echo, PEER, 0)
    icmp.forget(echoes[3])
    icmp.forget(echoes[3])
    icmp.echo(PEER, 0)
    icmp.forget(echoes[0])
    ip.link.full = True
    raises(ENOBUFS, icmp.echo, PEER, 0)


@on_device
def test_fuzz_nothing_raised_nothing_leaked():
    ip, icmp, errors = make()
    icmp.echo(PEER, 0)
    ip.part("ip_options")  # some quotes will have them
    random = Random(792)
    packets = (
        ECHO_REQUEST,
        PORT_UNREACHABLE,
        FRAGMENTATION_NEEDED,
        b"\x0b\x00" + bytes(6) + ip.link.sent[0][14:42],
        b"\x00\x00\0\0" + ip.link.sent[0][38:],
    )
    frame = bytearray(300)
    view = memoryview(frame)
    used = 0
    for i in range(5000):
        data = mutate(packets[i % 5], random)
        if len(data) >= 4 and i % 7:
            data = message(ip, data)
        frame[34 : 34 + len(data)] = data
        icmp._receive(view, 34, 34 + len(data), PEER, OURS, i)
        ip.link.sent.clear()
        errors.clear()
        if i == 1000:
            gc.collect()
            used = gc.mem_alloc()
    gc.collect()
    assert gc.mem_alloc() <= used + 200, "{} bytes leaked".format(gc.mem_alloc() - used)
    for reason in ("short", "checksum", "type", "quote", "not ours", "no request"):
        assert icmp.drops[reason], "never seen: " + reason
    arrive(ip, frame_of(ICMP_PROTOCOL, ECHO_REQUEST))
    same(ip.link.sent[0][34:50], ECHO_REPLY)
