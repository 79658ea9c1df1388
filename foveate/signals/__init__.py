"""Probes that read attention and states out of a running model, without changing what it computes."""

from foveate.signals.attention import AttentionProbe, Enough, attention_rows, received_attention
from foveate.signals.projections import only_rows
from foveate.signals.tower import TowerProbe

__all__ = ["AttentionProbe", "Enough", "TowerProbe", "attention_rows", "only_rows", "received_attention"]
