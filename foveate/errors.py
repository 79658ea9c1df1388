"""Every error that foveate raises on purpose.

Each class also derives from the built-in that a caller would expect (`ValueError`, `RuntimeError`, ...), so existing
`except` clauses keep working.
"""

__all__ = [
    "BudgetError",
    "CacheError",
    "CheckpointError",
    "CompressorError",
    "FoveateError",
    "HandleError",
    "InputError",
    "LayerError",
    "OptionError",
    "ProcessorError",
    "SignalError",
    "UnknownNameError",
    "UnsupportedError",
    "UnsupportedModelError",
]


class FoveateError(Exception):
    """Base class: `except FoveateError` catches whatever foveate refuses."""


class BudgetError(FoveateError, ValueError):
    """A token budget (`keep`) that cannot be met: zero, negative, NaN, a share above 1, or more tokens than there are."""


class OptionError(FoveateError, ValueError):
    """An option of a method outside its range."""


class LayerError(FoveateError, ValueError):
    """A decoder layer that the model does not have, or layers of a schedule that do not increase."""


class SignalError(FoveateError, ValueError):
    """A method needs a signal that is not there: at this layer, for this model, or in a view made by hand."""


class UnsupportedModelError(FoveateError, ValueError):
    """The model belongs to no known family, or to a variant that its family cannot handle yet."""


class UnsupportedError(FoveateError, NotImplementedError):
    """A way of calling the model (chunked prefill, assisted decoding, a static cache, ...) that compression does not support."""


class InputError(FoveateError, ValueError):
    """Inputs of a forward pass that cannot be right, such as placeholders that do not make whole images."""


class CheckpointError(InputError):
    """A model's files that are missing, damaged, not what their configuration says, or need code of their own."""


class ProcessorError(InputError):
    """A processor, tokenizer or chat template that fails, or does not end, on an input."""


class CacheError(FoveateError, RuntimeError):
    """A compressed key/value cache is used in a way that would give wrong answers."""


class CompressorError(FoveateError, ValueError):
    """A trained compressor that is missing, damaged, of an unknown format, or made for another model."""


class HandleError(FoveateError, RuntimeError):
    """A second handle on one model."""


class UnknownNameError(FoveateError, LookupError):
    """A method name that does not exist; the message lists the names that do."""
