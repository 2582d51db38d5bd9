"""The program that runs in the devbox of a build, never on the host.

Owns the order of things in there, and the form of the log. It is given to the devbox as files, so it imports nothing
but the standard library. What it says is not trusted: whatever a Dockerfile runs has the same rights in there.
"""
