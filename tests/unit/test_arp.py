"""The neighbour cache (arp.py) on a cable of its own; tests/wire/test_arp.py shows it inside the stack."""

from device import ON_DEVICE
from grouped import grouped

if ON_DEVICE:
    from barenet import arp
    from barenet.arp import ARP
    from doubles import MAC, OTHER, OURS, PEER, PEER_MAC, Cable, same

    BROADCAST = b"\xff\xff\xff\xff\xff\xff"
    NO_MAC = bytes(6)

    def make():
        cable = Cable()
        cache = ARP(cable)
        cache.address = OURS
        return cable, cache

    def body(operation, sender_mac, sender, target_mac, target):
        return b"\0\1\x08\0\6\4\0" + bytes((operation,)) + sender_mac + sender + target_mac + target

    def hear(cable, operation, sender_mac, sender, target_mac=NO_MAC, target=OURS, now=0):
        frame = MAC + sender_mac + b"\x08\x06" + body(operation, sender_mac, sender, target_mac, target)
        cable.handlers[arp.ETHERTYPE](memoryview(frame), len(frame), now)

    def address(i):
        return bytes((10, 77, 1, i))


@grouped
def test_request_has_these_bytes():
    cable, cache = make()
    cache.resolve(PEER, b"packet", 5)
    same(cable.sent, [BROADCAST + MAC + b"\x08\x06" + body(1, MAC, OURS, NO_MAC, PEER)])


@grouped
def test_announcement_has_these_bytes():
    cable, cache = make()
    cache.announce(5)
    same(cable.sent, [BROADCAST + MAC + b"\x08\x06" + body(1, MAC, OURS, NO_MAC, OURS)])


@grouped
def test_ask_sends_one_request_and_keeps_no_packet():
    cable, cache = make()
    failed = []
    cache.failed = lambda *arguments: failed.append(arguments)
    cache.ask(PEER, 0)
    cache.ask(PEER, 10)
    same(len(cable.sent), 1)
    for now in range(0, 5000, 50):
        cache.poll(now)
    same((len(cable.sent), failed, cache.cache), (3, [], {}))
    cache.ask(PEER, 5000)
    hear(cable, 2, PEER_MAC, PEER, MAC, now=5001)
    same(cache.lookup(PEER, 5002), PEER_MAC)
    cache.ask(PEER, 5003)
    same(len(cable.sent), 4)


@grouped
def test_oldest_neighbour_makes_room():
    cable, cache = make()
    for i in range(arp.ENTRIES):
        hear(cable, 1, b"\2\0\0\0\1" + bytes((i,)), address(i), now=100 * i)
    hear(cable, 1, b"\2\0\0\0\1\0", address(0), now=5000)  # confirmed again
    hear(cable, 1, PEER_MAC, PEER, now=6000)
    same(len(cache.cache), arp.ENTRIES)
    same((cache.lookup(address(1), 6000), cache.lookup(PEER, 6000)), (None, PEER_MAC))
    assert cache.lookup(address(0), 6000)


@grouped
def test_pending_packets_of_all_neighbours_are_bounded_together():
    cable, cache = make()
    same(
        [cache.resolve(address(i % 3), b"packet", 0) for i in range(arp.PENDING + 2)],
        [True] * arp.PENDING + [False] * 2,
    )
    same(cache.drops["pending queue full"], 2)


@grouped
def test_full_transmit_ring_loses_a_request_but_not_the_packet():
    cable, cache = make()
    cable.full = True
    assert cache.resolve(PEER, b"packet", 0)
    cable.full = False
    cache.poll(1000)
    same(len(cable.sent), 1)
    hear(cable, 2, PEER_MAC, PEER, MAC, now=1001)
    same(cable.sent[1][14:20], b"packet")


@grouped
def test_changed_tells_new_addresses_only():
    cable, cache = make()
    changed = []
    cache.changed.append(lambda address, mac: changed.append((address, mac)))
    hear(cable, 1, PEER_MAC, PEER)
    hear(cable, 1, PEER_MAC, PEER, now=10)
    hear(cable, 1, b"\2\0\0\0\0\7", PEER, now=20)
    same(changed, [(PEER, PEER_MAC), (PEER, b"\2\0\0\0\0\7")])


@grouped
def test_nobody_is_answered_without_an_address():
    cable, cache = make()
    cache.address = bytes(4)
    hear(cable, 1, PEER_MAC, PEER)
    hear(cable, 1, PEER_MAC, PEER, target=bytes(4))
    same(cable.sent, [])


@grouped
def test_multicast_and_class_e_senders_are_no_neighbours():
    cable, cache = make()
    for sender in (b"\xe0\0\0\1", b"\xff\xff\xff\xff", b"\0\0\0\1"):
        hear(cable, 1, PEER_MAC, sender)
    same(cache.cache, {})


@grouped
def test_flush_forgets_everything():
    cable, cache = make()
    hear(cable, 1, PEER_MAC, PEER)
    cache.resolve(OTHER, b"packet", 0)
    cache.flush()
    same((cache.cache, cache.lookup(PEER, 0)), ({}, None))
