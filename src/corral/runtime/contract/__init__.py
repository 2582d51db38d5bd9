"""What a runtime promises: how boxes exist on one machine, and every error that it may raise.

Owns the types that cross the line between a capability and a runtime. Must not know a database, HTTP,
an account or a devbox's wishes: a runtime is told what to do and says what is so.

A **box** is the runtime's side of a devbox: a root filesystem, namespaces, a cgroup and a guest. A runtime
keeps no record that must outlive a box, except the spool: the output and exit status of executions.
`corral.runtime.conformance` is this contract as tests.
"""

from __future__ import annotations

from corral.runtime.contract.boxes import GIB as GIB
from corral.runtime.contract.boxes import LENT as LENT
from corral.runtime.contract.boxes import MIB as MIB
from corral.runtime.contract.boxes import STORES as STORES
from corral.runtime.contract.boxes import Box as Box
from corral.runtime.contract.boxes import BoxSpec as BoxSpec
from corral.runtime.contract.boxes import BoxStatus as BoxStatus
from corral.runtime.contract.boxes import Copied as Copied
from corral.runtime.contract.boxes import DeathReason as DeathReason
from corral.runtime.contract.boxes import Layer as Layer
from corral.runtime.contract.boxes import Limits as Limits
from corral.runtime.contract.boxes import SnapshotForm as SnapshotForm
from corral.runtime.contract.boxes import Usage as Usage
from corral.runtime.contract.boxes import User as User
from corral.runtime.contract.executions import ExecResult as ExecResult
from corral.runtime.contract.executions import ExecSpec as ExecSpec
from corral.runtime.contract.executions import Progress as Progress
from corral.runtime.contract.executions import Stream as Stream
from corral.runtime.contract.executions import TerminalSize as TerminalSize
from corral.runtime.contract.failures import BadCommand as BadCommand
from corral.runtime.contract.failures import BoxExhausted as BoxExhausted
from corral.runtime.contract.failures import BoxExists as BoxExists
from corral.runtime.contract.failures import BoxGone as BoxGone
from corral.runtime.contract.failures import BoxUnresponsive as BoxUnresponsive
from corral.runtime.contract.failures import ExecutionEnded as ExecutionEnded
from corral.runtime.contract.failures import FileProblem as FileProblem
from corral.runtime.contract.failures import FileProblemKind as FileProblemKind
from corral.runtime.contract.failures import HostExhausted as HostExhausted
from corral.runtime.contract.failures import HostUnfit as HostUnfit
from corral.runtime.contract.failures import MemoryNotKept as MemoryNotKept
from corral.runtime.contract.failures import NoSuchExecution as NoSuchExecution
from corral.runtime.contract.failures import NoSuchSnapshot as NoSuchSnapshot
from corral.runtime.contract.failures import PortClosed as PortClosed
from corral.runtime.contract.failures import RuntimeFailure as RuntimeFailure
from corral.runtime.contract.failures import SnapshotExists as SnapshotExists
from corral.runtime.contract.files import ByteStream as ByteStream
from corral.runtime.contract.files import FileInfo as FileInfo
from corral.runtime.contract.files import FileKind as FileKind
from corral.runtime.contract.files import FileReader as FileReader
from corral.runtime.contract.runtime import Runtime as Runtime
