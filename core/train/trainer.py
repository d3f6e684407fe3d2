"""One training: its position, factors and optimizer, moved on by whole optimizer steps."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from ..adapters.network import Network
from ..config.recipe import Recipe
from ..data.batches import Batch, BatchPlan
from ..data.cache import LatentCache, TextCache
from ..diffusion.schedule import scaled_linear
from ..errors import FileError, TrainerError
from ..models.base_model import BaseModel
from ..models.text import Condition, TextOptions
from .lr import lr_factor
from .optimizers import make_optimizer
from .precision import Precision, make_scaler
from .recorded import RecordedSteps, StepInputs, recorder_for
from .step import Draws, Latents, denoising_loss, draw, make_objective


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingData:
    """What the loop draws from, encoded once.

    batches: which pictures each step sees. latents: (mean, std) of every picture, each
    (4, h, w), fp32 on the CPU. captions: one for each picture. conditions: encoded text by caption,
    (tokens, C) and the pooled vector (P,) where there is one, or None while the text encoders
    themselves are trained. time_ids: (N, 6), each picture's sizes and crop; see `encode.time_ids`.
    """

    batches: BatchPlan
    latents: LatentCache
    captions: list[str]
    conditions: TextCache | None
    time_ids: Tensor


class Trainer:
    """Advances a network that is attached to `base` by one optimizer step at a time.

    `step` counts the steps taken. All chance is a function of (seed, step), and the learning rate
    of (step, steps): two trainers in the same state go on identically.
    """

    def __init__(
        self,
        base: BaseModel,
        network: Network,
        data: TrainingData,
        recipe: Recipe,
        precision: Precision,
    ) -> None:
        self.step = 0
        self.images = 0
        self.between_steps = True  # False while factors and optimizer may be of different steps
        self.steps = data.batches.steps
        self._base, self._network, self._data, self._recipe = base, network, data, recipe
        self._device, self._dtype = base.device, precision.compute
        schedule = scaled_linear(
            prediction=base.prediction, zero_terminal_snr=base.zero_terminal_snr
        )
        self._text = TextOptions.of(recipe)
        objective = recipe.objective
        self._objective = make_objective(
            schedule, objective.min_snr_gamma, objective.noise_offset, self._device
        )
        self._optimizer = make_optimizer(network.flat_parameters(), recipe.optimizer)
        self._scaler = make_scaler(precision, self._device)
        self._parameters = [
            parameter for group in self._optimizer.param_groups for parameter in group["params"]
        ]
        self._recorded: RecordedSteps | None = None

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Let steps be recorded and replayed in a with block, where the device can do that.

        To be entered while the network is trained. All memory of it is given back.
        """
        record = recorder_for(self._device, self._recipe.memory)
        if record is None:
            yield
            return
        weights = [*self._base.unet.parameters(), *self._parameters]
        recorded = RecordedSteps(self._add_gradients, self._network.backward, weights, record)
        try:
            self._recorded = recorded
            yield
        finally:
            self._recorded = None
            recorded.release()

    @property
    def lr(self) -> float:
        """The learning rate of the first part at the current step."""
        group = self._optimizer.param_groups[0]
        return group["base_lr"] * lr_factor(self._recipe.lr_schedule, self.step, self.steps)

    def advance(self) -> Tensor:
        """Take one optimizer step; its mean loss as a 0-dim tensor on the device."""
        factor = lr_factor(self._recipe.lr_schedule, self.step, self.steps)
        for group in self._optimizer.param_groups:
            group["lr"] = group["base_lr"] * factor
        micro_batches = self._data.batches.of_step(self.step)
        total = self._gradients(micro_batches)
        self._refuse_divergence(total)
        self._scaler.unscale_(self._optimizer)
        if self._recipe.optimizer.max_grad_norm > 0:
            torch.nn.utils.clip_grad_norm_(self._parameters, self._recipe.optimizer.max_grad_norm)
        self.between_steps = False
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._network.after_step()
        self.images += sum(len(batch.indices) for batch in micro_batches)
        self.step += 1
        self.between_steps = True
        return total

    def state_tensors(self) -> dict[str, Tensor]:
        """The optimizer's moments by factor name and the loss scale, to be put back exactly."""
        tensors = {}
        for part, (flat,) in self._network.flat_parameters().items():
            for key, value in self._optimizer.state[flat].items():
                if value.shape == flat.shape:
                    cut = self._network.cut(part, value)
                    tensors.update({f"optimizer.{key}.{name}": v for name, v in cut.items()})
                else:
                    tensors[f"optimizer.{key}.{part}"] = value
        for key, value in self._scaler.state_dict().items():
            tensors[f"scaler.{key}"] = torch.tensor(float(value), dtype=torch.float64)
        return tensors

    @torch.no_grad()
    def restore(self, step: int, images: int, tensors: dict[str, Tensor]) -> None:
        """Go back to a saved position. The factors themselves are the network's to restore."""
        self.step, self.images = step, images
        if any(name.startswith("optimizer.") for name in tensors):
            for part, (flat,) in self._network.flat_parameters().items():
                self._optimizer.state[flat] = self._moments(part, flat, tensors)
        scale = {
            key.removeprefix("scaler."): value.item()
            for key, value in tensors.items()
            if key.startswith("scaler.")
        }
        if scale:
            scale["_growth_tracker"] = int(scale["_growth_tracker"])
            scale["growth_interval"] = int(scale["growth_interval"])
            self._scaler.load_state_dict(scale)

    def _moments(self, part: str, flat: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """One part's state of the optimizer, put together from what was saved by name."""
        try:
            step = tensors[f"optimizer.step.{part}"].clone()
            state = {"step": step if self._device.type == "cpu" else step.to(self._device)}
            for key in ("exp_avg", "exp_avg_sq"):
                state[key] = torch.empty_like(flat)
                for name, view in self._network.cut(part, state[key]).items():
                    view.copy_(tensors[f"optimizer.{key}.{name}"])
        except (KeyError, RuntimeError) as error:
            raise FileError(
                f"the resume state does not hold this network's optimizer ({error}); start with "
                "--restart"
            ) from error
        return state

    def _gradients(self, micro_batches: Sequence[Batch]) -> Tensor:
        """Add up the gradients of a step; its loss. Recordings make room where memory runs out."""
        try:
            return self._sum(micro_batches)
        except torch.cuda.OutOfMemoryError:
            if self._recorded is None or not self._recorded.release():
                raise
        self._network.after_step()  # forgets the gradients of a part of the step
        return self._sum(micro_batches)

    def _sum(self, micro_batches: Sequence[Batch]) -> Tensor:
        total = torch.zeros((), device=self._device)
        work = self._add_gradients if self._recorded is None else self._recorded.run
        for micro, batch in enumerate(micro_batches):
            total += work(self._inputs(batch, micro), len(micro_batches))
        return total

    def _add_gradients(self, inputs: StepInputs, share: int) -> Tensor:
        """Add the gradients of a micro-batch, one of `share` in its step; its part of the loss."""
        loss = self._loss(inputs) / share
        self._network.backward(self._scaler.scale(loss))
        return loss.detach()

    def _loss(self, inputs: StepInputs) -> Tensor:
        latents, draws, condition, sizes = inputs

        def predict(xt: Tensor, timestep: Tensor) -> Tensor:
            return self._base.predict(xt, timestep, condition, sizes)

        return denoising_loss(predict, latents, draws, self._objective)

    def _inputs(self, batch: Batch, micro: int) -> StepInputs:
        means, stds = zip(*(self._data.latents[index] for index in batch.indices), strict=True)
        latents = Latents(self._moved(torch.stack(means)), self._moved(torch.stack(stds)))
        seed = self._recipe.training.seed
        draws = draw(
            seed, self.step, micro, latents.mean.shape, self._recipe.objective.noise_offset
        )
        draws = Draws(*(self._moved(tensor) for tensor in draws))
        condition = self._condition([self._data.captions[index] for index in batch.indices])
        sizes = None
        if condition.pooled is not None:
            sizes = self._moved(self._data.time_ids[list(batch.indices)])
        return StepInputs(latents, draws, condition, sizes)

    def _condition(self, captions: list[str]) -> Condition:
        known = self._data.conditions
        if known is None:
            return self._base.encode_text(captions, self._text)
        contexts, pooled = zip(*(known[caption] for caption in captions), strict=True)
        vectors = [vector for vector in pooled if vector is not None]
        return Condition(self._stacked(contexts), self._stacked(vectors) if vectors else None)

    def _stacked(self, rows: Sequence[Tensor]) -> Tensor:
        return self._moved(torch.stack(tuple(rows)).to(self._dtype))

    def _moved(self, tensor: Tensor) -> Tensor:
        return tensor.to(self._device, non_blocking=True)

    def _refuse_divergence(self, loss: Tensor) -> None:
        """Stop before the factors are spoilt; on a GPU the loop notices when the loss arrives."""
        if self._device.type == "cpu" and not torch.isfinite(loss):
            raise diverged(self.step + 1, float(loss))


def diverged(step: int, loss: float) -> TrainerError:
    """The error for a loss that is no number any more."""
    return TrainerError(
        f"the loss became {loss} at step {step}: the training has diverged; lower "
        "optimizer.unet_lr and optimizer.text_encoder_lr, or set memory.precision to fp32 or bf16"
    )
