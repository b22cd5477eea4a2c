"""The registers that matter to Ethernet, and their fields by name: what the doctor shows."""

from barenet.driver.registers import get
from micropython import const

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
        "0 RX_ACTIVE 4 RX_FIFO_WRITTEN 5-6 RX_FIFO_READ 8-9 RX_FIFO_FILL 16 TX_ACTIVE 17-18 TX_CONTROL "
        "24 TX_FIFO_NOT_EMPTY",
    ),
    ("ADDR0HIGH", 0x3FF6A040, "31 AE"),
    ("ADDR0LOW", 0x3FF6A044, ""),
)
_PHY = (
    ("BMCR", 0, "15 RESET 14 LOOPBACK 13 SPEED_100 12 AUTONEGOTIATE 11 POWER_DOWN 10 ISOLATE 8 FULL_DUPLEX"),
    ("BMSR", 1, "14 100FD 13 100HD 12 10FD 11 10HD 5 NEGOTIATED 4 REMOTE_FAULT 3 CAN_NEGOTIATE 2 LINK 1 JABBER"),
    ("PHYID1", 2, ""),
    ("PHYID2", 3, "4-9 MODEL 0-3 REVISION"),
    ("ANAR", 4, "10 PAUSE 8 100FD 7 100HD 6 10FD 5 10HD"),
    ("ANLPAR", 5, "14 ACK 10 PAUSE 8 100FD 7 100HD 6 10FD 5 10HD"),
    ("ANER", 6, "4 PARALLEL_FAULT 1 PAGE 0 PARTNER_NEGOTIATES"),
)
_OF_FAMILY = {
    "LAN8720": (
        ("MCSR", 17, "13 EDPWRDOWN 9 FARLOOPBACK 6 ALTINT 1 ENERGYON"),
        ("SMR", 18, "5-7 MODE 0-4 ADDRESS"),
        ("SECR", 26, "0-15 SYMBOL_ERRORS"),
        ("CSIR", 27, "15 AMDIX_OFF 13 MDIX 4 POLARITY"),
        ("PSCSR", 31, "12 NEGOTIATED 2-4 MODE"),
    ),
    "DP83848": (("PHYSTS", 16, "0 LINK 1 SPEED_10 2 FULL_DUPLEX 4 NEGOTIATED"),),
    "KSZ80XX": (("PHYC1", 30, "0-2 MODE"), ("PHYC2", 31, "2-4 MODE")),
}


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


def tell(driver, report, managed):
    """Reports all registers, with the PHY's when the driver's bring-up has come to its management (`managed`)."""
    registers(report)
    if managed:
        phy(driver.phy, report)


def registers(report):
    """Reports ("register", name, "0x…", fields) of every register that matters; the EMAC's own only when its gate is
    open and it is not in reset.
    """
    for name, address, fields in _CHIP:
        _show(report, name, get(address), fields)
    if not get(0x3FF000CC) & 0x4000 or get(0x3FF000D0) & 0x80:
        return
    resetting = get(_BUSMODE) & 1
    for name, address, fields in _EMAC:
        # Until the MAC's reset has ended, only the block outside its reset can be read.
        if not resetting or name in ("BUSMODE", "VERSION") or 0x3FF69800 <= address < 0x3FF6A000:
            _show(report, name, get(address), fields)


def _show(report, name, value, fields):
    report("register", name, "0x%08X" % value, decode(value, fields))


def phy(phy, report):
    """Reports what the PHY is, and ("phy register", name, "number", "0x…", fields) of each that matters, when the MAC
    can ask it.
    """
    if not get(0x3FF000CC) & 0x4000 or get(0x3FF000D0) & 0x80 or get(_BUSMODE) & 1:
        return
    report("phy", "address", str(phy.address))
    report("phy", "id", "0x%08X" % phy.id)
    report("phy", "type", str(phy.type))
    report("phy", "name", str(phy.name))
    try:
        for name, number, fields in _PHY + _OF_FAMILY.get(phy.type, ()):
            value = phy.read(number)
            report("phy register", name, str(number), "0x%04X" % value, decode(value, fields))
    except OSError as e:
        report("phy", "error", str(e.args[-1]))
