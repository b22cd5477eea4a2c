"""The doctor names the cause of every symptom in the driver's table of self-diagnosis (docs/driver.md).

The model of the chip makes each fault, in its registers, its PHY, its clock or its wires, and the doctor has to see it
there. Two rows cannot be made here and are shown where they can: a board stuck in the ROM loader after a reset does not
run any program, so `barenet doctor` tells of it (test_host_doctor.py); objects damaged after Ctrl-D need a new program
over the old DMA (test_emac_soft_reset.py), here the doctor sees that DMA. "Loss only while Wi-Fi is on" and "periodic
loss with two oscillators" are recognised by their causes, which registers and GPIO0 show; the loss itself takes a radio
and two real crystals.
"""

import contextlib
import json
import threading

import pytest

from tests.unit.emac_board import MAC, PEER_MAC, PRELUDE, board

HEAP = 288 * 1024
BROADCAST = b"\xff" * 6 + PEER_MAC + bytes(60)
# A board whose time runs five times as fast, so that its long waits for what does not come are short.
HURRIED = """
import sys, time as real
class time:
    ticks_ms = lambda: real.ticks_ms() * 5 & 0x3FFFFFFF
    ticks_us = lambda: real.ticks_us() * 5 & 0x3FFFFFFF
    ticks_add = real.ticks_add
    ticks_diff = real.ticks_diff
    sleep_us = lambda us: real.sleep_us(us // 5)
    sleep_ms = lambda ms: real.sleep_us(ms * 200)
sys.modules["time"] = time
""" + PRELUDE
REPORT = """
from barenet.driver import doctor
def report(*row): print(json.dumps(row))
"""
# A driver that is not running, tried step by step.
WALK = REPORT + "doctor.walk(EMAC(config), Pool(4, 2), report, 1000, %d)\n"
# Up, then something is done, here or on the model's side, then the doctor looks.
LOOK = REPORT + "lan, pool = up(Pool(4, 2))\n%s\ndoctor.examine(lan, pool, report)\n"
# Says that it is up, and goes on when it is told to.
READY = "print('up')\nline()\n"


class Report:
    """What the doctor reported: steps, registers {name: (value, fields)}, findings [(symptom, cause)]."""

    def __init__(self, output):
        rows = [json.loads(line) for line in output.splitlines() if line.startswith("[")]
        self.steps = [tuple(row[1:]) for row in rows if row[0] == "step"]
        self.registers = {row[1]: tuple(row[2:]) for row in rows if row[0] == "register"}
        self.phy = {row[1]: row[2] for row in rows if row[0] == "phy"}
        self.phy_registers = {row[1]: tuple(row[2:]) for row in rows if row[0] == "phy register"}
        self.findings = [tuple(row[1:]) for row in rows if row[0] == "finding"]
        assert all(cause for _, cause in self.findings)

    @property
    def symptoms(self):
        return [symptom for symptom, _ in self.findings]

    def failed(self):
        """The step that ended the bring-up, and its error."""
        name, text = self.steps[-1]
        assert text != "ok" and (f"the step “{name}” fails", text) in self.findings
        return name, text

    def cause(self, symptom):
        """The cause named for a symptom of which this is a part."""
        found = [cause for text, cause in self.findings if symptom in text]
        assert found, f"no {symptom!r} in {self.findings}"
        return found[0]


def walk(b, listen_ms=50):
    return Report(b.run(WALK % listen_ms, heap=HEAP, prelude=HURRIED, timeout=40))


def look(b, change=""):
    """The doctor's look at a running driver after a change of registers, descriptors or settings."""
    return Report(b.run(LOOK % change, heap=HEAP, prelude=HURRIED))


@contextlib.contextmanager
def running(b, change=READY):
    """A running driver; the block does something to the model. Yields a list in which the report will be."""
    process = b.start(LOOK % change, heap=HEAP, prelude=HURRIED)
    assert process.stdout.readline() == "up\n"
    found = []
    yield found
    output, _ = process.communicate("\n", timeout=30)
    assert process.returncode == 0, output
    found.append(Report(output))


class Drizzle(threading.Thread):
    """Broadcasts until end()."""

    def __init__(self, b):
        super().__init__()
        self._board = b
        self._ended = threading.Event()
        self.start()

    def run(self):
        while not self._ended.wait(0.02):
            self._board.peer.send(BROADCAST)

    def end(self):
        self._ended.set()
        self.join()


def test_a_healthy_board_has_no_findings_and_all_registers():
    with board() as b:
        report = walk(b)
        assert [text for _, text in report.steps] == ["ok"] * 13
        assert [name for name, _ in report.steps][-3:] == ["loopback", "PHY loopback", "link"]
        assert report.findings == []
        values = report.registers
        assert values["BUSMODE"] == ("0x02C12080", "ATDS PBL=32 FB RPBL=32 USP AAL")
        assert values["OPMODE"][1] == "SR OSF ST TSF RSF"
        assert values["EX_PHYINF_CONF"][1] == "PHY_INTF_SEL=4"
        assert values["CONFIG"][1] == "RE TE DM FES PS"
        assert values["VERSION"][1] == "SYNOPSYS=55 USER=17"
        assert report.phy == {"address": "1", "id": "0x0007C0F1", "type": "LAN8720", "name": "LAN8710A/LAN8720A"}
        assert report.phy_registers["PHYID1"] == ("2", "0x0007", "")
        assert report.phy_registers["PSCSR"] == ("31", "0x1018", "NEGOTIATED MODE=6")
        assert b.breaches() == [] and not b.chip.emac.receiving


def test_a_healthy_running_driver_has_no_findings_and_is_not_disturbed():
    with board() as b:
        with running(b) as found:
            pass
        assert found[0].findings == [] and found[0].steps == [] and len(found[0].registers) > 35
        assert b.chip.emac.receiving and b.breaches() == []


def test_a_driver_that_was_examined_comes_up_as_before():
    with board() as b:
        out = b.run(
            REPORT + "lan, pool = EMAC(config), Pool(4, 2)\ndoctor.walk(lan, pool, report, 1000, 50)\n"
            "lan.start(pool)\nprint(poll(lan, 3000, lan.link))",
            heap=HEAP, prelude=HURRIED,
        )
        assert out.endswith("True\n") and b.breaches() == []


# Rows of the table: the bring-up.


def test_the_gate_does_not_stick_in_an_emulator():
    with board() as b:
        b.chip.faults.emulator = True
        assert walk(b).failed() == (
            "clock gate",
            "the EMAC's clock gate does not open (0x3FF000CC bit 14): this is an emulator, not an ESP32",
        )


def test_the_version_is_wrong_while_the_reset_is_held():
    with board() as b:
        b.chip.faults.reset_held = True
        report = walk(b)
        assert report.failed() == (
            "clock gate",
            "no EMAC: its version register reads 0x00000000 in place of 0x..37 (gate closed or reset held)",
        )
        assert report.registers["CORE_RST_EN"][1] == "EMAC_RST" and b.breaches() == ["in-reset"]


@pytest.mark.parametrize("mhz", [0.0, 25.0])
def test_the_reset_never_ends_and_gpio0_shows_whether_a_clock_arrives(mhz):
    with board() as b:
        b.chip.faults.oscillator = mhz
        report = walk(b)
        assert report.failed()[0] == "MAC reset" and "no RMII clock" in report.failed()[1]
        assert report.symptoms[1:] == ["GPIO0 toggles" if mhz else "GPIO0 does not toggle"]


def test_the_apll_that_does_not_calibrate():
    with board({"ref_clk": "gpio17_out", "pins": []}) as b:
        b.chip.faults.apll = False
        assert walk(b).failed()[0] == "reference clock" and "does not calibrate" in walk(b).failed()[1]


def test_the_apll_whose_bus_is_off_reads_zero():
    with board({"ref_clk": "gpio17_out", "pins": []}) as b:
        b.chip.faults.analog_bus = False
        name, text = walk(b).failed()
        assert name == "reference clock" and "does not keep its dividers: its analog bus is off" in text


def test_the_reset_that_ends_only_sometimes():
    with board() as b:
        b.chip.emac._resets = 1
        b.chip.faults.marginal = True
        assert "clock is marginal" in walk(b).cause("the MAC's reset ends 4 times of 8")
        assert b.breaches() == []


# Management.


def test_all_ones_on_mdio():
    with board(wired={"mdc": 14}) as b:
        assert walk(b).failed() == (
            "PHY",
            "no PHY answers (all MDIO reads are 0xFFFF): check mdc, mdio and the PHY's power and reset pins; "
            "a PHY that started without a clock needs its power taken away once",
        )


def test_all_zeros_on_mdio():
    with board() as b:
        b.chip.faults.mdio_low = True
        assert walk(b).failed() == (
            "PHY",
            "all MDIO reads are 0: MDIO is held low or wired to another pin than the board file's mdio",
        )


def test_an_mdio_input_that_leads_nowhere():
    with board() as b:
        assert "GPIO_FUNC201_IN_SEL" in look(b, "mem32[0x3FF44454] = 0x30").cause("all MDIO reads are 0")


def test_a_management_frame_that_never_ends_is_the_macs_fault():
    with board() as b:
        with running(b) as found:
            b.chip.faults.mdio_busy = True
        assert "MIIADDR" in found[0].cause("the MAC does not finish reading the PHY")
        b.chip.faults.mdio_busy = False


def test_a_phy_that_answers_all_ones_while_it_resets_is_waited_for():
    with board() as b:
        b.chip.phy.timing.soft_reset = 0.04
        assert walk(b).findings == []


def test_a_vanished_phy():
    with board() as b:
        with running(b) as found:
            b.chip.faults.phy = False
        assert "power, its clock or its management pins" in found[0].cause("the PHY has vanished")


# The link.


def test_no_link_without_energy_on_the_line():
    with board() as b:
        b.chip.faults.cable = False
        report = walk(b)
        assert report.symptoms == ["no energy on the line (register 17)"] and report.steps[-1] == ("link", "down")


@pytest.mark.parametrize(
    "setting, symptom",
    [
        ("lan.phy.write(0, 0x1800)", "the PHY is powered down (BMCR bit 11)"),
        ("lan.phy.write(0, 0x1400)", "the PHY is isolated from the MAC (BMCR bit 10)"),
        ("lan.phy.write(4, 1)\nlan.phy.write(0, 0x1200)", "the PHY does not advertise all modes (ANAR)"),
        ("lan.phy.write(18, 0x4001)", "the PHY's MODE straps forbid negotiation (register 18)"),
    ],
)
def test_no_link_because_of_the_phys_settings(setting, symptom):
    with board() as b:
        assert "lan.active" in look(b, setting).cause(symptom)


def test_the_partner_that_does_not_negotiate():
    with board() as b:
        b.chip.partner.negotiates = False
        assert walk(b).symptoms == ["the partner does not negotiate (ANER bit 0)"]


def test_a_link_that_flaps():
    with board() as b:
        flap = (
            "print('up')\nfor up in (False, True) * 2:\n    line()\n    "
            "print(poll(lan, 5000, lambda: lan.link() == up))\n"
        )
        process = b.start(LOOK % flap, heap=HEAP, prelude=HURRIED)
        assert process.stdout.readline() == "up\n"
        for cable in (False, True) * 2:
            b.chip.faults.cable = cable
            process.stdin.write("\n")
            process.stdin.flush()
            assert process.stdout.readline() == "True\n"
        report = Report(process.communicate(timeout=20)[0])
        assert "bad cable" in report.cause("the link has changed 5 times")


def test_symbol_errors_are_counted_while_listening():
    with board() as b:
        b.chip.faults.symbol_errors = 5
        assert "cable, magnetics" in walk(b).cause("5 symbol errors (register 26)")


# Frames that do not arrive, or do not leave.


@pytest.mark.parametrize(
    "change, symptom",
    [
        ("mem32[0x3FF49024] = 0x2A00", "GPIO25 is not connected to the MAC"),
        ("mem32[0x3FF49028] = 0x5800", "GPIO26 is not connected to the MAC"),
        ("mem32[0x3FF49074] = 0x2800", "GPIO19 is not connected to the MAC"),
        ("mem32[0x3FF6A000] = 0x880C", "CONFIG.FES does not fit the link's speed"),
        ("mem32[0x3FF6980C] = 0", "EX_PHYINF_CONF does not select RMII"),
        ("mem32[0x3FF6A000] = 0xCC0C", "CONFIG.IPC is on"),
        ("mem32[0x3FF6A000] = 0xC808", "CONFIG.RE is off"),
        ("mem32[0x3FF6A000] = 0xC804", "CONFIG.TE is off"),
        ("mem32[0x3FF69018] = 0x02202004", "the receive DMA is stopped"),
        ("mem32[0x3FF69018] = 0x02200006", "the transmit DMA is stopped"),
        ("mem32[0x3FF000CC] = 0xFFFCA030", "the EMAC does not answer"),
        ("mem32[0x3FF000D0] = 0x80", "the EMAC does not answer"),
    ],
)
def test_a_register_that_is_wrong_is_named(change, symptom):
    with board() as b:
        assert look(b, change).cause(symptom)


@pytest.mark.parametrize("wire", ["CRS_DV", "RXD0", "TX_EN", "TXD1"])
def test_a_broken_wire_is_found_by_the_phys_loopback(wire):
    """Link ok and no frame in, or frames sent and nothing on the wire: the registers are all right then."""
    with board() as b:
        b.chip.faults.broken = [wire]
        report = walk(b)
        assert dict(report.steps)["loopback"] == "ok" and dict(report.steps)["link"] == "ok"
        assert "a wire of the RMII" in report.cause("the step “PHY loopback” fails")


def test_a_dma_that_takes_one_buffer_of_a_descriptor_only():
    with board() as b:
        b.chip.faults.second_buffer = False
        assert '"gather": false' in dict(walk(b).steps)["loopback"]
    with board({"gather": False}) as b:
        b.chip.faults.second_buffer = False
        assert dict(walk(b).steps)["loopback"] == "ok"


def test_an_own_address_with_swapped_words_lets_only_broadcasts_in():
    with board() as b:
        swap = "mem32[0x3FF6A040] = 0x80004eba\nmem32[0x3FF6A044] = 0x02050000\n"
        with running(b, swap + READY) as found:
            b.peer.send(MAC + PEER_MAC + bytes(60))
            b.peer.send(BROADCAST)
            b.wait(lambda: b.chip.emac.frames_in == 1)
        assert b.chip.emac.frames_in == 1 and b.chip.emac.lost["address filter"] == 1
        assert "only broadcasts arrive" in found[0].cause("the address filter has another address than ours")


def test_a_receiver_without_descriptors_and_one_without_a_poll_demand():
    with board() as b:
        with running(b) as found:
            for _ in range(6):
                b.peer.send(BROADCAST)
            b.wait(lambda: b.chip.emac.frames_in == 4)
        assert "does not poll the stack" in found[0].cause("the receiver has no descriptor")
    with board() as b:
        with running(b, READY + "for i in range(pool.receive): fast.release(pool.words, pool.objects)\n") as found:
            for _ in range(6):
                b.peer.send(BROADCAST)
            b.wait(lambda: b.chip.emac.frames_in == 4)
        assert "a poll demand is missing" in found[0].cause("suspended although it has descriptors")


def test_frames_that_were_lost_are_counted():
    with board() as b:
        give_back = "for i in range(pool.receive): fast.release(pool.words, pool.objects)\nlan.refill()\n"
        give_back += "poll(lan, 2500)\n"
        with running(b, READY + give_back) as found:
            for _ in range(11):
                b.peer.send(BROADCAST)
            b.wait(lambda: b.chip.emac._missed == 7)
        assert "poll more often" in found[0].cause("7 frames lost for want of a descriptor, 0 in the FIFO")


def test_a_mac_that_goes_deaf_and_is_restarted():
    with board() as b:
        with running(b, READY + "poll(lan, 8000, lambda: lan.restarts)\npoll(lan, 3000, lan.link)\n") as found:
            b.chip.faults.deaf = True
            flood = Drizzle(b)
        flood.end()
        assert found[0].cause("the MAC was restarted 1 times")


def test_a_bus_error_names_its_access():
    with board() as b:
        with running(b, "pool.rx_ring[2] = 0x3F800000\n" + READY) as found:
            b.peer.send(BROADCAST)
            b.wait(lambda: b.breaches())
        assert "PSRAM" in found[0].cause("bus error (STATUS.FBI) at a receive buffer")
        assert b.breaches() == ["outside-dma-memory"]


def test_a_broken_chain_leads_the_receiver_out_of_its_ring():
    with board() as b:
        astray = "spare = bytearray(64)\nfrom uctypes import addressof\npool.rx_ring[3] = addressof(spare)\n"
        with running(b, astray + READY) as found:
            b.peer.send(BROADCAST)
            b.wait(lambda: b.chip.emac.frames_in == 1)
        assert "the chain of descriptors is broken" in found[0].cause("CURRXDESC is outside the receive ring")


def test_a_transmitter_that_does_not_send():
    with board() as b:
        with running(b, READY + "for _ in range(2): pool.send(60)\nlan.transmit()\n") as found:
            b.chip.faults.mute = True
        assert "missing poll demand" in found[0].cause("the transmitter does not send")


def test_half_duplex_on_a_full_duplex_link_loses_carrier():
    with board() as b:
        report = look(b, "mem32[0x3FF6A000] = 0xC00C\npool.send(60)\nlan.transmit()\n")
        assert "half duplex in the MAC" in report.cause("lost carrier while sending (LOC, NC)")
        assert report.cause("CONFIG.DM does not fit the link's duplex mode") and b.breaches() == ["duplex-mismatch"]


def test_checksum_insertion_is_seen_in_the_descriptor():
    with board() as b:
        inserting = "pool.tx_ring[1] = 60\npool.tx_ring[0] = 0xB0D00000\npool.words[fast.C_TX_NEXT] = 1\n"
        report = look(b, inserting + "lan.transmit()\n")
        assert "every second packet" in report.cause("checksum insertion is on (CIC)")
        assert b.breaches() == ["transmit-checksum"]


@pytest.mark.parametrize(
    "kind, symptom", [("crc", "frames had a wrong CRC"), ("headless", "damaged frames"), ("overflow", "damaged frames")]
)
def test_damaged_frames_are_told_apart(kind, symptom):
    with board() as b:
        process = b.start(WALK % 3000, heap=HEAP, prelude=HURRIED)
        b.wait(lambda: b.chip.advance() and b.chip.emac.frames_out >= 4 and b.chip.phy.link, 10)
        b.chip.faults.bad_frames[kind] = 1 << 30
        drizzle = Drizzle(b)
        try:
            output, _ = process.communicate(timeout=30)
        finally:
            drizzle.end()
        assert Report(output).cause(symptom)


def test_damaged_frames_of_a_running_stack_are_counted():
    with board() as b:
        b.chip.faults.bad_frames["crc"] = 3
        receive = "while fast.receive(pool.words, now(), pool.objects, 64, pool.words): fast.release(pool.words, pool.objects)\n"
        with running(b, READY + receive) as found:
            for _ in range(3):
                b.peer.send(BROADCAST)
            b.wait(lambda: b.chip.emac.frames_in == 3)
        assert "descriptors are given back" in found[0].cause("3 damaged frames")


# The clock.


def test_two_clocks_are_seen_at_gpio0():
    with board({"ref_clk": "gpio17_out"}, wired={"ref_clk": "gpio0_in"}) as b:
        assert "periodic loss" in look(b).cause("a clock arrives at GPIO0, too")
        assert set(b.breaches()) <= {"two-clocks"}


def test_wifi_that_was_switched_on_later():
    with board({"ref_clk": "gpio17_out", "pins": []}) as b:
        assert "disturbs the APLL" in look(b, "mem32[0x3FF000CC] |= 0x0406").cause("Wi-Fi is on")


def test_a_clock_that_stops_in_the_middle_of_a_reset():
    with board() as b:
        with running(b, READY + "lan._restart()\n") as found:
            b.chip.faults.clock = False
        assert "50 MHz clock has stopped" in found[0].cause("the MAC's reset has not ended")


@pytest.mark.parametrize(
    "fault, symptom", [("clock", "the PHY has vanished"), ("phy", "the PHY has vanished"), ("cable", "no energy")]
)
def test_what_fails_during_the_trial_is_in_its_report(fault, symptom):
    with board() as b:
        process = b.start(WALK % 1500, heap=HEAP, prelude=HURRIED)
        b.wait(lambda: b.chip.advance() and b.chip.emac.frames_out >= 4 and b.chip.phy.link, 10)
        setattr(b.chip.faults, fault, False)
        output, _ = process.communicate(timeout=30)
        assert process.returncode == 0, output
        assert Report(output).cause(symptom) and not b.chip.emac.receiving


@pytest.mark.parametrize("fault", ["clock", "phy"])
def test_what_fails_in_the_middle_of_the_loopbacks_is_in_the_report(fault):
    with board() as b:
        process = b.start(WALK % 50, heap=HEAP, prelude=HURRIED)
        b.wait(lambda: b.chip.emac._resets >= 5, 10)
        setattr(b.chip.faults, fault, False)
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 0, output
        assert Report(output).findings and not b.chip.emac.receiving


# After a program's end.


def test_a_mac_that_boot_did_not_stop():
    with board() as b:
        old = b.start("up()\nprint('up')\nline()")
        old.stdout.readline()
        old.kill()
        old.communicate()
        assert "deploy boot.py again" in walk(b).cause("a MAC was left running")


def test_the_length_of_a_frame_excludes_its_fcs():
    with board() as b:
        process = b.start(
            "lan, pool = up()\nprint('up')\npoll(lan, 5000, lambda: not fast.owned_by_dma(pool.rx_ring, 0))\n"
            "print(pool.rx_ring[0] >> 16 & 0x3FFF, fast.received_length(pool.words, pool.objects))"
        )
        process.stdout.readline()
        b.peer.send(MAC + PEER_MAC + bytes(100))
        assert process.communicate(timeout=20)[0] == "116 112\n"
