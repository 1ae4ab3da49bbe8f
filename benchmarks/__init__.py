"""Measurements of mtnet against its named peers; run as ``python -m benchmarks.<name>``."""
