"""Shows an observer what passes through a stack. Loaded with the first observer, see Stack.observe()."""

from barenet import fast


def observe(stack, observer):
    """Shows `observer` every frame and every change of a connection from here on; None ends that."""
    words = stack.words
    pool = stack.pool
    seen = words[fast.C_TX_NEXT]

    def show_sent():
        # Called by the stack's flush(), before it hands over the transmit frames that are queued.
        nonlocal seen
        for _ in range(words[fast.C_TX_QUEUED]):
            i = seen
            seen = (i + 1) % pool.transmit
            observer.sent(pool.frames[pool.receive + i], pool.tx_ring[i * 8 + 1] & 0x1FFF, stack.now())

    stack.show_sent = show_sent
    stack.observer = stack.tcp.observer = observer
    words[fast.C_EVERY_FRAME_SLOW] = 0 if observer is None else 1
