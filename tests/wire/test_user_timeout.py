"""When a connection is given up: RFC 9293 section 3.8.3, RFC 5482 (its local part)."""

from device import ON_DEVICE
from wire import on_wire

if ON_DEVICE:
    from rig import ACK, PSH, SYN, Wire, established

    ETIMEDOUT = 110


@on_wire
def test_syn_is_repeated_for_three_minutes():
    # RFC 9293 section 3.8.3, MUST-23.
    wire = Wire()
    app = wire.connect(wire.peer())
    wire.advance(180000)
    assert app.state == "SYN_SENT"
    wire.frames.clear()
    wire.advance(120000)
    assert app.error == ETIMEDOUT
    wire.frames.clear()


@on_wire
def test_user_timeout_ends_a_connection_without_progress():
    wire, peer, app = established()
    app.connection.user_timeout = 5000
    app.write(b"hello")
    wire.advance(4900)
    assert app.state == "ESTABLISHED"
    wire.advance(8000)
    assert app.state == "CLOSED" and app.error == ETIMEDOUT
    wire.frames.clear()


@on_wire
def test_user_timeout_counts_from_the_last_progress():
    wire, peer, app = established()
    app.connection.user_timeout = 5000
    for _ in range(10):
        app.write(b"x")
        peer.expect(ACK | PSH, text=b"x")
        wire.advance(150)
        peer.send(ACK)
        wire.advance(3000)
    assert app.state == "ESTABLISHED"


@on_wire
def test_longer_user_timeout_keeps_a_connection_that_would_be_given_up():
    wire, peer, app = established()
    app.connection.user_timeout = 3600000
    app.write(b"hello")
    wire.advance(1800000)
    assert app.state == "ESTABLISHED"
    wire.frames.clear()
