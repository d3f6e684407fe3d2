"""What every network can do on a base model, whether it is trained or was read from a file."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from torch import Tensor

from .block_weights import BlockWeights
from .blocks import block_of, in_order
from .strength import Strength
from .targets import UNET, Parts


class LiveNetwork:
    """A network that can be attached to a base model and used with any strengths.

    What depends on how it is attached is its subclasses': `attach`, `detach`, `is_attached_to` and
    `_show`, which makes the strengths that are set act.
    """

    def __init__(self) -> None:
        self._strength = Strength()
        self._step = 0

    @property
    def paths(self) -> tuple[str, ...]:
        """The adapted layers."""
        raise NotImplementedError

    @property
    def strength(self) -> Strength:
        """The strengths that are set."""
        return self._strength

    def tensors(self) -> dict[str, Tensor]:
        """Return all that the network consists of, by name, without a copy."""
        raise NotImplementedError

    def blocks(self) -> tuple[str, ...]:
        """Return the blocks that hold adapters, in the order of a block-weight vector."""
        return blocks_of(self.paths)

    def use(self, strength: Strength) -> None:
        """Set how strongly the adapters act from the next call on."""
        former, self._strength = self._strength, strength
        self._show(former)

    def set_strength(
        self,
        unet: float = 1.0,
        text_encoder: float = 1.0,
        block_weights: BlockWeights | None = None,
    ) -> None:
        """Set strengths by their numbers; see `use`."""
        self.use(Strength(unet=unet, text_encoder=text_encoder, block_weights=block_weights))

    @contextmanager
    def using(self, strength: Strength) -> Iterator[None]:
        """Set the strengths for the length of a with block, and the former ones after it."""
        former = self._strength
        try:
            self.use(strength)
            yield
        finally:
            self.use(former)

    @contextmanager
    def with_block_weights(
        self,
        block_weights: BlockWeights | None,
        unet: float = 1.0,
        text_encoder: float = 1.0,
    ) -> Iterator[None]:
        """Set strengths by their numbers for the length of a with block; see `using`."""
        chosen = Strength(unet=unet, text_encoder=text_encoder, block_weights=block_weights)
        with self.using(chosen):
            yield

    def at_step(self, step: int) -> None:
        """Take note that the sampling step `step` begins, counted from 1; 0 is none of them.

        A network with a window (`Strength`) acts on the U-Net in its steps alone, and outside of a
        sampling in any case; the text is encoded before the first step.
        """
        former, self._step = self._step, step
        window = self._strength.window
        if window is not None and window.acts_at(former) != window.acts_at(step):
            self._show(self._strength)

    def acting(self, path: str) -> float:
        """Return the strength with which the adapter of a path acts in the present step."""
        window = self._strength.window
        if window is not None and path.startswith(f"{UNET}.") and not window.acts_at(self._step):
            return 0.0
        return self._strength.of(path)

    def attach(self, parts: Parts) -> None:
        """Let a base model's layers be adapted until `detach`.

        ConfigError where a layer is missing, does not fit or is adapted already; the base is then
        as it was.
        """
        raise NotImplementedError

    def detach(self) -> None:
        """Leave the base model as it was; without effect where nothing is attached."""
        raise NotImplementedError

    def is_attached_to(self, parts: Parts) -> bool:
        """Whether the network is attached to this base model."""
        raise NotImplementedError

    @contextmanager
    def suspended(self, parts: Parts) -> Iterator[None]:
        """Have the base model as it is without networks for the length of a with block.

        Where this one is attached to it, it and those attached together with it are put back.
        """
        if not self.is_attached_to(parts):
            yield
            return
        put_back = self._take_off()
        try:
            yield
        finally:
            put_back(parts)

    @contextmanager
    def drawing(self) -> Iterator[None]:
        """Answer as quickly as it can for the length of a with block, in which nothing is trained.

        Between two calls of the base model strengths may be set as ever. To be entered while the
        network is attached; numbers are the same as without.
        """
        yield

    @contextmanager
    def attached(self, parts: Parts) -> Iterator[None]:
        """Attach for the length of a with block."""
        self.attach(parts)
        try:
            yield
        finally:
            self.detach()

    def _take_off(self) -> Callable[[Parts], None]:
        """Detach all that is attached together with the network; return what attaches it again."""
        self.detach()
        return self.attach

    def _show(self, former: Strength) -> None:
        """Make the strengths act; `former` is those before, or the same where the step changed."""
        raise NotImplementedError


def blocks_of(paths: Iterable[str]) -> tuple[str, ...]:
    """Return the blocks that layers, by path or key, lie in, in the order of a vector."""
    return in_order(block for block in map(block_of, paths) if block is not None)
