"""A runtime for tests only, never for untrusted code: commands run as processes of the host, with no isolation.

A box is a private folder that stands for its file system. Owns what tests need beside the contract: `FakeHost`
outlives the runtimes that use it (as a host outlives a server), kills boxes, and makes calls fail or wait.
`differences` lists the promises that it does not keep.
"""

from corral.runtime.fake.differences import DIFFERENCES
from corral.runtime.fake.host import FakeHost
from corral.runtime.fake.runtime import FakeRuntime

__all__ = ["DIFFERENCES", "FakeHost", "FakeRuntime"]
