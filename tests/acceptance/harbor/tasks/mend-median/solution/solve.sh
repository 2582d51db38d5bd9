#!/bin/bash
set -euo pipefail
[ "$(pwd)" = /opt/figures ]
[ "$STATISTICS_MODE" = exact ]
python3 - <<'END'
import pathlib

path = pathlib.Path("figures/__init__.py")
wrong = "    return ordered[len(ordered) // 2]\n"
right = "    half = len(ordered) // 2\n    return (ordered[half] + ordered[-1 - half]) / 2 if len(ordered) % 2 == 0 else ordered[half]\n"
assert wrong in path.read_text()
path.write_text(path.read_text().replace(wrong, right))
END
