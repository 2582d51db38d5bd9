"""The server of Corral: devboxes behind an HTTP API, on machines you own.

`daemon` builds everything; `api` composes the routes; `devboxes`, `images` and `identity` are the capabilities;
`runtime` makes boxes exist on one machine; `core` is what all of them stand on. Imports go one way, in that order.
The package itself must not import any of its parts.
"""

__version__ = "0.1.0"
