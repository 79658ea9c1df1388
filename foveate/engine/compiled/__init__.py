"""The decoder layers after the last cut as compiled code, so that the host launches one thing instead of a thousand kernels.

Read in this order: `runner` (which prefills run compiled, and how much is compiled), `obstacles` and `watch` (when and why layers run as
ever), `stretch` (layers compiled for one shape of their input) and `bypass` (layers that ran in compiled code do not run again).
"""

from foveate.engine.compiled.runner import CompiledLayers, CompiledUse

__all__ = ["CompiledLayers", "CompiledUse"]
