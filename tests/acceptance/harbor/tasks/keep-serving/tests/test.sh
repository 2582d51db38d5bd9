#!/bin/bash
# The first answer shows that the process which was given the note still lives.
if [ "$(curl -s http://127.0.0.1:8080/first)" = remember ] && pgrep -u notes -f server.py > /dev/null; then
  echo 1 > /logs/verifier/reward.txt
else
  echo 0 > /logs/verifier/reward.txt
fi
