"""The composition root: what a server is made of, and the order in which it starts and stops.

`server` is the list of all parts; each other module puts one of them together. Must not hold a rule of any part.
"""

from corral.daemon.server import Daemon, main

__all__ = ["Daemon", "main"]
