"""The blocking client. All but `concurrency` is made from `corral_sdk._async` by sdk/tools/generate_sync.py."""
