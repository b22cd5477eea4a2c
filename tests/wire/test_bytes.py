"""Whole frames, byte by byte, in both directions: what RFC 826, RFC 791 and RFC 9293 draw as pictures.

The checksums were worked out apart from the code under test: the sums of RFC 1071 stand beside them.
"""

from device import ON_DEVICE
from wire import on_wire

if ON_DEVICE:
    from rig import Wire

    def octets(text):
        return bytes.fromhex(text.replace(" ", "").replace("\n", ""))


@on_wire
def test_arp_request_and_reply():
    wire = Wire(neighbour=False)
    # Lines: Ethernet header; htype, ptype, hlen, plen, oper; sender's MAC and IP; target's MAC and IP; padding.
    wire.receive(
        octets("""
        ff ff ff ff ff ff  02 00 00 00 00 01  08 06
        00 01  08 00  06  04  00 01
        02 00 00 00 00 01  0a 4d 00 01
        00 00 00 00 00 00  0a 4d 00 02
        00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00""")
    )
    wire.expect_frame(
        octets("""
        02 00 00 00 00 01  02 00 00 00 00 02  08 06
        00 01  08 00  06  04  00 02
        02 00 00 00 00 02  0a 4d 00 02
        02 00 00 00 00 01  0a 4d 00 01
        00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00""")
    )


@on_wire
def test_arp_request_and_reply_the_other_way():
    wire = Wire(neighbour=False)
    wire.ip.identification = 0x1233
    assert wire.ip.output(253, b"\x0a\x4d\x00\x01", b"ab", b"c", now=wire.now)
    wire.stack.flush()
    wire.expect_frame(
        octets("""
        ff ff ff ff ff ff  02 00 00 00 00 02  08 06
        00 01  08 00  06  04  00 01
        02 00 00 00 00 02  0a 4d 00 02
        00 00 00 00 00 00  0a 4d 00 01
        00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00""")
    )
    wire.receive(
        octets("""
        02 00 00 00 00 02  02 00 00 00 00 01  08 06
        00 01  08 00  06  04  00 02
        02 00 00 00 00 01  0a 4d 00 01
        02 00 00 00 00 02  0a 4d 00 02
        00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00""")
    )
    # The packet that waited. Header checksum: 4500 + 0017 + 1234 + 4000 + 40fd + 0a4d + 0002 + 0a4d + 0001 = ece5,
    # inverted 131a.
    wire.expect_frame(
        octets("""
        02 00 00 00 00 01  02 00 00 00 00 02  08 00
        45  00  00 17  12 34  40 00  40  fd  13 1a  0a 4d 00 02  0a 4d 00 01
        61 62 63
        00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00""")
    )


@on_wire
def test_ip_packet_with_options_and_padding_reaches_its_protocol():
    wire = Wire()
    got = []
    wire.ip.handlers[253] = lambda frame, start, end, source, destination, now: got.append(
        (bytes(frame[start:end]), source, destination)
    )
    # IHL 6: one word of options (two no-operations, an end). 4600 + 001b + 1234 + 4000 + 40fd + 0a4d + 0001 + 0a4d +
    # 0002 + 0101 + 0000 = eeea, inverted 1115.
    wire.receive(
        octets("""
        02 00 00 00 00 02  02 00 00 00 00 01  08 00
        46  00  00 1b  12 34  40 00  40  fd  11 15  0a 4d 00 01  0a 4d 00 02  01 01 00 00
        61 62 63
        ee ee ee ee ee ee ee ee ee ee ee ee ee ee ee ee ee ee ee""")
    )
    assert got == [(b"abc", b"\x0a\x4d\x00\x01", b"\x0a\x4d\x00\x02")]


@on_wire
def test_tcp_handshake_and_data():
    wire = Wire()
    listener = wire.listen(80)
    wire.iss(0x11223344)
    # SYN, seq 1000, MSS 1460.
    # IP: 4500 + 002c + abcd + 4000 + 4006 + addresses 149d = 1859c, folded 859d, inverted 7a62.
    # TCP: addresses 149d + protocol 0006 + length 0018 + 1388 + 0050 + 0000 + 03e8 + 0000 + 0000 + 6002 + ffff +
    # 0204 + 05b4 = 19434 -> 6bca.
    wire.receive(
        octets("""
        02 00 00 00 00 02  02 00 00 00 00 01  08 00
        45  00  00 2c  ab cd  40 00  40  06  7a 62  0a 4d 00 01  0a 4d 00 02
        13 88  00 50  00 00 03 e8  00 00 00 00  60  02  ff ff  6b ca  00 00  02 04 05 b4
        00 00""")
    )
    # SYN+ACK, seq 11223344, ack 1001, window 8760, MSS 1460. The fast path leaves padding to the MAC.
    wire.expect_frame(
        octets("""
        02 00 00 00 00 01  02 00 00 00 00 02  08 00
        45  00  00 2c  45 33  40 00  40  06  e0 fc  0a 4d 00 02  0a 4d 00 01
        00 50  13 88  11 22 33 44  00 00 03 e9  60  12  22 38  05 1b  00 00  02 04 05 b4""")
    )
    # ACK and 5 bytes; the sum of an odd length ends with 6f00.
    wire.receive(
        octets("""
        02 00 00 00 00 02  02 00 00 00 00 01  08 00
        45  00  00 2d  ab ce  40 00  40  06  7a 60  0a 4d 00 01  0a 4d 00 02
        13 88  00 50  00 00 03 e9  11 22 33 45  50  18  ff ff  fb 30  00 00
        68 65 6c 6c 6f
        00""")
    )
    app = wire.accept(listener)
    assert app.read(9) == b"hello"
    app.write(b"world!")
    # seq 11223345, ack 1006, window 8755.
    wire.expect_frame(
        octets("""
        02 00 00 00 00 01  02 00 00 00 00 02  08 00
        45  00  00 2e  46 33  40 00  40  06  df fa  0a 4d 00 02  0a 4d 00 01
        00 50  13 88  11 22 33 45  00 00 03 ee  50  18  22 33  ce cc  00 00
        77 6f 72 6c 64 21""")
    )
