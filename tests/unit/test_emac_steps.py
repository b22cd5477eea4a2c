"""The driver's bring-up, step by step: what is written, in which order, and what is read back. One start is recorded
for a clock that comes in at GPIO0, and one for the APLL's out at GPIO17.
"""

import json
import threading
import time

import pytest

from tests.unit.emac_board import MAC, PEER_MAC, board

GATE, RESET = 0x3FF000CC, 0x3FF000D0
BUSMODE, RXPOLL, RXBASE, TXBASE, STATUS, OPMODE, INTEN = (0x3FF69000 + n for n in (0, 8, 0xC, 0x10, 0x14, 0x18, 0x1C))
CLKOUT, OSCCLK, CLK_CTRL, PHYINF, PD_SEL = (0x3FF69800 + n for n in (0, 4, 8, 0xC, 0x10))
CONFIG, FILTER, HASHHIGH, HASHLOW, MIIADDR, MIIDATA, FLOWCTRL = (0x3FF6A000 + 4 * n for n in range(7))
VERSION, DEBUG = 0x3FF6A020, 0x3FF6A024
INTMASK, ADDR0HIGH, ADDR0LOW = 0x3FF6A03C, 0x3FF6A040, 0x3FF6A044
GPIO_SET, GPIO_CLEAR = 0x3FF44008, 0x3FF4400C
APLL, ANA_CONF, ANA_CONFIG = 0x6000E00C, 0x3FF48030, 0x6000E044
OSCILLATOR, NRST = 16, 5
PINS = [
    {"gpio": NRST, "role": "reset", "active": 0, "hold_ms": 2, "delay_ms": 12},
    {"gpio": OSCILLATOR, "role": "oscillator", "active": 1, "hold_ms": 0, "delay_ms": 11},
]
PROGRAM = """
lan, pool = up()
print("mark up")
print(json.dumps([[pool.rx_ring[i] for i in range(4)], [pool.tx_ring[i] for i in range(4)]]))
from uctypes import addressof
print(addressof(pool.rx_ring), addressof(pool.frames[0]), addressof(pool.tx_ring), addressof(pool.frames[pool.receive]))
i = pool.words[fast.C_RX_NEXT]
assert poll(lan, 5000, lambda: not fast.owned_by_dma(pool.rx_ring, i))
print(hex(pool.rx_ring[0]), pool.frames[0][:6] == b"\\xff" * 6)
frame = pool.transmit_frame()
frame[:14] = b"\\xff" * 6 + lan.mac + b"\\x08\\x06"
pool.send(42)
lan.transmit()
assert poll(lan, 1000, lambda: not fast.owned_by_dma(pool.tx_ring, 0))
print(hex(pool.tx_ring[0]))
lan.stop()
"""


class Record:
    """What a start did to the registers: (time, "R" or "W", address, value), and what the program printed."""

    def __init__(self, config):
        self.entries = []
        with board(config) as b:
            read, write = b.chip.read, b.chip.write

            def reading(address):
                value = read(address)
                self.entries.append((time.monotonic(), "R", address, value))
                return value

            def writing(address, value):
                self.entries.append((time.monotonic(), "W", address, value & 0xFFFFFFFF))
                write(address, value)

            b.chip.read, b.chip.write = reading, writing
            ended = threading.Event()

            def send():
                while not ended.wait(0.05):
                    b.peer.send(b"\xff" * 6 + PEER_MAC + bytes(50))

            sender = threading.Thread(target=send)
            sender.start()
            try:
                self.printed = b.run(PROGRAM).splitlines()
            finally:
                ended.set()
                sender.join()
            self.sent = b.peer.recv(2048)
            self.breaches = b.breaches()
            self.receiving = b.chip.emac.receiving

    def find(self, what, address, test=lambda value: True, after=-1):
        """Index of the first such access behind `after`."""
        for i in range(after + 1, len(self.entries)):
            if self.entries[i][1] == what and self.entries[i][2] == address and test(self.entries[i][3]):
                return i
        raise AssertionError(f"no {what} of 0x{address:08X} behind {after}")

    def write(self, address, value, after=-1):
        """Index of the first write of this value behind `after`."""
        return self.find("W", address, lambda v: v == value, after)

    def read_back(self, at):
        """The value read next from the address written at index `at`."""
        return self.entries[self.find("R", self.entries[at][2], after=at)][3]

    def time(self, at):
        return self.entries[at][0]

    def phy_write(self, register, value, after=-1):
        """Index of a management write to PHY 1."""
        while True:
            after = self.write(MIIADDR, 1 << 11 | register << 6 | 3, after)
            data = max(i for i in range(after) if self.entries[i][1:3] == ("W", MIIDATA))
            if self.entries[data][3] == value:
                return after


@pytest.fixture(scope="module")
def record():
    return Record({"pins": PINS})


@pytest.fixture(scope="module")
def apll():
    return Record({"pins": [], "ref_clk": "gpio17_out"})


def test_no_rule_is_broken(record, apll):
    assert record.breaches == [] and apll.breaches == []


def test_step_01_power_and_oscillator_come_on_with_the_phy_held_in_reset(record):
    held = record.write(GPIO_CLEAR, 1 << NRST)
    on = record.write(GPIO_SET, 1 << OSCILLATOR, held)
    gate = record.find("W", GATE)
    assert held < on < gate and record.time(gate) - record.time(on) >= 0.010


def test_step_02_the_clock_gate_opens_and_is_read_back(record):
    gate = record.find("W", GATE, lambda v: v & 0x4000)
    assert record.read_back(gate) & 0x4000


def test_step_03_reset_is_pulsed_and_the_version_read(record):
    gate = record.find("W", GATE)
    on = record.find("W", RESET, lambda v: v & 0x80, gate)
    off = record.find("W", RESET, lambda v: not v & 0x80, on)
    version = record.find("R", VERSION, after=off)
    assert record.entries[version][3] & 0xFF == 0x37 and version < record.find("W", PD_SEL)


def test_step_04_ram_is_powered_and_rmii_selected(record):
    power = record.find("W", PD_SEL, lambda v: not v & 3)
    rmii = record.find("W", PHYINF, lambda v: v & 0xE000 == 0x8000)
    assert not record.read_back(power) & 3 and record.read_back(rmii) >> 13 & 7 == 4


def test_step_05a_an_external_clock_is_selected_behind_its_pad(record):
    pad = record.write(0x3FF49044, 0x5A00)
    source = record.find("W", OSCCLK, lambda v: v & 1 << 24, pad)
    control = record.write(CLK_CTRL, 0x39, source)
    assert record.read_back(pad) == 0x5A00 and record.read_back(source) & 1 << 24 and record.read_back(control) == 0x39


def test_step_05b_the_apll_is_programmed_word_by_word_and_read_back(apll):
    divider = apll.write(CLKOUT, 0)
    source = apll.find("W", OSCCLK, lambda v: not v & 1 << 24, divider)
    control = apll.write(CLK_CTRL, 0x3A, source)
    power = apll.find("W", ANA_CONF, lambda v: v & 1 << 24 and not v & 1 << 23, control)
    at = apll.find("W", ANA_CONFIG, lambda v: not v & 1 << 14, power)
    for word in (0x0106076D, 0x0100096D, 0x0100086D, 0x0109056D, 0x0149056D, 0x0162046D, 0x010F006D, 0x013F006D, 0x011F006D):
        at = apll.write(APLL, word, at)
    done = apll.write(APLL, 0x036D, at)
    assert apll.find("R", APLL, lambda v: v >> 23 & 1, done) < apll.write(0x3FF49050, 0x5800, done)
    assert any(entry[1:3] == ("W", APLL) and entry[3] in (0x076D, 0x046D) for entry in apll.entries[:done]), "read back"


def test_step_06_pads_and_management_pins_are_connected_and_read_back(record):
    for address, word in (
        (0x3FF49074, 0x5800), (0x3FF4907C, 0x5800), (0x3FF49080, 0x5800),
        (0x3FF49024, 0x5A00), (0x3FF49028, 0x5A00), (0x3FF4902C, 0x5A00),
        (0x3FF4908C, 0x2800), (0x3FF4458C, 200), (0x3FF49070, 0x2B00), (0x3FF44578, 201), (0x3FF44454, 0x80 | 18),
    ):  # fmt: skip
        assert record.read_back(record.write(address, word)) == word, hex(address)


def test_step_07_the_phy_leaves_reset_with_its_clock_running(record, apll):
    clock = record.write(CLK_CTRL, 0x39)
    released = record.write(GPIO_SET, 1 << NRST, clock)
    reset = record.find("W", BUSMODE, lambda v: v & 1)
    assert clock < released < reset and record.time(reset) - record.time(released) >= 0.010


def test_step_08_the_soft_reset_is_awaited(record):
    reset = record.write(BUSMODE, 1)
    ended = record.find("R", BUSMODE, lambda v: not v & 1, reset)
    assert not any(
        entry[2] not in (BUSMODE,) and 0x3FF69000 <= entry[2] < 0x3FF6B000 for entry in record.entries[reset + 1 : ended]
    )


def test_step_09_the_phy_is_found_by_its_id(record):
    asked = record.write(MIIADDR, 1 << 11 | 2 << 6 | 1, record.write(BUSMODE, 1))
    assert record.entries[record.find("R", MIIDATA, after=asked)][3] == 0x0007
    asked = record.write(MIIADDR, 1 << 11 | 3 << 6 | 1, asked)
    assert record.entries[record.find("R", MIIDATA, after=asked)][3] & 0xFFF0 == 0xC0F0


def test_step_10_the_phy_is_reset_and_told_to_negotiate(record):
    reset = record.phy_write(0, 0x8000)
    ended = record.find("R", MIIDATA, lambda v: not v & 0x8000, reset)
    modes = record.write(MIIADDR, 1 << 11 | 18 << 6 | 1, ended)
    advertised = record.phy_write(4, 0x01E1, modes)
    started = record.phy_write(0, 0x1200, advertised)
    back = record.write(MIIADDR, 1 << 11 | 4 << 6 | 1, started)
    assert record.entries[record.find("R", MIIDATA, after=back)][3] == 0x01E1


def test_step_11_the_mac_is_set_up_and_read_back(record):
    low, high = int.from_bytes(MAC[:4], "little"), 0x80000000 | int.from_bytes(MAC[4:], "little")
    start = record.phy_write(0, 0x1200)
    at = start
    for address, value in ((INTMASK, 0xFFFFFFFF), (FLOWCTRL, 0), (CONFIG, 0xC800), (ADDR0HIGH, high), (ADDR0LOW, low)):
        at = record.write(address, value, at)
    for address in (FILTER, HASHHIGH, HASHLOW):
        assert record.write(address, 0, start) < at
    for address, value in ((CONFIG, 0xC800), (ADDR0HIGH, high), (ADDR0LOW, low)):
        assert record.read_back(record.write(address, value, start)) == value


def test_step_12_the_dma_is_set_up_and_its_fifo_flushed(record):
    mode = record.write(BUSMODE, 0x02C12080)
    masked = record.write(INTEN, 0, mode)
    idle = record.write(OPMODE, 0x02200004, masked)
    flush = record.write(OPMODE, 0x02300004, idle)
    assert record.find("R", OPMODE, lambda v: not v & 1 << 20, flush) < record.find("W", RXBASE)
    assert record.read_back(mode) == 0x02C12080


def test_step_13_descriptors_and_buffers_lie_where_the_dma_reaches(record):
    rx, tx = json.loads(record.printed[1])
    rx_at, rx_frame, tx_at, tx_frame = map(int, record.printed[2].split())
    assert rx[1:] == [0x4600, rx_frame, rx_at + 32] and tx == [0, 0, tx_frame, tx_at + 32]
    assert all(0x3FFAE000 <= address < 0x40000000 and not address & 3 for address in (rx_at, rx_frame, tx_at, tx_frame))


def test_step_14_the_rings_are_named_and_old_events_cleared(record):
    rx_at, _, tx_at, _ = map(int, record.printed[2].split())
    receive, transmit = record.write(RXBASE, rx_at), record.write(TXBASE, tx_at)
    cleared = record.write(STATUS, 0x0001E7FF, transmit)
    assert receive < transmit < cleared < record.write(CONFIG, 0xC808)
    assert record.read_back(receive) == rx_at and record.read_back(transmit) == tx_at


def test_step_15_the_link_is_read_twice_and_its_mode_followed(record):
    running = record.write(RXPOLL, 0)
    asked = record.write(MIIADDR, 1 << 11 | 1 << 6 | 1, running)
    asked = record.write(MIIADDR, 1 << 11 | 1 << 6 | 1, asked)
    assert record.write(MIIADDR, 1 << 11 | 31 << 6 | 1, asked)
    linked = record.find("R", MIIDATA, lambda v: v == 0x1018, asked)
    assert linked


def test_step_16_mac_and_dma_start_in_the_order_that_does_not_hang(record):
    at = record.write(STATUS, 0x0001E7FF)
    for address, value in ((CONFIG, 0xC808), (OPMODE, 0x02202004), (OPMODE, 0x02202006), (CONFIG, 0xC80C), (RXPOLL, 0)):
        at = record.write(address, value, at)


def test_step_17_the_loopback_is_part_of_the_doctors_walk():
    with board() as b:
        b.run(
            "lan, pool = up(Pool(4, 2))\nfrom barenet.driver.trial import loopback\nloopback(lan)",
            heap=288 * 1024,
        )
        assert b.breaches() == []


def test_step_18_a_broadcast_arrives_whole(record):
    word0, is_broadcast = record.printed[3].split()
    word0 = int(word0, 16)
    assert is_broadcast == "True" and word0 >> 16 & 0x3FFF == 66 and word0 & 0x8300 == 0x0300 and not word0 >> 31


def test_step_19_an_arp_request_leaves_padded_and_its_descriptor_comes_back(record):
    word0 = int(record.printed[4], 16)
    assert not word0 >> 31 and not word0 & 0x8000
    assert len(record.sent) == 60 and record.sent[:14] == b"\xff" * 6 + MAC + b"\x08\x06"


def test_the_last_step_stops_in_order_and_holds_the_reset(record):
    at = len(record.entries) - 1 - next(
        i for i, entry in enumerate(reversed(record.entries)) if entry[1:3] == ("W", OPMODE) and entry[3] == 0x02200006
    )
    for what, address, test in (
        ("R", DEBUG, lambda v: not v & 0x60000),
        ("W", CONFIG, lambda v: not v & 0xC),
        ("R", DEBUG, lambda v: not v & 0x60),
        ("W", OPMODE, lambda v: not v & 0x2002),
        ("W", RESET, lambda v: v & 0x80),
    ):
        at = record.find(what, address, test, at)
    assert not record.receiving
