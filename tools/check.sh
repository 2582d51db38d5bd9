#!/usr/bin/env bash
# Everything that is checked without running Corral: format, lint, types, the tree's own rules. Runs all, then says what failed.

set -Eeuo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

failed=()

# check NAME COMMAND…
check() {
  local name=$1 began=$SECONDS code=0
  shift
  "$@" < /dev/null || code=$?
  printf '==> %-28s %s  (%d s)\n' "$name" "$( ((code)) && echo FAILED || echo ok)" "$((SECONDS - began))"
  ((code == 0)) || failed+=("$name")
}

shell_syntax() {
  local script
  for script in tools/*.sh guest/*.sh .ci/run; do bash -n "$script"; done
}

check "format (ruff)" .venv/bin/ruff format --check --quiet .
check "lint (ruff)" .venv/bin/ruff check --quiet .
check "types (mypy --strict)" .venv/bin/mypy src sdk/src tests examples bench
check "format (cargo fmt)" cargo fmt --manifest-path guest/Cargo.toml --check
check "lint (cargo clippy)" cargo clippy --quiet --locked --all-targets --manifest-path guest/Cargo.toml -- -D warnings
check "shell syntax" shell_syntax
check "style tests" .venv/bin/python -m pytest -q tests/style

if ((${#failed[@]})); then
  printf '\nfailed: %s\n' "$(IFS=,; echo "${failed[*]}")" >&2
  exit 1
fi
