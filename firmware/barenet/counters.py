"""All counters in one dict, for people. Loaded for the call alone."""

from barenet import fast


def read(stack):
    """See `Stack.counters`."""
    words = stack.words
    tcp = dict(stack.tcp.drops)
    tcp["checksum"] += words[fast.C_DROP_TCP_CHECKSUM]
    tcp["out of order"] = words[fast.C_DROP_OUT_OF_ORDER]
    tcp["out of window"] = words[fast.C_DROP_OUT_OF_WINDOW]
    tcp["bad ACK"] = words[fast.C_DROP_BAD_ACK]
    tcp["buffer full"] = words[fast.C_DROP_BUFFER_FULL]
    udp = dict(stack.udp.drops)
    udp["full"] += words[fast.C_DROP_DATAGRAM_FULL]
    ip = dict(stack.ip.drops)
    ip["checksum"] += words[fast.C_DROP_IP_CHECKSUM]
    counters = {
        "frames": {
            "in": words[fast.C_FRAMES_IN],
            "out": words[fast.C_FRAMES_OUT],
            "receive error": words[fast.C_DROP_RECEIVE_ERROR],
            "handler errors": stack.errors,
        },
        "ethernet": stack.link.drops,
        "arp": stack.arp.drops,
        "ip": ip,
        "icmp": stack.icmp.drops,
        "udp": udp,
        "tcp": tcp,
        "dhcp": stack._dhcp.drops if stack._dhcp else stack._dhcp_state[0]["drops"] if stack._dhcp_state else {},
        "resolver": stack._resolver.drops if stack._resolver else {},
    }
    for part in stack.ip.late:
        counters[part.name] = part.drops
    return counters
