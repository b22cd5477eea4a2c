"""stack.poll(): what it drains, what it bounds, and that it is safe against itself."""

from device import ON_DEVICE
from wire import on_wire

if ON_DEVICE:
    from barenet import fast
    from rig import ACK, OURS, PEER, PEER_MAC, PSH, RST, Wire, another, arp, established, packet, pattern

    TEST = 253


@on_wire
def test_one_poll_drains_everything_that_waits():
    wire, peer, app = established()
    wire.cable.inbox.extend(peer.frame(ACK | PSH, text=pattern(100 * i, 100)) for i in range(8))
    wire.stack.poll()
    assert app.read(1000) == pattern(0, 800)
    peer.expect(ACK, ack=801, after=40)


@on_wire
def test_poll_inside_a_change_of_state_does_nothing():
    wire, peer, app = established()
    wire.stack.enter()
    wire.cable.inbox.append(peer.frame(ACK | PSH, text=b"hello"))
    wire.stack.poll()
    assert app.connection.readable() == 0
    try:
        wire.stack.enter()
        raise AssertionError("entered twice")
    except OSError:
        pass
    wire.stack.leave()
    wire.stack.poll()
    assert app.read(9) == b"hello"
    peer.expect(ACK, after=40)


@on_wire
def test_poll_inside_a_poll_does_nothing():
    wire = Wire()
    depth = []

    def handler(frame, start, end, source, destination, now):
        depth.append(1)
        wire.stack.poll()

    wire.ip.handlers[TEST] = handler
    wire.receive(packet(TEST, b"a"), packet(TEST, b"b"))
    assert len(depth) == 2


@on_wire
def test_exception_in_a_handler_costs_one_frame():
    wire, peer, app = established()

    def broken(frame, start, end, source, destination, now):
        raise MemoryError

    wire.ip.handlers[TEST] = broken
    wire.receive(packet(TEST, b"a"), peer.frame(ACK | PSH, text=b"hello"))
    assert wire.stack.errors == 1 and isinstance(wire.stack.last_error, MemoryError)
    assert wire.stack.counters()["frames"]["handler errors"] == 1
    wire.stack.errors = 0
    assert app.read(9) == b"hello"
    peer.expect(ACK, after=40)


@on_wire
def test_flood_does_not_keep_a_poll_for_ever():
    # A DMA that fills each descriptor as soon as it has it back.
    wire = Wire()
    handled = []

    def handler(frame, start, end, source, destination, now):
        handled.append(1)
        assert len(handled) < 5000, "the poll does not end"
        wire.cable.inbox.append(packet(TEST, b"flood"))
        wire.cable.dma()

    wire.ip.handlers[TEST] = handler
    wire.cable.inbox.append(packet(TEST, b"flood"))
    wire.cable.inbox.append(packet(TEST, b"flood"))
    wire.stack.poll()
    wire.ip.handlers[TEST] = lambda *arguments: None
    wire.settle()
    assert len(handled) <= 1024


@on_wire
def test_damaged_frames_are_given_back_and_counted():
    # Error summary set, or not the whole frame in one descriptor: what the DMA leaves behind (bits 15, 9 and 8 of
    # word 0).
    wire = Wire()
    pool = wire.stack.pool
    for status in (0x8300, 0x0100, 0x0200, 0x0000, 0x8000):
        pool.rx_ring[8 * wire.cable.fill] = 64 << 16 | status
        wire.cable.fill = (wire.cable.fill + 1) % pool.receive
    wire.stack.poll()
    assert wire.stack.counters()["frames"]["receive error"] == 5
    for length in (0, 1, 3, 4, 5, 17):  # with the FCS
        pool.rx_ring[8 * wire.cable.fill] = length << 16 | 0x0300
        wire.cable.fill = (wire.cable.fill + 1) % pool.receive
        wire.stack.poll()
    assert wire.drops() == {("ethernet", "short"): 6}
    wire.receive(arp(1, PEER_MAC, PEER, bytes(6), OURS))
    wire.expect_arp(2, PEER, PEER_MAC, PEER_MAC)


@on_wire
def test_ring_indexes_wrap():
    for receive, transmit in ((2, 2), (3, 5), (32, 32)):
        wire = Wire(receive=receive, transmit=transmit)
        for _ in range(3 * max(receive, transmit)):
            wire.receive(arp(1, PEER_MAC, PEER, bytes(6), OURS))
            wire.expect_arp(2, PEER, PEER_MAC, PEER_MAC)


@on_wire
def test_nothing_is_allocated_by_an_idle_poll_nor_by_a_bulk_transfer():
    import gc

    import micropython

    wire, peer, app = established()
    frames = [peer.frame(ACK, text=pattern(1460 * i, 1460)) for i in range(2)]
    buffer = bytearray(2920)
    cable, stack, connection = wire.cable, wire.stack, app.connection
    if stack.observer is not None:
        return  # a trace allocates

    def put(k):
        fast.copy(stack.pool.frames[cable.fill], frames[k], 1514, 0, 0)
        ring = stack.pool.rx_ring
        ring[8 * cable.fill] = received
        cable.fill = (cable.fill + 1) % stack.pool.receive

    sent = [0]

    def transmit():
        pool = stack.pool
        while fast.owned_by_dma(pool.tx_ring, cable.drain):
            pool.tx_ring[8 * cable.drain] = 0
            cable.drain = (cable.drain + 1) % pool.transmit
            sent[0] += 1

    received = 1518 << 16 | 0x0300
    stack.objects[fast.O_TRANSMIT] = transmit
    stack.poll()
    connection.make_room(fast.SND_SIZE, 1)  # as the first write does
    gc.collect()
    micropython.heap_lock()
    try:
        stack.poll()
        put(0)
        put(1)
        stack.poll()
        got = connection.read(buffer, 2920)
        wrote = connection.write(buffer, 0, 2920)
        stack.enter()
        connection.output(stack.now())
        stack.leave()
        stack.poll()
    finally:
        micropython.heap_unlock()
    assert got == wrote == 2920 and sent[0] == 3 and not stack.errors
    assert buffer == pattern(0, 2920)


@on_wire
def test_address_that_is_taken_away_ends_the_connections():
    wire, peer, app = established()
    other, second = another(wire, port=5001)
    wire.stack.configure(b"\0\0\0\0", b"\0\0\0\0", b"\0\0\0\0", [])
    wire.stack.flush()
    peer.expect(RST | ACK, seq=1)
    other.expect(RST | ACK, seq=1)
    assert app.state == second.state == "CLOSED" and app.error


@on_wire
def test_connection_never_sends_from_another_address_than_its_own():
    # RFC 9293 section 3.9.1.1, MUST-45: when the address changes, the peer is told from the old one, and that is the end.
    wire, peer, app = established()
    app.write(b"hello")
    peer.expect(ACK | PSH, text=b"hello")
    wire.stack.configure(b"\x0a\x4d\0\3", b"\xff\xff\xff\0", b"\0\0\0\0", [])
    wire.stack.flush()
    peer.expect(RST | ACK, seq=6)  # of 10.77.0.2: what is expected has its address
    wire.advance(10_000)
    assert app.state == "CLOSED" and not any(frame[12:14] == b"\x08\0" for _, frame in wire.frames)
    wire.frames.clear()
