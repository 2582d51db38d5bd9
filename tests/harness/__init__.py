"""What tests start and drive: the server as a process, the command line as a process, a terminal.

Knows nothing of the server's inside: everything here goes through a process, a port or a file.
"""
