"""Captioners of a few numbers, written to disk as the real ones lie there."""

import csv
import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

TAGS = [
    ("general", "9"),
    ("explicit", "9"),
    ("red_sky", "0"),
    ("^_^", "0"),
    ("blue_(colour)", "0"),
    ("green", "0"),
    ("momo_(lora)", "4"),
]
# Mean blue, green and red in [0, 255] to a logit for each tag: what the graph computes.
WEIGHTS = np.zeros((3, len(TAGS)), dtype=np.float32)
WEIGHTS[:, 0] = 0.001
WEIGHTS[2, 2], WEIGHTS[1, 3], WEIGHTS[0, 4] = 0.02, 0.01, 0.03
WEIGHTS[1, 5], WEIGHTS[2, 6] = 0.02, 0.01


def write_tags(folder: Path, tags=None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "selected_tags.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["tag_id", "name", "category", "count"])
        for number, (name, category) in enumerate(tags or TAGS):
            writer.writerow([number, name, category, 1])


def write_tagger(folder: Path, *, size=16, batch="N", channels_first=False, logits=False) -> Path:
    """A graph that takes a picture's mean colour times WEIGHTS, minus 2."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    write_tags(folder)
    weights = WEIGHTS * (127.5 if channels_first else 1)
    offset = np.full((len(TAGS),), -2.0, dtype=np.float32)
    if channels_first:  # numbers from -1 to 1
        offset = offset + weights.sum(axis=0, dtype=np.float32)
    shape = [batch, 3, size, size] if channels_first else [batch, size, size, 3]
    axes = [2, 3] if channels_first else [1, 2]
    nodes = [
        helper.make_node("ReduceMean", ["picture"], ["mean"], axes=axes, keepdims=0),
        helper.make_node("MatMul", ["mean", "weights"], ["product"]),
        helper.make_node("Add", ["product", "offset"], ["logits"]),
        helper.make_node("Sigmoid", ["logits"], ["scores"]),
    ]
    output = "logits" if logits else "scores"
    graph = helper.make_graph(
        nodes[:3] if logits else nodes,
        "tagger",
        [helper.make_tensor_value_info("picture", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, [batch, len(TAGS)])],
        [
            numpy_helper.from_array(weights.astype(np.float32), "weights"),
            numpy_helper.from_array(offset.astype(np.float32), "offset"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, str(folder / "model.onnx"))
    return folder


SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]"]
WORDS = [*SPECIAL, "a", "photo", "of", "the", "red", "blue", "cat", "dog", "big", "small"]


def write_blip(folder: Path, *, seed=5, pickled=False) -> Path:
    """A BLIP of one layer with random weights and a vocabulary of 16 words."""
    from transformers import BlipConfig, BlipForConditionalGeneration

    folder.mkdir(parents=True, exist_ok=True)
    config = BlipConfig(
        text_config={
            "vocab_size": len(WORDS),
            "hidden_size": 16,
            "encoder_hidden_size": 16,
            "intermediate_size": 24,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "max_position_embeddings": 40,
            "bos_token_id": 5,
            "pad_token_id": 0,
            "eos_token_id": 3,
            "sep_token_id": 3,
        },
        vision_config={
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 32,
            "patch_size": 16,
        },
        projection_dim=16,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = BlipForConditionalGeneration(config)
        for parameter in model.parameters():  # as made they are so small that all words are alike
            torch.nn.init.normal_(parameter, std=0.4)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    head = "text_decoder.cls.predictions"
    weights[f"{head}.bias"][: len(SPECIAL)] = -50.0  # words are said, and no special tokens
    weights[f"{head}.decoder.bias"] = weights[f"{head}.bias"].clone()
    embeddings = "text_decoder.bert.embeddings.word_embeddings.weight"
    weights[f"{head}.decoder.weight"] = weights[embeddings].clone()
    if pickled:
        torch.save(weights, folder / "pytorch_model.bin")
    else:
        save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config.to_dict(), default=str), encoding="utf-8")
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    mean = [0.48145466, 0.4578275, 0.40821073]
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": mean, "image_std": [0.26862954, 0.26130258, 0.27577711]}),
        encoding="utf-8",
    )
    return folder
