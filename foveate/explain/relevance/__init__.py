"""Relevance of visual tokens by gradient-weighted attention (arXiv 2506.01097).

Start with `relevance` (the function) and `result` (what it returns). `sequences` lays out prompts with their answers, `trace` records a
forward pass and walks back through it, and `blocks` does one attention's backward pass.
"""
