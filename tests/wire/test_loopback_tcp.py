"""A connection between two programs on the board: RFC 1122 section 3.2.1.3 (g), nothing of it reaches the wire."""

from device import ON_DEVICE
from wire import on_wire

if ON_DEVICE:
    from rig import OURS, App, Wire, pattern

    ECONNREFUSED = 111

    def connect(wire, host, port):
        wire.stack.enter()
        try:
            connection = wire.tcp.create(4096, 4096)
            connection.connect((host, port), wire.stack.now())
        finally:
            wire.stack.leave()
        polls(wire, 4)
        return App(wire, connection)

    def polls(wire, n):
        for _ in range(n):
            wire.stack.poll()


@on_wire
def test_programs_on_the_board_talk_over_its_own_addresses():
    for host in (b"\x7f\0\0\1", b"\x7f\1\2\3", OURS):
        wire = Wire()
        listener = wire.listen(80, rcvbuf=4096, sndbuf=4096)
        client = connect(wire, host, 80)
        server = wire.accept(listener)
        assert client.state == server.state == "ESTABLISHED"
        got = 0
        sent = client.write(pattern(0, 9000))
        while got < 9000:
            polls(wire, 2)
            text = server.read(1500)
            assert text == pattern(got, len(text))
            got += len(text)
            if sent < 9000:
                sent += client.write(pattern(sent, 9000 - sent))
        server.write(b"done")
        polls(wire, 2)
        assert client.read(9) == b"done"
        client.close()
        polls(wire, 3)
        server.close()
        polls(wire, 4)
        assert (client.state, server.state) == ("TIME_WAIT", "CLOSED")
        wire.expect_nothing()


@on_wire
def test_port_of_the_board_that_nobody_listens_on_refuses():
    wire = Wire()
    client = connect(wire, b"\x7f\0\0\1", 9)
    assert client.state == "CLOSED" and client.error == ECONNREFUSED
    wire.expect_nothing()
