"""UDP: RFC 768 and RFC 1122 section 4.1, datagram by datagram."""

from device import ON_DEVICE, on_device

if ON_DEVICE:
    import gc

    import micropython

    from barenet.errors import (
        EACCES,
        EADDRINUSE,
        EADDRNOTAVAIL,
        ECONNREFUSED,
        EDESTADDRREQ,
        EHOSTUNREACH,
        EINVAL,
        EMSGSIZE,
        ENOMEM,
    )
    from barenet.fast_udp import E_DROPPED
    from barenet.udp import UDP
    from doubles import (
        ANY,
        BROADCAST,
        MASK,
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

    # "hello" from 10.77.0.1 port 7777 to 10.77.0.2 port 5000.
    HELLO = b"\x1e\x61\x13\x88\x00\x0d\x75\x7chello"
    # The answer to it.
    ANSWER = b"\x13\x88\x1e\x61\x00\x0d\x75\x7chello"
    UDP_PROTOCOL = 17

    def open_port(address=ANY, port=5000, rcvbuf=4096):
        """Return an IP layer, a UDP layer that notes the datagrams it finds unreachable, and an endpoint on `port`."""
        ip = make_ip()
        udp = UDP(ip, Random())
        udp.refused = []
        udp.unreachable = lambda frame, source, code, now: udp.refused.append((source, code))
        endpoint = udp.endpoint(rcvbuf)
        endpoint.bind(address, port)
        return ip, udp, endpoint

    def receive(endpoint, n=1500, peek=False):
        """Return (data, source, port) of the next datagram, or None."""
        buffer = bytearray(n)
        got = endpoint.pull(buffer, n, peek)
        return None if got < 0 else (bytes(buffer[:got]),) + endpoint.sender()

    def datagram(ip, data, port=7777, to=5000, source=PEER, destination=OURS):
        """Return a UDP datagram with its checksum."""
        length = 8 + len(data)
        header = bytes((port >> 8, port & 255, to >> 8, to & 255, length >> 8, length & 255, 0, 0))
        return checked(ip, UDP_PROTOCOL, header + data, 6, True, source, destination)


@on_device
def test_a_datagram_reaches_the_endpoint_of_its_port():
    ip, udp, endpoint = open_port()
    assert not endpoint.readable()
    same(endpoint.next_length(), -1)
    arrive(ip, frame_of(UDP_PROTOCOL, HELLO))
    assert endpoint.readable()
    same(endpoint.next_length(), 5)
    same(receive(endpoint, peek=True), (b"hello", PEER, 7777))
    same(receive(endpoint), (b"hello", PEER, 7777))
    same(receive(endpoint), None)
    same(udp.refused, [])


@on_device
def test_a_sent_datagram_has_ports_length_and_checksum():
    ip, udp, endpoint = open_port()
    assert endpoint.send(b"hello", PEER, 7777, 0)
    same(ip.link.sent[0][14:16], b"\x45\x00")
    same(ip.link.sent[0][23:24], b"\x11")
    same(ip.link.sent[0][26:34], OURS + PEER)
    same(ip.link.sent[0][34:47], ANSWER)


@on_device
def test_a_sum_of_zero_is_sent_as_ffff():
    ip, udp, endpoint = open_port()
    assert endpoint.send(b"\xb9\x54", PEER, 7777, 0)
    same(ip.link.sent[0][34:44], b"\x13\x88\x1e\x61\x00\x0a\xff\xff\xb9\x54")


@on_device
def test_a_datagram_without_checksum_is_taken():
    ip, udp, endpoint = open_port()
    arrive(ip, frame_of(UDP_PROTOCOL, b"\x1e\x61\x13\x88\x00\x0d\x00\x00hello"))
    same(receive(endpoint)[0], b"hello")


@on_device
def test_an_empty_datagram_is_a_datagram():
    ip, udp, endpoint = open_port()
    arrive(ip, frame_of(UDP_PROTOCOL, b"\x1e\x61\x13\x88\x00\x08\x00\x00"))
    assert endpoint.readable()
    same(receive(endpoint), (b"", PEER, 7777))
    assert endpoint.send(b"", PEER, 7777, 0)
    same(ip.link.sent[0][38:40], b"\x00\x08")


@on_device
def test_bytes_after_the_length_are_padding():
    ip, udp, endpoint = open_port()
    arrive(ip, frame_of(UDP_PROTOCOL, HELLO + b"\xee\xee\xee"))
    same(receive(endpoint)[0], b"hello")


@on_device
def test_drop_short_less_than_a_header():
    ip, udp, endpoint = open_port()
    arrive(ip, frame_of(UDP_PROTOCOL, b"\x1e\x61\x13\x88\x00\x08\x00"))
    only_drop(udp, "short")
    assert not endpoint.readable()


@on_device
def test_drop_length_beyond_the_packet_or_below_the_header():
    ip, udp, endpoint = open_port()
    for length in (b"\x00\x0e", b"\xff\xff", b"\x00\x07", b"\x00\x00"):
        arrive(ip, frame_of(UDP_PROTOCOL, b"\x1e\x61\x13\x88" + length + b"\x00\x00hello"))
        only_drop(udp, "length")
    assert not endpoint.readable()


@on_device
def test_drop_checksum():
    ip, udp, endpoint = open_port()
    arrive(ip, frame_of(UDP_PROTOCOL, b"\x1e\x61\x13\x88\x00\x0d\x75\x7chellp"))
    only_drop(udp, "checksum")
    arrive(ip, frame_of(UDP_PROTOCOL, HELLO, source=OTHER))
    only_drop(udp, "checksum")
    assert not endpoint.readable()


@on_device
def test_drop_port_and_answer_that_it_is_unreachable():
    ip, udp, endpoint = open_port()
    arrive(ip, frame_of(UDP_PROTOCOL, b"\x1e\x61\x00\x09\x00\x0d\x88\xfbhello"))
    only_drop(udp, "port")
    same(udp.refused, [(PEER, 3)])


@on_device
def test_drop_peer_when_a_stranger_writes_to_a_connected_endpoint():
    ip, udp, endpoint = open_port()
    endpoint.connect(PEER, 7777)
    for source, port in ((OTHER, 7777), (PEER, 7778)):
        arrive(ip, frame_of(UDP_PROTOCOL, datagram(ip, b"x", port, source=source), source=source))
        only_drop(udp, "peer")
    same(udp.refused, [(OTHER, 3), (PEER, 3)])
    arrive(ip, frame_of(UDP_PROTOCOL, HELLO))
    same(receive(endpoint), (b"hello", PEER, 7777))


@on_device
def test_drop_full_keeps_the_oldest_and_is_bounded_by_the_buffer():
    ip, udp, endpoint = open_port(rcvbuf=256)
    frame = frame_of(UDP_PROTOCOL, datagram(ip, b"x" * 56))
    for _ in range(4):
        arrive(ip, frame)
    same(sum(udp.drops.values()), 0)
    arrive(ip, frame_of(UDP_PROTOCOL, HELLO))
    only_drop(udp, "full")
    same(endpoint.words[E_DROPPED], 1)
    same(udp.refused, [])
    for _ in range(4):
        same(receive(endpoint)[0], b"x" * 56)
    same(receive(endpoint), None)
    # Each datagram costs 8 bytes beside its data, so empty ones are bounded, too.
    for _ in range(40):
        arrive(ip, frame_of(UDP_PROTOCOL, b"\x1e\x61\x13\x88\x00\x08\x00\x00"))
    only_32 = 0
    while receive(endpoint) is not None:
        only_32 += 1
    same(only_32, 32)


@on_device
def test_datagrams_keep_their_bytes_across_the_ring_s_wrap():
    ip, udp, endpoint = open_port(rcvbuf=300)
    random = Random(7)
    waiting = []
    for _ in range(300):
        data = random(random.below(100))
        before = endpoint.words[E_DROPPED]
        arrive(ip, frame_of(UDP_PROTOCOL, datagram(ip, data, 1 + random.below(65535))))
        if endpoint.words[E_DROPPED] == before:
            waiting.append(data)
        if random.below(3):
            got = receive(endpoint)
            same(got and got[0], waiting.pop(0) if waiting else None)
    assert endpoint.words[E_DROPPED] > 10


@on_device
def test_a_datagram_longer_than_the_buffer_is_cut():
    ip, udp, endpoint = open_port()
    arrive(ip, frame_of(UDP_PROTOCOL, HELLO))
    arrive(ip, frame_of(UDP_PROTOCOL, datagram(ip, b"next")))
    same(receive(endpoint, 2)[0], b"he")
    same(receive(endpoint)[0], b"next")


@on_device
def test_receiving_and_taking_allocate_nothing():
    ip, udp, endpoint = open_port()
    endpoint.connect(PEER, 7777)
    frame = memoryview(frame_of(UDP_PROTOCOL, datagram(ip, bytes(1472))))
    buffer = bytearray(1500)
    n = 0
    micropython.heap_lock()
    try:
        for _ in range(20):
            endpoint.receive(frame, 42, 42 + 1472, PEER, 7777, OURS, 0)
            n += endpoint.pull(buffer, 1500, 0)
    finally:
        micropython.heap_unlock()
    same(n, 20 * 1472)


@on_device
def test_bind_refuses_a_port_in_use_and_an_address_that_is_not_ours():
    ip, udp, endpoint = open_port()
    raises(EADDRINUSE, udp.endpoint().bind, ANY, 5000)
    raises(EADDRINUSE, udp.endpoint().bind, OURS, 5000)
    raises(EADDRNOTAVAIL, udp.endpoint().bind, OTHER, 5001)
    raises(EINVAL, endpoint.bind, ANY, 5001)
    raises(EINVAL, udp.endpoint().bind, ANY, 65536)
    endpoint.close()
    endpoint.close()
    udp.endpoint().bind(OURS, 5000)


@on_device
def test_ephemeral_ports_start_at_random_and_run_out_cleanly():
    ip = make_ip()
    udp = UDP(ip, lambda n: b"\xff\xfe"[:n])
    same(udp.free_port(), 65534)
    for port in (65534, 65535, 49152):
        udp.ports[port] = None
    same(udp.free_port(), 49153)

    class Full(dict):
        def __contains__(self, port):
            return True

    udp.ports = Full()
    raises(EADDRINUSE, udp.free_port)


@on_device
def test_sending_takes_an_ephemeral_port():
    ip = make_ip()
    udp = UDP(ip, Random())
    endpoint = udp.endpoint()
    assert endpoint.send(b"x", PEER, 7777, 0)
    assert 49152 <= endpoint.port <= 65535
    assert udp.ports[endpoint.port] is endpoint


@on_device
def test_broadcast_is_sent_only_with_so_broadcast():
    ip, udp, endpoint = open_port()
    for address in (BROADCAST, b"\x0a\x4d\x00\xff"):
        raises(EACCES, endpoint.send, b"x", address, 7777, 0)
        raises(EACCES, endpoint.connect, address, 7777)
    same(ip.link.sent, [])
    endpoint.broadcast = True
    assert endpoint.send(b"x", BROADCAST, 7777, 0)
    same(ip.link.sent[0][:6], b"\xff" * 6)
    same(ip.link.sent[0][30:34], BROADCAST)


@on_device
def test_broadcast_reaches_a_bound_endpoint():
    for address in (ANY, OURS):
        ip, udp, endpoint = open_port(address)
        for destination in (BROADCAST, b"\x0a\x4d\x00\xff"):
            frame = frame_of(UDP_PROTOCOL, datagram(ip, b"x", destination=destination), PEER, destination, b"\xff" * 6)
            arrive(ip, frame)
            same(receive(endpoint), (b"x", PEER, 7777))


@on_device
def test_an_endpoint_bound_to_an_address_ignores_the_others():
    ip, udp, endpoint = open_port(OURS)
    ip.configure(OTHER, MASK, PEER)
    arrive(ip, frame_of(UDP_PROTOCOL, datagram(ip, b"x", destination=OTHER), PEER, OTHER))
    only_drop(udp, "port")
    assert not endpoint.readable()


@on_device
def test_datagrams_larger_than_ip_can_carry_are_refused():
    ip, udp, endpoint = open_port()
    assert endpoint.send(bytes(1472), PEER, 7777, 0)
    raises(EMSGSIZE, endpoint.send, bytes(65508), PEER, 7777, 0)
    raises(EMSGSIZE, endpoint.send, bytes(70000), PEER, 7777, 0)
    same(len(ip.link.sent), 1)


@on_device
def test_a_full_ring_and_a_missing_route_are_told():
    ip, udp, endpoint = open_port()
    ip.link.full = True
    same(endpoint.send(b"x", PEER, 7777, 0), False)
    ip.link.full = False
    ip.configure(OURS, MASK, ANY)
    ip.arp.lookup = lambda address, now: None
    raises(EHOSTUNREACH, endpoint.send, b"x", b"\x08\x08\x08\x08", 53, 0)


@on_device
def test_port_zero_and_a_missing_destination_are_refused():
    ip, udp, endpoint = open_port()
    raises(EINVAL, endpoint.send, b"x", PEER, 0, 0)
    raises(EINVAL, endpoint.send, b"x", PEER, 65536, 0)
    raises(EINVAL, endpoint.connect, PEER, 0)
    raises(EDESTADDRREQ, endpoint.send, b"x", None, 0, 0)


@on_device
def test_port_unreachable_is_raised_once_at_a_connected_endpoint():
    ip, udp, endpoint = open_port()
    endpoint.connect(PEER, 7777)
    # Ports of the datagram that could not be delivered: 5000 to 7777.
    header = b"\x13\x88\x1e\x61\x00\x0d\x75\x7c"
    ip.errors[UDP_PROTOCOL](ECONNREFUSED, PEER, header, 0)
    assert endpoint.readable()
    raises(ECONNREFUSED, endpoint.send, b"x", None, 0, 0)
    assert endpoint.send(b"x", None, 0, 0)
    ip.errors[UDP_PROTOCOL](ECONNREFUSED, PEER, header, 0)
    raises(ECONNREFUSED, endpoint.raise_error)
    endpoint.raise_error()


@on_device
def test_errors_of_others_and_of_unconnected_endpoints_are_ignored():
    ip, udp, endpoint = open_port()
    ip.errors[UDP_PROTOCOL](ECONNREFUSED, PEER, b"\x13\x88\x1e\x61\x00\x0d\x75\x7c", 0)
    same(endpoint.error, 0)
    endpoint.connect(PEER, 7777)
    ip.errors[UDP_PROTOCOL](ECONNREFUSED, OTHER, b"\x13\x88\x1e\x61\x00\x0d\x75\x7c", 0)
    ip.errors[UDP_PROTOCOL](ECONNREFUSED, PEER, b"\x13\x88\x1e\x62\x00\x0d\x75\x7c", 0)
    ip.errors[UDP_PROTOCOL](ECONNREFUSED, PEER, b"\x13\x89\x1e\x61\x00\x0d\x75\x7c", 0)
    same(endpoint.error, 0)


@on_device
def test_data_that_waits_comes_before_an_error():
    ip, udp, endpoint = open_port()
    endpoint.connect(PEER, 7777)
    arrive(ip, frame_of(UDP_PROTOCOL, HELLO))
    endpoint.failed(ECONNREFUSED, PEER, 7777, 0)
    same(receive(endpoint)[0], b"hello")
    same(receive(endpoint), None)
    raises(ECONNREFUSED, endpoint.raise_error)


@on_device
def test_the_receive_buffer_can_be_resized_with_data_in_it():
    ip, udp, endpoint = open_port(rcvbuf=256)
    arrive(ip, frame_of(UDP_PROTOCOL, datagram(ip, bytes(200))))
    receive(endpoint)
    arrive(ip, frame_of(UDP_PROTOCOL, HELLO))
    arrive(ip, frame_of(UDP_PROTOCOL, datagram(ip, b"y" * 100)))
    endpoint.resize(1000)
    same(endpoint.rcvbuf, 1000)
    arrive(ip, frame_of(UDP_PROTOCOL, datagram(ip, b"z" * 600)))
    endpoint.resize(1)
    same(endpoint.rcvbuf, 8 + 8 + 8 + 100 + 8 + 600)  # whole words
    same(receive(endpoint)[0], b"hello")
    same(receive(endpoint)[0], b"y" * 100)
    same(receive(endpoint)[0], b"z" * 600)


@on_device
def test_a_receive_buffer_that_does_not_fit_the_heap_is_refused():
    ip, udp, endpoint = open_port()
    huge = udp.endpoint(1 << 28)
    raises(ENOMEM, huge.bind, ANY, 5001)
    same((huge.port, list(udp.ports)), (0, [5000]))
    arrive(ip, frame_of(UDP_PROTOCOL, HELLO))
    raises(ENOMEM, endpoint.resize, 1 << 28)
    same(receive(endpoint)[0], b"hello")


@on_device
def test_ttl_and_tos_of_the_endpoint_are_used():
    ip, udp, endpoint = open_port()
    endpoint.ttl = 3
    endpoint.tos = 0x10
    endpoint.send(b"x", PEER, 7777, 0)
    same(ip.link.sent[0][15], 0x10)
    same(ip.link.sent[0][22], 3)


@on_device
def test_nothing_is_answered_or_lost_before_there_is_an_address():
    ip = make_ip(ANY)
    udp = UDP(ip, Random())
    endpoint = udp.endpoint()
    endpoint.bind(ANY, 68)
    # A DHCP offer comes to an address that is not ours yet.
    arrive(ip, frame_of(UDP_PROTOCOL, datagram(ip, b"offer", 67, 68, PEER, OTHER), PEER, OTHER))
    same(receive(endpoint), (b"offer", PEER, 67))
    assert udp.send(68, BROADCAST, 67, b"discover", 0, ANY)
    same(ip.link.sent[0][26:34], ANY + BROADCAST)


@on_device
def test_fuzz_nothing_raised_nothing_leaked():
    ip, udp, endpoint = open_port(rcvbuf=2000)
    random = Random(2024)
    good = b"\x1e\x61\x13\x88\x00\x26\x00\x00" + b"0123456789" * 3
    frame = bytearray(200)
    view = memoryview(frame)
    used = 0
    for i in range(5000):
        data = mutate(good, random)
        frame[34 : 34 + len(data)] = data
        udp._receive(view, 34, 34 + len(data), PEER, OURS, i)
        if i % 10 == 0:
            while receive(endpoint):
                pass
        if i == 1000:
            udp.refused = []
            gc.collect()
            used = gc.mem_alloc()
        if i > 1000:
            udp.refused.clear()
    gc.collect()
    assert gc.mem_alloc() <= used + 200, "{} bytes leaked".format(gc.mem_alloc() - used)
    assert all(udp.drops[reason] for reason in ("short", "length", "checksum", "port")), udp.drops
    while receive(endpoint):
        pass
    arrive(ip, frame_of(UDP_PROTOCOL, HELLO))
    same(receive(endpoint), (b"hello", PEER, 7777))
