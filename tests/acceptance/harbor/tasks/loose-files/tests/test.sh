#!/bin/bash
if printf '1 Grace 85\n2 Edsger 72\n3 Ada 36\n' | cmp -s - /workspace/joined.txt; then reward=1; else reward=0; fi
echo "$reward" > /logs/verifier/reward.txt
