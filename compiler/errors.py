"""Every error of the compiler, one tree:

CompileError                exit_code 1
├── CheckpointError         exit_code 2   a model that cannot be found or read
├── OptionError             exit_code 2   a wrong option
├── UnsupportedError        exit_code 3   a model that pagedc cannot compile; raised before any weight is read
├── ToolchainError          exit_code 4   a compiler or device is missing or failed
├── PackageError            exit_code 4   a package that is none, is damaged, or is not for this machine
├── VerificationError       exit_code 5   a package that departs from its model
├── OutputError             exit_code 1   a package that cannot be written: disk full, no permission
└── InternalError           exit_code 1   a mistake of pagedc's own

Each message is one line, names the offending value, and says what to do where there is something to do.
"""


class CompileError(Exception):
    """Root of what the compiler raises on purpose."""

    exit_code = 1


class CheckpointError(CompileError):
    """A model that cannot be found or read."""

    exit_code = 2


class OptionError(CompileError):
    """A wrong option."""

    exit_code = 2


class UnsupportedError(CompileError):
    """A model that pagedc cannot compile."""

    exit_code = 3


class ToolchainError(CompileError):
    """A compiler or device is missing or failed."""

    exit_code = 4


class PackageError(CompileError):
    """A package that is none, is damaged, or is not for this machine."""

    exit_code = 4


class VerificationError(CompileError):
    """A package that departs from its model."""

    exit_code = 5


class OutputError(CompileError):
    """A package that cannot be written."""


class InternalError(CompileError):
    """A mistake of pagedc's own."""
