"""Request and response schemas of blueprints: the dialect's fields, and Corral's own beside them.

Must not decide anything: rules that need more than one field are in `recipes`.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, Field

from corral.devboxes.service import CodeMountParameters, Command, FilePath, Filled, LaunchParameters
from corral.http.model import NAME_CHARS, Body, Metadata, Text, View
from corral.images.blueprints import model
from corral.images.builds.model import BuildLine

BLUEPRINT_ID: Final = r"^bpt_[0-9A-Za-z]{21}$"
DOCKERFILE_BYTES: Final = 1024 * 1024
MOST_STEPS: Final = 500
MOST_SERVICES: Final = 32

Status = Literal["queued", "provisioning", "building", "awaiting_upload", "failed", "build_complete"]


def _dockerfile(value: str) -> str:
    if not value.strip():
        raise ValueError("must not be blank")
    if (size := len(value.encode())) > DOCKERFILE_BYTES:
        raise ValueError(f"must be at most {DOCKERFILE_BYTES} bytes, not {size}")
    if "\0" in value:
        raise ValueError("must not hold a NUL character")
    return value


class BuildContextBody(Body):
    """An object whose contents COPY and ADD find."""

    type: Literal["object"]
    object_id: Filled


class ServiceCredentials(Body):
    """What a registry wants to see."""

    username: Filled
    password: Filled


class ServiceBody(Body):
    """A container that devboxes can start."""

    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9][a-zA-Z0-9_.-]{1,127}$")]
    image: Annotated[str, Field(pattern=r"^[a-zA-Z0-9][a-zA-Z0-9_./:@-]{0,511}$")]
    credentials: ServiceCredentials | None = None
    env: dict[str, Text] | None = None
    options: Text | None = None
    port_mappings: list[Annotated[str, Field(pattern=r"^[0-9]{1,5}:[0-9]{1,5}$")]] | None = None


class _Common(Body):
    """What every way to a blueprint has."""

    name: Annotated[Filled, Field(max_length=NAME_CHARS)]
    file_mounts: dict[FilePath, Text] | None = None
    launch_parameters: LaunchParameters | None = None
    metadata: Metadata | None = None
    network_policy_id: Filled | None = None
    secrets: dict[str, Filled] | None = None
    system_setup_commands: Annotated[list[Command], Field(max_length=MOST_STEPS)] | None = None


class BlueprintBody(_Common):
    """What a blueprint is made of. Everything but the name may be left out."""

    base_blueprint_id: Filled | None = None
    base_blueprint_name: Filled | None = None
    build_args: dict[str, Text] | None = None
    build_context: BuildContextBody | None = None
    code_mounts: Annotated[list[CodeMountParameters], Field(max_length=MOST_STEPS)] | None = None
    dockerfile: Annotated[Text, AfterValidator(_dockerfile)] | None = None
    services: Annotated[list[ServiceBody], Field(max_length=MOST_SERVICES)] | None = None


class InspectionSource(Body):
    """What was found out about a repository."""

    inspection_id: Filled
    github_auth_token: Filled | None = None


class FromInspectionBody(_Common):
    """A blueprint from the inspection of a connected repository."""

    inspection_source: InspectionSource


class FailedStepView(View):
    """The step of the Dockerfile that failed; `output` is the end of what it wrote."""

    number: int
    command: str
    exit_code: int | None = None
    output: str


class BlueprintView(View):
    """A blueprint. `failure_message` and `failed_step` are Corral's own."""

    id: str
    name: str
    create_time_ms: int
    status: Status
    state: Literal["created", "deleted"]
    parameters: dict[str, Any]
    base_blueprint_id: str | None = None
    build_finish_time_ms: int | None = None
    containerized_services: list[dict[str, Any]] | None = None
    devbox_capabilities: list[Literal["unknown", "docker_in_docker"]]
    failure_reason: Literal["out_of_memory", "out_of_disk", "build_failed"] | None = None
    is_public: bool = False
    metadata: dict[str, str]
    failure_message: str | None = None
    failed_step: FailedStepView | None = None


class BlueprintListView(View):
    """One page, newest first."""

    blueprints: list[BlueprintView]
    has_more: bool
    total_count: int | None = None


class BlueprintPreviewView(View):
    """What would be built."""

    dockerfile: str


class BlueprintLogView(View):
    """One line of a build's log. `number` is Corral's own: what follows it is asked for by it."""

    level: str
    timestamp_ms: int
    message: str
    number: int


class BlueprintLogsView(View):
    """The log of a blueprint's build, oldest first."""

    blueprint_id: str
    logs: list[BlueprintLogView]


class BlueprintKeysView(View):
    """Keys, in order; at most 1,000."""

    keys: list[str]


class BlueprintValuesView(View):
    """Values of a key, in order; at most 1,000."""

    key: str
    values: list[str]


def blueprint_view(blueprint: model.Blueprint) -> BlueprintView:
    """The blueprint as clients see it."""
    failure, wish = blueprint.failure, blueprint.wish
    services = wish.parameters.get("services")
    docker = services or (wish.parameters.get("launch_parameters") or {}).get("docker_in_docker")
    step = None
    if failure is not None and failure.step:
        step = FailedStepView(
            number=failure.step, command=failure.command, exit_code=failure.exit_code, output=failure.output
        )
    return BlueprintView(
        id=blueprint.id,
        name=wish.name,
        create_time_ms=blueprint.created_at_ms,
        status=blueprint.status.value,
        state=blueprint.state.value,
        parameters=dict(wish.parameters),
        base_blueprint_id=wish.base_id,
        build_finish_time_ms=blueprint.finished_at_ms,
        containerized_services=services or None,
        devbox_capabilities=["docker_in_docker"] if docker else [],
        failure_reason=failure.reason.value if failure is not None else None,
        metadata=dict(wish.metadata),
        failure_message=failure.message if failure is not None else None,
        failed_step=step,
    )


def log_view(line: BuildLine) -> BlueprintLogView:
    """A line of the log as clients see it."""
    return BlueprintLogView(
        level=line.level.value, timestamp_ms=line.timestamp_ms, message=line.message, number=line.number
    )
