"""What surrounds the chip: the board as it is wired (whatever the driver believes), the other end of the cable, and
faults on demand.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

@dataclass(frozen=True)
class Pin:
    """A pin of the board that switches something on, or resets it, at the level `active`."""

    gpio: int
    role: str
    active: int


@dataclass
class Wiring:
    """One board.

    Attributes:
        phy: family as in the board files ("LAN8720" …).
        address: MDIO address that the PHY's straps give.
        mdc, mdio: GPIOs that the PHY's management pins are wired to.
        clock: who makes the 50 MHz, and on which GPIO, as "ref_clk" of the board file.
        pins: what GPIOs switch.
        crystal: MHz.
        revision: of the chip, 0 for v0.x.
        psram: GPIO16 and GPIO17 belong to it.
        startup_ms: from the start of the CPU until PHY and oscillator appear.
        strap_mode: MODE straps of a LAN8720, 7 as it should be.
        hangs_without_clock: what revives a PHY that came out of reset without its clock: "" (it does not mind), "reset"
            (a soft reset by MDIO when the clock runs), "power" (only its power or reset pin).
        wifi: Wi-Fi is on.
        resumes_on_frame: a suspended receiver looks at its descriptor again when a frame arrives. Sources disagree;
            without it software must write the poll demand, with it a forgotten MAC is more dangerous.
    """

    phy: str = "LAN8720"
    address: int = 1
    mdc: int = 23
    mdio: int = 18
    clock: str = "gpio0_in"
    pins: tuple[Pin, ...] = ()
    crystal: int = 40
    revision: int = 3
    psram: bool = False
    startup_ms: int = 0
    strap_mode: int = 7
    hangs_without_clock: str = ""
    wifi: bool = False
    resumes_on_frame: bool = False

    @classmethod
    def of(cls, config: dict[str, Any], **different: Any) -> Wiring:
        """The board that a board.json describes, with single attributes replaced."""
        wiring = cls(
            phy=config["phy"]["type"],
            address=config["phy"]["address"],
            mdc=config["mdc"],
            mdio=config["mdio"],
            clock=config["ref_clk"],
            pins=tuple(Pin(pin["gpio"], pin["role"], pin["active"]) for pin in config.get("pins", ())),
            psram=config.get("psram", False),
            startup_ms=config.get("startup_ms", 0),
        )
        for name, value in different.items():
            if not hasattr(wiring, name):
                raise TypeError(f"a board has no {name}")
            setattr(wiring, name, value)
        return wiring


@dataclass
class Partner:
    """The other end of the cable: its best mode, and whether it negotiates."""

    speed: int = 100
    full_duplex: bool = True
    negotiates: bool = True


@dataclass
class Faults:
    """What is wrong now; changed while the model runs.

    Attributes:
        cable: False while it is pulled.
        clock: False while the board's oscillator stands still.
        phy: False while the PHY is absent or dead.
        apll: False for an APLL that does not calibrate.
        deaf: the receive FIFO has latched up: only a reset of the MAC helps.
        mute: the transmitter does not send.
        bad_frames: how many of the next frames arrive damaged, by kind: "crc" (marked, in the ring all the same),
            "headless" (a first descriptor without a last), "overflow".
        marginal: the reference clock is so poor that every second reset of the MAC does not end.
        symbol_errors: what the PHY counts between two looks.
        emulator: the machine is QEMU: the clock gate does not open.
        reset_held: something else holds the EMAC in reset: its bit reads 1 whatever is written.
        analog_bus: False when the APLL's registers cannot be reached.
        oscillator: MHz of the board's oscillator.
        mdio_low: MDIO is shorted to ground.
        mdio_busy: the MAC never ends a management frame.
        broken: RMII wires between chip and PHY that are broken, by name ("TXD0", "TX_EN", "TXD1", "RXD0", "RXD1",
            "CRS_DV").
        second_buffer: False when the transmit DMA takes the first buffer of a descriptor only.
    """

    cable: bool = True
    clock: bool = True
    phy: bool = True
    apll: bool = True
    deaf: bool = False
    mute: bool = False
    bad_frames: dict[str, int] = field(default_factory=dict)
    marginal: bool = False
    symbol_errors: int = 0
    emulator: bool = False
    reset_held: bool = False
    analog_bus: bool = True
    oscillator: float = 50.0
    mdio_low: bool = False
    mdio_busy: bool = False
    broken: list[str] = field(default_factory=list)
    second_buffer: bool = True
