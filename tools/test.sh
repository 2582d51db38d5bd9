#!/usr/bin/env bash
# All tests: those of the guest, then the tiers of pytest in three runs, each of which ends with its line.
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

# What has nothing of the host: test by test, on a few workers.
BY_TEST=(tests/style tests/unit tests/integration/api tests/integration/devboxes)
# What measures: with nothing beside it. All the rest has boxes and servers of its own, file by file.
ALONE=(tests/performance)
# The files that take longest, mostly waiting: begun first, they end with the others.
FIRST=(tests/integration/clients tests/crash tests/acceptance)

if (($#)); then
  heading "pytest: ${paths[*]} $*"
  exec .venv/bin/python -m pytest --durations=10 "${paths[@]}" "$@" < /dev/null
fi

heading "guest"
cargo test --quiet --locked --manifest-path guest/Cargo.toml

rest=("${FIRST[@]}")
for path in "${paths[@]}"; do
  [[ " ${BY_TEST[*]} ${ALONE[*]} ${FIRST[*]} " == *" $path "* ]] || rest+=("$path")
done

# run HEADING OPTION…: one run of pytest, whose failure does not keep the next from running.
failed=0
run() {
  heading "$1"
  .venv/bin/python -m pytest "${@:2}" < /dev/null || failed=1
}

run "pytest, test by test: ${BY_TEST[*]}" --durations=5 --numprocesses 4 --dist worksteal "${BY_TEST[@]}"
run "pytest, file by file: the rest of ${rest[*]}" --durations=10 --numprocesses 3 --dist loadfile --no-loadscope-reorder \
  "${BY_TEST[@]/#/--ignore=}" "${rest[@]}"
run "pytest, one after another: ${ALONE[*]}" --durations=5 "${ALONE[@]}"
exit $failed
