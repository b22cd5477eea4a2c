"""Rings of the buffers: there from the beginning where memory is plenty, else with the first bytes (docs/architecture.md, Buffers)."""

from device import ON_DEVICE
from wire import on_wire

if ON_DEVICE:
    from barenet import fast
    from barenet.fast import CLOSE_WAIT
    from barenet.tcp import connection as module
    from rig import ACK, FIN, PSH, SYN, App, Wire, established, pattern

    class Memory:
        """Stands for the module gc: `free` bytes of heap, of which the rings of all connections of `wire` take their part."""

        def __init__(self, wire, free):
            self.wire = wire
            self.free = free

        def __enter__(self):
            self.gc = module.gc
            module.gc = self
            self.forget()
            return self

        def __exit__(self, *exception):
            module.gc = self.gc
            self.forget()

        def forget(self):
            module._free = 0
            module._asked = self.wire.now - 1000

        def set(self, free):
            """So many bytes are free now."""
            self.free = free + self.taken()
            self.forget()

        def taken(self):
            return sum(sum(rings(c)) for c in self.wire.tcp.connections if c is not None)

        def mem_free(self):
            return self.free - self.taken()

        def collect(self):
            pass

    def rings(connection):
        """Returns the sizes of a connection's rings, receive and send."""
        return connection.tcb[fast.RCV_RING_SIZE], connection.tcb[fast.SND_RING_SIZE]

    def opened(wire, port=5000, size=1024):
        """Returns (peer, app) of a connection that the peer has opened."""
        listener = wire.tcp.listeners.get(80) or wire.listen(80, rcvbuf=size, sndbuf=size)
        peer = wire.peer(port)
        peer.send(SYN, mss=1460)
        peer.expect(SYN | ACK, win=size, mss=1460)
        peer.send(ACK)
        return peer, wire.accept(listener)


@on_wire
def test_receive_buffer_has_its_ring_at_once_where_memory_is_plenty_and_the_send_buffer_with_the_first_write():
    wire = Wire()
    with Memory(wire, 100_000) as memory:
        peer, app = opened(wire)
        assert rings(app.connection) == (1024, 0)
        assert app.write(b"hello") == 5 and rings(app.connection) == (1024, 1024)
        peer.expect(ACK | PSH, text=b"hello")
        peer.send(ACK)
        peer, app = opened(wire, 5001)
        memory.set(5000)
        assert app.write(b"hello") == 5 and rings(app.connection) == (1024, 32)
        peer.expect(ACK | PSH, text=b"hello")
        peer.send(ACK)


@on_wire
def test_program_may_have_all_memory_for_what_it_writes_to_whom_it_has_called():
    wire, peer, app = established(sndbuf=1024)
    with Memory(wire, 0):
        assert app.write(b"hello") == 5 and rings(app.connection)[1] == 1024
        peer.expect(ACK | PSH, text=b"hello")
    wire, peer, app = established(sndbuf=1024)
    set_ring = app.connection.set_ring

    def full(size, n):
        if n > 100:
            raise MemoryError
        set_ring(size, n)

    app.connection.set_ring = full
    with Memory(wire, 5000):
        assert app.write(pattern(0, 40)) == 40 and rings(app.connection)[1] == 64
        peer.expect(ACK | PSH, text=pattern(0, 40))


@on_wire
def test_ring_of_a_closed_connection_serves_the_next_one_and_is_kept_for_a_moment_only():
    wire = Wire()
    with Memory(wire, 100_000):
        one, first = opened(wire, 5001)
        ring = wire.tcp.rcv[first.connection.slot]
        one.send(ACK | PSH, text=b"read")
        one.expect(ACK, after=40)
        assert first.read(9) == b"read"
        first.close()
        one.expect(FIN | ACK)
        two, second = opened(wire, 5002)
        assert wire.tcp.rcv[second.connection.slot] is ring
        two.send(ACK | PSH, text=b"of the second")
        two.expect(ACK, after=40)
        assert second.read(99) == b"of the second"
        second.close()
        two.expect(FIN | ACK)
        assert wire.stack.objects[fast.O_RING] is ring
        one.send(ACK, seq=5, ack=2)
        two.send(ACK, seq=14, ack=2)
        wire.advance(60)
        assert wire.stack.objects[fast.O_RING] is None


@on_wire
def test_ring_takes_a_smaller_piece_where_the_heap_has_no_larger_one():
    wire = Wire()
    with Memory(wire, 100_000) as memory:
        peer, app = opened(wire)
        memory.set(50_000)
        set_ring = app.connection.set_ring
        largest = 100

        def pieces(size, n):
            if n > largest:
                raise MemoryError
            set_ring(size, n)

        app.connection.set_ring = pieces
        assert app.write(pattern(0, 700)) == 64 and rings(app.connection)[1] == 64
        peer.expect(ACK | PSH, text=pattern(0, 64))
        assert app.write(pattern(64, 700)) == 0  # nothing larger yet
        largest = 2000
        assert app.write(pattern(64, 700)) == 0  # nor is it looked for again at once
        memory.forget()
        assert app.write(pattern(64, 700)) == 700 and rings(app.connection)[1] == 1024
        peer.send(ACK, seq=1, ack=65)
        peer.expect(ACK | PSH, seq=65, text=pattern(64, 700))


@on_wire
def test_send_buffer_without_room_for_its_ring_takes_less():
    wire = Wire()
    with Memory(wire, 100_000) as memory:
        peer, app = opened(wire)
        memory.set(5000)
        set_ring = app.connection.set_ring

        def full(size, n):
            if n > 100:
                raise MemoryError
            set_ring(size, n)

        app.connection.set_ring = full
        assert app.write(pattern(0, 40)) == 40 and rings(app.connection) == (1024, 64)
        peer.expect(ACK | PSH, text=pattern(0, 40))
        peer.send(ACK)


@on_wire
def test_rings_come_with_the_first_bytes_where_memory_is_short_and_the_window_is_the_same():
    wire = Wire()
    with Memory(wire, 12_000):
        peer, app = opened(wire)
        assert rings(app.connection) == (0, 0) and app.connection.writable() == 1024
        peer.send(ACK | PSH, text=b"hello")
        peer.expect(ACK, ack=6, win=1019, after=40)
        assert rings(app.connection) == (32, 0)
        assert app.write(b"answer") == 6
        peer.expect(ACK | PSH, text=b"answer")
        assert rings(app.connection) == (32, 32) and app.connection.writable() == 1018
        peer.send(ACK)
        assert app.read(9) == b"hello"


@on_wire
def test_ring_grows_with_what_lies_in_it():
    wire = Wire()
    with Memory(wire, 12_000):
        peer, app = opened(wire)
        peer.send(ACK, text=pattern(0, 30))
        assert app.read(20) == pattern(0, 20)
        peer.send(ACK, text=pattern(30, 20))  # across the ring's end
        assert rings(app.connection)[0] == 32
        peer.send(ACK, text=pattern(50, 10))
        assert rings(app.connection)[0] == 64
        peer.send(ACK, text=pattern(60, 900))
        assert rings(app.connection)[0] == 960
        wire.frames.clear()
        assert app.read(2000) == pattern(20, 940)
        wire.frames.clear()
        assert app.write(pattern(0, 30)) == 30 and rings(app.connection)[1] == 32
        peer.expect(ACK | PSH, text=pattern(0, 30))
        for at, n, size in ((30, 10, 64), (40, 22, 64), (62, 38, 128), (100, 924, 1024)):  # not confirmed, so these wait (RFC 9293 section 3.7.4)
            assert app.write(pattern(at, n)) == n and rings(app.connection)[1] == size
        assert app.connection.writable() == 0 and app.write(b"more") == 0
        peer.send(ACK, ack=31)
        peer.expect(ACK | PSH, text=pattern(30, 994))
        peer.send(ACK)


@on_wire
def test_ring_becomes_as_large_as_the_buffer_once_memory_is_plenty_again():
    wire = Wire()
    with Memory(wire, 12_000) as memory:
        peer, app = opened(wire)
        memory.set(100_000)
        peer.send(ACK | PSH, text=b"hello")
        assert rings(app.connection) == (1024, 0) and app.read(9) == b"hello"
        peer.expect(ACK, after=40)


@on_wire
def test_empty_rings_are_taken_back_for_a_connection_that_has_no_room():
    wire = Wire()
    with Memory(wire, 100_000) as memory:
        one, first = opened(wire, 5001)
        one.send(ACK | PSH, text=pattern(0, 100))
        one.expect(ACK, after=40)
        assert first.read(100) == pattern(0, 100)  # the ring's first byte is its hundredth now
        two, second = opened(wire, 5002)
        two.send(ACK | PSH, text=b"unread")
        two.expect(ACK, after=40)
        second.write(b"unconfirmed")
        two.expect(ACK | PSH, text=b"unconfirmed")
        memory.set(4200)
        three, third = opened(wire, 5003)
        assert rings(first.connection) == (0, 0) and rings(second.connection) == (1024, 1024) and rings(third.connection) == (0, 0)
        one.send(ACK | PSH, seq=101, text=b"again")
        assert rings(first.connection) == (32, 0) and first.connection.tcb[fast.RCV_HEAD] == 0
        assert first.read(9) == b"again" and second.read(9) == b"unread"
        one.expect(ACK, after=40)
        two.send(ACK)


@on_wire
def test_connection_is_refused_when_the_program_would_have_too_little_memory():
    wire = Wire()
    with Memory(wire, 4000) as memory:
        listener = wire.listen(80)
        peer = wire.peer()
        peer.send(SYN, mss=1460)
        wire.expect_nothing()
        assert wire.drops() == {("tcp", "out of memory"): 1} and not listener.pending
        memory.set(6000)
        peer.send(SYN, seq=0, mss=1460)
        peer.expect(SYN | ACK, mss=1460)


@on_wire
def test_without_memory_a_few_bytes_get_through_and_the_peer_repeats_the_rest():
    wire = Wire()
    with Memory(wire, 12_000) as memory:
        peer, app = opened(wire)
        memory.set(1000)
        peer.send(ACK | PSH | FIN, text=pattern(0, 100))
        peer.expect(ACK, ack=33, win=992)
        assert wire.drops() == {("tcp", "out of memory"): 1, ("tcp", "buffer full"): 1} and app.state == "ESTABLISHED"
        assert app.read(99) == pattern(0, 32)
        memory.set(12_000)
        peer.send(ACK | PSH | FIN, seq=33, text=pattern(32, 68))
        peer.expect(ACK, ack=102)
        assert app.read(99) == pattern(32, 68) and app.state == "CLOSE_WAIT"


@on_wire
def test_without_any_memory_text_is_dropped_until_there_is_some():
    wire = Wire()
    with Memory(wire, 12_000):
        peer, app = opened(wire)

        def no_memory(size, n):
            raise MemoryError

        app.connection.set_ring = no_memory
        peer.send(ACK | PSH, text=b"hello")
        peer.expect(ACK, ack=1)
        assert wire.drops() == {("tcp", "out of memory"): 1, ("tcp", "buffer full"): 1}
        try:
            app.write(b"answer")
            raise AssertionError("nothing raised")
        except MemoryError:
            pass
        del app.connection.set_ring
        peer.send(ACK | PSH, seq=1, text=b"hello")
        peer.expect(ACK, ack=6, after=40)
        assert app.read(9) == b"hello" and app.write(b"answer") == 6
        peer.expect(ACK | PSH, text=b"answer")


@on_wire
def test_fin_needs_no_ring():
    wire = Wire()
    with Memory(wire, 12_000):
        peer, app = opened(wire)
        peer.send(FIN | ACK)
        peer.expect(ACK, ack=2)
        assert app.connection.state == CLOSE_WAIT and rings(app.connection) == (0, 0) and app.connection.at_end()


@on_wire
def test_text_ahead_of_its_turn_gets_a_ring_that_holds_it():
    wire = Wire()
    with Memory(wire, 12_000):
        peer, app = opened(wire)
        peer.send(ACK, seq=101, text=pattern(100, 100))
        peer.expect(ACK, ack=1)
        assert rings(app.connection)[0] == 224
        peer.send(ACK, seq=301, text=pattern(300, 100))
        peer.expect(ACK, ack=1)
        peer.send(ACK, seq=1, text=pattern(0, 100))
        peer.expect(ACK, ack=201)
        peer.send(ACK, seq=201, text=pattern(200, 100))
        peer.expect(ACK, ack=401)
        assert app.read(999) == pattern(0, 400)


@on_wire
def test_text_that_the_program_waits_for_needs_no_ring():
    wire = Wire()
    with Memory(wire, 12_000):
        peer, app = opened(wire)
        if wire.words[fast.C_EVERY_FRAME_SLOW]:
            return  # observed text takes the way through plain Python
        buffer = bytearray(10)
        wire.cable.inbox.append(peer.frame(ACK | PSH, text=b"0123456789"))
        assert app.connection.take(buffer, 0, -1) == 10 and buffer == b"0123456789" and rings(app.connection) == (0, 0)
        wire.cable.inbox.append(peer.frame(ACK | PSH, seq=11, text=b"0123456789ab"))
        assert app.connection.take(buffer, 0, -1) == 10 and buffer == b"0123456789" and rings(app.connection) == (32, 0)
        assert app.read(9) == b"ab"
        wire.advance(40)
        peer.expect(ACK, ack=23)
