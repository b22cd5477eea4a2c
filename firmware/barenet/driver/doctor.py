"""The doctor: walks the bring-up of the EMAC, shows every register that matters, and names the causes of what it finds.

Kept apart from the driver because it is needed rarely, and in parts that are loaded one after the other, because
together they would not fit beside a running stack: trial.py (bring-up and tests), symptoms.py (causes), tables.py
(registers).

Everything it finds goes to a function `report(kind, name, *texts)`, all texts, as soon as it is known. The kinds are
"step" (its text is "ok" or the error), "status", "register", "phy", "phy register", and at the end "finding" (symptom;
cause and remedy).
"""

from errno import ENODEV

from barenet import fast
from barenet.driver import borrow
from micropython import const

_LISTEN_MS = const(2000)
_LINK_MS = const(5000)


class Tally:
    """What listening has shown: numbers of frames by kind, and word 0 of the last frame sent, None for none."""

    def __init__(self):
        self.good = self.broadcast = self.crc = self.errors = self.headless = 0
        self.sent = None
        self.symbol_errors = 0


def run(lan, report=None):
    """Examines an active LAN without disturbing it; brings one that is not active up, tests it and takes it down again.

    report: see above; default: prints. Raises OSError(ENODEV) for a driver without a MAC.
    """
    driver = lan.driver
    if not hasattr(driver, "found"):
        raise OSError(ENODEV, "this LAN has no MAC and no PHY to examine: its driver is %s" % driver.status()["driver"])
    if lan.active():
        return examine(driver, lan.stack.pool, report or show)
    return walk(driver, lan.stack.pool, report or show)


def show(kind, name, *texts):
    """Prints one line of the report."""
    print(("%-14s%-22s %s" % (kind, name, "  ".join(texts))).rstrip())


def walk(driver, pool, report, link_ms=_LINK_MS, listen_ms=_LISTEN_MS):
    """Brings a driver that is not running up step by step, tests it, and takes it down again; 30 s at the very most.

    pool: a Pool that nobody uses. link_ms, listen_ms: how long to wait for the link and to listen, at most. Returns
    [[symptom, cause and remedy]].
    """
    found = []
    seen = Tally()
    try:
        complete = borrow("trial", "run", driver, pool, report, found, seen, link_ms, listen_ms)
        if complete:
            found += borrow("symptoms", "diagnose", driver, pool, seen, lambda: _drain(driver, pool))
        _tell(driver, report, complete)
    finally:
        driver.stop()
    _conclude(found, report)
    return found


def _drain(driver, pool):
    for _ in range(pool.receive):
        if not fast.owned_by_dma(pool.rx_ring, pool.words[fast.C_RX_NEXT]):
            fast.release(pool.words, pool.objects)
    driver.refill()


def examine(driver, pool, report):
    """Looks at a running driver without disturbing it. Returns findings as walk() does."""
    seen = Tally()
    seen.errors = pool.words[fast.C_DROP_RECEIVE_ERROR]
    last = (pool.words[fast.C_TX_NEXT] - 1) % pool.transmit
    seen.sent = pool.tx_ring[last * 8] & 0x7FFFFFFF
    found = borrow("symptoms", "diagnose", driver, pool, seen)
    _tell(driver, report, True)
    _conclude(found, report)
    return found


def _tell(driver, report, managed):
    for name, value in driver.status().items():
        report("status", name, str(value))
    borrow("tables", "tell", driver, report, managed)


def _conclude(found, report):
    for symptom, cause in found:
        report("finding", symptom, cause)
    if report is show:
        print("healthy" if not found else "findings: %d" % len(found))
