"""ACKs that wait together: what the short way takes must be what each of them alone would have been taken for."""

from device import ON_DEVICE
from wire import on_wire

if ON_DEVICE:
    from agreed import opened, stamps
    from barenet import fast
    from rig import ACK, end, established, pattern

    WORDS = (fast.SND_UNA, fast.SND_NXT, fast.SND_WND, fast.SND_WL2, fast.SND_LEN, fast.RCV_NXT, fast.TS_RECENT, fast.SEGMENTS_IN, fast.DUPACKS)

    def acks(timestamps, numbers=(1001, 2001, 3001), change=None):
        """Returns (wire, app, frames): 3,000 bytes in flight, and ACKs of them; change: (frame, byte, bits) to flip."""
        wire, peer, app = opened(stamp=5000) if timestamps else established()
        for i in range(3):
            app.write(pattern(1000 * i, 1000))
            app.connection.configure(1)
            app._call(app.connection.output)
        wire.frames.clear()
        frames = []
        for i, number in enumerate(numbers):
            options = stamps(5001 + i, 7 + i) if timestamps else b""
            frames.append(bytearray(peer.frame(ACK, ack=number, options=options, ttl=60 + i)))
        if change is not None:
            i, at, bits = change
            frames[i][at] ^= bits
        return wire, app, frames

    def outcome(wire, app):
        drops = wire.drops()
        answers = len(wire.frames)
        wire.frames.clear()
        return [app.tcb[word] for word in WORDS], drops, answers

    def same(timestamps, numbers=(1001, 2001, 3001), change=None):
        """The same whether they come one by one or at once; returns what."""
        wire, app, frames = acks(timestamps, numbers, change)
        wire.cable.inbox.extend(frames)
        wire.settle()
        together = outcome(wire, app)
        wire, app, frames = acks(timestamps, numbers, change)
        answers = 0
        for frame in frames:
            wire.cable.inbox.append(frame)
            wire.settle()
            answers += len(wire.frames)
            wire.frames.clear()
        alone = outcome(wire, app)
        assert together[:2] == alone[:2], (timestamps, numbers, change, together, alone)
        assert together[2] == answers, (timestamps, numbers, change, together[2], answers)
        end()
        return together


@on_wire
def test_acks_that_wait_together_confirm_what_each_confirms():
    for timestamps in (False, True):
        words, drops, answers = same(timestamps)
        assert words[0] == words[1] and words[4] == 0 and answers == 0


@on_wire
def test_acks_in_the_wrong_order_twice_or_of_what_was_never_sent():
    for timestamps in (False, True):
        for numbers in ((2001, 1001, 3001), (1001, 1001, 3001), (1001, 3001, 3001), (1001, 9001, 3001), (1001, 0x7FFFFFFF, 2001), (1001, 0x40000500, 2001)):
            same(timestamps, numbers)


@on_wire
def test_one_damaged_byte_in_the_middle_of_a_train_changes_nothing_but_its_own_frame():
    for timestamps in (False, True):
        for at in range(12, 66 if timestamps else 54):
            for bits in (1, 0x40):
                same(timestamps, change=(1, at, bits))
