"""`make demo`: an agent repairs a bug in a real library, in a devbox of its own; then nothing is left behind."""

from __future__ import annotations

import sys

from examples.main_job.job import main

sys.exit(main())
