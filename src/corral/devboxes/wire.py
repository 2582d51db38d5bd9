"""Request schemas of devboxes and files: the dialect's fields, and Corral's own beside them.

Owns the names and shapes on the wire. Must not decide anything: rules that need more than one field are in
`parameters`.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field

from corral.core import errors
from corral.http.model import NAME_CHARS, Body, Metadata, Text

#: The kernel takes no longer single argument (MAX_ARG_STRLEN is 131,072 with the final NUL).
COMMAND_BYTES: Final = 131_071
PATH_BYTES: Final = 4096

#: Devboxes of one fork.
MOST_FORKS: Final = 100

DEVBOX_ID: Final = r"^dbx_[0-9A-Za-z]{21}$"
SNAPSHOT_ID: Final = r"^snp_[0-9A-Za-z]{21}$"
OBJECT_ID: Final = r"^obj_[0-9A-Za-z]{21}$"
#: Of a cursor in a log; it grows with the commands that run at once.
CURSOR: Final = r"^[0-9A-Za-z_.~-]+$"
CURSOR_CHARS: Final = 12 * 1024
#: Of a metadata key or value to start after: with every character escaped it still fits into a query.
AFTER_CHARS: Final = 1024

#: Seconds between two copies of a devbox's disk to the object store.
LEAST_EVERY: Final = 10
MOST_EVERY: Final = 7 * 24 * 3600
MOST_PORTS: Final = 65_535


def _no_nul(value: str) -> str:
    if "\0" in value:
        raise ValueError("must not hold a NUL character")
    return value


def _not_blank(value: str) -> str:
    if not value.strip():
        raise ValueError("must not be blank")
    return value


def _command(value: str) -> str:
    _not_blank(value)
    if (size := len(value.encode())) > COMMAND_BYTES:
        raise ValueError(f"must be at most {COMMAND_BYTES} bytes, not {size}: write a script with write_file_contents")
    return _no_nul(value)


def _path(value: str) -> str:
    _not_blank(value)
    if len(value.encode()) > PATH_BYTES:
        raise ValueError(f"must be at most {PATH_BYTES} bytes")
    return _no_nul(value)


Filled = Annotated[Text, AfterValidator(_not_blank)]
Command = Annotated[Text, AfterValidator(_command)]
FilePath = Annotated[Text, AfterValidator(_path)]
Port = Annotated[int, Field(ge=0, le=MOST_PORTS)]
Name = Annotated[Text, Field(max_length=NAME_CHARS)]

DevboxStatus = Literal[
    "scheduled", "queued", "provisioning", "initializing", "running", "suspending", "suspended", "resuming", "failure",
    "shutdown",
]  # fmt: skip
Size = Literal["X_SMALL", "SMALL", "MEDIUM", "LARGE", "X_LARGE", "XX_LARGE", "CUSTOM_SIZE"]
Architecture = Literal["x86_64", "arm64"]


# ---------------------------------------------------------------- what creates a devbox


class AfterIdle(Body):
    """What happens to a devbox that nobody uses."""

    idle_time_seconds: int
    on_idle: Literal["shutdown", "suspend"]


class ResumeTriggers(Body):
    """What wakes a suspended devbox."""

    http: bool | None = None
    axon_event: bool | None = None


class LifecycleHooks(Body):
    """What runs before a suspend."""

    suspend_commands: list[Command] | None = None
    suspend_deadline_ms: Annotated[int | None, Field(description="Checked only: nothing suspends here.")] = None


class Lifecycle(Body):
    """Idle policy and its companions."""

    after_idle: AfterIdle | None = None
    resume_triggers: ResumeTriggers | None = None
    lifecycle_hooks: LifecycleHooks | None = None


class UserParameters(Body):
    """The Linux user that commands run as."""

    username: str
    uid: int


class LaunchParameters(Body):
    """Size, life time and what runs at launch."""

    resource_size_request: Size | None = None
    custom_cpu_cores: float | None = None
    custom_gb_memory: int | None = None
    custom_disk_size: int | None = None
    architecture: Architecture | None = None
    keep_alive_time_seconds: int | None = None
    after_idle: AfterIdle | None = None
    lifecycle: Lifecycle | None = None
    launch_commands: list[Command] | None = None
    network_policy_id: Filled | None = None
    provisioning_tier: Annotated[
        Literal["standard", "flex"] | None, Field(description="Both are the same here: nothing is ever pre-empted.")
    ] = None
    required_services: list[Filled] | None = None
    user_parameters: UserParameters | None = None
    docker_in_docker: Annotated[
        bool | None, Field(description="Whether containers in it are possible, and Docker runs: Corral's own.")
    ] = None
    keep_memory: Annotated[
        Literal["auto", "always", "never"] | None,
        Field(
            description="Corral's own. Whether a suspended devbox keeps its memory and processes beside its disk: "
            "`auto` (the default) where it can, else the disk alone; `always`, or else it is not suspended; `never`."
        ),
    ] = None
    available_ports: Annotated[list[Port] | None, Field(deprecated=True, description="Ignored.")] = None


class FileMount(Body):
    """A text file that is there at launch."""

    type: Literal["file_mount"]
    target: FilePath
    content: Text


class CodeMountParameters(Body):
    """A git repository."""

    repo_name: Filled
    repo_owner: Filled
    token: Filled | None = None
    git_ref: Filled | None = None
    install_command: Filled | None = None


class CodeMount(CodeMountParameters):
    """A git repository, as one of `mounts`."""

    type: Literal["code_mount"]


class ObjectMount(Body):
    """A stored object."""

    type: Literal["object_mount"]
    object_id: Annotated[str, Field(pattern=OBJECT_ID)]
    object_path: FilePath


class AgentMount(Body):
    """An agent."""

    type: Literal["agent_mount"]
    agent_id: Filled | None = None
    agent_name: Filled | None = None
    agent_path: Filled | None = None
    auth_token: Filled | None = None


class BrokerMount(Body):
    """An event stream that drives an agent."""

    type: Literal["broker_mount"]
    axon_id: Filled
    protocol: Literal["acp", "claude_json", "codex_json", "pi_json"] | None = None
    agent_binary: Filled | None = None
    launch_args: list[Filled] | None = None
    working_directory: Filled | None = None


Mount = Annotated[FileMount | CodeMount | ObjectMount | AgentMount | BrokerMount, Field(discriminator="type")]


class GatewaySpec(Body):
    """A gateway and the secret that it applies."""

    gateway: Filled
    secret: Filled


class McpSpec(Body):
    """An MCP server and the secret for it."""

    mcp_config: Filled
    secret: Filled


class TunnelSpec(Body):
    """How a tunnel is made at launch."""

    auth_mode: Literal["open", "authenticated"] | None = None
    http_keep_alive: bool | None = None
    wake_on_http: bool | None = None


class CreateBody(Body):
    """A wish for a devbox. Everything may be left out."""

    name: Name | None = None
    metadata: Metadata | None = None
    environment_variables: dict[str, Text] | None = None
    entrypoint: Command | None = None
    launch_parameters: LaunchParameters | None = None
    file_mounts: dict[FilePath, Text] | None = None
    mounts: list[Mount] | None = None
    code_mounts: list[CodeMountParameters] | None = None
    blueprint_id: Filled | None = None
    blueprint_name: Filled | None = None
    snapshot_id: Annotated[str, Field(pattern=SNAPSHOT_ID)] | None = None
    secrets: dict[str, Filled] | None = None
    gateways: dict[str, GatewaySpec] | None = None
    mcp: dict[str, McpSpec] | None = None
    tunnel: TunnelSpec | None = None
    repo_connection_id: Filled | None = None
    snapshot_every: Annotated[
        int | None, Field(ge=LEAST_EVERY, le=MOST_EVERY, description="Seconds between copies to the object store.")
    ] = None


class ForkBody(Body):
    """How many devboxes begin as this one; absent name and metadata are this one's."""

    count: Annotated[int, Field(ge=1, le=MOST_FORKS)] = 1
    name: Name | None = None
    metadata: Metadata | None = None
    keep_memory: Annotated[
        Literal["auto", "always", "never"] | None,
        Field(
            description="Whether they go on with its processes, and all secrets that these hold: `never` (the "
            "default); `auto` where it can be, else as its disk alone; `always`, or else they fail."
        ),
    ] = None


class UpdateBody(Body):
    """Absent or null fields stay as they are; an empty name or an empty map clears."""

    name: Name | None = None
    metadata: Metadata | None = None


class WaitBody(Body):
    """Statuses to wait for, and how long in seconds."""

    statuses: Annotated[list[DevboxStatus], Field(min_length=1, max_length=20)]
    timeout_seconds: Annotated[float, Field(ge=0, le=30)] | None = None


# ---------------------------------------------------------------- files


class ReadFileBody(Body):
    """A path: absolute, `~/…`, or relative to the home directory."""

    file_path: FilePath


class WriteFileBody(Body):
    """A path as in ReadFileBody, and the text that the file shall hold."""

    file_path: FilePath
    contents: Text


class DownloadFileBody(Body):
    """A path as in ReadFileBody."""

    path: FilePath


class ListFilesBody(Body):
    """A directory; the home directory when left out."""

    path: FilePath = "."


def file_path(text: str) -> str:
    """The `path` of a form, by the rules of FilePath. Raises errors.Invalid."""
    try:
        return _path(text)
    except ValueError as error:
        raise errors.Invalid(f"cannot upload file: path: {error}") from None
