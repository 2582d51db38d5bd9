"""Images: the read-only layers that devboxes start from, and snapshots of devboxes' disks.

Owns the default image's recipe, its build and the store of images on this host; which snapshots there are and when
their copies are made and removed. Must not change a layer once it is in that store, nor a devbox's state.
"""
