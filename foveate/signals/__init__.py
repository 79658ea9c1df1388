"""Probes that read attention and states out of a running model, without changing what it computes."""

from foveate.signals.attention import AttentionProbe, attention_rows

__all__ = ["AttentionProbe", "attention_rows"]
