"""The command line `corral`: a thin layer over the client library, one file for each group of verbs.

Results go to stdout, messages to stderr. Imports nothing of the server: its commands come through entry points.
"""
