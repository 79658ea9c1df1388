"""The decoder layers after the last cut as one CUDA graph, so that the host launches one thing instead of a thousand kernels.

Read in this order: `runner` (which prefills run as a graph, and which graphs are kept), `obstacles` and `watch` (when and why they do
not), `captured` (one graph: its inputs, its keys and values), `devices` (capture and replay on CUDA) and `bypass` (layers that ran in a
graph do not run again).
"""

from foveate.engine.graphs.runner import Graphs, GraphUse

__all__ = ["GraphUse", "Graphs"]
