"""Accuracy on benchmarks, through lmms-eval."""
