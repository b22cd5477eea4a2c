"""LAN drivers: emac (the ESP32's Ethernet MAC) and tap (the virtual board's cable).

See docs/architecture.md, "A driver".
"""
