"""Measures Corral beside the raw floor (crun) and a peer (Docker) in one run.

Owns adapters, measures and the report. Talks to Corral over HTTP only; knows nothing of its inside but how a
box's OCI bundle is made, so that the floor starts the very same box.
"""
