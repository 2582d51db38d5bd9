#!/bin/bash
set -euo pipefail
cat /app/texts/*.txt | tr 'A-Z' 'a-z' | grep -o '[a-z]*' | sort | uniq -c | sort -k1,1nr -k2 | head -n 10 |
  sed 's/^ *//' > /app/words.txt
