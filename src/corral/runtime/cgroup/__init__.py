"""Control groups of a box on v1, hybrid and v2 hosts: where they are, what they count, how they go away."""
