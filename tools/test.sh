#!/usr/bin/env bash
# All tests: those of the guest, then the tiers from the quickest to the slowest in one run of pytest, which ends with its line.
# Arguments go to pytest.

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

if (($# == 0)); then
  heading "guest"
  cargo test --quiet --locked --manifest-path guest/Cargo.toml
fi

heading "pytest: ${paths[*]}"
exec .venv/bin/python -m pytest --durations=10 "${paths[@]}" "$@" < /dev/null
