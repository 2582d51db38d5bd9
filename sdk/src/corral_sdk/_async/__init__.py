"""The client for asyncio, written by hand. `corral_sdk._sync` is made from it by sdk/tools/generate_sync.py."""
