"""What the routes of every capability are made of: holds, event streams, streamed bodies, strict schemas.

Owns how a request and an answer travel. Must not know a capability, an account's rights or the store: `api` composes,
capabilities decide.
"""
