"""The short form of the grid (grid.py): TCP over a bad cable, with the Linux kernel as peer and as measure."""

import struct

import pytest
from grid import BUFFER, REQUIRED_SHARE, Cell, Rig, Watch, measure


@pytest.fixture(scope="module")
def rig():
    """A board and two kernels on bad cables. At the end no handler of the board's stack may have raised an exception."""
    with Rig() as rig:
        yield rig
        assert rig.errors() == (0, None)


@pytest.mark.parametrize(
    "cell, seconds",
    [
        (Cell(0, 200, "none", "to board"), 2),
        (Cell(0, 20, "reordering", "from board"), 2),
        (Cell(5, 0, "duplication", "to board"), 2),
        (Cell(5, 20, "corruption", "from board"), 2),
    ],
    ids=str,
)
def test_all_bytes_arrive_without_a_silence_that_the_timer_does_not_explain(rig, cell, seconds):
    outcome = measure(rig, cell, seconds)
    print(f"{outcome['goodput'] / 1e3:.1f} kB/s, Linux {outcome['kernel_goodput'] / 1e3:.1f} kB/s")
    assert not outcome["failures"]
    for transfer in outcome["board"] + outcome["kernel"]:
        assert transfer["bytes"] and transfer["intact"] and not transfer["relay"]["overflow"]
        assert cell.fault == "none" or any(transfer["relay"].get(name) for name in ("reordered", "duplicated", "corrupted"))


@pytest.mark.parametrize("direction", REQUIRED_SHARE)
def test_goodput_under_1_percent_loss_and_20_ms_is_the_required_share_of_linux(rig, direction):
    outcome = measure(rig, Cell(1, 20, "none", direction), 2, repetitions=3)
    print(f"{outcome['share']:.0%}: {outcome['goodput'] / 1e3:.1f} kB/s, Linux {outcome['kernel_goodput'] / 1e3:.1f} kB/s")
    assert not outcome["failures"]
    assert all(0.9 * BUFFER < t["window"] <= 1.1 * BUFFER for t in outcome["kernel"]), "the comparison is unfair"


# What the harness itself believes.


def segment(seq, length, ack, from_board=True, flags=0x10):
    ports = (50000, 7200) if from_board else (7200, 50000)
    header = struct.pack(">HHIIBBHHH", *ports, seq, ack, 0x50, flags, 0x2000, 0, 0)
    ip = b"\x45\0" + (40 + length).to_bytes(2, "big") + bytes(5) + b"\x06" + bytes(10)
    return bytes(12) + b"\x08\0" + ip + header + bytes(length)


def watch(*steps):
    """Returns a Watch of a sender on the near side, with a round trip of 0.1 s, that saw these (time, "sent" or "acked", sequence number)."""
    w = Watch(7200, True, 0.1)
    for now, what, seq in steps:
        if what == "sent":
            w.sent(segment(seq, 100, 0), True, now)
        else:
            w.delivered(segment(0, 0, seq, from_board=False), False, now)
    return w


def test_the_watch_counts_bytes_seconds_and_what_is_sent_again_across_the_wrap():
    w = watch((1, "sent", 0xFFFFFFB0), (1.5, "acked", 0x14), (1.6, "sent", 0x14), (1.7, "sent", 0x14), (2, "acked", 0x78))
    assert (w.bytes, w.seconds, w.retransmitted, w.in_flight, w.excess) == (200, 1.0, 1, 100, 0)


def test_the_watch_allows_a_silence_that_doubles_and_no_longer_one():
    begin = (0, "sent", 0), (0.01, "acked", 100), (0.02, "sent", 100)
    assert watch(*begin, (0.8, "sent", 100), (2, "sent", 100), (4, "acked", 200)).excess == 0
    assert watch(*begin, (1.1, "sent", 100)).excess == pytest.approx(1.08 - 0.5 * 9 / 8 - 0.35)
    # A FIN is acknowledged after all data.
    assert watch(*begin, (0.04, "acked", 200), (0.05, "acked", 201)).bytes == 200
    # A program that sends nothing for an hour is not a stall, nor is a first segment without a measured timer.
    assert watch(*begin, (0.04, "acked", 200), (3600, "sent", 200)).excess == 0
    assert watch((0, "sent", 0), (3.1, "sent", 0)).excess == 0
