"""From any delta to LoRA's two factors: exactly where the form allows, else by singular values.

Shape suffixes: R rank, I inputs (with the kernel), O outputs.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ..errors import ConfigError
from .forms import ALPHA, DOWN, MID, UP, Tensors, Update, scale_of, split_rank

_OVERSAMPLED = 16  # columns of a random sketch beside those that are wanted
_POWERS = 3
_WIDE = 4  # a matrix this many times the rank is sketched


class Factors(NamedTuple):
    """LoRA's factors of a delta at scale 1, and the part of it that they miss.

    up_OR @ down_RI is the delta; error: Frobenius norm of what is missed / that of the delta.
    """

    up_OR: Tensor  # noqa: N815
    down_RI: Tensor  # noqa: N815
    error: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RankRule:
    """Which rank a delta keeps, as kohya's `resize_lora` counts.

    kind: "fixed" is `limit` itself; "ratio" keeps singular values over the largest / value,
    "cumulative" the first ones whose sum is the part `value` of all, "frobenius" those whose norm
    is. limit: the largest rank in any case.
    """

    kind: Literal["fixed", "ratio", "cumulative", "frobenius"] = "fixed"
    value: float = 0.0
    limit: int = 128

    def __post_init__(self) -> None:
        if self.limit < 1:
            raise ConfigError(f"the rank is {self.limit}; it must be 1 or more")
        if self.kind == "ratio" and not self.value >= 1:
            raise ConfigError(f"the ratio of singular values is {self.value}; it must be 1 or more")
        if self.kind in {"cumulative", "frobenius"} and not 0 < self.value <= 1:
            raise ConfigError(f"the part to keep is {self.value}; it must lie between 0 and 1")

    def rank(self, values: Tensor) -> int:
        """Return the rank for these singular values, falling; at least 1."""
        wanted = len(values)
        if self.kind == "ratio":
            wanted = int((values > values[0] / self.value).sum())
        elif self.kind == "cumulative":
            wanted = _first_reaching(values, self.value)
        elif self.kind == "frobenius":
            wanted = _first_reaching(values.square(), self.value**2)
        return max(1, min(wanted, self.limit, len(values)))


def factors_of(update: Update, weight: Tensor, rule: RankRule, *, whole: bool = False) -> Factors:
    """Return LoRA's factors of an update's delta on a weight of this shape, as `rule` has them.

    whole: a form that is a product of factors keeps it exactly, up to the rule's limit, and LoRA at
    any rank; else only where the rule is a fixed rank that they do not exceed.
    """
    exact = None if update.needs_weight else exact_factors(update.tensors)
    if exact is not None:
        limit = max(rule.limit, split_rank(update)) if whole else rule.limit
        if (whole or rule.kind == "fixed") and len(exact.down_RI) <= limit:
            return exact
        return resized(exact, rule)
    delta = update.delta(weight)
    if delta is None:
        raise ConfigError("a change of the bias alone has no factors")
    return best_factors(delta.flatten(1), rule)


def exact_factors(tensors: Tensors) -> Factors | None:
    """Return the factors that a form consists of; None where its delta is no such product."""
    t = {name: tensor.float() for name, tensor in tensors.items()}
    if UP in t:
        rank = len(t[DOWN])
        down = t[DOWN].flatten(1)
        if MID in t:
            down = torch.einsum("mn...,ni->mi...", t[MID], down).flatten(1)
        return Factors(t[UP].flatten(1) * scale_of(t, rank), down)
    if "hada_w1_a" in t and "hada_t1" not in t:
        rank = len(t["hada_w1_b"])
        up = torch.einsum("oa,ob->oab", t["hada_w1_a"].flatten(1), t["hada_w2_a"].flatten(1))
        down = torch.einsum("ai,bi->abi", t["hada_w1_b"].flatten(1), t["hada_w2_b"].flatten(1))
        return Factors(up.flatten(1) * scale_of(t, rank), down.flatten(0, 1))
    if "lokr_w2_a" in t and "lokr_t2" not in t:
        return _kronecker(t)
    return None


def best_factors(matrix_OI: Tensor, rule: RankRule) -> Factors:  # noqa: N803
    """Return the factors of a matrix by its largest singular values (Eckart and Young 1936)."""
    matrix = matrix_OI.float()
    whole = float(torch.linalg.matrix_norm(matrix))
    if whole == 0:
        return Factors(matrix.new_zeros(len(matrix), 1), matrix.new_zeros(1, matrix.shape[1]))
    left, values, right = _singular(matrix, rule)
    rank = rule.rank(values)
    kept = float(values[:rank].square().sum())
    error = max(1 - kept / whole**2, 0.0) ** 0.5
    return Factors(*_balanced(left[:, :rank], values[:rank], right[:rank]), error)


def resized(factors: Factors, rule: RankRule) -> Factors:
    """Return the same product with the rank that `rule` keeps, by its singular values."""
    left, up = torch.linalg.qr(factors.up_OR.float())
    right, down = torch.linalg.qr(factors.down_RI.float().t())
    core = best_factors(up @ down.t(), rule)
    return Factors(left @ core.up_OR, core.down_RI @ right.t(), core.error)


def concatenated(parts: list[Factors]) -> Factors:
    """Return the factors of the sum of several products: exact, ranks add up."""
    return Factors(
        torch.cat([part.up_OR for part in parts], 1), torch.cat([part.down_RI for part in parts])
    )


def as_lora(factors: Factors, shape: tuple[int, ...]) -> dict[str, Tensor]:
    """Return a file's tensors for factors on a weight of this shape, with alpha as the rank."""
    up, down = factors.up_OR, factors.down_RI
    ones = (1,) * (len(shape) - 2)
    return {
        DOWN: down.reshape(len(down), *shape[1:]).contiguous(),
        UP: up.reshape(*up.shape, *ones).contiguous(),
        ALPHA: torch.tensor(float(len(down))),
    }


def _kronecker(t: Tensors) -> Factors:
    """Return kron(W1, A B) = kron(L, A) kron(R, B), with L R = W1 and one of them the identity."""
    a, b = t["lokr_w2_a"], t["lokr_w2_b"]
    if "lokr_w1" in t:
        w1 = t["lokr_w1"]
        tall = w1.shape[0] >= w1.shape[1]
        one = torch.eye(min(w1.shape))
        left, right = (w1, one) if tall else (one, w1)
    else:
        left, right = t["lokr_w1_a"], t["lokr_w1_b"]
    right = right.reshape(*right.shape, *(1 for _ in b.shape[2:]))
    up = torch.kron(left, a) * scale_of(t, len(b))
    return Factors(up, torch.kron(right, b.contiguous()).flatten(1))


def _singular(matrix: Tensor, rule: RankRule) -> tuple[Tensor, Tensor, Tensor]:
    """The singular values of a matrix, all of them or, where only few are wanted, the largest.

    Of a large matrix by subspace iteration from a fixed start (Halko et al. 2011).
    """
    wanted = rule.limit + _OVERSAMPLED
    if rule.kind == "cumulative" or min(matrix.shape) <= _WIDE * wanted:
        return torch.linalg.svd(matrix, full_matrices=False)
    chance = torch.Generator().manual_seed(0)
    sketch = torch.randn(matrix.shape[1], wanted, generator=chance).to(matrix.device)
    basis, _ = torch.linalg.qr(matrix @ sketch)
    for _ in range(_POWERS):
        basis, _ = torch.linalg.qr(matrix.t() @ basis)
        basis, _ = torch.linalg.qr(matrix @ basis)
    left, values, right = torch.linalg.svd(basis.t() @ matrix, full_matrices=False)
    return basis @ left, values, right


def _balanced(left: Tensor, values: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Factors that share the singular values evenly, so that half precision holds both."""
    root = values.sqrt()
    return left * root, right * root[:, None]


def _first_reaching(numbers: Tensor, part: float) -> int:
    sums = numbers.double().cumsum(0)
    return int((sums < part * sums[-1]).sum()) + 1
