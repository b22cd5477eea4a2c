"""What stands below the layer under test: a cable that keeps what is sent, and helpers to put packets on it.

Runs in MicroPython.
"""

from array import array

from barenet import fast
from barenet.ip import IP

MAC = b"\x02\x00\x00\x00\x00\x02"
PEER_MAC = b"\x02\x00\x00\x00\x00\x01"
OURS = b"\x0a\x4d\x00\x02"  # 10.77.0.2
PEER = b"\x0a\x4d\x00\x01"  # 10.77.0.1, gateway and server
OTHER = b"\x0a\x4d\x00\x63"  # 10.77.0.99
MASK = b"\xff\xff\xff\x00"
BROADCAST = b"\xff\xff\xff\xff"
ANY = b"\0\0\0\0"


class Cable:
    """The Ethernet layer and its rings in one: `sent` holds the frames that left; `full` fills the transmit ring."""

    def __init__(self):
        self.mac = MAC
        self.handlers = {}
        self.pool = self
        self.words = array("I", bytes(4 * fast.C_WORDS))
        self.objects = [None] * fast.O_COUNT
        self.sent = []
        self.full = False

    def begin(self):
        return None if self.full else bytearray(1536)

    def send(self, frame, destination, ethertype, length):
        frame[0:6] = destination
        frame[6:12] = self.mac
        frame[12] = ethertype >> 8
        frame[13] = ethertype & 255
        self.sent.append(bytes(frame[:length]))


class Neighbours:
    """An ARP that knows everybody."""

    address = None
    failed = None

    def lookup(self, address, now):
        return PEER_MAC

    def flush(self):
        pass


def make_ip(address=OURS):
    """Return an IP layer on a cable of its own; with address=ANY it is not configured yet."""
    ip = IP(Cable(), Neighbours())
    if address != ANY:
        ip.configure(address, MASK, PEER)
    return ip


def frame_of(protocol, payload, source=PEER, destination=OURS, mac=MAC, ttl=64):
    """Return the Ethernet frame of an IPv4 packet."""
    total = 20 + len(payload)
    header = bytearray(b"\x45\0\0\0\x12\x34\x40\0") + bytes((ttl, protocol, 0, 0)) + source + destination
    header[2] = total >> 8
    header[3] = total & 255
    check = ~fast.add(header, 0, 20, 0) & 0xFFFF
    header[10] = check & 255
    header[11] = check >> 8
    return bytearray(mac + PEER_MAC + b"\x08\x00" + header + payload)


def arrive(ip, frame, now=0):
    """Let a frame arrive."""
    ip.input(memoryview(frame), len(frame), now)


def checked(ip, protocol, payload, at, pseudo=True, source=PEER, destination=OURS):
    """Return `payload` with its checksum filled in at offset `at`, over the pseudo header if there is one."""
    payload = bytearray(payload)
    payload[at] = payload[at + 1] = 0
    seed = ip.pseudo(source, destination, protocol, len(payload)) if pseudo else 0
    check = ~ip.checksum(payload, 0, len(payload), seed) & 0xFFFF
    payload[at] = check & 255
    payload[at + 1] = check >> 8
    return payload


def only_drop(layer, reason):
    """Assert that exactly one thing was dropped, for `reason`, and forget it."""
    counted = {key: n for key, n in layer.drops.items() if n}
    assert counted == {reason: 1}, "dropped: {}, expected {}".format(counted, reason)
    layer.drops[reason] = 0


def raises(code, call, *arguments):
    """Assert that the call raises OSError with this errno."""
    try:
        call(*arguments)
    except OSError as e:
        assert e.errno == code, "errno {}, expected {}".format(e.errno, code)
        return
    raise AssertionError("nothing raised, expected errno {}".format(code))


def same(got, expected):
    """Assert equality, and show both sides when they differ."""
    if got != expected:
        raise AssertionError("\n got      {}\n expected {}".format(_shown(got), _shown(expected)))


def _shown(value):
    return value.hex() if isinstance(value, (bytes, bytearray, memoryview)) else repr(value)


class Random:
    """A predictable `os.urandom` (a linear congruential generator, Numerical Recipes' constants)."""

    def __init__(self, seed=1):
        self.state = seed

    def __call__(self, n):
        return bytes(self.below(256) for _ in range(n))

    def below(self, n):
        self.state = (self.state * 1664525 + 1013904223) & 0xFFFFFFFF
        return (self.state >> 8) % n


def mutate(data, random):
    """Return a damaged copy of `data`: some bytes replaced, or cut short, or longer."""
    data = bytearray(data)
    for _ in range(1 + random.below(4)):
        if data:
            data[random.below(len(data))] = (0, 255, 0xC0, random.below(256))[random.below(4)]
    how = random.below(8)
    if how == 0:
        del_from = random.below(len(data) + 1)
        data = data[:del_from]
    elif how == 1:
        data += random(random.below(40))
    return data
