"""The version of the client distribution; read by the build and by `corral version`."""

__version__ = "0.1.0"
