"""Tests of the tree itself: imports, sizes, documents. They read files and start nothing."""
