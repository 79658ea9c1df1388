"""Probes that read attention and states out of a running model, without changing what it computes."""

from foveate.engine.signals.attention import AttentionProbe, RowsRead, attention_rows, received_attention
from foveate.engine.signals.projections import only_rows
from foveate.engine.signals.tower import TowerProbe

__all__ = ["AttentionProbe", "RowsRead", "TowerProbe", "attention_rows", "only_rows", "received_attention"]
