"""Every error that foveate raises on purpose.

Each class also derives from the built-in that a caller would expect (`ValueError`, `RuntimeError`, ...), so existing
`except` clauses keep working.
"""

from foveate.printable import printable

__all__ = [
    "BudgetError",
    "BusyError",
    "CacheError",
    "CheckpointError",
    "CompressorError",
    "ConsistencyError",
    "ExtensionWarning",
    "FoveateError",
    "HandleError",
    "InputError",
    "LayerError",
    "MethodError",
    "OptionError",
    "ProcessorError",
    "RecordError",
    "SignalError",
    "TrainingError",
    "UnknownNameError",
    "UnsupportedError",
    "UnsupportedModelError",
    "UntestedVersionWarning",
    "UsageError",
    "WriteError",
]


class FoveateError(Exception):
    """Base class: `except FoveateError` catches whatever foveate refuses. Its text is one printable line, whatever a file is called."""

    def __str__(self) -> str:
        return printable(super().__str__())


class BudgetError(FoveateError, ValueError):
    """A token budget (`keep`) that cannot be met: zero, negative, NaN, a share above 1, or more tokens than there are."""

    parameters: tuple[str, ...] = ("keep",)
    """Names of the parameters that help, for a program that gives them other names, such as options of a command line."""


class MethodError(FoveateError, ValueError):
    """What a method returned cannot be used: scores of the wrong shape, NaN, or a plan that keeps another number than its budget."""


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


class RecordError(InputError):
    """A file that foveate wrote (a report, results, labels, a recipe) and that cannot be read, is damaged, or contradicts itself."""


class CheckpointError(InputError):
    """A model's files that are missing, damaged, not what their configuration says, or need code of their own."""


class ProcessorError(InputError):
    """A processor, tokenizer or chat template that fails, or does not end, on an input."""


class CacheError(FoveateError, RuntimeError):
    """A compressed key/value cache is used in a way that would give wrong answers."""


class ConsistencyError(FoveateError, RuntimeError):
    """A forward pass did not do what the engine planned, so its output would be wrong. Usually an untested transformers version."""


class CompressorError(FoveateError, ValueError):
    """A trained compressor that is missing, damaged, of an unknown format, or made for another model."""


class HandleError(FoveateError, RuntimeError):
    """A second handle on one model."""


class UnknownNameError(FoveateError, LookupError):
    """A method name that does not exist; the message lists the names that do."""


class UsageError(FoveateError, TypeError):
    """An argument of the wrong kind: a class for an instance, a name for a method, a pipeline for a model."""


class ExtensionWarning(UserWarning):
    """An installed package that adds methods or families cannot be loaded; the others are there."""


class UntestedVersionWarning(UserWarning):
    """The installed transformers is outside the range that foveate was tested with."""


class WriteError(FoveateError, OSError):
    """A file or folder that cannot be written: a full or read-only disk, no permission. What was there before is as it was."""


class BusyError(FoveateError, RuntimeError):
    """A folder or file of results that another process is writing."""


class TrainingError(FoveateError, ArithmeticError):
    """Training that has come to numbers that are not finite; the message says when, and what was kept."""
