"""What ICMP errors do to connections: RFC 1122 section 4.2.3.9, RFC 5927."""

from device import ON_DEVICE
from wire import on_wire

if ON_DEVICE:
    from barenet import fast
    from rig import ACK, OURS, PEER, PSH, SYN, Wire, established, packet

    EPROTO, ECONNREFUSED, EHOSTUNREACH = 71, 111, 113

    def unreachable(peer, code, seq, ports=None, kind=3):
        """Returns the error of a router about our segment with this number."""
        ports = ports or (peer.to, peer.port)
        header = b"".join(port.to_bytes(2, "big") for port in ports) + ((seq + peer.irs) & 0xFFFFFFFF).to_bytes(
            4, "big"
        )
        quote = packet(6, header + bytes(12))
        quote[26:30] = OURS
        quote[30:34] = PEER
        message = bytearray(bytes((kind, code)) + bytes(6) + quote[14:42])
        check = ~fast.add(message, 0, len(message), 0) & 0xFFFF
        message[2] = check & 255
        message[3] = check >> 8
        return packet(1, message)


@on_wire
def test_unreachable_ends_a_connection_that_is_opening():
    for code, error in ((1, EHOSTUNREACH), (3, ECONNREFUSED)):
        wire = Wire()
        peer = wire.peer()
        app = wire.connect(peer)
        peer.expect(SYN, mss=1460)
        wire.receive(unreachable(peer, code, 0))
        assert app.state == "CLOSED" and app.error == error


@on_wire
def test_error_about_a_segment_that_is_not_in_flight_is_not_believed():
    # RFC 5927 section 4.1.
    for seq in (-1, 2, 1000, 0x7FFFFFFF, -0x7FFFFFFF):
        wire = Wire()
        peer = wire.peer()
        app = wire.connect(peer)
        peer.expect(SYN, mss=1460)
        wire.receive(unreachable(peer, 1, seq))
        wire.receive(unreachable(peer, 1, 0, (peer.to, 4999)))
        wire.receive(unreachable(peer, 1, 0, (81, peer.port)))
        assert app.state == "SYN_SENT"


@on_wire
def test_open_connection_survives_an_error():
    # RFC 1122 section 4.2.3.9: MUST NOT abort; retransmission goes on.
    for code in (0, 1, 2, 3, 5):
        wire, peer, app = established()
        app.write(b"hello")
        peer.expect(ACK | PSH, text=b"hello")
        wire.receive(unreachable(peer, code, 1))
        assert app.state == "ESTABLISHED" and not app.error
        peer.expect(ACK | PSH, seq=1, text=b"hello", after=200)
        peer.send(ACK)


@on_wire
def test_open_connection_survives_time_exceeded_and_parameter_problem():
    # RFC 9293 section 3.9.2.2, MUST-56.
    for kind in (11, 12):
        wire, peer, app = established()
        app.write(b"hello")
        peer.expect(ACK | PSH, text=b"hello")
        wire.receive(unreachable(peer, 0, 1, kind=kind))
        assert app.state == "ESTABLISHED" and not app.error
        peer.expect(ACK | PSH, seq=1, text=b"hello", after=200)
        peer.send(ACK)


@on_wire
def test_the_last_soft_error_is_what_the_program_is_told_when_the_connection_gives_up():
    # RFC 9293 sections 3.9.1.8 and 3.9.2.2, MUST-47 and SHLD-25.
    wire, peer, app = established()
    app.write(b"hello")
    wire.frames.clear()
    wire.receive(unreachable(peer, 0, 1, kind=12))
    wire.receive(unreachable(peer, 1, 1))
    wire.receive(unreachable(peer, 0, 2000, kind=12))  # not about what is in flight
    wire.advance(300_000)
    assert app.state == "CLOSED" and app.error == EHOSTUNREACH
    wire.frames.clear()


@on_wire
def test_source_quench_is_ignored():
    # RFC 6633 section 3: it changes neither the state nor the congestion window.
    wire, peer, app = established()
    app.write(b"hello")
    peer.expect(ACK | PSH, text=b"hello")
    before = app.tcb[fast.CWND]
    wire.receive(unreachable(peer, 0, 1, kind=4))
    assert wire.drops() == {("icmp", "type"): 1}
    assert app.state == "ESTABLISHED" and app.tcb[fast.CWND] == before
    peer.send(ACK)
    peer = wire.peer(port=5001)
    app = wire.connect(peer)
    peer.expect(SYN, mss=1460)
    wire.receive(unreachable(peer, 0, 0, kind=4))
    assert app.state == "SYN_SENT"
