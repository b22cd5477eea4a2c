"""Ethernet II frames (ethernet.py)."""

from device import ON_DEVICE
from grouped import grouped

if ON_DEVICE:
    from barenet.ethernet import BROADCAST, Ethernet
    from barenet.pool import Pool
    from doubles import MAC, PEER_MAC, only_drop, same

    TYPE = 0x88B5  # IEEE 802, for experiments

    def make():
        pool = Pool(2, 2)
        pool.reset()
        link = Ethernet(pool, MAC)
        got = []
        link.handlers[TYPE] = lambda frame, length, now: got.append((bytes(frame[14:length]), now))
        return link, got

    def frame_to(destination, ethertype=TYPE, payload=b"payload"):
        return memoryview(destination + PEER_MAC + bytes((ethertype >> 8, ethertype & 255)) + payload)


@grouped
def test_frames_for_us_for_all_and_for_our_groups_reach_the_handler_of_their_type():
    link, got = make()
    group = b"\x01\x00\x5e\x00\x00\xfb"
    link.groups.add(group)
    for destination in (MAC, BROADCAST, group):
        link.input(frame_to(destination), 21, 7)
    same(got, [(b"payload", 7)] * 3)


@grouped
def test_other_frames_are_dropped_by_reason():
    link, got = make()
    for destination in (b"\x02\0\0\0\0\x63", b"\x01\x00\x5e\x00\x00\xfb", b"\0\0\0\0\0\0"):
        link.input(frame_to(destination), 21, 0)
        only_drop(link, "not ours")
    link.input(frame_to(MAC, 0x86DD), 21, 0)
    only_drop(link, "unknown type")
    link.input(frame_to(MAC, 46), 21, 0)  # a length, as IEEE 802.3 allows it
    only_drop(link, "unknown type")
    for length in (0, 13):
        link.input(frame_to(MAC), length, 0)
        only_drop(link, "short")
    same(got, [])


@grouped
def test_short_frames_are_padded_with_zeros_to_60_bytes():
    # IEEE 802.3 section 3.2.8; and nothing of an older frame may leave in the padding.
    link, _ = make()
    for old in link.pool.frames:
        old[:] = b"\xee" * 1536
    frame = link.begin()
    frame[14:17] = b"abc"
    link.send(frame, PEER_MAC, TYPE, 17)
    same(bytes(frame[:60]), PEER_MAC + MAC + b"\x88\xb5abc" + bytes(43))
    same(link.pool.tx_ring[1], 60)
    frame = link.begin()
    link.send(frame, BROADCAST, TYPE, 1514)
    same(link.pool.tx_ring[9], 1514)


@grouped
def test_full_transmit_ring_is_counted():
    link, _ = make()
    link.flush = lambda: None
    for _ in range(2):
        link.send(link.begin(), PEER_MAC, TYPE, 60)
    assert link.begin() is None
    only_drop(link, "transmit ring full")


@grouped
def test_full_transmit_ring_is_handed_to_the_driver_for_the_next_frame():
    link, _ = make()
    flushed = []

    def flush():
        flushed.append(1)
        if len(flushed) == 3:  # the DMA takes its time
            link.pool.tx_ring[0] = 0

    link.flush = flush
    for _ in range(2):
        link.send(link.begin(), PEER_MAC, TYPE, 60)
    same(flushed, [])
    assert link.begin() is link.pool.frames[2]
    same(len(flushed), 3)
    same(link.drops["transmit ring full"], 0)
