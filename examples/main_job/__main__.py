"""`make demo`: an agent finds and repairs a bug in a real library, in a devbox of its own; then nothing is left behind."""

from __future__ import annotations

import sys

from main_job.job import main

sys.exit(main())
