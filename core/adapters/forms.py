"""The forms of adapters: what each algorithm's tensors say a layer's weight should become.

An update is one layer's tensors by their suffix in a file. Its `delta` is what the network adds to
the weight at strength 1, so that for every algorithm W' = W + strength * delta. For DoRA, IA3,
GLoRA and OFT it depends on the weight itself; for the others on its shape alone.

Formulas: Hu et al. 2021 (LoRA), Hyeon-Woo et al. 2022 (LoHa), Yeh et al. 2024 (LoKr, LoCon, IA3 as
in LyCORIS), Liu et al. 2024 (DoRA), Chavan et al. 2023 (GLoRA), Qiu et al. 2023 (OFT), Liu et al.
2023 (BOFT). Shape suffixes: R rank, I inputs, O outputs.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import ConfigError

Tensors = Mapping[str, Tensor]

UP, DOWN, MID, ALPHA, DORA = (
    "lora_up.weight",
    "lora_down.weight",
    "lora_mid.weight",
    "alpha",
    "dora_scale",
)
_BIASES = ("diff_b", "b_norm")


@dataclass(frozen=True, slots=True)
class Update:
    """One layer's change: its tensors by suffix ("lora_up.weight", "alpha", ...)."""

    tensors: Tensors

    @property
    def form(self) -> "Form":
        """How the tensors are meant. ConfigError where they are no whole update."""
        return form_of(self.tensors)

    @property
    def needs_weight(self) -> bool:
        """Whether delta depends on the weight's numbers, not only on its shape."""
        return self.form.needs_weight or DORA in self.tensors

    @property
    def is_plain(self) -> bool:
        """Whether it is LoRA's two factors and nothing else."""
        return set(self.tensors) <= {UP, DOWN, ALPHA} and {UP, DOWN} <= set(self.tensors)

    def delta(self, weight: Tensor) -> Tensor | None:
        """Return what is added to the weight at strength 1, fp32, in its shape and on its device.

        None where only the bias changes. ConfigError where the tensors do not fit the weight.
        """
        own = {name: t.to(weight.device, torch.float32) for name, t in self.tensors.items()}
        form = self.form
        if form.delta is None:
            return None
        try:
            delta = form.delta(own, weight)
            if delta.shape[0] != weight.shape[0] or delta.numel() != weight.numel():
                raise RuntimeError(f"it gives {tuple(delta.shape)}")
            delta = delta.reshape(weight.shape)
            return _decomposed(own[DORA], delta, weight) if DORA in own else delta
        except (RuntimeError, IndexError) as error:
            shapes = ", ".join(f"{n} {tuple(t.shape)}" for n, t in self.tensors.items())
            raise ConfigError(
                f"{form.name} tensors ({shapes}) do not fit a layer whose weight is "
                f"{tuple(weight.shape)}: the network was made for another base model. "
                "Use the one it was trained on."
            ) from error

    def bias_delta(self) -> Tensor | None:
        """Return what is added to the bias at strength 1, fp32; None where it stays."""
        return next((self.tensors[n].float() for n in _BIASES if n in self.tensors), None)

    def times(self, strength: float) -> "Update":
        """Return the update of the same form whose delta is `strength` times this one's.

        ConfigError for DoRA and OFT, whose deltas are no multiples of a tensor.
        """
        form = self.form
        if DORA in self.tensors or (not form.scaled and form.delta is not None):
            name = "DoRA" if DORA in self.tensors else form.name
            raise ConfigError(f"{name} can't be scaled in its own form; bake it to LoRA or `diff`")
        own = dict(self.tensors)
        if ALPHA in form.scaled:
            own.setdefault(ALPHA, torch.tensor(float(split_rank(self))))
        scaled = (*form.scaled, *_BIASES)
        return Update({n: t.float() * strength if n in scaled else t for n, t in own.items()})

    def cut(self, rank: int) -> "Update":
        """Return DyLoRA's first `rank` components, on the scale of all; others as they are."""
        if not rank or UP not in self.tensors or rank >= len(self.tensors[DOWN]):
            return self
        full = len(self.tensors[DOWN])
        cut = dict(self.tensors)
        cut[UP], cut[DOWN] = cut[UP][:, :rank], cut[DOWN][:rank]
        if MID in cut:
            cut[MID] = cut[MID][:rank, :rank]
        cut[ALPHA] = torch.tensor(_alpha(self.tensors, full) * rank / full)
        return Update(cut)

    def to(self, device: torch.device | str) -> "Update":
        """Return the update with its tensors on a device."""
        return Update({name: tensor.to(device) for name, tensor in self.tensors.items()})


class Form(NamedTuple):
    """One algorithm: how its files tell, and what its tensors stand for.

    required: every tensor of one of these sets is there. scaled: the tensors that a multiple of
    delta multiplies; empty where there are none.
    """

    name: str
    title: str
    required: tuple[frozenset[str], ...]
    delta: Callable[[Tensors, Tensor], Tensor] | None
    scaled: tuple[str, ...] = ()
    needs_weight: bool = False


def form_of(tensors: Tensors) -> Form:
    """Return the form of a layer's tensors; ConfigError where they are none, or not whole."""
    names = set(tensors)
    for form in FORMS:
        if any(required <= names for required in form.required):
            return form
    raise ConfigError(f"{', '.join(sorted(names))} are no whole adapter of a known kind")


def _alpha(tensors: Tensors, rank: int) -> float:
    """A file without alpha means scale 1 in every host."""
    known = ALPHA in tensors and not tensors[ALPHA].is_meta
    return float(tensors[ALPHA]) if known else float(rank)


def scale_of(tensors: Tensors, rank: int) -> float:
    """Return alpha / rank, the factor of a product of factors of this rank."""
    return _alpha(tensors, rank) / rank


def _lora(t: Tensors, weight: Tensor) -> Tensor:
    up_OR, down_RI = t[UP].flatten(1), t[DOWN]  # noqa: N806
    scale = scale_of(t, len(down_RI))
    if MID in t:
        return scale * _tucker(t[MID], up_OR.t(), down_RI.flatten(1))
    if weight.dim() == 4 and down_RI.dim() == 4 and down_RI.shape[1:] != weight.shape[1:]:
        raise RuntimeError("another kernel")
    return (scale * up_OR) @ down_RI.flatten(1)


def _tucker(core: Tensor, up_RO: Tensor, down_RI: Tensor) -> Tensor:  # noqa: N803
    """core: (R, R, kh, kw), its first side that of the outputs."""
    return torch.einsum("mn...,mo,ni->oi...", core, up_RO, down_RI)


def _loha(t: Tensors, weight: Tensor) -> Tensor:
    del weight
    halves = []
    for half in ("hada_w1", "hada_w2"):
        a, b = t[f"{half}_a"], t[f"{half}_b"]
        core = t.get(half.replace("w", "t"))
        halves.append(a.flatten(1) @ b.flatten(1) if core is None else _tucker(core, a, b))
    return halves[0].mul_(halves[1]).mul_(scale_of(t, len(t["hada_w1_b"])))


def _lokr(t: Tensors, weight: Tensor) -> Tensor:
    del weight
    rank = next((len(t[n]) for n in ("lokr_w1_b", "lokr_w2_b") if n in t), None)
    w1 = t["lokr_w1"] if "lokr_w1" in t else t["lokr_w1_a"] @ t["lokr_w1_b"]
    if "lokr_w2" in t:
        w2 = t["lokr_w2"]
    elif "lokr_t2" in t:
        w2 = _tucker(t["lokr_t2"], t["lokr_w2_a"], t["lokr_w2_b"])
    else:
        a, b = t["lokr_w2_a"], t["lokr_w2_b"]
        w2 = (a @ b.flatten(1)).reshape(len(a), *b.shape[1:])
    product = torch.kron(w1.reshape(*w1.shape, *(1 for _ in w2.shape[2:])), w2.contiguous())
    return product if rank is None else product * scale_of(t, rank)


def _full(t: Tensors, weight: Tensor) -> Tensor:
    del weight
    return t["diff"]


def _norm(t: Tensors, weight: Tensor) -> Tensor:
    del weight
    return t["w_norm"]


def _ia3(t: Tensors, weight: Tensor) -> Tensor:
    on_input = bool(t["on_input"]) if not t["on_input"].is_meta else False
    factor = t["weight"].flatten()
    side = 1 if on_input or factor.numel() != len(weight) else 0
    shape = [1] * weight.dim()
    shape[side] = -1
    return weight.float() * factor.reshape(shape)


def _glora(t: Tensors, weight: Tensor) -> Tensor:
    """Return W A1 A2 + B1 B2; files from before LyCORIS 2 have the factors' names swapped."""
    a1, a2, b1, b2 = (t[f"{name}.weight"].flatten(1) for name in ("a1", "a2", "b1", "b2"))
    rank = len(a2)
    if len(b2) != b1.shape[1] or a1.shape[1] != rank or len(b1) != len(weight):
        a1, a2, b1, b2, rank = a2, a1, b2, b1, len(a1)
    if "bm.weight" in t:
        added = _tucker(t["bm.weight"], b1.t(), b2)
    else:
        added = (b1 @ b2).reshape(weight.shape)
    own = weight.float()
    turned = torch.einsum("oi...,ij,jk->ok...", own, a1, a2)
    return scale_of(t, rank) * (turned + added)


def _oft(t: Tensors, weight: Tensor) -> Tensor:
    """Return R W - W for the rotation R of Cayley's form; alpha bounds it (times the outputs)."""
    blocks = t["oft_blocks"] if "oft_blocks" in t else t["oft_diag"]
    skew = blocks - blocks.transpose(-1, -2)
    bound = float(t[ALPHA]) * len(weight) if ALPHA in t and not t[ALPHA].is_meta else 0.0
    norm = torch.linalg.vector_norm(skew) + 1e-8
    if bound > 0:
        skew = skew * (bound / norm).clamp(max=1)
    one = torch.eye(blocks.shape[-1], device=blocks.device)
    rotation = (one + skew) @ torch.linalg.inv(one - skew)
    own = weight.float()
    if blocks.dim() == 4:
        turned = _butterfly(rotation, own)
    else:
        cut = own.reshape(blocks.shape[0], blocks.shape[1], -1)
        turned = torch.einsum("knm,knx->kmx", rotation, cut).reshape(own.shape)
    if "rescale" in t:
        turned = turned * t["rescale"].reshape(-1, *(1 for _ in own.shape[1:]))
    return turned - own


def _butterfly(rotations: Tensor, weight: Tensor) -> Tensor:
    """Apply BOFT's rotations (m, blocks, b, b) one after the other, each on shuffled outputs."""
    size = rotations.shape[-1]
    for level, rotation in enumerate(rotations):
        width = 2**level * (size // 2)
        shuffled = weight.reshape(-1, 2, width, weight[0].numel()).transpose(1, 2)
        cut = shuffled.reshape(-1, size, weight[0].numel())
        turned = torch.einsum("bij,bjx->bix", rotation, cut)
        turned = turned.reshape(-1, width, 2, weight[0].numel()).transpose(1, 2)
        weight = turned.reshape(weight.shape)
    return weight


def _decomposed(magnitude: Tensor, delta: Tensor, weight: Tensor) -> Tensor:
    """DoRA: the adapted weight has the direction of W + delta and its own length.

    The lengths run along the outputs or along the inputs, which the magnitude's shape tells:
    (O, 1, ..) or (1, I, ..).
    """
    own = weight.float()
    adapted = own + delta
    on_outputs = magnitude.shape[0] == weight.shape[0] and magnitude.numel() == len(weight)
    side = 0 if on_outputs else 1
    others = [axis for axis in range(weight.dim()) if axis != side]
    shape = [1] * weight.dim()
    shape[side] = -1
    length = torch.linalg.vector_norm(adapted, dim=others, keepdim=True)
    length = length + torch.finfo(torch.float32).eps
    return adapted * (magnitude.reshape(shape) / length) - own


def _needs(*names: str) -> frozenset[str]:
    return frozenset(names)


_W1, _W2 = ("lokr_w1_a", "lokr_w1_b"), ("lokr_w2_a", "lokr_w2_b")
FORMS: tuple[Form, ...] = (
    Form("lora", "LoRA", (_needs(UP, DOWN),), _lora, (UP,)),
    Form(
        "loha",
        "LoHa",
        (_needs("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"),),
        _loha,
        ("hada_w1_a",),
    ),
    Form(
        "lokr",
        "LoKr",
        (
            _needs("lokr_w1", "lokr_w2"),
            _needs("lokr_w1", *_W2),
            _needs(*_W1, "lokr_w2"),
            _needs(*_W1, *_W2),
        ),
        _lokr,
        ("lokr_w1", "lokr_w1_a"),
    ),
    Form(
        "glora",
        "GLoRA",
        (_needs("a1.weight", "a2.weight", "b1.weight", "b2.weight"),),
        _glora,
        (ALPHA,),
        needs_weight=True,
    ),
    Form("oft", "OFT", (_needs("oft_blocks"), _needs("oft_diag")), _oft, needs_weight=True),
    Form("full", "full", (_needs("diff"),), _full, ("diff",)),
    Form("norm", "norm", (_needs("w_norm"),), _norm, ("w_norm",)),
    Form("ia3", "IA3", (_needs("weight", "on_input"),), _ia3, ("weight",), needs_weight=True),
    Form("bias", "bias", (_needs("diff_b"), _needs("b_norm")), None),
)
"""Every algorithm that files are read of; LoCon is LoRA on a convolution, DyLoRA LoRA to be cut."""

SUFFIXES: frozenset[str] = frozenset(
    {
        *(name for form in FORMS for required in form.required for name in required),
        *(MID, ALPHA, DORA, "hada_t1", "hada_t2", "lokr_t2", "bm.weight", "rescale"),
        *_BIASES,
    }
)


def split_rank(update: Update) -> int:
    """Return the rank that an update was made with; 0 for one without."""
    for name in (DOWN, "hada_w1_b", "lokr_w2_b", "lokr_w1_b"):
        if name in update.tensors:
            return len(update.tensors[name])
    return min(update.tensors["a1.weight"].shape[:2]) if "a1.weight" in update.tensors else 0
