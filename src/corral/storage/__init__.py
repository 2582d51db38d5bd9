"""Stored objects: bytes under an id, uploaded once and read-only then.

`service` is what the rest of the server uses. Must not know devboxes or images: they come to it.
"""
