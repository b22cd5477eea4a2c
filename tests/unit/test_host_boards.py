"""Board files: what may be in one, what the ESP32 cannot do, and what travels to the board."""

import json
import re

import pytest

from host_tools import boards
from host_tools.boards import BoardError

CUSTOM = """
name = "Custom"
vendor = "me"
evidence = "schematic"
sources = ["my own drawing"]

[phy]
type = "LAN8720"
address = {address}
mdc = {mdc}
mdio = 18

[clock]
mode = "{mode}"

[[pins]]
gpio = {pin}
role = "power"
active = "high"
delay_ms = 50

[module]
psram_mb = {psram}
"""


@pytest.fixture
def custom(tmp_path):
    def write(more="", **changes):
        values = {"address": 0, "mdc": 23, "mode": "gpio17_out", "pin": 12, "psram": 0} | changes
        path = tmp_path / "custom.toml"
        path.write_text(CUSTOM.format(**values) + more)
        return path

    return write


@pytest.mark.parametrize("path", sorted(boards.BOARDS.glob("*.toml")), ids=lambda path: path.stem)
def test_every_shipped_board_is_valid_and_small_on_the_board(path):
    board = boards.load(path)
    config = boards.device_config(board)
    assert len(json.dumps(config)) < 400
    assert set(config) == {
        "board", "driver", "phy", "mdc", "mdio", "ref_clk", "pins", "startup_ms", "psram", "network",
    }  # fmt: skip
    assert board.data["evidence"] != "community" or any("Untested" in note for note in board.data["notes"])


def test_names_and_aliases_are_unique():
    found = boards.load_all()
    names = [name for board in found for name in (board.id, *board.data.get("aliases", ()))]
    assert len(names) == len(set(names))


def test_the_table_in_the_readme_is_current():
    text = (boards.BOARDS / "README.md").read_text()
    assert text == boards.readme_with_table(text, boards.load_all()), "run: python -m host_tools.boards"


def test_the_readme_explains_every_key_and_rule():
    text = (boards.BOARDS / "README.md").read_text()
    schema = json.loads(boards.SCHEMA.read_text())
    for key in schema["properties"]:
        assert f"`{key}" in text or f"`[[{key}]]" in text, key
    for rule in re.findall(r"\* `(pin-[a-z-]+)`", boards.check.__doc__):
        assert f"`{rule}`" in text


# The settings that the schematics of these boards show, pin by pin.
@pytest.mark.parametrize(
    "name, address, mdc, mdio, clock, pins",
    [
        ("wt32_eth01", 1, 23, 18, "gpio0_in", [(16, "oscillator", 1)]),
        ("olimex_esp32_poe", 0, 23, 18, "gpio17_out", [(12, "power", 1)]),
        ("olimex_esp32_poe_wrover", 0, 23, 18, "gpio0_out", [(12, "power", 1)]),
        ("olimex_esp32_evb", 0, 23, 18, "gpio0_in", []),
        ("olimex_esp32_gateway", 0, 23, 18, "gpio17_out", [(5, "power", 1)]),
        ("wesp32", 0, 16, 17, "gpio0_in", []),
        ("lilygo_t_internet_com", 0, 23, 18, "gpio0_out", [(4, "power", 1), (5, "reset", 0)]),
        ("esp32_stick_eth", 1, 23, 18, "gpio17_out", []),
        ("theengs_bridge", 0, 23, 18, "gpio16_out", [(5, "power", 1)]),
    ],
)
def test_device_config_of_known_boards(name, address, mdc, mdio, clock, pins):
    config = boards.device_config(boards.find(name))
    assert (config["phy"]["address"], config["mdc"], config["mdio"], config["ref_clk"]) == (address, mdc, mdio, clock)
    assert [(pin["gpio"], pin["role"], pin["active"]) for pin in config["pins"]] == pins


def test_device_config_carries_waits_and_network():
    network = {"ip": "10.0.0.2/24", "gw": "10.0.0.1"}
    assert boards.device_config(boards.find("olimex_esp32_evb"))["startup_ms"] == 500
    assert boards.device_config(boards.find("wt32_eth01"), network)["network"] == network
    pin = boards.device_config(boards.find("olimex_esp32_poe"))["pins"][0]
    assert (pin["hold_ms"], pin["delay_ms"]) == (500, 100)


def test_a_custom_board_is_one_file_anywhere(custom):
    board = boards.find(str(custom()))
    assert board.id == "custom"
    assert boards.device_config(board)["pins"] == [
        {"gpio": 12, "role": "power", "active": 1, "hold_ms": 0, "delay_ms": 50}
    ]


@pytest.mark.parametrize("name", ["wt32_eth01", "WT32-ETH01", "wt32_eth02"])
def test_a_board_is_found_by_name_spelling_and_alias(name):
    assert boards.find(name).id == "wt32_eth01"


def test_an_unknown_board_names_what_comes_close():
    with pytest.raises(BoardError, match="did you mean wt32_eth0") as raised:
        boards.find("wt32_eht01")
    assert raised.value.rule == "unknown-board"
    with pytest.raises(BoardError, match="'barenet boards' lists them"):
        boards.find("zzzzzzz")
    with pytest.raises(BoardError, match="No such file") as raised:
        boards.find("no/such/file.toml")
    assert raised.value.rule == "file"


@pytest.mark.parametrize(
    "rule, changes",
    [
        ("pin-missing", {"pin": 28}),
        ("pin-flash", {"pin": 9}),
        ("pin-rmii", {"mdc": 22}),
        ("pin-rmii", {"pin": 27}),
        ("pin-psram", {"psram": 8}),
        ("pin-psram", {"psram": 8, "mode": "gpio0_out", "pin": 16}),
        ("pin-console", {"pin": 1}),
        ("pin-input-only", {"pin": 34}),
        ("pin-input-only", {"mdc": 39}),
        ("pin-used-twice", {"pin": 17}),
        ("pin-used-twice", {"mdc": 18}),
        ("pin-used-twice", {"pin": 0, "mode": "gpio0_in"}),
    ],
)
def test_a_pin_that_cannot_do_the_job_is_a_named_error(custom, rule, changes):
    with pytest.raises(BoardError, match=rule) as raised:
        boards.load(custom(**changes))
    assert raised.value.rule == rule


@pytest.mark.parametrize(
    "more, rule",
    [
        ('[[leds]]\ngpio = 22\nactive = "low"\n', "pin-rmii"),
        ('[[leds]]\ngpio = 35\nactive = "low"\n', "pin-input-only"),
        ('[[buttons]]\ngpio = 12\nactive = "low"\n', "pin-used-twice"),
    ],
)
def test_leds_and_buttons_are_checked_too(custom, more, rule):
    with pytest.raises(BoardError) as raised:
        boards.load(custom(more))
    assert raised.value.rule == rule


def test_a_button_on_an_input_only_pin_is_fine(custom):
    boards.load(custom('[[buttons]]\ngpio = 34\nactive = "low"\n'))


@pytest.mark.parametrize(
    "changes, more, complaint",
    [
        ({"address": 32}, "", "phy.address"),
        ({"pin": 40}, "", "pins.0.gpio"),
        ({"mode": "gpio5_out"}, "", "clock.mode"),
        ({"psram": '"some"'}, "", "module.psram_mb"),
        ({}, "[extra]\nx = 1\n", "extra"),
    ],
)
def test_a_file_that_breaks_the_schema_names_the_place(custom, changes, more, complaint):
    with pytest.raises(BoardError, match=re.escape(complaint)) as raised:
        boards.load(custom(more, **changes))
    assert raised.value.rule == "schema"


@pytest.mark.parametrize("content", [b"name = ", b"\xff\xfe\x00", b"a = 1\na = 2\n"])
def test_a_file_that_is_not_toml_is_a_named_error(tmp_path, content):
    path = tmp_path / "bad.toml"
    path.write_bytes(content)
    with pytest.raises(BoardError) as raised:
        boards.load(path)
    assert raised.value.rule == "file"
