"""The OCI driver: boxes as OCI containers on one Linux host.

`driver` is the entry; `launcher` is the process that makes boxes. Must not know devboxes, accounts or HTTP.
"""
