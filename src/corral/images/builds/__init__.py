"""Builds: from a Dockerfile and its context to an image of this host, inside a devbox that nobody else sees.

Owns the rows of builds, the loop that carries them out, and what comes out of the devbox. Must not run any part of a
build on the host: a Dockerfile, its context and the image that it makes are hostile.
"""
