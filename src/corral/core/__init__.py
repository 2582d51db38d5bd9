"""What every other part stands on: errors, ids, clock, settings, log, store, events, the reconcile loop.

Owns the rules that hold everywhere: one error tree, one clock, one transaction for a row and its event.
Must not import anything else of Corral, and must not know a devbox, a box or HTTP.
"""
