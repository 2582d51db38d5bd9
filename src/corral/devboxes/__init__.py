"""Devboxes: their lifecycle, executions, files and logs.

Owns the rows of devboxes and executions, and the controller that brings the world to the wish.
Must not make a box by itself (`runtime` does), and must not import another capability except by its `service`.
"""
