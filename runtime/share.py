"""An amount that packages share, as the command line names it; nothing else is imported to read one."""

from typing import NamedTuple

from pagedc.runtime.errors import UsageError


class Share(NamedTuple):
    """An amount for all packages together, and in which proportion they get it; no weights: alike."""

    total: int
    weights: tuple[float, ...] = ()

    def weights_of(self, num_packages: int, option: str) -> tuple[float, ...]:
        """One weight a package; raises UsageError."""
        if self.weights and len(self.weights) != num_packages:
            raise UsageError(
                f"{option} has {len(self.weights)} weights for {num_packages} packages: give one a package"
            )
        return self.weights or (1.0,) * num_packages
