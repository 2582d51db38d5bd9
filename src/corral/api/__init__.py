"""The HTTP face: composes the capabilities' routes under the dialect's conventions.

Owns authentication at the door, request ids and their replays, error bodies, pagination, event streams, OpenAPI.
Must not decide anything about a devbox: that is the capabilities' work. Must not import `runtime`.
"""
