"""Blueprints: named images of an account, which devboxes begin as.

Owns the rows of blueprints, the text of the Dockerfile that each is built by, and what devboxes have to know of them.
Must not build: `builds` does, and several blueprints may share what it builds.
"""
