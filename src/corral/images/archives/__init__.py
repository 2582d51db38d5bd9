"""Images as others write them, in and out: registries, OCI layouts, archives of Docker, tars of a root filesystem.

All that comes in is hostile: programs that read it run confined (`sandbox`), with limits (`model`), on folders that
are removed when anything fails. Must not know names, boxes or who asks.
"""
