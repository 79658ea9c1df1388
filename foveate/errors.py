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
    "MissingPackageError",
    "OptionError",
    "ParameterError",
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
    """Base class: `except FoveateError` catches everything that foveate refuses. The message is always one printable line."""

    def __str__(self) -> str:
        return printable(super().__str__())


class BudgetError(FoveateError, ValueError):
    """A token budget (`keep`) that cannot be met: zero, negative, NaN, a share above 1, or more tokens than there are."""

    parameters: tuple[str, ...] = ("keep",)
    """Names of the parameters that help, for a program that gives them other names, such as options of a command line."""


class MethodError(FoveateError, ValueError):
    """What a method returned cannot be used: scores of the wrong shape, NaN, or a plan that does not keep as many tokens as its budget."""


class OptionError(FoveateError, ValueError):
    """An option of a method outside its range."""


class LayerError(FoveateError, ValueError):
    """A decoder layer that the model does not have, or a schedule whose layers do not increase."""


class SignalError(FoveateError, ValueError):
    """A method needs a signal that is not available: at this layer, for this model, or in a view made by hand."""


class UnsupportedModelError(FoveateError, ValueError):
    """The model belongs to no known family, or to a variant that its family cannot handle yet."""


class UnsupportedError(FoveateError, NotImplementedError):
    """A way of calling the model (chunked prefill, assisted decoding, a static cache, ...) that compression does not support."""


class InputError(FoveateError, ValueError):
    """Inputs of a forward pass that cannot be right, such as placeholders that do not add up to whole images."""


class ParameterError(InputError):
    """A value of a parameter that cannot be used, or inputs that another value of it would allow.

    Attributes:
        parameters: their names in Python, for a program in which they have other names, such as options of a command line.
    """

    def __init__(self, message: str, *parameters: str) -> None:
        super().__init__(message)
        self.parameters = parameters


class RecordError(InputError):
    """A file written by foveate (a report, results, labels, a recipe) that cannot be read, is damaged, or contradicts itself."""


class CheckpointError(InputError):
    """Model files that are missing, damaged, do not match their configuration, or need code of their own."""


class ProcessorError(InputError):
    """A processor, tokenizer or chat template that fails on an input, or does not finish."""


class CacheError(FoveateError, RuntimeError):
    """A compressed key/value cache was used in a way that would give wrong answers."""


class ConsistencyError(FoveateError, RuntimeError):
    """A forward pass did not do what the engine planned, so its output would be wrong; usually an untested transformers version."""


class CompressorError(FoveateError, ValueError):
    """A trained compressor that is missing, damaged, in an unknown format, or made for another model."""


class HandleError(FoveateError, RuntimeError):
    """A second handle on one model."""


class MissingPackageError(FoveateError, ImportError):
    """A package that this needs is not installed; the message says which extra brings it."""


class UnknownNameError(FoveateError, LookupError):
    """A method name that does not exist; the message lists the names that do."""


class UsageError(FoveateError, TypeError):
    """An argument of the wrong kind: a class instead of an instance, a name instead of a method, a pipeline instead of a model."""


class ExtensionWarning(UserWarning):
    """An installed package that adds methods or families cannot be loaded; the others are there."""


class UntestedVersionWarning(UserWarning):
    """The installed transformers is outside the range that foveate was tested with."""


class WriteError(FoveateError, OSError):
    """A file or folder that cannot be written: a full or read-only disk, no permission. Its earlier content is unchanged."""


class BusyError(FoveateError, RuntimeError):
    """A folder or file of results that another process is writing to."""


class TrainingError(FoveateError, ArithmeticError):
    """Training has reached numbers that are not finite; the message says when, and what was kept."""
