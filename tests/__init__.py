"""Tests in tiers, named by what they start; CONTRIBUTING.md describes them."""
