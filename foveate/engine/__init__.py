"""Compression inside a running model: hooks, the prefill that is cut, decoding on the shorter cache, and what methods may read."""
