#!/bin/bash
set -euo pipefail
join <(sort names.txt) <(sort ages.txt) > joined.txt
