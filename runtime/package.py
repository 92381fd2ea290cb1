"""Open a package: check everything that can be checked before a byte of it is trusted or run.

A package may have been copied, cut short, edited or made for another machine. Each of these ends in one PackageError of
one line that says what is wrong and what to do; nothing is loaded before all checks have passed.
"""

from pathlib import Path

from pagedc.runtime.manifest import Manifest


class Package:
    """A package directory whose manifest, files and machine have been checked.

    >>> package = Package.open("smollm2-135m.pagedc")
    >>> package.manifest.model.name
    """

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: str | Path, *, verify: bool = False) -> "Package":
        """Check a package and return it; raises PackageError.

        Sizes of all files and hashes of all but the weights are compared with the manifest; of the weights too with
        `verify`.
        """
        raise NotImplementedError

    @property
    def program_path(self) -> Path:
        """The library that is loaded: model.so."""
        raise NotImplementedError

    @property
    def tokenizer_path(self) -> Path:
        """The directory with tokenizer.json, chat_template.jinja, …"""
        raise NotImplementedError
