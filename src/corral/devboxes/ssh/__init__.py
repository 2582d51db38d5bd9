"""SSH into devboxes through the server's own port: no daemon and no port in a box.

Owns the keys of devboxes, the listener and what a client may open on a connection. A key leads to one devbox; commands
are executions like others. Must not start anything on the host or connect to anything but a devbox.
"""
