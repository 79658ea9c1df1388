"""Relevance of visual tokens by gradient-weighted attention (arXiv 2506.01097)."""
