"""The frames, and the two rings of descriptors that share them with the DMA.

A descriptor has 8 words in the layout of the ESP32's EMAC with ATDS = 1 (the chip's only one that decodes reliably): word 0 holds OWN and the
status, word 1 the sizes, word 2 the address of its frame, word 3 the address of the next descriptor.
"""

from array import array

from barenet import fast

DESCRIPTOR_WORDS = 8


class Pool:
    """Frames, rings, and the context words and objects that fast.py works on.

    receive, transmit: number of frames for each direction, 2 to 32.
    allocate(n): returns a writable buffer of n bytes that the DMA can reach (default bytearray); called once for each frame.
    """

    def __init__(self, receive=8, transmit=4, allocate=bytearray):
        if not (2 <= receive <= 32 and 2 <= transmit <= 32):
            raise ValueError("a pool has 2 to 32 frames for each direction")
        self.receive = receive
        self.transmit = transmit
        # One allocation a frame: a heap that is in use for a while has many holes of 1536 bytes and seldom one of 18 KB.
        self.frames = [memoryview(allocate(fast.FRAME_SIZE)) for _ in range(receive + transmit)]
        self.rx_ring = array("I", [0] * (receive * DESCRIPTOR_WORDS))
        self.tx_ring = array("I", [0] * (transmit * DESCRIPTOR_WORDS))
        self.words = array("I", [0] * (fast.C_WORDS + 2 * (receive + transmit)))
        self.objects = [None] * fast.O_COUNT
        self.objects[fast.O_WORDS] = self.words
        self.objects[fast.O_FRAMES] = self.frames
        self.objects[fast.O_RX_RING] = self.rx_ring
        self.objects[fast.O_TX_RING] = self.tx_ring
        self.words[fast.C_RX_COUNT] = receive
        self.words[fast.C_TX_COUNT] = transmit

    def reset(self):
        """Puts both rings into the state a driver starts from: receive descriptors owned by the DMA, transmit ones by the stack."""
        words = self.words
        words[fast.C_RX_NEXT] = words[fast.C_TX_NEXT] = 0
        words[fast.C_RX_RETURNED] = words[fast.C_TX_QUEUED] = words[fast.C_TX_FULL] = words[fast.C_GATHER] = 0
        self._point()
        for i in range(self.transmit):
            self.tx_ring[i * DESCRIPTOR_WORDS] = 0
        for _ in range(self.receive):
            fast.release(words, self.objects)
        words[fast.C_RX_RETURNED] = 0
        words[fast.C_FRAMES_IN] -= self.receive

    def _point(self):
        # At each start: the driver may have put the frames elsewhere.
        words = self.words
        objects = self.objects
        for at, what in (
            (fast.C_RX_RING, fast.O_RX_RING),
            (fast.C_TX_RING, fast.O_TX_RING),
            (fast.C_KEYS, fast.O_KEYS),
            (fast.C_LOOKUP, fast.O_LOOKUP),
        ):
            if objects[what] is not None:
                fast.point(words, at, objects[what])
        at = fast.C_FRAMES
        for frame in self.frames:
            fast.point(words, at, frame)
            at += 2

    def transmit_frame(self):
        """Returns the frame to fill next, a memoryview of 1536 bytes, or None while the DMA still owns it."""
        i = self.words[fast.C_TX_NEXT]
        if fast.owned_by_dma(self.tx_ring, i):
            self.words[fast.C_TX_FULL] = 1
            return None
        return self.frames[self.receive + i]

    def send(self, length):
        """Hands the frame that transmit_frame() gave, `length` bytes of it without FCS, to the DMA."""
        fast.send(self.words, self.objects, length)
