"""As many connections at once as the board's heap holds."""

import statistics
import time

import pytest
from linux import receive_exactly, run, value

CONNECTIONS = 12
BUFFER = 1024

PROGRAM = f"""
def open_server(backlog):
    global listener, clients
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, {BUFFER})
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, {BUFFER})
    listener.bind(("0.0.0.0", 7400))
    listener.listen(backlog)
    listener.settimeout(0)
    clients = []

def accept():
    try:
        while True:
            client = listener.accept()[0]
            client.settimeout(10)
            clients.append(client)
    except OSError:
        pass
"""
