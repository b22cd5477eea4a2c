"""Listening ports, and how many connections there can be."""

from device import ON_DEVICE
from wire import on_wire

if ON_DEVICE:
    from barenet import fast
    from barenet.tcp import CONNECTIONS
    from rig import ACK, FIN, OTHER, OTHER_MAC, PSH, RST, SYN, Wire, another, arp

    EADDRINUSE, EHOSTUNREACH = 98, 113

    def raises(code, call, *arguments):
        try:
            call(*arguments)
        except OSError as e:
            assert e.errno == code, e
            return
        raise AssertionError("nothing raised")

    def opened(wire, port, to=80):
        """Returns a peer whose connection to a listening port is open."""
        peer = wire.peer(port, to)
        peer.send(SYN)
        peer.expect(SYN | ACK, mss=1460)
        peer.send(ACK)
        return peer


@on_wire
def test_connections_are_accepted_in_the_order_in_which_they_opened():
    wire = Wire()
    listener = wire.listen(80)
    first, second, third = wire.peer(5001), wire.peer(5002), wire.peer(5003)
    for peer in (first, second, third):
        peer.send(SYN)
        peer.expect(SYN | ACK, mss=1460)
    for peer in (second, third, first):
        peer.send(ACK)
    assert [wire.accept(listener).connection.remote[1] for _ in range(3)] == [5002, 5003, 5001]
    assert wire.accept(listener) is None


@on_wire
def test_full_backlog_ignores_a_syn_until_there_is_room():
    wire = Wire()
    listener = wire.listen(80, backlog=2)
    opened(wire, 5001)
    opened(wire, 5002)
    late = wire.peer(5003)
    late.send(SYN)
    wire.expect_nothing()
    assert wire.drops() == {("tcp", "backlog full"): 1}
    assert wire.accept(listener)
    late.send(SYN, seq=0)
    late.expect(SYN | ACK, mss=1460)


@on_wire
def test_flood_of_syns_is_answered_with_cookies_and_an_honest_peer_gets_in():
    # RFC 4987 section 3.6: beyond the backlog nothing is kept of a SYN; its answer carries what must be known.
    wire = Wire()
    listener = wire.listen(80, backlog=3)
    for i in range(50):
        attacker = wire.peer(7000 + i)
        attacker.send(SYN, mss=1460)
        attacker.expect(SYN | ACK, mss=1460)
    assert sum(c is not None for c in wire.tcp.connections) == 3
    assert wire.drops() == {("tcp", "backlog full, cookie sent"): 47}
    peer = wire.peer(5001)
    peer.send(SYN, mss=1220)
    got = peer.expect(SYN | ACK, mss=1460)
    assert len(got.options) == 4, "no option but the MSS"
    peer.send(ACK, text=b"hello")
    peer.expect(ACK, ack=6, after=40)
    app = wire.accept(listener)
    assert app.read(9) == b"hello" and app.tcb[fast.SND_MSS] == 1220
    # A guess, and a cookie that is too old.
    guess = wire.peer(5002)
    guess.irs = 12345
    guess.send(ACK, seq=1, ack=1)
    guess.expect(RST, seq=1)
    old = wire.peer(5003)
    old.send(SYN)
    old.expect(SYN | ACK, mss=1460)
    wire.frames.clear()
    wire.now += 140_000
    wire.stack.poll()
    wire.frames.clear()
    old.send(ACK)
    old.expect(RST, seq=1)


@on_wire
def test_accepted_connections_do_not_count_for_the_backlog():
    wire = Wire()
    listener = wire.listen(80, backlog=1)
    apps = []
    for i in range(10):
        opened(wire, 5000 + i)
        apps.append(wire.accept(listener))
    assert all(app.state == "ESTABLISHED" for app in apps)


@on_wire
def test_closing_the_port_resets_what_was_not_accepted():
    # RFC 9293 section 3.10.4, LISTEN STATE.
    wire = Wire()
    listener = wire.listen(80)
    taken = opened(wire, 5001)
    app = wire.accept(listener)
    waiting = opened(wire, 5002)
    half = wire.peer(5003)
    half.send(SYN)
    half.expect(SYN | ACK, mss=1460)
    wire.stack.enter()
    listener.close(wire.stack.now())
    wire.stack.leave()
    waiting.expect(RST | ACK, seq=1)
    half.expect(RST | ACK, seq=1)
    assert app.state == "ESTABLISHED"
    taken.send(ACK | PSH, text=b"hello")
    assert app.read(9) == b"hello"
    taken.expect(ACK, after=40)
    late = wire.peer(5004)
    late.send(SYN)
    late.expect(RST | ACK, seq=0)
    wire.listen(80)


@on_wire
def test_connection_reset_before_it_was_accepted_is_never_accepted():
    wire = Wire()
    listener = wire.listen(80, backlog=1)
    peer = opened(wire, 5001)
    peer.send(RST)
    assert wire.accept(listener) is None and not any(wire.tcp.connections)
    opened(wire, 5002)
    assert wire.accept(listener)


@on_wire
def test_data_that_came_before_the_reset_can_still_be_accepted_and_read():
    wire = Wire()
    listener = wire.listen(80)
    peer = opened(wire, 5001)
    peer.send(ACK | PSH, text=b"hello")
    peer.expect(ACK, after=40)
    peer.send(RST)
    app = wire.accept(listener)
    assert app.read(9) == b"hello" and app.error
    app.close()
    assert app.deleted()


@on_wire
def test_connection_closed_by_the_peer_before_it_was_accepted():
    wire = Wire()
    listener = wire.listen(80)
    peer = opened(wire, 5001)
    peer.send(FIN | ACK | PSH, text=b"short")
    peer.expect(ACK)
    app = wire.accept(listener)
    assert app.read(9) == b"short" and app.connection.at_end() and app.state == "CLOSE_WAIT"


@on_wire
def test_port_that_is_listened_on_is_in_use():
    wire = Wire()
    wire.listen(80)
    raises(EADDRINUSE, wire.listen, 80)


@on_wire
def test_same_pair_of_ports_cannot_be_opened_twice():
    wire = Wire()
    peer, app = another(wire)
    raises(EADDRINUSE, wire.connect, wire.peer())
    app.close()
    peer.expect(FIN | ACK)
    peer.send(FIN | ACK)
    peer.expect(ACK)
    assert app.state == "TIME_WAIT"
    raises(EADDRINUSE, wire.connect, wire.peer())
    wire.advance(60000)
    wire.connect(wire.peer())
    wire.peer().expect(SYN, mss=1460)


@on_wire
def test_one_port_serves_peers_with_equal_ports_and_different_addresses():
    wire = Wire()
    wire.receive(arp(1, OTHER_MAC, OTHER, bytes(6), b"\x0a\x4d\x00\x02"))
    wire.expect_arp(2, OTHER, OTHER_MAC, OTHER_MAC)
    listener = wire.listen(80)
    one = wire.peer(5000)
    two = wire.peer(5000, address=OTHER, mac=OTHER_MAC)
    for peer in (one, two):
        peer.send(SYN)
        peer.expect(SYN | ACK, mss=1460)
        peer.send(ACK)
    first, second = wire.accept(listener), wire.accept(listener)
    first.write(b"one")
    one.expect(ACK | PSH, text=b"one")
    second.write(b"two")
    two.expect(ACK | PSH, text=b"two")


@on_wire
def test_connecting_to_many_or_to_nobody_is_refused():
    # RFC 9293 section 3.9.2.3, MUST-46.
    wire = Wire()
    for address in (b"\xff\xff\xff\xff", b"\x0a\x4d\x00\xff", b"\xe0\0\0\1", b"\xf0\0\0\1", b"\0\0\0\0", b"\xc0\0\2\7"):
        raises(EHOSTUNREACH, wire.connect, wire.peer(address=address))
    assert not any(wire.tcp.connections)
    wire.expect_nothing()


@on_wire
def test_number_of_connections_is_bounded_and_time_waits_make_room():
    wire = Wire()
    listener = wire.tcp.listen(80, 100, rcvbuf=536, sndbuf=536)
    peers = [opened(wire, 5000 + i) for i in range(CONNECTIONS)]
    apps = [wire.accept(listener) for _ in peers]
    late = wire.peer(6000)
    late.send(SYN)
    wire.expect_nothing()
    assert wire.drops() == {("tcp", "out of memory"): 1}
    for i in (40, 7):
        apps[i].close()
        peers[i].expect(FIN | ACK)
        peers[i].send(FIN | ACK)
        peers[i].expect(ACK)
        wire.advance(1)
    late.send(SYN, seq=0)
    late.expect(SYN | ACK, mss=1460)
    assert apps[40].deleted() and apps[7].state == "TIME_WAIT"
    late.send(ACK)
    for i, peer in enumerate(peers):
        if i not in (40, 7):
            peer.send(ACK | PSH, text=b"%d" % i)
            assert apps[i].read(9) == b"%d" % i
    wire.advance(40)
    assert len(wire.frames) == CONNECTIONS - 2
    wire.frames.clear()


@on_wire
def test_without_memory_a_syn_is_dropped_and_nothing_is_left():
    wire = Wire()
    listener = wire.listen(80)

    def no_memory():
        raise MemoryError

    wire.choose_iss(no_memory)
    peer = wire.peer()
    peer.send(SYN)
    wire.expect_nothing()
    assert wire.drops() == {("tcp", "out of memory"): 1}
    assert not any(wire.tcp.connections) and not listener.pending
    wire.iss(5)
    peer.send(SYN, seq=0)
    peer.expect(SYN | ACK, mss=1460)
