"""The figures of the bench: what is counted, its target, the last committed value, and how much it may rise."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import counting

COMMITTED = Path(__file__).with_name("figures.json")
_SLACK = 1.03  # of a figure that misses its target already: it may not become worse than by this


@dataclass(frozen=True)
class Figure:
    """One row of the table.

    Attributes:
        name: its key in figures.json.
        what: what exactly is done, for people.
        case: the function of device/cases.py.
        burst: frames that wait at a poll.
        target: at most, or None for a figure that is only watched.
        heap: bytes of heap in place of instructions.
    """

    name: str
    what: str
    case: str
    burst: int = 1
    target: float | None = None
    heap: bool = False

    @property
    def unit(self) -> str:
        """What the value counts."""
        return "bytes of heap" if self.heap else "instructions"

    def measure(self) -> float:
        """Returns the value now. Raises BarenetError."""
        value = counting.heap(self.case, self.burst) if self.heap else counting.instructions(self.case, self.burst)
        return round(value, 1)

    def limit(self, committed: float | None) -> float | None:
        """Returns the value that the figure may not exceed: its target, or what was committed when that misses the target.

        A committed value without a target is a limit, too.
        """
        if self.target is not None and (committed is None or committed <= self.target):
            return self.target
        return None if committed is None else committed * _SLACK


# A board that has more to do than time finds several frames at each poll, so the targets are about 8 frames a poll; one frame a poll is what
# a board sees that has time to spare.
FIGURES = (
    Figure("bulk receive", "recv_into of 4 KB, a segment of 1460 bytes", "bulk_receive", 8, 8_000),
    Figure("bulk receive, 1 a poll", "the same", "bulk_receive", 1),
    Figure("bulk receive, timestamps", "timestamps and SACK agreed, 1448 bytes", "bulk_receive_timestamps", 8, 8_000),
    Figure("bulk receive, 16 connections", "15 more are open", "bulk_receive_16", 8, 8_000),
    Figure("bulk receive, 64 connections", "63 more are open", "bulk_receive_64", 8, 8_000),
    Figure("bulk receive, free heap", "the heap is not locked", "bulk_receive_free", 8),
    Figure("bulk send", "sendall of 4 KB, a segment of 1460 bytes", "bulk_send", 8, 8_000),
    Figure("bulk send, 1 a poll", "the same", "bulk_send", 1),
    Figure("bulk send, timestamps", "timestamps and SACK agreed, 1448 bytes", "bulk_send_timestamps", 8, 8_000),
    Figure("bulk send, free heap", "the heap is not locked", "bulk_send_free", 8),
    Figure("pure ACK", "an incoming one that confirms a segment", "pure_ack", 8, 1_500),
    Figure("pure ACK, 1 a poll", "the same", "pure_ack", 1),
    Figure("request and reply", "64 bytes each way, both together", "request_reply", 1, 30_000),
    Figure("UDP receive", "recv_into of 1472 bytes", "udp_receive", 8, 8_000),
    Figure("UDP receive, 1 a poll", "the same", "udp_receive", 1),
    Figure("UDP send", "sendto of 1472 bytes", "udp_send", 1, 8_000),
    Figure("echo", "a ping of 56 bytes answered", "echo", 8),
    Figure("echo, 1 a poll", "the same", "echo", 1),
    Figure("connect and close", "socket() to close(), the board begins both", "connect_close", 1, 150_000),
    Figure("accept and close", "the peer connects, the board closes", "accept_close", 1),
    Figure("idle poll", "nothing to do", "idle_poll", 1, 2_500),
    Figure("idle poll, timers", "each of polls 10 ms apart, slow timers included", "idle_poll_timers", 1),
    Figure("EMAC driver", "its share of a frame, registers in a dict", "emac_driver", 8, 1_000),
    Figure("EMAC driver, 1 a poll", "the same", "emac_driver", 1),
    Figure("heap, bulk receive", "a segment", "bulk_receive", 8, 0, heap=True),
    Figure("heap, bulk send", "a segment", "bulk_send", 8, 0, heap=True),
    Figure("heap, request and reply", "both together", "request_reply", 1, 0, heap=True),
    Figure("heap, UDP receive", "a datagram", "udp_receive", 8, 0, heap=True),
    Figure("heap, UDP send", "a datagram", "udp_send", 1, 0, heap=True),
    Figure("heap, connect and close", "until the next collection", "connect_close", 1, heap=True),
)


def committed() -> dict[str, float]:
    """Returns the values of figures.json by name."""
    return json.loads(COMMITTED.read_text())["figures"]


def commit(values: dict[str, float]) -> None:
    """Writes figures.json; names that are not in `values` keep what they have."""
    known = {**committed(), **values} if COMMITTED.exists() else values
    names = [figure.name for figure in FIGURES]
    figures = {name: known[name] for name in names if name in known}
    COMMITTED.write_text(json.dumps({"figures": figures}, indent=2) + "\n")


def measure(figures: Iterable[Figure] = FIGURES) -> Iterable[tuple[Figure, float]]:
    """Measures figures on all processors; yields each with its value, in order. Raises BarenetError."""
    counting.prepare()
    with ThreadPoolExecutor(os.cpu_count() or 1) as executor:
        waiting = [(figure, executor.submit(figure.measure)) for figure in figures]
        try:
            for figure, future in waiting:
                yield figure, future.result()
        finally:
            executor.shutdown(cancel_futures=True)
