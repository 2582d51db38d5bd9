#!/bin/bash
set -euo pipefail
cd /srv/notes
nohup su notes -s /bin/bash -c 'exec python3 server.py' > /tmp/notes.log 2>&1 &
for _ in $(seq 100); do
  curl -sf -X PUT --data remember http://127.0.0.1:8080/first && exit 0
  sleep 0.1
done
exit 1
