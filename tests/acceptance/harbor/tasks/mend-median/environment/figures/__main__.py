"""The median of the arguments."""

from __future__ import annotations

import sys

from figures import median

print(median([float(value) for value in sys.argv[1:]]))
