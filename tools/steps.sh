# shellcheck shell=bash
# Steps of a set-up: numbered progress with seconds, stamps that remember what was done, errors with a remedy.
# Sourced by setup.sh. A stamp is written only after its step has succeeded, so an interrupted step is done again.

STATE=.make
STEP=0
STEPS=0
CHILD=

[[ -t 1 && ${TERM:-dumb} != dumb ]] && LIVE=1 || LIVE=

# digest FILE|TEXT…: one hash over texts and the contents of files, in the order given.
digest() {
  local part
  for part in "$@"; do
    printf '%s\0' "$part"
    [[ -f $part ]] && sha256sum < "$part"
  done | sha256sum | cut -c1-64
}

# Run by INT, TERM and errors: what a step started must not go on behind the prompt's back.
stop_child() {
  if [[ -n $CHILD ]] && kill -0 "$CHILD" 2> /dev/null; then
    kill -TERM -- "-$CHILD" 2> /dev/null || true
    wait "$CHILD" 2> /dev/null || true
  fi
  CHILD=
}
trap 'stop_child; echo; echo "stopped; run it again to go on where it was" >&2; exit 130' INT TERM

# is_done NAME KEY: whether the stamp of the step says that it was done for this key.
is_done() {
  [[ -f $STATE/$1.stamp && $(< "$STATE/$1.stamp") == "$2" ]]
}

mark_done() {
  printf '%s\n' "$2" > "$STATE/$1.stamp.new"
  mv "$STATE/$1.stamp.new" "$STATE/$1.stamp"
}

# skip TITLE WHY: count a step that has nothing to do.
skip() {
  STEP=$((STEP + 1))
  printf '[%d/%d] %-34s %s\n' "$STEP" "$STEPS" "$1" "$2"
}

# run TITLE NAME REMEDY COMMAND…: run a step, its output going to .make/NAME.log; on failure show the end of it.
run() {
  local title=$1 name=$2 remedy=$3 began=$SECONDS code=0
  shift 3
  STEP=$((STEP + 1))
  printf '[%d/%d] %-34s' "$STEP" "$STEPS" "$title"
  [[ $LIVE ]] || echo " … (log: $STATE/$name.log)"
  # A process group of its own, so that stop_child reaches everything that the step started.
  set -m
  (set -Eeuo pipefail; "$@") > "$STATE/$name.log" 2>&1 < /dev/null &
  CHILD=$!
  set +m
  while [[ $LIVE ]] && kill -0 "$CHILD" 2> /dev/null; do
    printf '\r\e[K[%d/%d] %-34s %4d s  %s' "$STEP" "$STEPS" "$title" "$((SECONDS - began))" "$(last_line "$name")"
    sleep 0.5
  done
  wait "$CHILD" || code=$?
  CHILD=
  [[ $LIVE ]] && printf '\r\e[K'
  if ((code)); then
    printf '[%d/%d] %-34s failed after %d s\n\n' "$STEP" "$STEPS" "$title" "$((SECONDS - began))"
    tail -n 15 "$STATE/$name.log" | sed 's/^/    /' >&2
    printf '\ncannot set up: %s failed with exit code %d\n  what to do: %s\n  whole log:  %s\n' \
      "$title" "$code" "$remedy" "$PWD/$STATE/$name.log" >&2
    exit 1
  fi
  printf '[%d/%d] %-34s %4d s\n' "$STEP" "$STEPS" "$title" "$((SECONDS - began))"
}

last_line() {
  # Without the time that `corral image build` prints: ours stands before it.
  tail -n 1 "$STATE/$1.log" 2> /dev/null | tr -d '\r\033' | sed -E 's/^ +[0-9.]+ s +//' | cut -c1-60
}

# One set-up at a time in a tree: two would write the same environment.
lock() {
  mkdir -p "$STATE"
  exec 9> "$STATE/lock"
  if ! flock --nonblock 9; then
    echo "waiting for another set-up in this tree to end …"
    flock 9
  fi
}
