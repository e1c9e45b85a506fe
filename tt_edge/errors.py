"""Errors that a user can act on.

Every message is one line that names the thing, the value it had, and the next step. The command line prints
it as ``tt-edge: error: …`` without a traceback and exits with ``exit_code``; ``--debug`` shows the traceback.
Anything that is not a ``TTEdgeError`` is a defect of this project and is shown in full.
"""

#: Maximum length of a message. A message may quote an untrusted file, which must not fill the log.
MAX_MESSAGE = 4000


class TTEdgeError(Exception):
    """Base of all errors that are meant for a user."""

    exit_code = 1

    def __init__(self, message: str = "") -> None:
        super().__init__(message if len(message) <= MAX_MESSAGE else message[:MAX_MESSAGE] + " …")


class InvalidInputError(TTEdgeError):
    """A path, option, prompt or configuration value is wrong."""

    exit_code = 2


class UnsupportedModelError(TTEdgeError):
    """The model uses a feature that the chosen backend cannot express."""


class LoweringError(TTEdgeError):
    """A lowering pass did not find what the model must contain, or an operator has no converter."""


class CaptureError(TTEdgeError):
    """A TensorRT network holds something that the captured form cannot represent."""


class BundleError(TTEdgeError):
    """A bundle is missing, incomplete, altered, or of a format this version does not read."""


class EngineError(TTEdgeError):
    """No engine fits this machine, or TensorRT refused to build or load one."""


class CapacityError(TTEdgeError):
    """A request is longer or wider than the compiled model allows."""


class ParityError(TTEdgeError):
    """The compiled model's numbers differ from the reference by more than the tolerance."""


class MissingDependencyError(TTEdgeError):
    """An optional dependency is not installed; the message names the extra that brings it."""


def one_line(error: BaseException) -> str:
    """The message of a library's ``error``, shortened to one line."""
    return " ".join(str(error)[:500].split()) or type(error).__name__
