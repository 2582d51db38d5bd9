"""Who is calling: accounts and API keys.

Owns the keys' digests, their scopes and the first key. Must not keep or log a key in clear text,
except the first one in the data folder's `api-key` file.
"""
