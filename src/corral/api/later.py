"""Routes of the dialect that belong to what this server does not offer. They answer 501, never 404."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from corral.api.routing import Later
from corral.identity.model import Need, Resource, Scope

#: Resource, what it is called, and its routes, some with what they do: GET looks, everything else changes.
_ROUTES: Final[tuple[tuple[Resource, str, str], ...]] = (
    (
        Resource.DEVBOXES,
        "devboxes",
        """
        POST /v1/devboxes/{id}/create_gateway_token  create gateway token
        POST /v1/devboxes/{id}/create_mcp_token  create MCP token
        POST /v1/devboxes/{id}/create_tunnel  create tunnel
        POST /v1/devboxes/{id}/enable_tunnel  enable tunnel
        POST /v1/devboxes/{id}/remove_tunnel  remove tunnel
        """,
    ),
    (
        Resource.SECRETS,
        "secrets",
        """
        POST /v1/secrets
        GET /v1/secrets
        GET /v1/secrets/{name}
        POST /v1/secrets/{name}
        POST /v1/secrets/{name}/delete
        GET /v1/secrets/id/{id}
        POST /v1/secrets/id/{id}/delete
        POST /v1/secrets/id/{id}/update
        """,
    ),
    (
        Resource.NETWORK,
        "network policies",
        """
        POST /v1/network-policies
        GET /v1/network-policies
        GET /v1/network-policies/{id}
        POST /v1/network-policies/{id}
        POST /v1/network-policies/{id}/delete
        """,
    ),
    (
        Resource.GATEWAYS,
        "gateways",
        """
        POST /v1/gateway-configs
        GET /v1/gateway-configs
        GET /v1/gateway-configs/{id}
        POST /v1/gateway-configs/{id}
        POST /v1/gateway-configs/{id}/delete
        POST /v1/mcp-configs
        GET /v1/mcp-configs
        GET /v1/mcp-configs/{id}
        POST /v1/mcp-configs/{id}
        POST /v1/mcp-configs/{id}/delete
        """,
    ),
    (
        Resource.AXONS,
        "axons",
        """
        POST /v1/axons
        GET /v1/axons
        GET /v1/axons/{id}
        POST /v1/axons/{id}
        DELETE /v1/axons/{id}
        POST /v1/axons/{id}/publish
        GET /v1/axons/{id}/subscribe/sse
        GET /v1/axons/{id}/events
        POST /v1/axons/{id}/sql/batch
        POST /v1/axons/{id}/sql/query
        """,
    ),
    (
        Resource.AGENTS,
        "agents",
        """
        POST /v1/agents
        GET /v1/agents
        GET /v1/agents/devbox_counts
        GET /v1/agents/list_public
        GET /v1/agents/{id}
        POST /v1/agents/{id}/delete
        """,
    ),
    (
        Resource.BENCHMARKS,
        "benchmarks",
        """
        POST /v1/benchmark_jobs
        GET /v1/benchmark_jobs
        GET /v1/benchmark_jobs/{id}
        GET /v1/benchmark_runs
        GET /v1/benchmark_runs/{id}
        POST /v1/benchmark_runs/{id}/cancel
        POST /v1/benchmark_runs/{id}/complete
        POST /v1/benchmark_runs/{id}/download_logs
        GET /v1/benchmark_runs/{id}/scenario_runs
        POST /v1/benchmarks
        GET /v1/benchmarks
        GET /v1/benchmarks/list_public
        POST /v1/benchmarks/start_run
        GET /v1/benchmarks/metadata/keys
        GET /v1/benchmarks/metadata/keys/{key:path}/values
        GET /v1/benchmarks/runs
        GET /v1/benchmarks/runs/{id}
        POST /v1/benchmarks/runs/{id}/cancel
        POST /v1/benchmarks/runs/{id}/complete
        POST /v1/benchmarks/runs/{id}/download_logs
        GET /v1/benchmarks/runs/{id}/scenario_runs
        GET /v1/benchmarks/{id}
        POST /v1/benchmarks/{id}
        POST /v1/benchmarks/{id}/archive
        POST /v1/benchmarks/{id}/unarchive
        GET /v1/benchmarks/{id}/definitions
        GET /v1/benchmarks/{id}/runs
        POST /v1/benchmarks/{id}/scenarios
        """,
    ),
    (
        Resource.SCENARIOS,
        "scenarios",
        """
        POST /v1/scenarios
        GET /v1/scenarios
        GET /v1/scenarios/list_public
        POST /v1/scenarios/start_run
        GET /v1/scenarios/metadata/keys
        GET /v1/scenarios/metadata/keys/{key:path}/values
        GET /v1/scenarios/runs
        GET /v1/scenarios/runs/{id}
        POST /v1/scenarios/runs/{id}/cancel
        POST /v1/scenarios/runs/{id}/complete
        POST /v1/scenarios/runs/{id}/download_logs
        POST /v1/scenarios/runs/{id}/score
        POST /v1/scenarios/scorers
        GET /v1/scenarios/scorers
        GET /v1/scenarios/scorers/{id}
        POST /v1/scenarios/scorers/{id}
        POST /v1/scenarios/scorers/{id}/validate
        GET /v1/scenarios/{id}
        POST /v1/scenarios/{id}
        POST /v1/scenarios/{id}/archive
        POST /v1/scenarios/{id}/unarchive
        GET /v1/scenarios/{id}/runs
        """,
    ),
)


def rows() -> Iterator[Later]:
    """One row a route."""
    for resource, called, lines in _ROUTES:
        for line in lines.split("\n"):
            if line.strip():
                method, path, *does = line.split(maxsplit=2)
                scope = Scope.READ if method == "GET" else Scope.WRITE
                yield Later(method, path, Need(resource, scope), does[0] if does else f"use {called}")
