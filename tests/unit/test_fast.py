"""The viper functions of fast.py against plain Python that does the same slowly, with ints of 32 and of 64 bits."""

from device import ON_DEVICE
from grouped import grouped_on

if ON_DEVICE:
    from array import array

    from barenet import fast
    from barenet.pool import Pool
    from doubles import Random

    HALF = 0x20000000  # ms, half of the ticks' period
    PERIOD = 0x40000000

    def random_bytes(random, n):
        return bytearray(random.below(256) for _ in range(n))

    def halfwords(data):
        total = 0
        for i, byte in enumerate(data):
            total += byte << 8 * (i & 1)
        return total

    def fold(total):
        while total >> 16:
            total = (total & 0xFFFF) + (total >> 16)
        return total

    class Table:
        """What the connection functions need: `objects` with one control block in `slot`, its buffers full of noise."""

        def __init__(self, size, slot=0, seed=1):
            random = Random(seed)
            self.words = array("I", [0] * fast.C_WORDS)
            self.tcb = array("I", [0] * fast.TCB_WORDS)
            for word in (fast.RCV_SIZE, fast.SND_SIZE, fast.RCV_RING_SIZE, fast.SND_RING_SIZE):
                self.tcb[word] = size
            self.tcb[fast.RCV_MSS] = 1460
            self.rcv = random_bytes(random, size)
            fast.point(self.tcb, fast.RCV_RING, self.rcv)
            self.snd = random_bytes(random, size)
            self.objects = [None] * fast.O_COUNT
            empty = array("I", [0] * fast.TCB_WORDS)
            self.objects[fast.O_TCBS] = [empty] * slot + [self.tcb]
            self.objects[fast.O_RCV] = [bytearray(1)] * slot + [self.rcv]
            self.objects[fast.O_SND] = [bytearray(1)] * slot + [self.snd]


both = grouped_on(32, 64)


@both
def test_copy():
    random = Random(1)
    source = random_bytes(random, 600)
    for n in list(range(140)) + [random.below(500) for _ in range(100)]:
        start, at = random.below(40), random.below(40)
        target = random_bytes(random, 600)
        expected = target[:at] + source[start : start + n] + target[at + n :]
        fast.copy(target, source, n, at, start)
        assert target == expected, (at, start, n)


@both
def test_copy_between_kinds_of_buffers():
    target = array("I", [0] * 4)
    fast.copy(target, memoryview(b"..abcdef")[2:], 6, 4, 0)
    assert bytes(target) == b"\0\0\0\0abcdef\0\0\0\0\0\0"
    frame = bytearray(20)
    fast.copy(memoryview(frame)[4:], b"xyz", 2, 2, 1)
    assert frame == b"\0\0\0\0\0\0yz" + bytes(12)


@both
def test_add():
    random = Random(2)
    data = random_bytes(random, 1600)
    for n in list(range(140)) + [random.below(1500) for _ in range(200)] + [1480, 1500]:
        start, seed = random.below(70), random.below(0x40000)
        got = fast.add(data, seed, n, start)
        assert got == fold(seed + halfwords(data[start : start + n])), (start, n, seed)


@both
def test_add_extremes():
    for fill in (0, 0xFF):
        data = bytes([fill]) * 1520
        for n in (0, 1, 2, 63, 64, 65, 1500, 1519):
            for seed in (0, 1, 0xFFFF, 0x10000, 0x4FFFB):
                assert fast.add(data, seed, n, 0) == fold(seed + halfwords(data[:n])), (fill, n, seed)


@both
def test_add_chains_parts_of_even_length():
    random = Random(3)
    data = random_bytes(random, 301)
    for cut in (0, 2, 64, 128, 300):
        assert fast.add(data, fast.add(data, 0, cut, 0), 301 - cut, cut) == fast.add(data, 0, 301, 0)


@both
def test_add_examples_of_rfc_1071():
    # Section 3: the sum of these bytes is ddf2 in network order.
    assert fast.add(b"\x00\x01\xf2\x03\xf4\xf5\xf6\xf7", 0, 8, 0) == 0xF2DD


@both
def test_descriptors():
    pool = Pool(3, 2)
    pool.reset()
    words, objects = pool.words, pool.objects
    assert [fast.owned_by_dma(pool.rx_ring, i) for i in range(3)] == [1, 1, 1]
    assert [fast.owned_by_dma(pool.tx_ring, i) for i in range(2)] == [0, 0]
    for length in (60, 1514, 0x3FFF - 4):
        pool.rx_ring[8 * words[fast.C_RX_NEXT]] = (length + 4) << 16 | 0x0300
        assert fast.owned_by_dma(pool.rx_ring, words[fast.C_RX_NEXT]) == 0
        assert fast.received_length(words, objects) == length
        fast.release(words, objects)
    assert words[fast.C_RX_NEXT] == 0 and words[fast.C_RX_RETURNED] == 3
    assert [pool.rx_ring[8 * i] for i in range(3)] == [0x80000000] * 3
    assert [pool.rx_ring[8 * i + 1] for i in range(3)] == [0x4600] * 3
    for n in (54, 1514, 60):
        fast.send(words, objects, n)
    assert pool.tx_ring[0] == pool.tx_ring[8] == 0xB0100000
    assert pool.tx_ring[1] == 60 and pool.tx_ring[9] == 1514
    assert words[fast.C_TX_NEXT] == 1 and words[fast.C_TX_QUEUED] == words[fast.C_FRAMES_OUT] == 3
    ring = words[fast.C_TX_RING]
    assert pool.tx_ring[3] == ring + 32 and pool.tx_ring[11] == ring


@both
def test_lookup_finds_what_was_inserted_and_nothing_else():
    random = Random(4)
    objects = [None] * fast.O_COUNT
    # Few different bytes make many collisions of the hash.
    for values, count in ((256, 64), (4, 64), (2, 40), (256, 160)):
        keys = objects[fast.O_KEYS] = array("I", [0] * 512)
        objects[fast.O_LOOKUP] = bytearray(257)
        known = {}
        for slot in range(count):
            while True:
                key = bytes(random.below(values) for _ in range(8))
                if key not in known and any(key[4:]):  # without ports: a slot not in use
                    break
            known[key] = slot
            keys[2 * slot] = int.from_bytes(key[:4], "little")
            keys[2 * slot + 1] = int.from_bytes(key[4:], "little")
        for slot in range(count):
            fast.index(objects, slot)
        assert objects[fast.O_LOOKUP][256] == count
        frame = bytearray(60)
        for at in (34, 38, 74):
            frame = bytearray(at + 20)
            for key in list(known) + [bytes(random.below(values) for _ in range(8)) for _ in range(100)]:
                frame[26:30] = key[:4]
                frame[at : at + 4] = key[4:]
                assert fast.lookup(objects, frame, at) == known.get(key, -1), key


@both
def test_lookup_where_bits_31_are_set():
    objects = [None] * fast.O_COUNT
    keys = objects[fast.O_KEYS] = array("I", [0] * 8)
    objects[fast.O_LOOKUP] = bytearray(257)
    frame = bytearray(60)
    for slot, key in enumerate(
        (b"\xff" * 8, b"\x80\0\0\x80\0\0\0\x80", b"\0\0\0\x80\xff\xff\xff\xff", b"\xff\xff\xff\x7f\0\0\0\x80")
    ):
        keys[2 * slot] = int.from_bytes(key[:4], "little")
        keys[2 * slot + 1] = int.from_bytes(key[4:], "little")
        fast.index(objects, slot)
        frame[26:30] = key[:4]
        frame[34:38] = key[4:]
        assert fast.lookup(objects, frame, 34) == slot


@both
def test_read_at_every_offset_of_the_ring():
    size = 37
    for head in range(size):
        for length in (0, 1, 5, size - 1, size):
            for n in (0, 1, 4, size, size + 10):
                for keep in (0, 1):
                    table = Table(size)
                    tcb = table.tcb
                    tcb[fast.RCV_HEAD], tcb[fast.RCV_LEN] = head, length
                    tcb[fast.RCV_NXT], tcb[fast.RCV_ADV] = 0xFFFFFFF0, (0xFFFFFFF0 + size - length) & 0xFFFFFFFF
                    buffer = bytearray(60)
                    got = fast.read(buffer, 0, table.words, table.objects, 3, n, keep)
                    taken = min(n, length)
                    expected = bytes(table.rcv[(head + i) % size] for i in range(taken))
                    assert got == taken and buffer == bytes(3) + expected + bytes(57 - taken), (head, length, n)
                    if keep:
                        assert (tcb[fast.RCV_HEAD], tcb[fast.RCV_LEN]) == (head, length)
                    else:
                        assert (tcb[fast.RCV_HEAD], tcb[fast.RCV_LEN]) == ((head + taken) % size, length - taken)


@both
def test_read_asks_for_a_window_update_when_half_of_the_buffer_is_free_again():
    for n in range(1, 37):
        table = Table(36)
        table.tcb[fast.RCV_LEN] = 36
        fast.read(bytearray(40), 0, table.words, table.objects, 0, n, 0)
        assert table.tcb[fast.FLAGS] == (fast.FLAG_ACK_NOW if n >= 18 else 0), n


@both
def test_negative_lengths_copy_nothing():
    table = Table(36)
    table.tcb[fast.RCV_LEN] = 36
    assert fast.read(bytearray(4), 0, table.words, table.objects, 0, -1, 0) == 0


@both
def test_expired_finds_every_timer_that_is_due_and_when_to_look_next():
    timers = (
        (fast.FLAG_RTX, fast.RTX_AT),
        (fast.FLAG_PERSIST, fast.RTX_AT),
        (fast.FLAG_ACK_LATER, fast.ACK_AT),
        (fast.FLAG_WAIT, fast.WAIT_AT),
    )
    random = Random(5)
    for _ in range(300):
        now = random.below(3) * (PERIOD - 2000) // 2 + random.below(1000)
        words = array("I", [0] * fast.C_WORDS)
        tcbs = []
        due = []
        soonest = None
        for slot in range(random.below(6)):
            tcb = array("I", [0] * fast.TCB_WORDS)
            hit = False
            for flag, word in timers:
                if random.below(2):
                    continue
                delta = (0, 1, -1, 40, 60000, -60000, random.below(HALF - 2), -random.below(HALF - 2))[random.below(8)]
                if flag == fast.FLAG_PERSIST and tcb[fast.FLAGS] & fast.FLAG_RTX:
                    continue
                tcb[fast.FLAGS] |= flag
                tcb[word] = (now + delta) % PERIOD
                hit = hit or delta <= 0
                if delta > 0:
                    soonest = delta if soonest is None else min(soonest, delta)
            if random.below(2):
                tcb[fast.FLAGS] |= fast.FLAG_NODELAY | fast.FLAG_FIN | fast.FLAG_ORPHAN
            tcbs.append(tcb)
            if hit:
                due.append(slot)
        objects = [None] * fast.O_COUNT
        objects[fast.O_TCBS] = tcbs
        found = []
        slot = fast.expired(words, objects, 0, now)
        while slot >= 0:
            found.append(slot)
            slot = fast.expired(words, objects, slot + 1, now)
        assert found == due, (found, due)
        wait = (words[fast.C_NEXT_TIMER] - now) % PERIOD
        assert 0 < wait < HALF and wait <= (HALF if soonest is None else soonest), (wait, soonest)


@both
def test_the_words_have_numbers_of_their_own():
    addresses = ("C_RX_RING", "C_TX_RING", "C_KEYS", "C_LOOKUP", "C_TCB", "C_TAKE_END", "C_ENDPOINT")  # two words each
    context = [name for name in dir(fast) if name[:2] == "C_" and name not in ("C_WORDS", "C_FRAMES")]
    macs = [fast.C_ECHO_MACS + 1, fast.C_ECHO_MACS + 2]
    numbers = sorted([getattr(fast, name) for name in context] + [getattr(fast, name) + 1 for name in addresses] + macs)
    assert numbers == list(range(fast.C_WORDS)), numbers
    assert fast.C_FRAMES == fast.C_WORDS
    members = [name for name in dir(fast) if name[:2] == "O_" and name != "O_COUNT"]
    assert sorted(getattr(fast, name) for name in members) == list(range(fast.O_COUNT))
    flags = [getattr(fast, name) for name in dir(fast) if name[:5] == "FLAG_" and name != "FLAG_TIMERS"]
    assert len(set(flags)) == len(flags) and all(flag & flag - 1 == 0 for flag in flags)
