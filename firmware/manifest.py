# Freezes barenet into a firmware of one's own: make BOARD=… FROZEN_MANIFEST=…/firmware/manifest.py (MicroPython, "Manifest files").
# boot.py and main.py are left to the board's file system.
metadata(version="0.1.0", description="A TCP/IP stack for the ESP32's Ethernet MAC")

package("barenet", opt=3)
