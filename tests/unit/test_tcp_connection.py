"""What the conversations of tests/wire leave over of tcp/: helpers, numbers, a control block without a place."""

from device import ON_DEVICE
from grouped import grouped

if ON_DEVICE:
    from array import array

    from barenet import fast
    from barenet.ip import IP
    from barenet.tcp import BUFFER_MAX, BUFFER_MIN, TCP
    from barenet.tcp.connection import difference
    from doubles import MASK, OURS, PEER, Cable, Neighbours, Random, same

    class Link(Cable):
        def __init__(self):
            super().__init__()
            self.objects = [None] * fast.O_COUNT
            self.objects[fast.O_TX_RING] = array("I", [0] * 8)
            self.objects[fast.O_FRAMES] = [bytearray(1536)]
            self.objects[fast.O_WORDS] = self.words
            self.words[fast.C_TX_COUNT] = 1
            self.transmit_frame = self.begin

    def make():
        neighbours = Neighbours()
        neighbours.changed = []
        ip = IP(Link(), neighbours)
        ip.configure(OURS, MASK, PEER)
        return TCP(ip)

    def connect(tcp, address, port, *args):
        connection = tcp.create()
        connection.connect((address, port), *args)
        return connection

    def mss(options):
        header = bytearray(20) + options
        tcb = array("I", bytes(4 * fast.TCB_WORDS))
        fast.syn(tcb, header, 0, len(header))
        return tcb[fast.SND_MSS]


@grouped
def test_difference_of_sequence_numbers():
    # RFC 9293 section 3.4.
    for a, b, d in (
        (0, 0, 0),
        (1, 0, 1),
        (0, 1, -1),
        (0, 0xFFFFFFFF, 1),
        (0xFFFFFFFF, 0, -1),
        (0x7FFFFFFF, 0, 0x7FFFFFFF),
        (0x80000000, 0, -0x80000000),
        (0, 0x80000000, -0x80000000),
        (0x10, 0xFFFFFFF0, 0x20),
    ):
        same(difference(a, b), d)


@grouped
def test_maximum_segment_size():
    for options, expected in (
        (b"", 536),
        (b"\x02\x04\x05\xb4", 1460),
        (b"\x01\x02\x04\x02\x18", 536),
        (b"\x02\x04\x00\x00", 64),
        (b"\x02\x04\xff\xff", 1460),
        (b"\x02", 536),
        (b"\x02\x04\x05", 536),
        (b"\x03\x00", 536),
    ):
        same(mss(options), expected)


@grouped
def test_random_option_lists_end_and_give_a_usable_size():
    random = Random(9)
    for _ in range(5000):
        options = bytes(random.below((3, 6, 256)[random.below(3)]) for _ in range(random.below(41)))
        assert 64 <= mss(options) <= 1460, options


@grouped
def test_buffer_sizes_are_brought_into_range():
    tcp = make()
    for asked, got in ((0, BUFFER_MIN), (-1, BUFFER_MIN), (1000, 1000), (65535, 65535), (10000000, BUFFER_MAX)):
        tcb = tcp.create(asked, asked).tcb
        same((tcb[fast.RCV_SIZE], tcb[fast.SND_SIZE]), (got, got))


@grouped
def test_connection_that_was_never_opened():
    tcp = make()
    connection = tcp.create()
    same((connection.state, connection.readable(), connection.writable()), (fast.CLOSED, 0, 0))
    assert connection.at_end()
    same(connection.write(b"abc", 0, 3), 0)
    connection.output(0)
    connection.shutdown(0)
    connection.abort(0)
    connection.close(0)
    same((tcp.connections, tcp.ip.link.sent), ([], []))


@grouped
def test_connection_without_a_place_reads_nothing_of_others():
    tcp = make()
    connect(tcp, PEER, 80, 0)
    tcp.tcbs[0][fast.RCV_LEN] = 5
    tcp.rcv[0][:5] = b"other"
    connection = tcp.create()
    buffer = bytearray(9)
    same((connection.read(buffer, 9), buffer), (0, bytearray(9)))


@grouped
def test_write_at_every_offset_of_the_ring():
    size = 37
    data = bytes(range(100, 200))
    tcp = make()
    connection = connect(tcp, PEER, 80, 0)
    tcb = connection.tcb
    tcb[fast.STATE] = fast.ESTABLISHED
    tcb[fast.SND_SIZE] = size
    connection.make_room(fast.SND_SIZE, size)
    ring = tcp.snd[connection.slot]
    for head in range(size):
        for length in (0, 1, 5, size - 1, size):
            for n in (-1, 0, 1, 4, size, size + 10):
                tcb[fast.SND_HEAD], tcb[fast.SND_LEN], tcb[fast.FLAGS] = head, length, 0
                expected = bytearray(ring)
                taken = min(max(n, 0), size - length)
                for i in range(taken):
                    expected[(head + length + i) % size] = data[7 + i]
                same(connection.write(data, 7, n), taken)
                same((ring, tcb[fast.SND_HEAD], tcb[fast.SND_LEN]), (expected, head, length + taken))
                same(tcb[fast.FLAGS], fast.FLAG_OUTPUT if taken else 0)


@grouped
def test_initial_sequence_numbers():
    # RFC 6528: they advance with the clock, 252 a millisecond, also when it wraps; those of other connections tell nothing about them.
    tcp = make()

    def iss(tcp, port, now):
        connection = connect(tcp, PEER, 80, now, port)
        number = connection.tcb[fast.ISS]
        connection.drop()
        return number

    first = iss(tcp, 50000, 0)
    same(difference(iss(tcp, 50000, 1000), first), 252000)
    same(difference(first, iss(tcp, 50000, 0x3FFFFFFF)), 252)
    assert abs(difference(first, iss(tcp, 50001, 0))) > 1000
    assert iss(make(), 50000, 0) != first


@grouped
def test_ephemeral_ports_are_random_and_free():
    # RFC 6056.
    tcp = make()
    ports = set()
    for _ in range(60):
        connection = tcp.create(536, 536)
        connection.connect((PEER, 80), 0)
        ports.add(connection.local[1])
    same(len(ports), 60)
    assert all(49152 <= port <= 65535 for port in ports)
    steps = sorted(ports)
    assert max(steps[i + 1] - steps[i] for i in range(59)) > 100


@grouped
def test_slots_are_used_again_and_the_hash_table_follows():
    tcp = make()
    frame = bytearray(60)

    def found(connection):
        frame[26:30] = connection.remote[0]
        for at, port in ((34, connection.remote[1]), (36, connection.local[1])):
            frame[at] = port >> 8
            frame[at + 1] = port & 255
        return fast.lookup(tcp.objects, frame, 34)

    random = Random(2)
    live = []
    for i in range(300):
        if len(live) == 30 or live and random.below(2):
            gone = live.pop(random.below(len(live)))
            gone.close(0)
            same((gone.slot, found(gone)), (-1, -1))
        else:
            live.append(connect(tcp, bytes((10, 77, 0, 1 + random.below(250))), 1 + random.below(65535), 0))
        for connection in live:
            same(found(connection), connection.slot)
            assert tcp.connections[connection.slot] is connection and tcp.tcbs[connection.slot] is connection.tcb
    assert len(tcp.connections) <= 31


@grouped
def test_control_block_is_words_with_the_template_and_the_records_behind_it():
    tcp = make()
    connection = connect(tcp, PEER, 80, 0, 50000)
    assert isinstance(connection.tcb, array) and fast.TCB_WORDS == fast.TEMPLATE + 10 == fast.RECORDS
    connection.configure(False, 7, 0xB8)
    same(bytes(connection.tcb)[4 * fast.TEMPLATE + 14 :][:4], b"\x45\xb8\0\0")
    same(bytes(connection.tcb)[4 * fast.TEMPLATE + 20 :][:3], b"\x40\0\x07")
    connection.configure(False)
    same(len(connection.tcb), fast.TCB_WORDS + 2 * connection.tcb[fast.RECORD_SIZE])
    header = bytes(connection.tcb)[4 * fast.TEMPLATE :]
    same(header[12:16] + header[20:24], b"\x08\x00\x45\x00\x40\x00\x40\x06")
    same(header[26:38], OURS + PEER + b"\xc3\x50\x00\x50")
