"""Folders of litgpt: `lit_model.pth` and `model_config.yaml`.

Models of the Llama and the GPT-NeoX family are converted. litgpt's config describes many more
architectures by switches on one model; a switch that would change the forward pass of those two is
refused by its name.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from harness.engine.checkpoint.digest import combined_digest, file_digest
from harness.engine.checkpoint.formats.beside import tokenizer_beside
from harness.engine.checkpoint.formats.format import (
    Candidate,
    ReadOptions,
    TensorCheckpoint,
    Tensors,
    all_of,
    without_wrappers,
)
from harness.engine.checkpoint.formats.gpt2.tokenizer_files import TokenizerFiles
from harness.engine.checkpoint.formats.litgpt.config import LitConfig, read_lit_config
from harness.engine.checkpoint.formats.weights import state_dict, without_ties
from harness.errors import CheckpointError

WEIGHTS, CONFIG = "lit_model.pth", "model_config.yaml"
_LLAMA = {
    "transformer.wte": "model.embed_tokens",
    "transformer.ln_f": "model.norm",
    "lm_head": "lm_head",
    "norm_1": "input_layernorm",
    "norm_2": "post_attention_layernorm",
    "attn.proj": "self_attn.o_proj",
    "mlp.fc_1": "mlp.gate_proj",
    "mlp.fc_2": "mlp.up_proj",
    "mlp.proj": "mlp.down_proj",
}
_NEOX = {
    "transformer.wte": "gpt_neox.embed_in",
    "transformer.ln_f": "gpt_neox.final_layer_norm",
    "lm_head": "embed_out",
    "norm_1": "input_layernorm",
    "norm_2": "post_attention_layernorm",
    "attn.proj": "attention.dense",
    "mlp.fc": "mlp.dense_h_to_4h",
    "mlp.proj": "mlp.dense_4h_to_h",
}


class LitGPT:
    """A folder of litgpt."""

    name = "litgpt"
    options: Mapping[str, tuple[str, ...]] = {}

    def recognises(self, candidate: Candidate) -> bool:
        """Whether a folder has litgpt's weights or config, or a file is the weights of one."""
        path = candidate.path
        if path.is_dir():
            return (path / WEIGHTS).exists() or (path / CONFIG).exists()
        return path.name == WEIGHTS and (path.parent / CONFIG).exists()

    def open(self, candidate: Candidate, options: ReadOptions) -> TensorCheckpoint:
        """Read config and weights."""
        folder = _folder(candidate.path)
        path = folder / WEIGHTS
        config = read_lit_config(folder / CONFIG)
        content = _content(folder / WEIGHTS)
        tensors = _with_new_names(without_wrappers(state_dict(content, path), path), config)
        tensors = all_of(_expected(config, len(tensors)).items(), tensors, path)
        tokenizer = _with_generation_config(tokenizer_beside([folder], options), folder)
        head = _embedding_names(config)
        tied = torch.equal(tensors["lm_head.weight"], tensors["transformer.wte.weight"])
        converted = _converted(tensors, config)
        return TensorCheckpoint(
            description=f"a litgpt folder, {config.kind}",
            config=config.for_transformers(folder, tied=tied),
            tensors=without_ties(converted, head, path) if tied else converted,
            tokenizer=tokenizer.write,
            tokenizer_key=tokenizer.key,
            step=step if isinstance(step := content.get("step_count"), int) else None,
        )

    def is_complete(self, path: Path) -> bool | None:
        """The config is written last."""
        folder = _folder(path)
        return (folder / CONFIG).is_file() and (folder / WEIGHTS).exists()


def _content(path: Path) -> dict[str, Any]:
    """What is in the file of weights."""
    if not path.is_file():
        raise CheckpointError(f"{path.parent} has {CONFIG} but no {WEIGHTS}; expected both")
    content = Candidate(path).pickle
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is no torch file of a state dict; expected one")
    return content


def _with_generation_config(tokenizer: TokenizerFiles, folder: Path) -> TokenizerFiles:
    """The tokenizer, and what `litgpt download` keeps beside it: which tokens end a text."""
    file = folder / "generation_config.json"
    if not file.is_file():
        return tokenizer

    def write(target: Path) -> None:
        tokenizer.write(target)
        shutil.copyfile(file, target / file.name)

    return tokenizer._replace(key=combined_digest([tokenizer.key, file_digest(file)]), write=write)


def _folder(path: Path) -> Path:
    return path if path.is_dir() else path.parent


def _with_new_names(tensors: Tensors, config: LitConfig) -> Tensors:
    """The tensors with `attn.qkv` for `attn.attn`, the name and order before 2024.

    Its rows are ordered by groups of heads: the queries of a group, its key, its value.
    """
    new: Tensors = {}
    for name, tensor in tensors.items():
        if ".attn.attn." in name and tensor.shape[:1] == (config.qkv_rows,):
            queries = config.queries_per_group * config.head_size
            sizes = [queries, config.head_size, config.head_size]
            groups = torch.unflatten(tensor, 0, (config.n_query_groups, -1))
            tensor = torch.cat([part.flatten(0, 1) for part in torch.split(groups, sizes, 1)])
        new[name.replace(".attn.attn.", ".attn.qkv.")] = tensor
    return new


def _expected(config: LitConfig, found: int) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor; `found` tensors are there."""
    if config.n_layer > found:
        raise CheckpointError(
            f"{WEIGHTS} has {found} tensors, but {CONFIG} states {config.n_layer} layers; they do "
            "not belong together"
        )
    width, heads = config.n_embd, config.n_head * config.head_size
    linear = {
        "attn.qkv": (config.qkv_rows, width),
        "attn.proj": (width, heads),
        "mlp.proj": (width, config.intermediate_size),
    }
    entries = ("mlp.fc_1", "mlp.fc_2") if config.is_llama else ("mlp.fc",)
    linear |= dict.fromkeys(entries, (config.intermediate_size, width))
    shapes: dict[str, tuple[int, ...]] = {
        "transformer.wte.weight": (config.padded_vocab_size, width),
        "lm_head.weight": (config.padded_vocab_size, width),
    }
    norms = ["transformer.ln_f"]
    for layer in range(config.n_layer):
        prefix = f"transformer.h.{layer}."
        norms += [prefix + "norm_1", prefix + "norm_2"]
        for name, shape in linear.items():
            shapes[f"{prefix}{name}.weight"] = shape
            if config.bias:
                shapes[f"{prefix}{name}.bias"] = shape[:1]
    for name in norms:
        shapes[f"{name}.weight"] = (width,)
        if not config.is_llama:
            shapes[f"{name}.bias"] = (width,)
    return shapes


def _embedding_names(config: LitConfig) -> dict[str, str]:
    """The name of the head's weight in transformers, and that of the embedding."""
    names = _LLAMA if config.is_llama else _NEOX
    return {f"{names['lm_head']}.weight": f"{names['transformer.wte']}.weight"}


def _converted(tensors: Tensors, config: LitConfig) -> Tensors:
    """The tensors under the names of transformers, with its order of queries, keys and values."""
    names = _LLAMA if config.is_llama else _NEOX
    layers = "model.layers" if config.is_llama else "gpt_neox.layers"
    found: Tensors = {}
    for name, tensor in tensors.items():
        part, _, kind = name.rpartition(".")
        prefix = ""
        if part.startswith("transformer.h."):
            layer, part = part.removeprefix("transformer.h.").split(".", 1)
            prefix = f"{layers}.{layer}."
        if part != "attn.qkv":
            found[f"{prefix}{names[part]}.{kind}"] = tensor
            if part.startswith("mlp.") and not (config.bias or config.is_llama):
                # GPT-NeoX of transformers has these biases always.
                found[f"{prefix}{names[part]}.bias"] = tensor.new_zeros(len(tensor))
        elif config.is_llama:
            rows = [config.n_head, config.n_query_groups, config.n_query_groups]
            pieces = torch.split(tensor, [count * config.head_size for count in rows])
            for letter, piece in zip("qkv", pieces, strict=True):
                found[f"{prefix}self_attn.{letter}_proj.{kind}"] = piece
        else:  # by heads: query, key and value of the first, of the second, ...
            by_head = torch.unflatten(tensor, 0, (3, config.n_head, -1)).transpose(0, 1)
            found[f"{prefix}attention.query_key_value.{kind}"] = by_head.flatten(0, 2)
    return found
