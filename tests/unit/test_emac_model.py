"""The model of the chip refuses what silicon refuses.

Each test breaks one rule after (or within) a bring-up that breaks none.
"""

import struct

import pytest

from host_tools.virtual_board.emac_model import chip as model
from host_tools.virtual_board.emac_model import mac
from host_tools.virtual_board.emac_model.chip import Chip
from host_tools.virtual_board.emac_model.memory import DMA_LOW, Ram
from host_tools.virtual_board.emac_model.phy import Timing
from host_tools.virtual_board.emac_model.wiring import Partner, Pin, Wiring

GATE, RESET = model.WIFI_CLK_EN, model.CORE_RST_EN
APLL = 0x6000E00C
BROADCAST = b"\xff" * 6
MAC = bytes.fromhex("02ba4e000005")
PEER = bytes.fromhex("02ba4e000001")
FRAME = BROADCAST + PEER + b"\x88\xb5" + bytes(range(46))
RX_RING, TX_RING, RX_BUFFERS, TX_BUFFER = DMA_LOW, DMA_LOW + 0x200, DMA_LOW + 0x1000, DMA_LOW + 0x4000
RECEIVE = 4


class CPU:
    """Software that does everything right, step by step, on a chip whose clock is a number."""

    def __init__(self, wiring=None, **options):
        self.now = 100.0
        self.sent = []
        self.ram = Ram()
        self.chip = Chip(
            wiring or Wiring(), self.ram, self.sent.append, timing=Timing(), clock=lambda: self.now, **options
        )
        self.read, self.write, self.emac = self.chip.read, self.chip.write, self.chip.emac

    def breaches(self):
        return [breach.rule for breach in self.chip.breaches]

    def change(self, address, clear, set):
        self.write(address, self.read(address) & ~clear | set)

    def gate(self):
        self.change(GATE, 0, 0x4000)
        self.change(RESET, 0, 0x80)
        self.change(RESET, 0x80, 0)

    def rmii(self):
        self.change(mac.PD_SEL, 3, 0)
        self.change(mac.EX_PHYINF_CONF, 0xE000, 0x8000)

    def external_clock(self):
        self.write(0x3FF49044, 0x5A00)
        self.change(mac.EX_OSCCLK_CONF, 0, 1 << 24)
        self.write(mac.EX_CLK_CTRL, 0x39)

    def analog(self, register, value=None):
        self.write(APLL, 0x6D | register << 8 | (0 if value is None else 1 << 24 | value << 16))
        self.now += 1e-4
        return self.read(APLL) >> 16 & 255

    def apll(self, dividers=(6, 0, 0)):
        self.write(mac.EX_CLKOUT_CONF, 0)
        self.change(mac.EX_OSCCLK_CONF, 1 << 24, 0)
        self.write(mac.EX_CLK_CTRL, 0x3A)
        self.change(0x3FF48030, 1 << 23, 1 << 24)
        self.change(0x6000E044, 1 << 14, 0)
        for register, value in zip((7, 8, 9), dividers):
            self.analog(register, value)
        for register, value in ((5, 0x09), (5, 0x49), (4, 0x62), (0, 0x0F), (0, 0x3F), (0, 0x1F)):
            self.analog(register, value)

    def pads(self):
        for address in (0x3FF49074, 0x3FF4907C, 0x3FF49080):
            self.write(address, 0x5800)
        for address in (0x3FF49024, 0x3FF49028, 0x3FF4902C):
            self.write(address, 0x5A00)
        for address, value in (
            (0x3FF4908C, 0x2800),
            (0x3FF4458C, 200),
            (0x3FF44024, 1 << 23),
            (0x3FF49070, 0x2B00),
            (0x3FF44578, 201),
        ):
            self.write(address, value)
        self.write(0x3FF44454, 0x80 | 18)
        self.write(0x3FF44024, 1 << 18)

    def soft_reset(self):
        self.write(mac.BUSMODE, 1)
        for _ in range(10):
            if not self.read(mac.BUSMODE) & 1:
                return True
        return False

    def mdio_read(self, register, phy=1):
        self.write(mac.MIIADDR, phy << 11 | register << 6 | 1)
        self.now += 1e-4
        return self.read(mac.MIIDATA)

    def mdio_write(self, register, value, phy=1):
        self.write(mac.MIIDATA, value)
        self.write(mac.MIIADDR, phy << 11 | register << 6 | 3)
        self.now += 1e-4

    def registers(self):
        self.write(mac.INTMASK, 0xFFFFFFFF)
        self.write(mac.FRAMEFILTER, 0)
        self.write(mac.CONFIG, 0xC800)
        self.write(mac.ADDR0HIGH, 0x80000000 | MAC[5] << 8 | MAC[4])
        self.write(mac.ADDR0LOW, int.from_bytes(MAC[:4], "little"))
        self.write(mac.BUSMODE, 0x02C12080)
        self.write(mac.OPMODE, 0x02200004)

    def rings(self, size=1536):
        for i in range(RECEIVE):
            self.descriptor(
                RX_RING, i, 1 << 31, 0x4000 | size, RX_BUFFERS + i * 0x600, RX_RING + (i + 1) % RECEIVE * 32
            )
        for i in range(2):
            self.descriptor(TX_RING, i, 0, 0, TX_BUFFER, TX_RING + (i + 1) % 2 * 32)
        self.write(mac.RXBASEADDR, RX_RING)
        self.write(mac.TXBASEADDR, TX_RING)
        self.write(mac.STATUS, 0x1E7FF)

    def descriptor(self, ring, i, *words):
        self.ram.write(ring + 32 * i, struct.pack(f"<{len(words)}I", *words))

    def word0(self, ring, i):
        return struct.unpack("<I", self.ram.read(ring + 32 * i, 4))[0]

    def start(self):
        self.write(mac.CONFIG, 0xC808)
        self.write(mac.OPMODE, 0x02202004)
        self.write(mac.OPMODE, 0x02202006)
        self.write(mac.CONFIG, 0xC80C)
        self.write(mac.RXPOLLDEMAND, 0)

    def link(self):
        self.now += 5
        self.chip.advance()

    def up(self):
        self.gate()
        self.rmii()
        self.external_clock()
        self.pads()
        assert self.soft_reset()
        self.now += 0.05
        self.mdio_write(4, 0x01E1)
        self.mdio_write(0, 0x1200)
        self.registers()
        self.rings()
        self.start()
        self.link()
        self.emac.transmit()  # finds nothing, and waits for a poll demand from now on
        return self

    def send(self, frame=FRAME, word0=0xB0100000, demand=True, size=None):
        self.ram.write(TX_BUFFER, frame)
        self.descriptor(TX_RING, 0, word0, len(frame) if size is None else size, TX_BUFFER, TX_RING + 32)
        if demand:
            self.write(mac.TXPOLLDEMAND, 0)
        if self.emac.tx_waiting:
            while self.emac.transmit():
                pass


def rules_broken(action, wiring=None):
    cpu = CPU(wiring).up()
    assert cpu.breaches() == []
    action(cpu)
    return cpu.breaches()


def test_a_correct_bring_up_breaks_no_rule_and_frames_go_both_ways():
    cpu = CPU().up()
    cpu.emac.receive(FRAME)
    assert cpu.word0(RX_RING, 0) == (64 << 16 | 0x0320)  # FL with FCS, FS, LS, Ethernet II
    assert cpu.ram.read(RX_BUFFERS, 60) == FRAME
    cpu.send()
    assert cpu.sent == [FRAME] and cpu.word0(TX_RING, 0) == 0x30100000
    assert cpu.breaches() == []


def test_registers_are_dead_while_the_clock_gate_is_closed():
    cpu = CPU()
    assert cpu.read(mac.VERSION) == 0
    cpu.write(mac.OPMODE, 6)
    assert cpu.breaches() == ["gate-closed", "gate-closed"]


def test_registers_are_dead_while_reset_is_held():
    cpu = CPU()
    cpu.gate()
    cpu.change(RESET, 0, 0x80)
    assert cpu.read(mac.VERSION) == 0 and cpu.breaches() == ["in-reset"]


def test_the_reset_stops_the_dma_whatever_the_gate_does():
    cpu = CPU().up()
    cpu.change(RESET, 0, 0x80)
    assert not cpu.emac.receiving
    cpu.emac.receive(FRAME)
    assert cpu.word0(RX_RING, 0) == 1 << 31


def test_without_a_clock_the_soft_reset_never_ends():
    cpu = CPU()
    cpu.gate()
    cpu.rmii()
    assert not cpu.soft_reset()
    cpu.external_clock()
    assert not cpu.read(mac.BUSMODE) & 1  # it ends as soon as the clock runs


def test_the_soft_reset_needs_rmii_selected():
    cpu = CPU()
    cpu.gate()
    cpu.external_clock()
    assert not cpu.soft_reset() and "swr-before-rmii" in cpu.breaches()


def test_the_divider_of_the_clock_output_falls_back_while_the_gate_is_closed():
    cpu = CPU()
    cpu.write(mac.EX_CLKOUT_CONF, 0)
    assert cpu.breaches() == ["gate-closed"]
    cpu.gate()
    assert cpu.read(mac.EX_CLKOUT_CONF) == 0x24
    cpu.rmii()
    cpu.apll()
    cpu.write(0x3FF49050, 0x5800)
    assert cpu.chip.clock_on_pin("gpio17_out") == 50.0
    cpu.write(mac.EX_CLKOUT_CONF, 0x24)
    assert cpu.chip.clock_on_pin("gpio17_out") == 10.0


@pytest.mark.parametrize(
    "crystal, dividers", [(40, (6, 0, 0)), (26, (11, 98, 118)), (32, (8, 128, 0)), (24, (12, 170, 171))]
)
def test_the_apll_makes_50_mhz_from_the_documented_dividers(crystal, dividers):
    cpu = CPU(Wiring(clock="gpio17_out", crystal=crystal))
    cpu.gate()
    cpu.rmii()
    cpu.apll(dividers)
    assert cpu.analog(3) & 0x80
    assert cpu.chip.clock_ok(cpu.chip.mac_clock())
    assert cpu.soft_reset() and cpu.breaches() == []


def test_the_apll_with_the_wrong_dividers_of_old_code_is_not_50_mhz():
    cpu = CPU(Wiring(clock="gpio17_out", crystal=26))
    cpu.gate()
    cpu.rmii()
    cpu.apll((15, 118, 39))
    assert not cpu.chip.clock_ok(cpu.chip.apll()) and not cpu.soft_reset()


def test_the_apll_out_of_its_range_does_not_calibrate():
    cpu = CPU(Wiring(clock="gpio17_out"))
    cpu.gate()
    cpu.apll((20, 0, 0))
    assert not cpu.analog(3) & 0x80 and cpu.breaches() == ["apll-range"]


def test_the_apll_cannot_be_reached_before_its_bus_is_enabled():
    cpu = CPU()
    cpu.analog(7, 6)
    assert cpu.analog(7) == 0


def test_the_analog_master_takes_nothing_while_busy():
    cpu = CPU()
    cpu.write(APLL, 0x6D)
    cpu.write(APLL, 0x6D)
    assert cpu.breaches() == ["analog-busy"]


def test_the_apll_with_wifi_is_refused():
    cpu = CPU(Wiring(clock="gpio17_out", wifi=True))
    cpu.gate()
    cpu.apll()
    assert cpu.breaches() == ["apll-with-wifi"]


def test_driving_gpio0_against_the_oscillator_is_contention():
    cpu = CPU()
    cpu.write(0x3FF49044, 0x1800)
    assert cpu.breaches() == ["contention"]


def test_driving_an_rmii_input_is_contention():
    cpu = CPU()
    cpu.write(0x3FF49024, 0x2800)
    cpu.write(0x3FF44024, 1 << 25)
    assert cpu.breaches() == ["contention"]


def test_psram_and_flash_pads_are_guarded():
    cpu = CPU(Wiring(psram=True))
    cpu.write(0x3FF49050, 0x5800)
    cpu.write(0x3FF49060, 0x2800)
    assert cpu.breaches() == ["psram-pin", "flash-pin"]


def test_the_words_of_gate_and_reset_belong_to_others_too():
    cpu = CPU()
    cpu.write(GATE, 0x4000)
    cpu.write(RESET, 0xFF)
    assert cpu.breaches() == ["gate-neighbours", "reset-neighbours"]


def test_efuses_are_not_written_and_addresses_are_aligned_and_known():
    cpu = CPU()
    cpu.write(0x3FF5A004, 1)
    cpu.read(0x3FF69001)
    cpu.read(0x3FF7F000)
    assert cpu.breaches() == ["read-only", "unaligned", "unmapped"]


@pytest.mark.parametrize(
    "address, value, rule",
    [
        (mac.VERSION, 0, "read-only"),
        (mac.MISSEDFR, 0, "read-only"),
        (mac.OPMODE, 0x02202006 | 1 << 8, "reserved-bits"),
        (mac.RXBASEADDR, RX_RING, "base-while-running"),
        (mac.CONFIG, 0xCC0C, "receive-checksum"),
        (mac.CONFIG, 0xC88C, "auto-strip"),
        (mac.CONFIG, 0x480C, "port-select"),
        (mac.MIIADDR, 1 << 11 | 3 << 2 | 1, "mdc-too-fast"),
        (mac.ADDR0HIGH, 0x0500, "address-enable"),
        (mac.MAC + 0x60 + 0x70, 0, "unmapped"),
    ],
)
def test_a_wrong_write_is_recorded_by_name(address, value, rule):
    assert rules_broken(lambda cpu: cpu.write(address, value)) == [rule]


def test_the_address_is_taken_over_when_its_low_word_is_written():
    cpu = CPU()
    cpu.gate()
    cpu.rmii()
    cpu.external_clock()
    cpu.pads()
    cpu.soft_reset()
    cpu.registers()
    cpu.write(mac.ADDR0HIGH, 0x8000FFEE)
    cpu.rings()
    cpu.start()
    assert cpu.breaches() == ["address-order"]
    cpu.link()
    cpu.emac.receive(MAC + FRAME[6:])
    assert cpu.word0(RX_RING, 0) != 1 << 31  # the filter still has the old address


def test_management_waits_for_the_bus():
    cpu = CPU().up()
    cpu.write(mac.MIIADDR, 0x881)
    cpu.write(mac.MIIADDR, 0x881)
    cpu.write(mac.MIIDATA, 0)
    cpu.read(mac.MIIDATA)
    assert cpu.breaches() == ["mdio-busy", "mdio-busy"]  # once for each register
    cpu.now += 1e-4
    assert cpu.read(mac.MIIDATA) == 0x0007  # LAN8720A


def test_an_absent_address_reads_all_ones_and_an_unrouted_input_all_zeros():
    cpu = CPU().up()
    assert cpu.mdio_read(2, phy=0) == 0xFFFF
    cpu.write(0x3FF44454, 0x30)
    assert cpu.mdio_read(2) == 0
    cpu.write(0x3FF44454, 0x80 | 33)
    assert cpu.mdio_read(2) == 0xFFFF


def test_mdio_with_the_pad_always_driven_is_a_breach():
    def action(cpu):
        cpu.write(0x3FF44578, 201 | 0x400)
        cpu.mdio_read(2)

    assert rules_broken(action) == ["mdio-output-enable"]


def test_nothing_but_busmode_may_be_touched_before_the_soft_reset_ends():
    cpu = CPU().up()
    cpu.chip.faults.clock = False
    cpu.write(mac.BUSMODE, 1)
    cpu.write(mac.OPMODE, 0)
    assert cpu.breaches() == ["swr-pending"]


def test_opmode_is_left_alone_while_the_fifo_is_flushed():
    def action(cpu):
        cpu.write(mac.OPMODE, 0x02302006)
        cpu.write(mac.OPMODE, 0x02202006)

    assert rules_broken(action) == ["opmode-while-flushing"]


def test_the_mac_transmitter_starts_before_its_dma_and_the_receive_dma_before_the_mac():
    cpu = CPU().up()
    cpu.write(mac.CONFIG, 0xC800)
    cpu.write(mac.OPMODE, 0x02200004)
    cpu.write(mac.OPMODE, 0x02202004)
    assert cpu.breaches() == ["dma-before-mac"]
    cpu.send()
    assert cpu.sent == []
    cpu.write(mac.CONFIG, 0xC80C)
    assert cpu.breaches() == ["dma-before-mac", "mac-before-dma"]


def test_four_word_descriptors_are_refused():
    cpu = CPU().up()
    cpu.write(mac.OPMODE, 0x02202004)
    cpu.write(mac.BUSMODE, 0x02C12000)
    cpu.write(mac.CONFIG, 0xC808)
    cpu.write(mac.OPMODE, 0x02202006)
    assert cpu.breaches() == ["descriptor-size"]


def test_rmii_pads_that_are_not_function_5_carry_nothing():
    cpu = CPU()
    cpu.gate()
    cpu.rmii()
    cpu.external_clock()
    cpu.pads()
    cpu.write(0x3FF49024, 0x2A00)
    cpu.soft_reset()
    cpu.registers()
    cpu.rings()
    cpu.start()
    cpu.link()
    cpu.emac.receive(FRAME)
    assert cpu.breaches() == ["rmii-pads"] and cpu.word0(RX_RING, 0) == 1 << 31 and cpu.emac.lost == {"pads": 1}


def test_an_rtc_function_keeps_a_pad_from_the_mac():
    cpu = CPU()
    cpu.write(0x3FF48484, 1 << 17)
    cpu.pads()
    assert cpu.chip.rmii_pads() == "TXD0, TX_EN, TXD1, RXD0, RXD1, CRS_DV".split(", ")[3]


def test_a_receiver_without_descriptors_waits_for_a_poll_demand():
    cpu = CPU().up()
    for _ in range(RECEIVE):
        cpu.emac.receive(FRAME)
    assert cpu.read(mac.STATUS) & 0x80 and cpu.read(mac.STATUS) >> 17 & 7 == 4
    cpu.emac.receive(FRAME)
    cpu.rings_given_back = [cpu.descriptor(RX_RING, i, 1 << 31) for i in range(RECEIVE)]
    cpu.emac.receive(FRAME)
    assert cpu.word0(RX_RING, 0) == 1 << 31  # nothing comes without the demand
    assert cpu.read(mac.MISSEDFR) == 2 and cpu.read(mac.MISSEDFR) == 0
    cpu.write(mac.RXPOLLDEMAND, 0)
    cpu.emac.receive(FRAME)
    assert cpu.word0(RX_RING, 0) >> 31 == 0
    assert cpu.breaches() == []


def test_frames_that_arrive_with_the_receive_dma_stopped_overflow_the_fifo():
    cpu = CPU().up()
    cpu.write(mac.OPMODE, 0x02202004)
    cpu.emac.receive(FRAME)
    assert cpu.read(mac.STATUS) & 0x10 and cpu.read(mac.MISSEDFR) == 1 << 17


def test_a_sent_frame_needs_a_poll_demand():
    cpu = CPU().up()
    cpu.send(demand=False)
    assert cpu.sent == [] and cpu.read(mac.STATUS) & 4
    cpu.send()
    assert cpu.sent == [FRAME]


@pytest.mark.parametrize(
    "word0, length, rule",
    [
        (0xB0D00000, 60, "transmit-checksum"),
        (0xB0100000, 0, "transmit-size"),
        (0xB0100000, 1600, "transmit-giant"),
        (0xA0100000, 60, "transmit-segments"),
        (0xB4100000, 20, "transmit-runt"),
        (0xB8100000, 60, "transmit-crc"),
        (0xB0100000, 60 << 16 | 60, "transmit-second-buffer"),
    ],
)
def test_a_wrong_transmit_descriptor_is_recorded_by_name(word0, length, rule):
    assert rules_broken(lambda cpu: cpu.send(bytes(length & 0x1FFF), word0, size=length)) == [rule]


def test_a_frame_in_two_buffers_leaves_as_one_and_the_next_descriptor_is_the_one_behind_or_the_first():
    cpu = CPU().up()
    cpu.ram.write(TX_BUFFER, FRAME)
    cpu.descriptor(TX_RING, 0, 0xB0000000, 40 << 16 | 20, TX_BUFFER, TX_BUFFER + 20)
    cpu.descriptor(TX_RING, 1, 0xB0200000, 30 << 16 | 30, TX_BUFFER, TX_BUFFER + 30)
    cpu.write(mac.TXPOLLDEMAND, 0)
    while cpu.emac.transmit():
        pass
    assert cpu.sent == [FRAME] * 2 and cpu.word0(TX_RING, 1) == 0x30200000
    cpu.send()
    assert cpu.sent == [FRAME] * 3 and cpu.breaches() == []


def test_a_second_transmit_buffer_out_of_reach_is_a_bus_error():
    def action(cpu):
        cpu.descriptor(TX_RING, 0, 0xB0000000, 40 << 16 | 20, TX_BUFFER, 0x3F800000)
        cpu.write(mac.TXPOLLDEMAND, 0)
        cpu.emac.transmit()
        assert cpu.read(mac.STATUS) & 0x2000 and cpu.read(mac.STATUS) >> 23 & 7 == 3

    assert rules_broken(action) == ["outside-dma-memory"]


def test_short_frames_are_padded_in_both_directions():
    cpu = CPU().up()
    cpu.send(FRAME[:42])
    assert cpu.sent == [FRAME[:42] + bytes(18)]
    cpu.emac.receive(FRAME[:42])
    assert cpu.word0(RX_RING, 0) >> 16 == 64


def test_a_buffer_in_psram_is_a_bus_error_and_stops_the_dma():
    def action(cpu):
        cpu.descriptor(RX_RING, 0, 1 << 31, 0x4600, 0x3F800000, RX_RING + 32)
        cpu.emac.receive(FRAME)
        assert (
            cpu.read(mac.STATUS) & 0x2000
            and cpu.read(mac.STATUS) >> 17 & 7 == 0
            and cpu.read(mac.STATUS) >> 23 & 7 == 0
        )

    assert rules_broken(action) == ["outside-dma-memory"]


def test_a_broken_chain_is_a_bus_error():
    def action(cpu):
        cpu.descriptor(RX_RING, 0, 1 << 31, 0x4600, RX_BUFFERS, 0)
        cpu.emac.receive(FRAME)
        assert cpu.read(mac.STATUS) >> 23 & 7 == 6

    assert rules_broken(action) == ["outside-dma-memory"]


def test_a_receive_buffer_of_no_size_and_an_odd_one_are_refused():
    def action(cpu):
        cpu.descriptor(RX_RING, 0, 1 << 31, 0x4602, RX_BUFFERS, RX_RING + 32)
        cpu.emac.receive(FRAME)
        cpu.descriptor(RX_RING, 1, 1 << 31, 0x4000, RX_BUFFERS, RX_RING + 64)
        cpu.emac.receive(FRAME)

    assert rules_broken(action) == ["receive-alignment", "receive-size"]


def test_a_frame_longer_than_a_buffer_takes_several_descriptors():
    cpu = CPU().up()
    for i in range(RECEIVE):
        cpu.descriptor(RX_RING, i, 1 << 31, 0x4000 | 64)
    cpu.emac.receive(FRAME[:14] + bytes(86))
    assert cpu.word0(RX_RING, 0) & 0x300 == 0x200 and cpu.word0(RX_RING, 1) & 0x300 == 0x100
    assert cpu.word0(RX_RING, 1) >> 16 == 104


def test_a_frame_without_enough_descriptors_is_truncated_with_an_error():
    cpu = CPU().up()
    cpu.descriptor(RX_RING, 0, 1 << 31, 0x4000 | 64)
    cpu.descriptor(RX_RING, 1, 0)
    cpu.emac.receive(FRAME[:14] + bytes(86))
    assert cpu.word0(RX_RING, 0) & 0xC300 == 0xC300  # ES, DE, FS, LS
    assert cpu.read(mac.STATUS) & 0x80


def test_the_filter_takes_own_broadcast_and_hashed_multicast_frames_only():
    cpu = CPU().up()

    def taken(destination):
        before = cpu.emac.frames_in
        cpu.rings_again = [cpu.descriptor(RX_RING, i, 1 << 31) for i in range(RECEIVE)]
        cpu.write(mac.RXPOLLDEMAND, 0)
        cpu.emac.receive(destination + FRAME[6:])
        return cpu.emac.frames_in > before

    other, mdns = bytes.fromhex("02ba4e000099"), bytes.fromhex("01005e0000fb")
    assert taken(MAC) and taken(BROADCAST) and not taken(other) and not taken(mdns)
    cpu.write(mac.FRAMEFILTER, 0x10)
    assert taken(mdns)
    # The vectors of the MAC's own documentation: 1F:52:41:9C:B6:AF is bit 12 of HIGH, A0:0A:98:00:00:45 bit 7 of LOW.
    cpu.write(mac.FRAMEFILTER, 0x6)
    cpu.write(mac.HASHHIGH, 1 << 12)
    cpu.write(mac.HASHLOW, 1 << 7)
    assert taken(bytes.fromhex("1f52419cb6af")) and taken(bytes.fromhex("a00a98000045")) and not taken(mdns)
    cpu.write(mac.FRAMEFILTER, 1)
    assert taken(other)
    assert cpu.breaches() == []


def test_a_speed_that_is_not_the_links_carries_nothing():
    cpu = CPU(partner=Partner(speed=10)).up()
    cpu.emac.receive(FRAME)
    cpu.send()
    assert cpu.emac.lost == {"speed mismatch": 1, "sent with speed mismatch": 1}
    cpu.write(mac.CONFIG, 0x880C)
    cpu.emac.receive(FRAME)
    assert cpu.emac.frames_in == 1


def test_half_duplex_on_a_full_duplex_link_loses_carrier():
    cpu = CPU().up()
    cpu.write(mac.CONFIG, 0xC00C)
    cpu.send()
    assert cpu.word0(TX_RING, 0) & 0x8800 == 0x8800 and cpu.breaches() == ["duplex-mismatch"]


def test_two_oscillators_are_recorded():
    cpu = CPU()
    cpu.gate()
    cpu.rmii()
    cpu.apll()
    cpu.pads()
    assert cpu.soft_reset()
    cpu.registers()
    cpu.rings()
    cpu.start()
    cpu.link()
    cpu.emac.receive(FRAME)
    assert cpu.breaches() == ["two-clocks"]


def test_the_fifos_need_their_power():
    def action(cpu):
        cpu.write(mac.PD_SEL, 3)
        cpu.emac.receive(FRAME)
        assert cpu.emac.frames_in == 0

    assert rules_broken(action) == ["ram-off"]


def test_loopback_needs_no_phy():
    cpu = CPU().up()
    cpu.chip.faults.phy = False
    cpu.write(mac.CONFIG, 0xD80C)
    cpu.now += 1
    cpu.send()
    assert cpu.sent == [] and cpu.ram.read(RX_BUFFERS, 60) == FRAME


def test_the_phy_tells_link_speed_and_partner_with_its_timing():
    cpu = CPU().up()
    cpu.mdio_write(0, 0x8000)
    assert cpu.mdio_read(0) & 0x8000 and cpu.mdio_read(2) == 0xFFFF
    cpu.now += 0.06
    assert cpu.mdio_read(0) & 0x8000 == 0
    assert cpu.mdio_read(4) == 0x00E1  # not all modes after a reset: ANAR must be written
    cpu.mdio_write(4, 0x01E1)
    cpu.mdio_write(0, 0x1200)
    cpu.now += 1
    assert cpu.mdio_read(1) & 0x24 == 0
    cpu.now += 1
    cpu.mdio_read(1)
    assert cpu.mdio_read(1) & 0x24 == 0x24 and cpu.mdio_read(31) >> 2 & 7 == 6


def test_a_lost_link_is_latched_until_it_is_read():
    cpu = CPU().up()
    cpu.mdio_read(1)
    assert cpu.mdio_read(1) & 4
    cpu.chip.faults.cable = False
    cpu.chip.advance()
    cpu.chip.faults.cable = True
    cpu.chip.advance()
    cpu.link()
    assert not cpu.mdio_read(1) & 4
    assert cpu.mdio_read(1) & 4


def test_power_oscillator_and_reset_pins_decide_whether_the_phy_lives():
    pins = (Pin(12, "power", 1), Pin(5, "reset", 0), Pin(16, "oscillator", 1))
    cpu = CPU(Wiring(pins=pins))

    def drive(gpio, level):
        cpu.write(model.IO_MUX + model.IO_MUX_OFFSETS[gpio], 0x2800)
        cpu.write(0x3FF44008 if level else 0x3FF4400C, 1 << gpio)
        cpu.write(0x3FF44024, 1 << gpio)

    assert not cpu.chip.phy.running
    drive(12, 1)
    assert not cpu.chip.phy.running
    drive(16, 1)
    assert cpu.chip.phy.running
    drive(5, 0)
    assert not cpu.chip.phy.running
    drive(5, 1)
    assert cpu.chip.phy.running
    drive(12, 0)
    assert not cpu.chip.phy.running


@pytest.mark.parametrize("remedy", ["reset", "power"])
def test_a_phy_released_without_its_clock_hangs(remedy):
    cpu = CPU(Wiring(pins=(Pin(16, "oscillator", 1),), hangs_without_clock=remedy))
    cpu.write(0x3FF4904C, 0x2800)
    cpu.write(0x3FF44024, 1 << 16)
    cpu.write(0x3FF44008, 1 << 16)
    cpu.up()
    assert not cpu.chip.phy.link
    assert (cpu.mdio_read(2) == 7) == (remedy == "reset")
    cpu.mdio_write(0, 0x8000)
    cpu.link()
    cpu.link()
    assert cpu.chip.phy.link == (remedy == "reset")
