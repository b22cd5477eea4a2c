"""The doctor names the cause of every symptom in the table of self-diagnosis; each test makes one on the model.

Causes that stop the bring-up are in the error of its step (test_emac_driver.py); here they appear in the doctor's walk.
"""

import json

import pytest

from tests.unit.emac_board import MAC, PEER_MAC, board

HEAP = 288 * 1024
WALK = """
from barenet.driver import doctor
print(json.dumps(doctor.walk(config, Pool(4, 2), 1000, %d)))
"""
# Up, then something is done to the hardware or to the rings, then the doctor looks.
LOOK = """
from barenet.driver import doctor
lan, pool = up(Pool(4, 2))
seen = doctor.Tally()
%s
print(json.dumps(doctor.diagnose(lan, pool, seen)))
"""


def walk(b, listen_ms=50):
    return json.loads(b.run(WALK % listen_ms, heap=HEAP, timeout=40))


def look(b, sabotage):
    return json.loads(b.run(LOOK % sabotage, heap=HEAP))


def failed_step(report):
    name, text = report["steps"][-1]
    assert text != "ok"
    return name, text


def symptoms(found):
    return " | ".join(symptom for symptom, _ in found)


def test_a_healthy_board_has_no_findings_and_all_registers():
    with board() as b:
        report = walk(b)
        assert [text for _, text in report["steps"]] == ["ok"] * 12
        assert [name for name, _ in report["steps"]][-2:] == ["loopback", "link"]
        assert report["findings"] == []
        values = {name: (value, text) for name, value, text in report["registers"]}
        assert values["BUSMODE"] == ("0x02C12080", "ATDS PBL=32 FB RPBL=32 USP AAL")
        assert values["OPMODE"][1] == "SR OSF ST TSF RSF"
        assert values["EX_PHYINF_CONF"][1] == "PHY_INTF_SEL=4"
        assert values["CONFIG"][1] == "RE TE DM FES PS"
        assert values["VERSION"][1] == "SYNOPSYS=55 USER=17"
        assert report["phy"]["type"] == "LAN8720" and ["2", "0x0007"] == [
            str(report["phy"]["registers"][2][0]),
            report["phy"]["registers"][2][1],
        ]
        assert b.breaches() == [] and not b.chip.emac.receiving


def test_the_gate_does_not_stick_in_an_emulator():
    with board() as b:
        b.chip.faults.emulator = True
        assert failed_step(walk(b)) == (
            "clock gate",
            "the EMAC's clock gate does not open (0x3FF000CC bit 14): this is an emulator, not an ESP32",
        )


@pytest.mark.parametrize("clock", [False, True])
def test_the_reset_never_ends_and_gpio0_shows_whether_a_clock_arrives(clock):
    with board() as b:
        if clock:
            b.chip.mac_clock = b.chip.emac.chip.mac_clock = lambda: 25.0  # a 25 MHz oscillator
        else:
            b.chip.faults.clock = False
        report = walk(b)
        assert failed_step(report)[0] == "MAC reset" and "no RMII clock" in failed_step(report)[1]
        assert symptoms(report["findings"]) == ("GPIO0 toggles" if clock else "GPIO0 does not toggle")


def test_the_apll_that_does_not_calibrate():
    with board({"ref_clk": "gpio17_out", "pins": []}) as b:
        b.chip.faults.apll = False
        assert failed_step(walk(b))[0] == "reference clock"


def test_the_reset_that_ends_only_sometimes():
    with board() as b:
        b.chip.emac._resets = 1
        b.chip.faults.marginal = True
        assert "the MAC's reset ends 4 times of 8" in symptoms(walk(b)["findings"])
        assert b.breaches() == []


def test_all_ones_and_all_zeros_on_mdio():
    with board(wired={"mdc": 14}) as b:
        assert failed_step(walk(b)) == (
            "PHY",
            "no PHY answers (all MDIO reads are 0xFFFF): check mdc, mdio and the PHY's power and reset pins; "
            "a PHY that started without a clock needs its power taken away once",
        )
    with board() as b:
        b.chip.management_read = lambda address, register: 0
        assert failed_step(walk(b)) == (
            "PHY",
            "all MDIO reads are 0: MDIO is held low or wired to another pin than the board file's mdio",
        )


def test_a_phy_that_answers_all_ones_while_it_resets_is_waited_for():
    with board() as b:
        b.chip.phy.timing.soft_reset = 0.1
        assert walk(b)["findings"] == []


def test_no_link_without_energy_on_the_line():
    with board() as b:
        b.chip.faults.cable = False
        assert symptoms(walk(b)["findings"]) == "no energy on the line (register 17)"


def test_no_link_because_of_the_phys_settings():
    with board() as b:
        assert "powered down (BMCR bit 11)" in symptoms(look(b, "lan.phy.write(0, 0x1800)"))
        assert "isolated from the MAC (BMCR bit 10)" in symptoms(look(b, "lan.phy.write(0, 0x1400)"))
        assert "does not advertise all modes" in symptoms(look(b, "lan.phy.write(4, 1)\nlan.phy.write(0, 0x1200)"))


def test_the_partner_that_does_not_negotiate():
    with board() as b:
        b.chip.partner.negotiates = False
        assert symptoms(walk(b)["findings"]) == "the partner does not negotiate (ANER bit 0)"


def test_a_link_that_flaps_and_symbol_errors():
    with board() as b:
        assert "the link has changed 9 times" in symptoms(look(b, "lan.link_changes = 9"))
        b.chip.faults.symbol_errors = 5
        assert "5 symbol errors (register 26)" in symptoms(walk(b)["findings"])


@pytest.mark.parametrize(
    "sabotage, symptom",
    [
        ("mem32[0x3FF49024] = 0x2A00", "GPIO25 is not connected to the MAC"),
        ("mem32[0x3FF49028] = 0x5800", "GPIO26 is not connected to the MAC"),
        ("mem32[0x3FF6A000] = 0x880C", "CONFIG.FES does not fit the link's speed"),
        ("mem32[0x3FF6A000] = 0xC00C", "CONFIG.DM does not fit the link's duplex mode"),
        ("mem32[0x3FF6980C] = 0", "EX_PHYINF_CONF does not select RMII"),
        ("mem32[0x3FF6A000] = 0xCC0C", "CONFIG.IPC is on"),
        (
            "mem32[0x3FF6A040] = 0x80000605\nmem32[0x3FF6A044] = 0x04030200",
            "the address filter has another address than ours",
        ),
        ("mem32[0x3FF69018] = 0x02202004", "the receive DMA is stopped"),
        ("mem32[0x3FF000CC] = 0xFFFCA030", "the EMAC does not answer"),
        ("mem32[0x3FF000D0] = 0x80", "the EMAC does not answer"),
        ("seen.crc = 3", "3 frames had a wrong CRC"),
        ("seen.headless = 2", "2 damaged frames"),
        ("lan.missed = 7", "7 frames lost for want of a descriptor"),
        ("lan.restarts = 1", "the MAC was restarted 1 times"),
        ("seen.sent = 0x30108C00", "lost carrier while sending (LOC, NC)"),
        ("seen.sent = 0x30D00000", "checksum insertion is on (CIC)"),
        ("seen.sent = 0xB0100000", "the frame sent was not taken by the DMA"),
    ],
)
def test_a_setting_that_is_wrong_is_named(sabotage, symptom):
    with board() as b:
        found = look(b, sabotage)
        assert symptom in symptoms(found)
        assert all(cause for _, cause in found)


def test_a_receiver_without_descriptors_and_one_without_a_poll_demand():
    with board() as b:
        fill = "for i in range(pool.receive): pool.rx_ring[i * 8] = 0\nmem32[0x3FF69018] = 0x02202004\nmem32[0x3FF69018] = 0x02202006\nmem32[0x3FF69018]\n"
        assert "the receiver has no descriptor" in symptoms(look(b, fill))
        give_back = "for i in range(pool.receive): pool.rx_ring[i * 8] = 0x80000000\n"
        assert "suspended although it has 4 descriptors" in symptoms(look(b, fill + give_back))


def test_a_bus_error_names_its_access():
    with board() as b:
        process = b.start(
            LOOK % ("print('up')\nline()\npool.rx_ring[2] = 0x3F800000\nprint('broken')\nline()"), heap=HEAP
        )
        process.stdout.readline()
        process.stdin.write("\n")
        process.stdin.flush()
        process.stdout.readline()
        b.peer.send(b"\xff" * 6 + PEER_MAC + bytes(60))
        b.wait(lambda: b.breaches())
        found = json.loads(process.communicate("\n", timeout=20)[0])
        assert "bus error (STATUS.FBI) at a receive buffer" in symptoms(found)


def test_a_transmitter_that_does_not_send():
    with board() as b:
        fill = "for _ in range(2): pool.send(60)\nlan.transmit()\nmem32[0x3FF69000]\ntime.sleep_ms(20)"
        process = b.start(LOOK % ("print('up')\nline()\n" + fill), heap=HEAP)
        process.stdout.readline()
        b.chip.faults.mute = True
        assert "the transmitter does not send" in symptoms(json.loads(process.communicate("\n", timeout=20)[0]))


def test_two_clocks_are_seen_at_gpio0():
    with board({"ref_clk": "gpio17_out"}, wired={"ref_clk": "gpio0_in"}) as b:
        found = look(b, "mem32[0x3FF49044] = 0x2A00")
        assert "a clock arrives at GPIO0, too" in symptoms(found)


def test_wifi_that_was_switched_on_later():
    with board({"ref_clk": "gpio17_out", "pins": []}) as b:
        assert "Wi-Fi is on" in symptoms(look(b, "mem32[0x3FF000CC] |= 0x0406"))


def test_damaged_frames_are_told_apart():
    with board() as b:
        process = b.start(WALK % 1500, heap=HEAP)
        b.wait(lambda: b.chip.phy.link and b.chip.emac.frames_out >= 1, 10)
        b.wait(lambda: b.chip.advance() and b.chip.phy.link, 10)
        b.chip.faults.bad_frames.update(crc=1 << 30)
        while process.poll() is None:
            b.peer.send(b"\xff" * 6 + PEER_MAC + bytes(60))
            try:
                process.wait(0.02)
            except Exception:
                continue
        report = json.loads(process.stdout.read())
        assert "frames had a wrong CRC" in symptoms(report["findings"])


def test_a_vanished_phy_and_a_stopped_clock():
    with board() as b:
        process = b.start(LOOK % "print('up')\nline()", heap=HEAP)
        process.stdout.readline()
        b.chip.faults.phy = False
        assert "the PHY has vanished" in symptoms(json.loads(process.communicate("\n", timeout=20)[0]))


def test_a_mac_that_boot_did_not_stop():
    with board() as b:
        old = b.start("up()\nprint('up')\nline()")
        old.stdout.readline()
        old.kill()
        old.communicate()
        assert "a MAC was left running" in symptoms(walk(b)["findings"])


def test_the_length_of_a_frame_excludes_its_fcs():
    with board() as b:
        process = b.start(
            "lan, pool = up()\nprint('up')\npoll(lan, 5000, lambda: not fast.owned_by_dma(pool.rx_ring, 0))\n"
            "print(pool.rx_ring[0] >> 16 & 0x3FFF, fast.received_length(pool.words, pool.objects))"
        )
        process.stdout.readline()
        b.peer.send(MAC + PEER_MAC + bytes(100))
        assert process.communicate(timeout=20)[0] == "116 112\n"
