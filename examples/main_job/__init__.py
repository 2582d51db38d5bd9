"""The main job, end to end: a real agent repairs a real library on its own computer.

Owns the demo that `make demo` runs. Uses only the client library and the command line, as a user would.
"""
