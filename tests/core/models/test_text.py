"""Conditions of captions against plain calls of transformers' models, tiny ones of random weights.

What sd-scripts makes of the hidden states is written here anew, chunk by chunk.
"""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from lora_loop.core.adapters.lora import init_lora, wrap
from lora_loop.core.errors import ConfigError
from lora_loop.core.models.text import (
    TEXT_USES,
    Condition,
    TextOptions,
    encode_captions,
    encode_ids,
    text_body,
)
from lora_loop.core.models.tokenizer import END, START, ClipTokenizer
from lora_loop.core.train.placement import gradient_checkpointing

LAYERS = 4
FAMILIES = sorted(TEXT_USES)
LONG = ", ".join(f"a {word} cat on mat {n}" for n in range(13) for word in ("red", "tiny"))
CAPTIONS = ["a photo of a cat", "", LONG, "<|endoftext|> in the text", "1girl, (solo:1.2)!~"]
PLAIN = TextOptions()


def make_encoder(seed: int, width: int = 32, *, projection: int = 0, end: int = END) -> Any:
    """A text encoder of 4 layers, none of whose weights is near zero or one."""
    config = CLIPTextConfig(
        vocab_size=END + 1,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        hidden_act="gelu" if projection else "quick_gelu",
        projection_dim=projection or 512,
        bos_token_id=START,
        eos_token_id=end,
        pad_token_id=END,
    )
    kind = CLIPTextModelWithProjection if projection else CLIPTextModel
    encoder = kind(config).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for tensor in encoder.parameters():
        deviation = tensor.shape[-1] ** -0.5 if tensor.ndim == 2 else 0.2
        tensor.normal_(0, 0.5 if len(tensor) > END else deviation, generator=generator)
    for name, tensor in encoder.named_parameters():
        if "norm" in name and name.endswith("weight"):
            tensor.add_(1)
    return encoder


SINGLE = make_encoder(1)
PAIR = (make_encoder(2), make_encoder(3, 48, projection=40))
ENCODERS = {"sd1": (SINGLE,), "sd2": (SINGLE,), "sdxl": PAIR}
WIDTH = {"sd1": 32, "sd2": 32, "sdxl": 80}


def encode(family: str, captions: list[str], options: TextOptions = PLAIN) -> Condition:
    return encode_captions(ENCODERS[family], TEXT_USES[family], ClipTokenizer(), captions, options)


def states_of(encoder: nn.Module, ids: Tensor) -> tuple[Tensor, ...]:
    """transformers' list: the embedding, then the states after each layer."""
    return encoder(ids, output_hidden_states=True).hidden_states


def padded_ids(captions: list[str], pad: int) -> Tensor:
    """Ids (B, 77) with the padding after each caption's own END."""
    tokenizer = ClipTokenizer()
    ids = tokenizer.encode(captions)
    for row, caption in zip(ids, captions, strict=True):
        row[min(tokenizer.count(caption), 75) + 2 :] = pad
    return ids


def parts_of(words: list[str], chunks: int) -> list[Tensor]:
    """The ids of words of one token each, 75 to a chunk."""
    ids = torch.cat([ClipTokenizer().encode([word])[0, 1:2] for word in words])
    return [ids[75 * n : 75 * (n + 1)] for n in range(chunks)]


def read_as(family: str, which: int, ids: Tensor) -> Tensor:
    """What the family reads of an encoder, from transformers' list of all states."""
    encoder = ENCODERS[family][which]
    states = states_of(encoder, ids)
    if family == "sdxl":
        return states[-2]
    return text_body(encoder).final_layer_norm(states[-1])


@pytest.mark.parametrize("clip_skip", [1, 2, 3, 4])
def test_sd1_reads_the_chosen_layer_and_the_final_norm(clip_skip):
    ids = ClipTokenizer().encode(CAPTIONS)
    wanted = text_body(SINGLE).final_layer_norm(states_of(SINGLE, ids)[-clip_skip])
    condition = encode("sd1", CAPTIONS, TextOptions(clip_skip=clip_skip))
    assert condition.pooled is None
    assert_close(condition.context, wanted)
    assert torch.equal(encode_ids(SINGLE, ids, clip_skip), condition.context)
    if clip_skip == 1:
        assert_close(condition.context, SINGLE(ids).last_hidden_state)


def test_sd2_reads_its_last_layer_and_pads_with_0():
    ids = padded_ids(CAPTIONS, 0)
    condition = encode("sd2", CAPTIONS)
    assert condition.pooled is None
    assert_close(condition.context, SINGLE(ids).last_hidden_state)
    assert not torch.allclose(condition.context, encode("sd1", CAPTIONS).context)


@pytest.mark.parametrize("end", [END, 2], ids=["end", "as in older files"])
def test_sdxl_reads_both_without_the_norm_and_pools_the_second(monkeypatch, end):
    encoders = (PAIR[0], make_encoder(3, 48, projection=40, end=end))
    monkeypatch.setitem(ENCODERS, "sdxl", encoders)
    first, second = padded_ids(CAPTIONS, END), padded_ids(CAPTIONS, 0)
    condition = encode("sdxl", CAPTIONS)
    one, two = states_of(encoders[0], first)[-2], states_of(encoders[1], second)[-2]
    assert_close(condition.context, torch.cat([one, two], dim=-1))
    assert condition.pooled is not None
    assert condition.pooled.shape == (len(CAPTIONS), 40)
    assert_close(condition.pooled, encoders[1](second).text_embeds)


@pytest.mark.parametrize("family", ["sd2", "sdxl"])
def test_clip_skip_is_for_sd1_alone(family):
    plain, skipping = encode(family, ["a cat"]), encode(family, ["a cat"], TextOptions(clip_skip=9))
    assert torch.equal(plain.context, skipping.context)


@pytest.mark.parametrize("clip_skip", [0, 5, -1])
def test_clip_skip_beyond_the_layers_is_refused(clip_skip):
    for captions in (["a cat"], []):
        with pytest.raises(ConfigError, match=rf"base.clip_skip is {clip_skip}.*4 layers"):
            encode("sd1", captions, TextOptions(clip_skip=clip_skip))


@pytest.mark.parametrize("chunks", [0, 4])
def test_no_other_number_of_chunks(chunks):
    with pytest.raises(ConfigError, match=rf"given {chunks} chunks.*1 to 3, for 75 to 225 tokens"):
        TextOptions(chunks=chunks)


@pytest.mark.parametrize("chunks", [1, 2, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_no_captions_give_an_empty_condition(family, chunks):
    for weighted in (False, True):
        condition = encode(family, [], TextOptions(chunks=chunks, weighted=weighted))
        assert condition.context.shape == (0, 75 * chunks + 2, WIDTH[family])
        if family == "sdxl":
            assert condition.pooled is not None
            assert condition.pooled.shape == (0, 40)


@pytest.mark.parametrize("words", [1, 74, 75, 76, 149, 150, 151, 224, 225, 226, 300])
@pytest.mark.parametrize("chunks", [1, 2, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_chunks_are_encoded_alone_and_stitched(family, chunks, words):
    named = [("cat", "dog", "sun", "on", "red")[n % 5] for n in range(words)]
    contexts, pooled = [], None
    for which, use in enumerate(TEXT_USES[family]):
        rows = []
        for part in parts_of(named, chunks):
            row = torch.full((1, 77), use.pad)
            row[0, 0], row[0, 1 : 1 + len(part)], row[0, 1 + len(part)] = START, part, END
            rows.append(row)
        states = [read_as(family, which, row)[0] for row in rows]
        if family == "sd2":
            for row, state in zip(rows[1:], states[1:], strict=True):
                if row[0, 1] == END:
                    state[1] = state[2].clone()
        inner = [state[1:76] for state in states]
        contexts.append(torch.cat([states[0][:1], *inner, states[-1][76:]]))
        if family == "sdxl" and which == 1:
            pooled = PAIR[1](rows[0]).text_embeds[0]
    condition = encode(family, [" ".join(named)], TextOptions(chunks=chunks))
    assert condition.context.shape == (1, 75 * chunks + 2, WIDTH[family])
    assert_close(condition.context[0], torch.cat(contexts, dim=-1))
    if pooled is not None:
        assert condition.pooled is not None
        assert_close(condition.pooled[0], pooled)


@pytest.mark.parametrize("chunks", [1, 2, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_is_its_captions(family, chunks):
    captions = [*CAPTIONS, "(cat:1.3)", LONG + LONG]
    options = TextOptions(chunks=chunks, weighted=True)
    batch = encode(family, captions, options)
    for n, caption in enumerate(captions):
        alone = encode(family, [caption], options)
        assert_close(alone.context[0], batch.context[n])
        if batch.pooled is not None and alone.pooled is not None:
            assert_close(alone.pooled[0], batch.pooled[n])


@pytest.mark.parametrize("chunks", [1, 2, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_weights_of_one_change_nothing(family, chunks):
    plain = ["a cat", "", LONG]
    marked = ["(a cat:1.0)", "[(:3)](:0)", LONG.replace("cat", "(cat:1)")]
    wanted = encode(family, plain, TextOptions(chunks=chunks))
    for captions in (plain, marked):
        got = encode(family, captions, TextOptions(chunks=chunks, weighted=True))
        assert torch.equal(got.context, wanted.context)
        if wanted.pooled is not None and got.pooled is not None:
            assert torch.equal(got.pooled, wanted.pooled)


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_multiply_the_states_of_their_tokens_alone(family):
    words = ["cat"] * 74 + ["dog", "sun", "red"]
    caption = " ".join(words)
    marked = " ".join(["(cat:1.5)", *words[1:74], "((dog sun):2)", "[red]"])
    options = TextOptions(chunks=2, weighted=True)
    plain, weighted = encode(family, [caption], options), encode(family, [marked], options)
    factors = torch.ones(152)
    factors[1], factors[75:77], factors[77] = 1.5, 2.2, 1 / 1.1
    assert_close(weighted.context[0], plain.context[0] * factors[:, None])
    if plain.pooled is not None and weighted.pooled is not None:
        assert torch.equal(weighted.pooled, plain.pooled)


def test_without_weighted_brackets_are_tokens():
    marked = encode("sd1", ["a (cat:1.3)"]).context
    wanted = SINGLE(ClipTokenizer().encode(["a (cat:1.3)"])).last_hidden_state
    assert_close(marked, wanted)


def test_the_context_has_the_encoders_dtype(monkeypatch):
    monkeypatch.setitem(ENCODERS, "sd1", (make_encoder(1).to(torch.bfloat16),))
    options = TextOptions(chunks=2, weighted=True)
    for captions in ([], ["(cat:1.3)"]):
        assert encode("sd1", captions, options).context.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("family", "clip_skip", "wanted"),
    [
        ("sd1", 1, [[1, 1, 1, 1]]),
        ("sd1", 2, [[1, 1, 1, 0]]),
        ("sd1", 3, [[1, 1, 0, 0]]),
        ("sd2", 1, [[1, 1, 1, 1]]),
        ("sdxl", 1, [[1, 1, 1, 0], [1, 1, 1, 1]]),
    ],
)
def test_only_the_layers_that_are_needed_run_and_once(family, clip_skip, wanted):
    calls = [[0] * LAYERS for _ in ENCODERS[family]]
    hooks = []
    for row, encoder in zip(calls, ENCODERS[family], strict=True):
        for n, layer in enumerate(text_body(encoder).encoder.layers):

            def count(*_: object, row: list[int] = row, n: int = n) -> None:
                row[n] += 1

            hooks.append(layer.register_forward_hook(count))
    encode(family, CAPTIONS, TextOptions(clip_skip=clip_skip, chunks=3))
    for hook in hooks:
        hook.remove()
    assert calls == wanted


@pytest.mark.parametrize("family", FAMILIES)
def test_the_encoders_are_as_before_also_after_an_error(family):
    ids = ClipTokenizer().encode(["a cat"])
    before = [encoder(ids)[0] for encoder in ENCODERS[family]]
    lists = [text_body(encoder).encoder.layers for encoder in ENCODERS[family]]
    options = TextOptions(clip_skip=2)
    encode(family, ["a cat"], options)
    layer = lists[-1][1]
    hook = layer.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        encode(family, ["a cat"], options)
    hook.remove()
    for encoder, layers, wanted in zip(ENCODERS[family], lists, before, strict=True):
        assert text_body(encoder).encoder.layers is layers
        assert len(layers) == LAYERS
        assert torch.equal(encoder(ids)[0], wanted)


def adapted(encoder: nn.Module) -> list[nn.Parameter]:
    """Put LoRA layers that change something into every layer; their factors."""
    generator = torch.Generator().manual_seed(5)
    factors = []
    for layer in text_body(encoder).encoder.layers:
        for parent, name in ((layer.self_attn, "q_proj"), (layer.mlp, "fc1")):
            weights = init_lora(getattr(parent, name), 2, generator)
            down = nn.Parameter(weights.down_RI)
            up = nn.Parameter(torch.randn(weights.up_OR.shape, generator=generator))
            setattr(parent, name, wrap(getattr(parent, name), type(weights)(down, up), 0.5))
            factors += [down, up]
    return factors


def gradients(
    family: str, encoders: tuple[nn.Module, ...], factors: list[nn.Parameter]
) -> tuple[Condition, tuple[Tensor | None, ...]]:
    options = TextOptions(clip_skip=2, chunks=2, weighted=True)
    captions = ["(cat:1.3)", LONG]
    condition = encode_captions(encoders, TEXT_USES[family], ClipTokenizer(), captions, options)
    loss = condition.context.square().mean()
    if condition.pooled is not None:
        loss = loss + condition.pooled.square().mean()
    for factor in factors:
        factor.grad = None
    loss.backward()  # not autograd.grad, which older transformers' checkpoints do not serve
    return condition, tuple(factor.grad for factor in factors)


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_reach_adapters_with_and_without_checkpointing(family):
    encoders = (make_encoder(2),)
    if family == "sdxl":
        encoders = (make_encoder(2), make_encoder(3, 48, projection=40))
    factors = [factor for encoder in encoders for factor in adapted(encoder)]
    condition, plain = gradients(family, encoders, factors)
    with gradient_checkpointing(list(encoders), enabled=True):
        again, checkpointed = gradients(family, encoders, factors)
    assert_close(again.context, condition.context)
    # the last layer of SD1 with clip_skip 2 and of SDXL's first encoder has no part in it: its
    # four factors get no gradient
    unused = {"sd1": range(12, 16), "sd2": range(0), "sdxl": range(12, 16)}[family]
    for n, (one, other) in enumerate(zip(plain, checkpointed, strict=True)):
        if n in unused:
            assert one is None
            assert other is None
            continue
        assert one is not None
        assert other is not None
        assert one.abs().sum() > 0
        assert_close(one, other)


def test_the_adapters_of_a_whole_model_change_both_outputs():
    encoders = (make_encoder(2), make_encoder(3, 48, projection=40))
    uses = TEXT_USES["sdxl"]
    adapted(encoders[1])
    condition = encode_captions(encoders, uses, ClipTokenizer(), ["a cat"], PLAIN)
    ids = padded_ids(["a cat"], 0)
    output = encoders[1](ids, output_hidden_states=True)
    assert_close(condition.context[..., 32:], output.hidden_states[-2])
    assert condition.pooled is not None
    assert_close(condition.pooled, output.text_embeds)
    assert not torch.allclose(condition.pooled, encode("sdxl", ["a cat"]).pooled)


def test_one_use_for_each_encoder():
    with pytest.raises(ValueError, match="zip"):
        encode_captions(PAIR, TEXT_USES["sd1"], ClipTokenizer(), ["a cat"], PLAIN)
    own = replace(TEXT_USES["sd1"][0], pad=0)
    context = encode_captions((SINGLE,), (own,), ClipTokenizer(), ["a cat"], PLAIN).context
    assert torch.equal(context, encode("sd2", ["a cat"]).context)
