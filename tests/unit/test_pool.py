"""The frames and the rings (pool.py)."""

from device import ON_DEVICE
from grouped import grouped

if ON_DEVICE:
    from barenet import fast
    from barenet.pool import DESCRIPTOR_WORDS, Pool


@grouped
def test_frames_are_allocated_once_each_by_the_drivers_allocator():
    sizes = []

    def allocate(n):
        sizes.append(n)
        return bytearray(n)

    pool = Pool(3, 2, allocate)
    assert sizes == [1536] * 5 and len(pool.frames) == 5 and all(len(frame) == 1536 for frame in pool.frames)
    assert len(pool.rx_ring) == 3 * DESCRIPTOR_WORDS and len(pool.tx_ring) == 2 * DESCRIPTOR_WORDS


@grouped
def test_sizes_out_of_range_are_refused():
    for receive, transmit in ((1, 4), (33, 4), (8, 1), (8, 33), (0, 0), (-1, 4)):
        try:
            Pool(receive, transmit)
            raise AssertionError((receive, transmit))
        except ValueError as e:
            assert "2 to 32" in str(e)


@grouped
def test_reset_gives_the_receive_ring_to_the_dma_and_the_transmit_ring_to_the_stack():
    pool = Pool(3, 2)
    pool.reset()
    fast.release(pool.words, pool.objects)
    pool.send(60)
    pool.transmit_frame()
    for _ in range(2):
        pool.reset()
        assert [pool.rx_ring[8 * i] for i in range(3)] == [0x80000000] * 3
        assert [pool.tx_ring[8 * i] for i in range(2)] == [0, 0]
        for word in (fast.C_RX_NEXT, fast.C_TX_NEXT, fast.C_RX_RETURNED, fast.C_TX_QUEUED, fast.C_TX_FULL):
            assert pool.words[word] == 0


@grouped
def test_transmit_frames_are_handed_out_in_turn_until_the_dma_owns_all():
    pool = Pool(2, 2)
    pool.reset()
    for i in (0, 1):
        frame = pool.transmit_frame()
        frame[0] = 0x40 + i
        assert pool.frames[2 + i][0] == 0x40 + i
        pool.send(60 + i)
        assert pool.tx_ring[8 * i : 8 * i + 2] == type(pool.tx_ring)("I", [0xB0100000, 60 + i])
    assert pool.transmit_frame() is None and pool.words[fast.C_TX_FULL] == 1
    pool.tx_ring[0] = 0
    pool.transmit_frame()[0] = 0x50
    assert pool.frames[2][0] == 0x50
