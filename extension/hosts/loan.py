"""A host's model as it is lent."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from ...core.session import LiveModel


class Loan(ABC):
    """A host's model as it is lent for one `borrow`."""

    @abstractmethod
    def live(self) -> LiveModel:
        """The model in the core's words."""

    @abstractmethod
    def is_current(self) -> bool:
        """Whether the host still has this very model loaded."""

    @abstractmethod
    def take_out(self) -> None:
        """Take the LoRAs out that the host has merged into the weights."""

    @abstractmethod
    def put_back(self) -> None:
        """Merge those LoRAs again, as the host would."""

    @abstractmethod
    def networks(self) -> tuple[nn.Module, ...]:
        """The host's own modules: its U-Net, then what holds its text encoders."""

    @contextmanager
    def drawing(self) -> Iterator[None]:
        """What the host must not do by itself while it draws on what it has lent."""
        yield

    @contextmanager
    def plain(self) -> Iterator[None]:
        """The weights without LoRAs for the length of a with block."""
        self.take_out()
        try:
            yield
        finally:
            if self.is_current():
                self.put_back()
