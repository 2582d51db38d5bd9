#!/bin/sh
# Build the guest into dist/corral-guest, a static binary. Does nothing when it is newer than its sources.
# Needs cargo and rustc 1.85 or later; CARGO names another cargo, CARGO_TARGET_DIR another place for what is built.
set -eu
cd "$(dirname "$0")"
out=dist/corral-guest

if [ -x "$out" ] && [ -z "$(find Cargo.toml Cargo.lock build.sh src PROTOCOL.md -newer "$out" -print -quit)" ]; then
    exit 0
fi

cargo=${CARGO:-cargo}
host=$($cargo -vV | sed -n 's/^host: //p')
target=${CARGO_TARGET_DIR:-target}

# Static, so that it runs in any image; at a fixed address, because a binary that relocates itself at start dirties
# pages in every box. With --target the flags are not applied to procedural macros, which cannot be static.
CARGO_TARGET_DIR=$target RUSTFLAGS='-C target-feature=+crt-static -C relocation-model=static' \
    $cargo build --release --locked --quiet --target "$host"

mkdir -p dist
# A new file, not new content in the old one: boxes that run may have the old one mounted.
cp "$target/$host/release/corral-guest" "$out.$$"
# Owned by root and executable, but not readable, by the ids of boxes: so process 1 cannot be traced from inside.
chmod 0711 "$out.$$"
mv "$out.$$" "$out"
