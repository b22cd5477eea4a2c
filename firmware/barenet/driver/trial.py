"""The doctor's trial run: the bring-up step by step, then the tests that a running program cannot do."""

from errno import EIO
from time import sleep_ms, ticks_add, ticks_diff, ticks_ms

from barenet import fast
from barenet.driver import bring_up
from barenet.driver import phy as mdio
from barenet.driver.registers import get
from micropython import const
from uctypes import addressof

_RESETS = const(8)
_SAMPLES = const(200)
_LOOPBACK = const(0xD800)  # CONFIG: PS, FES, LM, DM
_NORMAL = const(0xC800)  # CONFIG: PS, FES, DM
_IN_TWO = 'a frame in two pieces does not come back as one: put "gather": false into board.json'
_BMCR_LOOPBACK = const(0x6100)  # 100 Mb/s, full duplex


def sample(gpio):
    """Returns how many of 200 looks find the pin high: a live 50 MHz clock gives a mixture, a dead line 0 or 200.

    The idea is untested on silicon.
    """
    return sum(get(0x3FF4403C) >> gpio & 1 for _ in range(_SAMPLES))


def run(driver, pool, report, found, seen, link_ms, listen_ms):
    """Brings the driver up and tests it. Arguments as in doctor.walk(); adds to `found` and to `seen` (a doctor.Tally).

    Returns False when a step of the bring-up failed, always or now and then.
    """
    driver.stop()
    driver.clear_counters()
    steps = bring_up.steps(driver, pool)
    for name, step in steps:
        text = _try(step)
        report("step", name, text)
        if text != "ok":
            found.append(["the step “%s” fails" % name, text])
            if name == "MAC reset" and driver.board["ref_clk"] == "gpio0_in":
                found.append(_clock_at_gpio0())
            return False
    again = dict(steps)
    if not _resets(again, found):
        return False
    for name, step in (
        ("PHY", again["PHY"]),
        ("MAC and DMA", again["MAC and DMA"]),
        ("loopback", lambda: loopback(driver)),
        ("PHY loopback", lambda: phy_loopback(driver)),
    ):
        text = _try(step)
        if name in ("loopback", "PHY loopback"):
            report("step", name, text)
        if text != "ok":
            found.append(["the step “%s” fails" % name, text])
    _poll_until(driver, driver.link, link_ms)
    report("step", "link", "ok" if driver.link() else "down")
    if driver.link():
        text = _try(lambda: _listen(driver, pool, seen, listen_ms))
        if text == "ok":
            _send_one(driver, pool, seen)
        else:
            found.append(["listening breaks off", text])
    return True


def _try(step):
    try:
        step()
    except OSError as e:
        return str(e.args[-1])
    return "ok"


def _clock_at_gpio0():
    if 0 < sample(0) < _SAMPLES:
        return [
            "GPIO0 toggles",
            "a clock arrives, but perhaps not 50 MHz or not clean: shorten wires, take the programmer off GPIO0",
        ]
    return [
        "GPIO0 does not toggle",
        "no clock arrives: oscillator off or its enable pin wrong, or this board wants ref_clk = gpio17_out",
    ]


def _resets(again, found):
    """Resets the MAC several times; returns whether each reset ended."""
    ended = 0
    for _ in range(_RESETS):
        text = "ok"
        for name in ("clock gate", "RMII mode", "reference clock", "MAC reset"):
            text = _try(again[name])
            if text != "ok":
                break
        ended += text == "ok"
    if ended < _RESETS:
        found.append(
            [
                "the MAC's reset ends %d times of %d" % (ended, _RESETS),
                "the clock is marginal: shorten wires, take the programmer off GPIO0",
            ]
        )
    return ended == _RESETS


def loopback(driver, length=64):
    """Sends a frame of `length` bytes inside the MAC, without PHY and cable, and compares what comes back.

    Frames in the rings are lost. Raises OSError(EIO) that says on which side it failed.
    """
    normal = driver.config
    try:
        driver.config = _LOOPBACK
        bring_up.restart(driver)
        _there_and_back(driver, length, "loopback: the frame was sent inside the MAC and did not come back")
        if driver.gather:
            for _ in range(driver.pool.transmit):
                _there_and_back(driver, length, "loopback: " + _IN_TWO, 54)
    finally:
        driver.config = normal
        bring_up.restart(driver)


def phy_loopback(driver, length=64):
    """Sends a frame out to the PHY, which returns it (BMCR bit 14, IEEE 802.3 22.2.4.1.2): over all wires of the RMII,
    without a cable. Negotiates again afterwards.

    Frames in the rings are lost. Raises OSError(EIO) as loopback() does.
    """
    phy = driver.phy
    normal = driver.config
    try:
        phy.write(mdio.BMCR, _BMCR_LOOPBACK)
        sleep_ms(10)
        driver.config = _NORMAL
        bring_up.restart(driver)
        _there_and_back(
            driver,
            length,
            "the PHY does not return a frame: a wire of the RMII (TX_EN 21, TXD 19 and 22, CRS_DV 27, RXD 25 and 26) "
            "is broken or in use, the clock is wrong, or this PHY has no loopback",
        )
    finally:
        driver.config = normal
        phy.negotiate()
        bring_up.restart(driver)


def _there_and_back(driver, length, lost, cut=0):
    # cut: the frame leaves in two pieces, the first of so many bytes.
    pool = driver.pool
    words = pool.words
    frame = pool.transmit_frame()
    frame[:12] = driver.mac + driver.mac
    for i in range(12, length):
        frame[i] = i & 255
    sent = words[fast.C_TX_NEXT]
    if cut:
        pool.tx_ring[sent * 8 + 1] = cut | length - cut << 16
        pool.tx_ring[sent * 8 + 3] = addressof(frame) + cut
        words[fast.C_TX_NEXT] = (sent + 1) % pool.transmit
        pool.tx_ring[sent * 8] = 0xB0000000 if words[fast.C_TX_NEXT] else 0xB0200000  # OWN, LS, FS; TER
    else:
        pool.send(length)
    driver.transmit()
    for _ in range(250):
        # What others send arrives, too; the DMA of a virtual board may be late.
        i = words[fast.C_RX_NEXT]
        if fast.owned_by_dma(pool.rx_ring, i):
            sleep_ms(1)
        elif pool.frames[i][:12] == frame[:12]:
            break
        else:
            fast.release(words, pool.objects)
            driver.refill()
    else:
        if fast.owned_by_dma(pool.tx_ring, sent):
            raise OSError(EIO, "loopback: the transmitter does not send; look at STATUS and DEBUG")
        raise OSError(EIO, lost)
    n = fast.received_length(words, pool.objects)
    if n != length or pool.frames[i][:length] != frame[:length]:
        raise OSError(EIO, "loopback: the frame came back changed (%d bytes for %d)%s" % (n, length, "; " + _IN_TWO if cut else ""))
    fast.release(words, pool.objects)
    driver.refill()


def _poll_until(driver, condition, ms):
    end = ticks_add(ticks_ms(), ms)
    while not condition() and ticks_diff(end, ticks_ms()) > 0:
        driver.poll(ticks_ms() & 0x3FFFFFFF)
        sleep_ms(2)


def _listen(driver, pool, seen, ms):
    phy = driver.phy
    before = _symbol_errors(phy)
    words = pool.words
    end = ticks_add(ticks_ms(), ms)
    while ticks_diff(end, ticks_ms()) > 0:
        driver.poll(ticks_ms() & 0x3FFFFFFF)
        i = words[fast.C_RX_NEXT]
        while not fast.owned_by_dma(pool.rx_ring, i) and ticks_diff(end, ticks_ms()) > 0:
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
    seen.symbol_errors = _symbol_errors(phy) - before


def _symbol_errors(phy):
    return phy.read(26) if phy.type == "LAN8720" else 0


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
