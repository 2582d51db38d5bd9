#!/bin/bash
python3 - <<'END' && echo 1 > /logs/verifier/reward.txt || echo 0 > /logs/verifier/reward.txt
import collections, pathlib, re
words = re.findall("[a-z]+", " ".join(path.read_text().lower() for path in pathlib.Path("/app/texts").glob("*.txt")))
most = sorted(collections.Counter(words).items(), key=lambda one: (-one[1], one[0]))[:10]
assert pathlib.Path("/app/words.txt").read_text().splitlines() == [f"{count} {word}" for word, count in most]
END
