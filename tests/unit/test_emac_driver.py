"""The EMAC driver on the model of the chip: bring-up, its errors, and the link while it runs.

A test ends with no rule of the chip broken.
"""

import json

import pytest

from host_tools import boards
from tests.unit.emac_board import MAC, PEER_MAC, board

APLL_MODES = ["gpio0_out", "gpio16_out", "gpio17_out"]
HEAP = 288 * 1024  # for the doctor, which is compiled on the board here
NO_PINS = {"pins": []}


@pytest.mark.parametrize("mode", ["gpio0_in", *APLL_MODES])
def test_it_comes_up_in_every_clock_mode(mode):
    pins = [{"gpio": 5, "role": "power", "active": 1, "hold_ms": 1, "delay_ms": 1}]
    with board({"ref_clk": mode, "pins": pins}) as b:
        b.run("lan, pool = up(); assert lan.status()['speed'] == 100 and lan.status()['duplex'] == 'full'")
        assert b.breaches() == []


@pytest.mark.parametrize("crystal", [26, 40])
def test_the_apll_is_programmed_for_the_crystal(crystal):
    with board({"ref_clk": "gpio17_out", **NO_PINS}, crystal=crystal) as b:
        b.run("up()")
        assert abs(b.chip.apll() - 50) < 0.0001 and b.breaches() == []


def test_revision_0_makes_50_mhz_from_40_and_refuses_26():
    with board({"ref_clk": "gpio17_out", **NO_PINS}, revision=0) as b:
        b.run("up()")
    with board({"ref_clk": "gpio17_out", **NO_PINS}, revision=0, crystal=26) as b:
        assert "revision 0 of the chip cannot make 50 MHz" in b.error()


@pytest.mark.parametrize("name", sorted(path.stem for path in boards.BOARDS.glob("*.toml")))
def test_every_shipped_board_boots_on_its_model(name):
    config = boards.device_config(boards.find(name))
    for pin in config["pins"]:
        pin["hold_ms"] //= 20
        pin["delay_ms"] //= 20
    config["startup_ms"] //= 20
    with board(config) as b:
        b.run("lan, pool = up(); assert lan.phy.type == config['phy']['type'] or config['phy']['type'] == 'generic'")
        assert b.breaches() == []


@pytest.mark.parametrize("phy", ["LAN8720", "IP101", "RTL8201", "DP83848", "KSZ80XX", "KSZ8041", "JL1101", "generic"])
@pytest.mark.parametrize("speed, full", [(100, True), (100, False), (10, True), (10, False)])
def test_every_phy_family_tells_speed_and_duplex(phy, speed, full):
    with board(phy=phy) as b:
        b.chip.partner.speed, b.chip.partner.full_duplex = speed, full
        out = b.run("lan, pool = up(); s = lan.status(); print(s['speed'], s['duplex'], hex(mem32[0x3FF6A000]))")
        speed_text, duplex, config = out.split()
        assert (int(speed_text), duplex) == (speed, "full" if full else "half")
        assert bool(int(config, 16) & 0x4000) == (speed == 100) and bool(int(config, 16) & 0x0800) == full
        assert b.breaches() == []


@pytest.mark.parametrize("phy", ["LAN8720", "RTL8201", "generic"])
@pytest.mark.parametrize("speed", [10, 100])
def test_a_partner_that_does_not_negotiate_means_half_duplex(phy, speed):
    with board(phy=phy) as b:
        b.chip.partner.speed, b.chip.partner.negotiates = speed, False
        assert b.run("lan, pool = up(); s = lan.status(); print(s['speed'], s['duplex'])").split() == [
            str(speed),
            "half",
        ]
        assert b.breaches() == []


@pytest.mark.parametrize(
    "mode, speed, duplex", [("100_full", 100, "full"), ("10_half", 10, "half"), ("10_full", 10, "full")]
)
def test_forced_modes(mode, speed, duplex):
    with board({"phy": {"type": "LAN8720", "address": 1, "mode": mode}}) as b:
        b.chip.partner.speed, b.chip.partner.negotiates = speed, False
        assert b.run("lan, pool = up(); s = lan.status(); print(s['speed'], s['duplex'])").split() == [
            str(speed),
            duplex,
        ]


def test_wrong_straps_are_put_right():
    with board(strap_mode=0) as b:
        assert "full" in b.run("lan, pool = up(); print(lan.status()['duplex'])")


def test_a_phy_that_started_without_a_clock_is_reset():
    with board(hangs_without_clock="reset") as b:
        b.run("up()")


def test_a_phy_that_hangs_is_power_cycled_where_a_pin_can():
    pins = [
        {"gpio": 16, "role": "oscillator", "active": 1, "hold_ms": 0, "delay_ms": 1},
        {"gpio": 5, "role": "reset", "active": 0, "hold_ms": 1, "delay_ms": 1},
    ]
    # The driver is told of no reset at first start; nRST is released before the oscillator runs.
    with board({"pins": pins}, hangs_without_clock="power") as b:
        b.run("up()")
        assert b.breaches() == []
    with board(hangs_without_clock="power") as b:
        assert "needs its power taken away once" in b.error()


def test_the_mac_address_is_the_factory_one_or_the_configured():
    with board() as b:
        assert b.run("print(EMAC(config).mac.hex())").strip() == MAC.hex()
    with board({"mac": "02:00:00:00:00:77"}) as b:
        assert b.run("print(EMAC(config).mac.hex())").strip() == "020000000077"
        b.config["mac"] = "01:00:00:00:00:77"
        assert "wrong mac in the board file: 01:00:00:00:00:77" in b.error("EMAC(config)")


# What can be wrong, and what the error says.


def test_no_oscillator_is_named():
    with board() as b:
        b.chip.faults.clock = False
        error = b.error()
        assert "no RMII clock" in error and "No 50 MHz arrives at GPIO0" in error and b.breaches() == []


def test_the_wrong_clock_mode_is_a_missing_clock():
    with board(wired={"ref_clk": "gpio17_out"}) as b:
        assert "no RMII clock" in b.error()


def test_an_apll_that_does_not_calibrate_is_named():
    with board({"ref_clk": "gpio17_out", **NO_PINS}) as b:
        b.chip.faults.apll = False
        assert "APLL does not calibrate" in b.error()


def test_wifi_with_the_apll_is_refused_before_the_clock_starts():
    with board({"ref_clk": "gpio17_out", **NO_PINS}, wifi=True) as b:
        assert "Wi-Fi is on" in b.error() and b.breaches() == []


def test_an_emulator_is_told_from_a_chip():
    with board() as b:
        b.chip.faults.emulator = True
        assert "this is an emulator" in b.error()


def test_wrong_management_pins_are_named():
    for wired in ({"mdc": 14}, {"mdio": 14}):
        with board(wired=wired) as b:
            assert "no PHY answers (all MDIO reads are 0xFFFF)" in b.error()


def test_another_address_is_found():
    with board(wired={"phy": {"type": "LAN8720", "address": 0}}) as b:
        assert "no PHY at address 1, but one answers at 0: set phy.address to that" in b.error()


def test_an_absent_phy_is_named_in_bounded_time():
    with board() as b:
        b.chip.faults.phy = False
        assert "no PHY answers" in b.error(timeout=10)


def test_a_heap_in_psram_is_refused_before_any_hardware_is_touched():
    with board() as b:
        error = b.error(psram=True)
        assert error.startswith("OSError 12 ") and "in PSRAM" in error and "without SPIRAM" in error
        assert not b.chip.phy.running and b.breaches() == []


@pytest.mark.parametrize(
    "config, text",
    [
        ({"mdc": 19}, "GPIO19 is both RMII data and mdc"),
        ({"mdc": 18}, "GPIO18 is both mdc and mdio"),
        ({"mdc": 35}, "GPIO35 cannot be mdc"),
        ({"mdio": 7}, "GPIO7 cannot be mdio"),
        ({"mdio": 24}, "GPIO24 cannot be mdio"),
        ({"ref_clk": "gpio1_in"}, "ref_clk 'gpio1_in': use one of gpio0_in, gpio0_out, gpio16_out, gpio17_out"),
        ({"psram": True, "ref_clk": "gpio17_out"}, "GPIO17 is both PSRAM and ref_clk"),
        ({"phy": {"type": "LAN8720", "address": 1, "mode": "fast"}}, "phy mode 'fast': use auto or one of"),
    ],
)
def test_a_config_that_cannot_work_is_refused_by_the_constructor(config, text):
    with board({**NO_PINS, **config}) as b:
        assert text in b.error("EMAC(config)")


def test_a_missing_entry_is_named():
    with board() as b:
        del b.config["mdio"]
        assert "the board file has no mdio" in b.error("EMAC(config)")


def test_after_an_error_the_hardware_is_stopped_and_a_second_start_works():
    with board() as b:
        b.chip.faults.clock = False
        process = b.start(
            """
lan = EMAC(config)
pool = Pool()
try:
    lan.start(pool)
except OSError as e:
    print(e.args[1][:12])
line()
lan.start(pool)
print(poll(lan, 3000, lan.link))
lan.stop()
lan.stop()
lan.start(pool)
print(poll(lan, 3000, lan.link))
"""
        )
        assert process.stdout.readline() == "no RMII cloc\n"
        b.chip.faults.clock = True
        out, _ = process.communicate("\n", timeout=30)
        assert out.split() == ["True", "True"] and b.breaches() == []


# The link while it runs.

WATCH = """
lan, pool = up()
print("up")
while True:
    order = line()
    if order == "end": break
    if order == "look":
        print(poll(lan, 700))
        continue
    want = order == "up"
    print(poll(lan, 5000, lambda: lan.link() == want), lan.status()["speed"], lan.status()["duplex"])
print(json.dumps(lan.status()))
"""


class Watch:
    """A program that polls until the link is as told, one line of input each."""

    def __init__(self, b, program=WATCH):
        self.process = b.start(program)
        line = self.process.stdout.readline()
        assert line == "up\n", line + self.process.stdout.read()

    def until(self, state):
        self.process.stdin.write(state + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().split()

    def end(self):
        out, _ = self.process.communicate("end\n", timeout=10)
        return json.loads(out)


def test_no_cable_is_no_error_and_the_link_comes_with_it():
    with board() as b:
        b.chip.faults.cable = False
        process = b.start(
            "lan = EMAC(config)\nlan.start(Pool())\nprint(poll(lan, 300, lan.link))\nline()\nprint(poll(lan, 3000, lan.link))"
        )
        assert process.stdout.readline() == "False\n"
        b.chip.faults.cable = True
        assert process.communicate("\n", timeout=20)[0] == "True\n"
        assert b.breaches() == []


def test_speed_and_duplex_are_followed_when_the_partner_changes():
    with board() as b:
        watch = Watch(b)
        for speed, full in ((10, False), (100, False), (10, True), (100, True)):
            b.chip.faults.cable = False
            assert watch.until("down")[0] == "True"
            b.chip.partner.speed, b.chip.partner.full_duplex = speed, full
            b.chip.faults.cable = True
            assert watch.until("up") == ["True", str(speed), "full" if full else "half"]
        watch.end()
        assert b.breaches() == []


def test_a_change_shorter_than_a_look_is_seen_by_the_latched_bit():
    with board() as b:
        watch = Watch(b)
        b.chip.partner.speed = 10
        # The driver does not look meanwhile.
        assert b.wait(lambda: b.chip.advance() and b.chip.phy.link and b.chip.phy.speed == 10)
        watch.until("look")
        assert watch.until("up") == ["True", "10", "full"]
        watch.end()


def test_a_phy_that_vanishes_and_comes_back():
    with board() as b:
        watch = Watch(b)
        b.chip.faults.phy = False
        assert watch.until("down")[0] == "True"
        b.chip.faults.phy = True
        assert watch.until("up") == ["True", "100", "full"]
        status = watch.end()
        assert status["PHY lost"] == 1 and status["restarts"] == 1 and b.breaches() == []


def test_a_clock_that_stops_while_running_and_returns():
    with board() as b:
        watch = Watch(b)
        b.chip.faults.clock = False
        assert watch.until("down")[0] == "True"
        b.chip.faults.clock = True
        assert watch.until("up") == ["True", "100", "full"]
        watch.end()
        assert b.breaches() == []


def test_stop_is_bounded_when_the_clock_has_gone():
    with board() as b:
        process = b.start(
            "lan, pool = up()\nprint('up')\nline()\nt = time.ticks_ms()\nlan.stop()\nprint(time.ticks_diff(time.ticks_ms(), t) < 200)"
        )
        process.stdout.readline()
        b.chip.faults.clock = False
        assert process.communicate("\n", timeout=20)[0] == "True\n"
        assert not b.chip.emac.receiving and b.breaches() == []


def test_the_address_filter_of_the_driver_is_the_chips():
    with board() as b:
        process = b.start(
            """
lan, pool = up()
groups = [bytes.fromhex("01005e0000fb"), bytes.fromhex("333300000001")]
lan.filter(groups)
print("up")
while True:
    i = pool.words[fast.C_RX_NEXT]
    if poll(lan, 20000, lambda: not fast.owned_by_dma(pool.rx_ring, i)):
        f = bytes(pool.frames[i][:6])
        fast.release(pool.words, pool.objects)
        lan.refill()
        print(f.hex())
        if f == b"\\xff" * 6: break
"""
        )
        assert process.stdout.readline() == "up\n"
        for destination in ("01005e0000fb", "01005e000001", "333300000001", "02ba4e000099", MAC.hex(), "ffffffffffff"):
            b.peer.send(bytes.fromhex(destination) + PEER_MAC + bytes(50))
        assert process.communicate(timeout=20)[0].split() == ["01005e0000fb", "333300000001", MAC.hex(), "ffffffffffff"]
        assert b.breaches() == []


def test_promiscuous_takes_every_frame():
    with board({"promiscuous": True}) as b:
        process = b.start(
            "lan, pool = up()\nprint('up')\nassert poll(lan, 5000, lambda: not fast.owned_by_dma(pool.rx_ring, 0))\nprint(bytes(pool.frames[0][:6]).hex())"
        )
        process.stdout.readline()
        b.peer.send(bytes.fromhex("02ba4e000099") + PEER_MAC + bytes(50))
        assert process.communicate(timeout=20)[0].strip() == "02ba4e000099"


def test_the_loopback_needs_neither_phy_nor_cable():
    with board() as b:
        b.run(
            "lan, pool = up(Pool(4, 2))\nfrom barenet.driver.trial import loopback, phy_loopback\nloopback(lan)\nloopback(lan, 1514)\nphy_loopback(lan)\npoll(lan, 3000, lan.link)\nassert lan.link()",
            heap=HEAP,
        )
        assert b.breaches() == []


def test_the_hash_is_that_of_the_macs_documentation():
    with board() as b:
        b.run(
            """
from barenet.driver.link import hash_index
assert hash_index(bytes.fromhex("1f52419cb6af")) == 0x2C
assert hash_index(bytes.fromhex("a00a98000045")) == 0x07
"""
        )


def test_the_dividers_of_all_crystals():
    with board() as b:
        b.run(
            """
from barenet.driver.rmii_clock import dividers
assert [dividers(mhz) for mhz in (40, 26, 32, 24)] == [(6, 0, 0), (11, 98, 118), (8, 128, 0), (12, 170, 171)]
"""
        )


def test_a_callback_that_stops_the_driver_in_the_middle_of_a_look_is_obeyed_when_the_look_has_ended():
    with board() as b:
        b.chip.faults.cable = False
        process = b.start(
            """
import micropython
from barenet.driver import phy
lan = EMAC(config)
lan.start(Pool())
line()
mode = phy.PHY.mode
def interrupted(self):
    phy.PHY.mode = mode
    lan.stop()  # as a timer's callback does, between two bytecodes
    return mode(self)
phy.PHY.mode = interrupted
poll(lan, 3000, lambda: phy.PHY.mode is mode)
print(lan.link(), lan.pool, lan.running)
lan.start(Pool())
print(poll(lan, 3000, lan.link))
"""
        )
        b.chip.faults.cable = True
        assert process.communicate("\n", timeout=20)[0] == "False None False\nTrue\n"
        assert b.breaches() == []
