"""Keep-alive: RFC 9293 section 3.8.4."""

from device import ON_DEVICE
from wire import on_wire

if ON_DEVICE:
    from rig import ACK, PSH, RST, established

    ETIMEDOUT = 110


@on_wire
def test_without_keepalive_an_idle_connection_is_left_alone():
    # MUST-25: off unless the program asks for it.
    wire, peer, app = established()
    wire.advance(7200000 + 75000 * 10)
    peer.expect_nothing()
    assert app.state == "ESTABLISHED"


@on_wire
def test_idle_connection_is_probed_with_an_old_number():
    wire, peer, app = established()
    app.keepalive(10000, 1000, 3)
    peer.expect(ACK, seq=0, ack=1, after=10000)
    peer.send(ACK)
    peer.expect(ACK, seq=0, ack=1, after=10000)
    peer.send(ACK)
    assert app.state == "ESTABLISHED"


@on_wire
def test_peer_that_is_gone_is_given_up_after_the_last_probe():
    wire, peer, app = established()
    app.keepalive(10000, 1000, 3)
    peer.expect(ACK, seq=0, after=10000)
    peer.expect(ACK, seq=0, after=1000)
    peer.expect(ACK, seq=0, after=1000)
    peer.expect(RST | ACK, seq=1, after=1000)
    assert app.state == "CLOSED" and app.error == ETIMEDOUT


@on_wire
def test_traffic_puts_the_probe_off():
    wire, peer, app = established()
    app.keepalive(10000, 1000, 3)
    wire.advance(9000)
    peer.send(ACK | PSH, text=b"x")
    assert app.read(1) == b"x"
    peer.expect(ACK, after=40)
    wire.advance(9950)
    peer.expect_nothing()
    peer.expect(ACK, seq=0, after=10)


@on_wire
def test_no_probe_while_data_is_in_flight():
    # MUST-26: "only be sent when no sent data is outstanding".
    wire, peer, app = established()
    app.keepalive(500, 100, 2)
    app.write(b"hello")
    peer.expect(ACK | PSH, seq=1, text=b"hello")
    for wait in (200, 400, 800, 1600):
        peer.expect(ACK | PSH, seq=1, text=b"hello", after=wait)
    assert app.state == "ESTABLISHED"


@on_wire
def test_probe_of_the_peer_is_answered():
    wire, peer, app = established()
    peer.send(ACK, seq=0)
    peer.expect(ACK, seq=1, ack=1)
    peer.send(ACK, seq=0, text=b"\0")  # with one byte of garbage, as some old hosts send it
    peer.expect(ACK, seq=1, ack=1)
    assert app.read(9) == b""
