"""The normalisation that a network was trained with, which the user states: mean and deviation of the pixels."""

from dataclasses import dataclass

from mnist_runtime.errors import OptionError


@dataclass(frozen=True)
class Normalisation:
    """Mean and standard deviation of pixels in [0, 1], intensity / 255, as of torchvision's ToTensor.

    >>> Normalisation(0.1307, 0.3081)
    Normalisation(mean=0.1307, std=0.3081)
    >>> Normalisation(33.3, 78.6)
    Traceback (most recent call last):
    ...
    mnist_runtime.errors.OptionError: mean is 33.3 and std 78.6, and must be those of pixels in [0, 1]: ...
    """

    mean: float
    """Mean that training subtracted from each pixel, 0 to 1."""
    std: float
    """Deviation that training then divided by, above 0 and at most 1."""

    def __post_init__(self) -> None:
        """Refuse what no pixels in [0, 1] have, NaN included."""
        if not (0 <= self.mean <= 1 and 0 < self.std <= 1):
            raise OptionError(
                f"mean is {self.mean:g} and std {self.std:g}, and must be those of pixels in [0, 1]: "
                "a mean of 0 to 1, and a deviation above 0 and at most 1"
            )

    @classmethod
    def of(cls, mean: float | None, std: float | None) -> "Normalisation | None":
        """Return the normalisation, or None if there is none.

        Raises:
            OptionError: one is given without the other, or they are no mean and deviation of pixels in [0, 1].
        """
        if mean is None and std is None:
            return None
        if mean is None or std is None:
            raise OptionError("mean and std belong together; give both")
        return cls(mean, std)
