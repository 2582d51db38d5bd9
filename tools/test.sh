#!/usr/bin/env bash
# All tests: those of the guest, then the tiers of pytest in two runs, each of which ends with its line.
# With arguments, which go to pytest, all tiers are one run.

set -Eeuo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

TIERS=(style unit sdk conformance integration acceptance security crash performance)

# heading TEXT: a line that can be found again in a long log.
heading() { printf '\n==> %s\n' "$*"; }

paths=()
for tier in "${TIERS[@]}"; do
  folder=tests/$tier
  [[ $tier == sdk ]] && folder=sdk/tests
  # A tier without tests yet would be an error of pytest's.
  [[ -n $(find "$folder" -name 'test_*.py' -print -quit 2> /dev/null) ]] && paths+=("$folder")
done
for folder in tests/*/; do
  name=$(basename "$folder")
  [[ $name == harness || $name == __pycache__ || " ${TIERS[*]} " == *" $name "* ]] && continue
  if [[ -n $(find "$folder" -name 'test_*.py' -print -quit) ]]; then
    echo "cannot run the tests: tests/$name is in none of the tiers of tools/test.sh" >&2
    exit 1
  fi
done

# What waits more than it works and touches nothing of the host: side by side, on a few workers. Clients' 27-second
# commands alone took three minutes one after another.
SIDE_BY_SIDE=(tests/style tests/unit tests/integration/api tests/integration/clients tests/integration/devboxes)

if (($#)); then
  heading "pytest: ${paths[*]} $*"
  exec .venv/bin/python -m pytest --durations=10 "${paths[@]}" "$@" < /dev/null
fi

heading "guest"
cargo test --quiet --locked --manifest-path guest/Cargo.toml

failed=0
heading "pytest, side by side: ${SIDE_BY_SIDE[*]}"
.venv/bin/python -m pytest --durations=5 --numprocesses 4 --dist worksteal "${SIDE_BY_SIDE[@]}" < /dev/null || failed=1

rest=()
for path in "${paths[@]}"; do
  [[ " ${SIDE_BY_SIDE[*]} " == *" $path "* ]] || rest+=("$path")
done
heading "pytest, one after another: the rest of ${rest[*]}"
.venv/bin/python -m pytest --durations=10 "${SIDE_BY_SIDE[@]/#/--ignore=}" "${rest[@]}" < /dev/null || failed=1
exit $failed
