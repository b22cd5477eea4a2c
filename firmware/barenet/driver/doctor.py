"""The doctor: walks the bring-up of the EMAC, reads every register that matters, and names the causes of what it finds.

Kept apart from the driver because it is needed rarely and is large. Everything it returns can be written as JSON.
"""

from errno import EIO
from time import sleep_ms, ticks_add, ticks_diff, ticks_ms

from barenet import fast
from barenet.driver import bring_up, rmii_clock
from barenet.driver import phy as mdio
from barenet.driver.emac import EMAC
from barenet.driver.registers import get
from micropython import const

_LISTEN_MS = const(2000)
_LINK_MS = const(5000)
_RESETS = const(8)
_SAMPLES = const(200)
_LOOPBACK = const(0xD800)  # CONFIG: PS, FES, LM, DM
_BUSMODE = const(0x3FF69000)

# name, address, fields as "bit NAME" or "low-high NAME"; a field that is 0 is not shown.
_CHIP = (
    ("WIFI_CLK_EN", 0x3FF000CC, "1 WIFI_1 2 WIFI_2 10 WIFI_10 14 EMAC_CLK_EN"),
    ("CORE_RST_EN", 0x3FF000D0, "7 EMAC_RST"),
    ("RTC_CNTL_ANA_CONF", 0x3FF48030, "23 PLLA_FORCE_PD 24 PLLA_FORCE_PU"),
    ("RTC_CNTL_STORE4", 0x3FF480B0, "0-15 CRYSTAL_MHZ"),
    ("GPIO_STRAP", 0x3FF44038, "0-5 STRAPS"),
    ("PIN_CTRL", 0x3FF49000, "0-3 CLK_OUT1"),
    ("IO_MUX_GPIO0", 0x3FF49044, "12-14 MCU_SEL 9 FUN_IE 8 FUN_PU 7 FUN_PD"),
    ("IO_MUX_GPIO16", 0x3FF4904C, "12-14 MCU_SEL 9 FUN_IE"),
    ("IO_MUX_GPIO17", 0x3FF49050, "12-14 MCU_SEL 9 FUN_IE"),
    ("IO_MUX_GPIO19", 0x3FF49074, "12-14 MCU_SEL"),
    ("IO_MUX_GPIO21", 0x3FF4907C, "12-14 MCU_SEL"),
    ("IO_MUX_GPIO22", 0x3FF49080, "12-14 MCU_SEL"),
    ("IO_MUX_GPIO25", 0x3FF49024, "12-14 MCU_SEL 9 FUN_IE"),
    ("IO_MUX_GPIO26", 0x3FF49028, "12-14 MCU_SEL 9 FUN_IE"),
    ("IO_MUX_GPIO27", 0x3FF4902C, "12-14 MCU_SEL 9 FUN_IE"),
    ("GPIO_FUNC201_IN_SEL", 0x3FF44454, "0-5 GPIO 7 MATRIX"),
)
_EMAC = (
    ("BUSMODE", _BUSMODE, "0 SWR 1 DA 2-6 DSL 7 ATDS 8-13 PBL 14-15 PR 16 FB 17-22 RPBL 23 USP 24 PBLx8 25 AAL 26 MB"),
    ("RXBASEADDR", 0x3FF6900C, ""),
    ("TXBASEADDR", 0x3FF69010, ""),
    (
        "STATUS",
        0x3FF69014,
        "0 TI 1 TPS 2 TU 3 TJT 4 OVF 5 UNF 6 RI 7 RU 8 RPS 9 RWT 13 FBI 14 ERI 17-19 RS 20-22 TS 23-25 EB",
    ),
    ("OPMODE", 0x3FF69018, "1 SR 2 OSF 3-4 RTC 6 FUF 7 FEF 13 ST 14-16 TTC 20 FTF 21 TSF 24 DFF 25 RSF 26 DT"),
    ("CURTXDESC", 0x3FF69048, ""),
    ("CURRXDESC", 0x3FF6904C, ""),
    ("HWFEATURE", 0x3FF69058, "28-30 PHY_INTERFACE"),
    ("EX_CLKOUT_CONF", 0x3FF69800, "0-3 DIV_NUM 4-7 H_DIV_NUM 8-9 DELAY"),
    ("EX_OSCCLK_CONF", 0x3FF69804, "24 CLK_SEL_EXTERNAL"),
    ("EX_CLK_CTRL", 0x3FF69808, "0 EXT_EN 1 INT_EN 3 MII_CLK_TX_EN 4 MII_CLK_RX_EN 5 CLK_EN"),
    ("EX_PHYINF_CONF", 0x3FF6980C, "13-15 PHY_INTF_SEL"),
    ("PD_SEL", 0x3FF69810, "0-1 RAM_PD_EN"),
    ("EX_DATE", 0x3FF698FC, ""),
    ("CONFIG", 0x3FF6A000, "2 RE 3 TE 7 ACS 10 IPC 11 DM 12 LM 13 DO 14 FES 15 PS 16 DCRS 20 JE 22 JD 23 WD"),
    ("FRAMEFILTER", 0x3FF6A004, "0 PR 1 HUC 2 HMC 3 DAIF 4 PM 5 DBF 10 HPF 31 RA"),
    ("HASHHIGH", 0x3FF6A008, ""),
    ("HASHLOW", 0x3FF6A00C, ""),
    ("MIIADDR", 0x3FF6A010, "0 BUSY 1 WRITE 2-5 CR 6-10 REGISTER 11-15 PHY"),
    ("VERSION", 0x3FF6A020, "0-7 SYNOPSYS 8-15 USER"),
    (
        "DEBUG",
        0x3FF6A024,
        "0 RX_ACTIVE 4 RX_FIFO_WRITTEN 5-6 RX_FIFO_READ 8-9 RX_FIFO_FILL 16 TX_ACTIVE 17-18 TX_CONTROL 24 TX_FIFO_NOT_EMPTY",
    ),
    ("ADDR0HIGH", 0x3FF6A040, "31 AE"),
    ("ADDR0LOW", 0x3FF6A044, ""),
)
_BUS_ERRORS = {0: "receive buffer", 3: "transmit buffer", 4: "receive descriptor write", 5: "transmit descriptor write", 6: "receive descriptor", 7: "transmit descriptor"}  # fmt: skip


def decode(value, fields):
    """Returns the fields of a register that are not 0 as text: "SR ST RTC=2"."""
    words = fields.split()
    shown = []
    for i in range(0, len(words), 2):
        low, _, high = words[i].partition("-")
        width = int(high or low) - int(low) + 1
        part = value >> int(low) & (1 << width) - 1
        if part:
            shown.append(words[i + 1] if width == 1 else "%s=%d" % (words[i + 1], part))
    return " ".join(shown)


def registers():
    """Returns [name, "0x…", decoded text] of every register that matters; the EMAC's own only when its gate is open and
    it is not in reset.
    """
    rows = [_row(*entry) for entry in _CHIP]
    if _reachable():
        resetting = get(_BUSMODE) & 1
        for entry in _EMAC:
            # Until the MAC's reset has ended, only the block outside its reset can be read.
            if not resetting or entry[0] in ("BUSMODE", "VERSION") or 0x3FF69800 <= entry[1] < 0x3FF6A000:
                rows.append(_row(*entry))
    return rows


def _row(name, address, fields):
    value = get(address)
    return [name, "0x%08X" % value, decode(value, fields)]


def _reachable():
    return get(0x3FF000CC) & 0x4000 and not get(0x3FF000D0) & 0x80


def left_running():
    """True when the DMA of an earlier program is still on: boot.py did not stop it."""
    return bool(_reachable() and get(0x3FF69018) & 2)


def sample(gpio):
    """Returns how many of 200 looks find the pin high: a live 50 MHz clock gives a mixture, a dead line 0 or 200.

    The idea is untested on silicon.
    """
    return sum(get(0x3FF4403C) >> gpio & 1 for _ in range(_SAMPLES))


def walk(config, pool, link_ms=_LINK_MS, listen_ms=_LISTEN_MS):
    """Brings the board's Ethernet up step by step, tests it, and takes it down again. The LAN must be inactive.

    config: the board file's content. pool: a Pool of its own. link_ms, listen_ms: how long to wait for the link and to
    listen, at most. Returns {"steps": [[name, "ok" or the error's text]], "findings": [[symptom, cause and remedy]],
    "registers": as registers() returns them, "phy": {…}, "status": {…}}.
    """
    steps = []
    findings = []
    if left_running():
        findings.append(
            [
                "a MAC was left running",
                "boot.py does not stop it: after a soft reset it writes into the new program's memory; deploy boot.py again",
            ]
        )
    try:
        driver = EMAC(config)
    except OSError as e:
        return {
            "steps": [["board file", str(e.args[-1])]],
            "findings": findings,
            "registers": [],
            "phy": {},
            "status": {},
        }
    failed = None
    for name, step in bring_up.steps(driver, pool):
        try:
            step()
            steps.append([name, "ok"])
        except OSError as e:
            failed = name
            steps.append([name, str(e.args[-1])])
            break
    report = {"steps": steps, "findings": findings}
    try:
        if failed:
            _explain(failed, driver, findings)
            report["phy"] = {}
        else:
            _exercise(driver, pool, steps, findings, link_ms, listen_ms)
            report["phy"] = _phy(driver)
        report["status"] = driver.status()
        report["registers"] = registers()
    finally:
        driver.stop()
    return report


def _explain(step, driver, findings):
    clock = driver.board["ref_clk"]
    if step == "MAC reset" and clock == "gpio0_in":
        high = sample(0)
        if 0 < high < _SAMPLES:
            findings.append(
                [
                    "GPIO0 toggles",
                    "a clock arrives, but perhaps not 50 MHz or not clean: shorten wires, take the programmer off GPIO0",
                ]
            )
        else:
            findings.append(
                [
                    "GPIO0 does not toggle",
                    "no clock arrives: oscillator off or its enable pin wrong, or this board wants ref_clk = gpio17_out",
                ]
            )


def _exercise(driver, pool, steps, findings, link_ms, listen_ms):
    again = {name: step for name, step in bring_up.steps(driver, pool)}
    ended = 0
    for _ in range(_RESETS):
        try:
            for name in ("clock gate", "RMII mode", "reference clock", "MAC reset"):
                again[name]()
            ended += 1
            reset = True
        except OSError:
            reset = False
    if ended < _RESETS:
        findings.append(
            [
                "the MAC's reset ends %d times of %d" % (ended, _RESETS),
                "the clock is marginal: shorten wires, take the programmer off GPIO0",
            ]
        )
    if not reset:
        return
    try:
        again["PHY"]()
        again["MAC and DMA"]()
        loopback(driver)
        steps.append(["loopback", "ok"])
    except OSError as e:
        steps.append(["loopback", str(e.args[-1])])
    _poll_until(driver, driver.link, link_ms)
    steps.append(["link", "ok" if driver.link() else "down"])
    seen = Tally()
    if driver.link():
        _listen(driver, pool, seen, listen_ms)
        _send_one(driver, pool, seen)
    findings.extend(diagnose(driver, pool, seen))


def loopback(driver, length=64):
    """Sends a frame of `length` bytes inside the MAC, without PHY and cable, and compares what comes back.

    Frames in the rings are lost.

    Raises OSError(EIO) that says on which side it failed.
    """
    pool = driver.pool
    normal = driver.config
    try:
        driver.config = _LOOPBACK
        bring_up.restart(driver)
        frame = pool.transmit_frame()
        frame[:12] = driver.mac + driver.mac
        for i in range(12, length):
            frame[i] = i & 255
        pool.send(length)
        driver.transmit()
        for _ in range(50):
            if not fast.owned_by_dma(pool.rx_ring, 0):
                break
            sleep_ms(1)
        else:
            if fast.owned_by_dma(pool.tx_ring, 0):
                raise OSError(EIO, "loopback: the transmitter does not send; look at STATUS and DEBUG")
            raise OSError(EIO, "loopback: the frame was sent inside the MAC and did not come back")
        n = fast.received_length(pool.words, pool.objects)
        if n != length or pool.frames[0][:length] != frame[:length]:
            raise OSError(EIO, "loopback: the frame came back changed (%d bytes for %d)" % (n, length))
    finally:
        driver.config = normal
        bring_up.restart(driver)


def _poll_until(driver, condition, ms):
    end = ticks_add(ticks_ms(), ms)
    while not condition() and ticks_diff(end, ticks_ms()) > 0:
        driver.poll(ticks_ms() & 0x3FFFFFFF)
        sleep_ms(2)


class Tally:
    """What listening has shown: numbers of frames by kind, and the states of the last one sent."""

    def __init__(self):
        self.good = self.broadcast = self.crc = self.errors = self.headless = 0
        self.sent = None
        self.symbol_errors = 0


def _listen(driver, pool, seen, ms):
    before = _symbol_errors(driver)
    words = pool.words
    end = ticks_add(ticks_ms(), ms)
    while ticks_diff(end, ticks_ms()) > 0:
        driver.poll(ticks_ms() & 0x3FFFFFFF)
        i = words[fast.C_RX_NEXT]
        while not fast.owned_by_dma(pool.rx_ring, i):
            status = pool.rx_ring[i * 8]
            if status & 0x0002:
                seen.crc += 1
            elif status & 0x8000:
                seen.errors += 1
            elif status & 0x0300 != 0x0300:
                seen.headless += 1
            else:
                seen.good += 1
                seen.broadcast += pool.frames[i][0] & 1
            fast.release(words, pool.objects)
            driver.refill()
            i = words[fast.C_RX_NEXT]
        sleep_ms(2)
    seen.symbol_errors = _symbol_errors(driver) - before


def _symbol_errors(driver):
    return driver.phy.read(26) if driver.phy.type == "LAN8720" else 0


def _send_one(driver, pool, seen):
    """Sends a frame to ourselves, which no switch forwards to anybody else, and keeps its status."""
    i = pool.words[fast.C_TX_NEXT]
    frame = pool.transmit_frame()
    if frame is None:
        return
    frame[:14] = driver.mac + driver.mac + b"\x88\xb5"
    frame[14:60] = bytes(46)
    pool.send(60)
    driver.transmit()
    _poll_until(driver, lambda: not fast.owned_by_dma(pool.tx_ring, i), 100)
    seen.sent = pool.tx_ring[i * 8]


def examine(driver, pool):
    """Looks at a running driver without disturbing it. Returns a dict as walk() does, without steps."""
    report = {
        "steps": [],
        "findings": diagnose(driver, pool, Tally()),
        "status": driver.status(),
        "registers": registers(),
    }
    report["phy"] = _phy(driver)
    return report


def _phy(driver):
    if not _reachable() or get(_BUSMODE) & 1:
        return {}
    numbers = [0, 1, 2, 3, 4, 5, 6] + {"LAN8720": [17, 18, 26, 27, 31], "DP83848": [16], "KSZ80XX": [30, 31]}.get(
        driver.phy.type, []
    )
    return {"address": driver.phy.address, "id": "0x%08X" % driver.phy.id, "type": driver.phy.type, "name": driver.phy.name,
            "registers": [[n, "0x%04X" % driver.phy.read(n)] for n in numbers]}  # fmt: skip


def diagnose(driver, pool, seen):
    """Returns [[symptom, cause and remedy]] for a driver that has been started. `seen`: a Tally."""
    found = []
    if not _reachable():
        return [["the EMAC does not answer", "its clock gate is closed or it is held in reset: start the LAN"]]
    if get(_BUSMODE) & 1:
        return [
            [
                "the MAC's reset has not ended",
                "its clock has stopped: " + bring_up.clock_remedy(driver.board["ref_clk"]),
            ]
        ]
    phy = driver.phy
    config = get(0x3FF6A000)
    bmcr, bmsr = phy.read(mdio.BMCR), phy.read(mdio.BMSR)
    bmsr = phy.read(mdio.BMSR)
    if bmcr == 0xFFFF:
        found.append(["the PHY has vanished", "it has lost its power, its clock or its management pins"])
    else:
        _diagnose_phy(driver, bmcr, bmsr, found)
        if driver.link():
            _diagnose_mode(driver, config, found)
    _diagnose_setup(driver, config, found)
    _diagnose_dma(driver, pool, found)
    _diagnose_traffic(driver, config, seen, found)
    return found


def _diagnose_phy(driver, bmcr, bmsr, found):
    phy = driver.phy
    if bmcr & 0x0800:
        found.append(["the PHY is powered down (BMCR bit 11)", "start the LAN again"])
    if bmcr & 0x0400:
        found.append(["the PHY is isolated from the MAC (BMCR bit 10)", "start the LAN again"])
    if not bmsr & 4:
        if phy.type == "LAN8720" and not phy.read(17) & 2:
            found.append(["no energy on the line (register 17)", "no cable, or nothing switched on at its other end"])
        elif phy.forced == "auto" and phy.read(mdio.ANAR) & 0x01E0 != 0x01E0:
            found.append(["the PHY does not advertise all modes (ANAR)", "start the LAN again"])
        else:
            found.append(
                [
                    "the link does not come up",
                    "cable or partner; a partner with a fixed mode may want the same in phy.mode",
                ]
            )
    elif phy.forced == "auto" and bmsr & 0x20 and not phy.read(mdio.ANER) & 1:
        found.append(
            [
                "the partner does not negotiate (ANER bit 0)",
                "it has a fixed mode: half duplex is used; set it to automatic",
            ]
        )
    elif phy.forced == "auto" and not bmsr & 0x20:
        found.append(["the negotiation does not end (BMSR bit 5)", "the partner's mode is fixed, or the cable is bad"])
    if driver.link_changes > 3:
        found.append(["the link has changed %d times" % driver.link_changes, "bad cable, magnetics or clock"])


def _diagnose_mode(driver, config, found):
    mode = driver.phy.mode()
    if mode and bool(config & 0x4000) != (mode >= 200):
        found.append(["CONFIG.FES does not fit the link's speed", "nothing gets through: stop and start the LAN"])
    if mode and bool(config & 0x0800) != bool(mode & 1):
        found.append(["CONFIG.DM does not fit the link's duplex mode", "collisions: stop and start the LAN"])


def _diagnose_setup(driver, config, found):
    for gpio, address, word in bring_up.PADS:
        if (get(address) ^ word) & 0x7200:
            found.append(
                [
                    "GPIO%d is not connected to the MAC" % gpio,
                    "a program has used the pin: it belongs to the Ethernet on every ESP32",
                ]
            )
    if get(0x3FF6980C) >> 13 & 7 != 4:
        found.append(["EX_PHYINF_CONF does not select RMII", "a program has changed it: start the LAN again"])
    if config & 0x0400 and not get(0x3FF69018) & 1 << 26:
        found.append(["CONFIG.IPC is on", "the checksum engine drops valid frames: it must be off"])
    mac = driver.mac
    if (
        get(0x3FF6A040) & 0xFFFF != mac[5] << 8 | mac[4]
        or get(0x3FF6A044) != mac[3] << 24 | mac[2] << 16 | mac[1] << 8 | mac[0]
    ):
        found.append(
            ["the address filter has another address than ours", "only broadcasts arrive: start the LAN again"]
        )
    if rmii_clock.uses_apll(driver.board["ref_clk"]):
        if get(0x3FF000CC) & 0x0406:
            found.append(
                [
                    "Wi-Fi is on",
                    "it disturbs the APLL that makes this board's Ethernet clock: frames are lost while it sends",
                ]
            )
        if driver.board["ref_clk"] != "gpio0_out" and 0 < sample(0) < _SAMPLES:
            found.append(
                [
                    "a clock arrives at GPIO0, too",
                    "MAC and PHY may run from two oscillators, with periodic loss: ref_clk = gpio0_in?",
                ]
            )


def _diagnose_dma(driver, pool, found):
    status = get(0x3FF69014)
    if status & 0x2000:
        what = _BUS_ERRORS.get(status >> 23 & 7, "unknown access")
        found.append(
            ["bus error (STATUS.FBI) at a " + what, "an address outside 0x3FFAE000 to 0x3FFFFFFF, or a broken ring"]
        )
    elif not status >> 17 & 7:
        found.append(["the receive DMA is stopped", "OPMODE.SR is 0: start the LAN again"])
    elif status >> 17 & 7 == 4:
        ring = range(pool.receive)
        owned = sum(fast.owned_by_dma(pool.rx_ring, i) for i in ring)
        if owned:
            found.append(
                [
                    "the receiver is suspended although it has %d descriptors" % owned,
                    "a poll demand is missing, or CURRXDESC is not in the ring",
                ]
            )
        else:
            found.append(
                ["the receiver has no descriptor", "the program does not poll the stack: frames wait and are lost"]
            )
    if not _in_ring(get(0x3FF6904C), pool.rx_ring, pool.receive) and not status & 0x2000:
        found.append(["CURRXDESC is outside the receive ring", "the chain of descriptors is broken"])
    if fast.owned_by_dma(pool.tx_ring, pool.words[fast.C_TX_NEXT]):
        found.append(
            [
                "the transmitter does not send",
                "STATUS %s; no clock, no TE or ST, or a missing poll demand"
                % decode(status, "1 TPS 2 TU 5 UNF 20-22 TS"),
            ]
        )


def _in_ring(address, ring, count):
    from uctypes import addressof

    return 0 <= address - addressof(ring) < 32 * count


def _diagnose_traffic(driver, config, seen, found):
    if seen.crc:
        found.append(
            [
                "%d frames had a wrong CRC" % seen.crc,
                "clock mode or quality: two oscillators, or GPIO16 where GPIO17 is needed (or the reverse)",
            ]
        )
    if seen.headless or seen.errors:
        found.append(
            [
                "%d damaged frames" % (seen.headless + seen.errors),
                "overload or line errors; their descriptors are given back",
            ]
        )
    if seen.symbol_errors:
        found.append(["%d symbol errors (register 26)" % seen.symbol_errors, "cable, magnetics or clock quality"])
    if driver.missed or driver.overflows:
        found.append(
            [
                "%d frames lost for want of a descriptor, %d in the FIFO" % (driver.missed, driver.overflows),
                "poll more often, or more receive frames",
            ]
        )
    if driver.restarts:
        found.append(
            ["the MAC was restarted %d times" % driver.restarts, "it had gone deaf or mute, or lost its clock"]
        )
    if seen.sent is not None:
        if seen.sent >> 31:
            found.append(["the frame sent was not taken by the DMA", "STATUS and DEBUG show where it waits"])
        elif seen.sent & 0x0C00:
            found.append(
                [
                    "lost carrier while sending (LOC, NC)",
                    "half duplex in the MAC on a full-duplex link, or the TX pads are not connected",
                ]
            )
        if seen.sent >> 22 & 3:
            found.append(["checksum insertion is on (CIC)", "it spoils every second packet: it must be 0"])
