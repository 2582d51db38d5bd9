#!/bin/bash
even=$(python3 -m figures 1 2 3 4) odd=$(python3 -m figures 5 1 9)
if [ "$even" = "$EXPECTED" ] && [ "$odd" = 5.0 ]; then reward=1; else reward=0; fi
printf '{"reward": %s, "odd": %s}\n' "$reward" "$([ "$odd" = 5.0 ] && echo 1 || echo 0)" > /logs/verifier/reward.json
