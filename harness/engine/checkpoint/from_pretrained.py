"""transformers' `from_pretrained`, held to its own report: every tensor found, and none left over.

transformers fills tensors that a checkpoint lacks with random numbers and drops those that it has
no place for, with a table on the terminal. A score of such a model is a score of noise.
"""

import logging
import re
import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.engine.checkpoint.weight_files import tensor_names
from harness.errors import CheckpointError, HarnessError, clipped_repr, short_reason

log = logging.getLogger(__name__)

_WRAPPERS = r"^(module\.|_orig_mod\.)+"  # what DistributedDataParallel and torch.compile put before
# What a causal language model does without, besides what its class in transformers says:
_UNUSED = re.compile(
    r"(^|\.)(attn|attention|self_attn)\.(attention\.)?(bias|masked_bias|causal_mask)$"  # masks
    r"|(^|\.)(position_ids|inv_freq|original_inv_freq|cos_cached|sin_cached|alibi|causal_mask"
    r"|num_batches_tracked|_extra_state)$"  # computed from the config, or of no use when scoring
    r"|(^|\.)embed_positions\.weights$"  # sinusoids
    r"|(^|\.)mtp(_\w+)?\."  # heads that guess several tokens ahead
    r"|^v_head\."  # the value head of reinforcement learning
    r"|^n_averaged$"  # how many steps an averaged model is the average of
)
_OTHER_SENSES = re.compile(
    r"(^|[._])(vision|visual|image|vit|audio|speech|sound|video|multi_?modal|mm|talker|token2wav"
    r"|code2wav)([._]|$)"
)
_LAYER = re.compile(r"\.(?:layers|h|blocks)\.(\d+)\.")


@contextmanager
def one_line(name: str) -> Iterator[None]:
    """Turn whatever transformers raises while loading into one line."""
    try:
        yield
    except HarnessError:
        raise
    except Exception as error:
        raise CheckpointError(
            f"model {name!r} cannot be loaded as a causal language model: {_reason(error)}"
        ) from error


def _reason(error: Exception) -> str:
    text = str(error)
    if "Weights only load failed" in text:
        found = re.search(r"GLOBAL (\S+)", text)
        inside = f" (it calls {found[1]})" if found else ""
        return (
            f"its pickled weights hold other things than plain tensors{inside}, which are not "
            "loaded, for they may run code; expected safetensors, or the pickle of a state dict"
        )
    return f"{type(error).__name__}: {short_reason(error)}"


def load_model(folder: Path, config: Any, name: str, files: Sequence[Path], **options: Any) -> Any:
    """The causal language model in a folder, all of its tensors from the folder's files.

    Args:
        folder: of the checkpoint.
        config: of the checkpoint.
        name: for messages.
        files: those that the weights are in.
        options: of `from_pretrained`.

    Raises:
        CheckpointError: it cannot be loaded, or weights and config do not belong together.
    """
    from transformers import AutoModelForCausalLM

    with one_line(name), warnings.catch_warnings(), _conversions() as failed:
        warnings.simplefilter("ignore")  # what matters is in the report, or raised
        _check_quantization(config, name)
        try:
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                folder,
                config=config,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # the report names them
                key_mapping={_WRAPPERS: ""},
                weights_only=True,
                local_files_only=True,
                use_safetensors=files[0].suffix == ".safetensors",
                **options,
            )
            model, report = loaded
        except ValueError as error:
            if "Unrecognized configuration class" not in str(error):
                raise
            raise CheckpointError(
                f"model {name!r} is of type {config.model_type!r}, for which transformers has no "
                "causal language model"
            ) from error
        except RuntimeError as error:
            if failed and "report" in str(error):
                raise CheckpointError(
                    f"model {name!r}: its tensors do not fit together to {failed[0]!r}; expected "
                    "weights and config of one model"
                ) from error
            raise
    check_report(report, config, name)
    if _unwrapped(model):
        _check_distinct(tensor_names(files), name)
        log.warning("%s: 'module.' or '_orig_mod.' is taken off its tensors' names", name)
    return model


def _check_quantization(config: Any, name: str) -> None:
    """Refuse a way of quantisation that transformers does not know, for it would pass it over."""
    from transformers.quantizers.auto import AutoHfQuantizer

    stated = getattr(config, "quantization_config", None)
    stated = stated if stated is None or isinstance(stated, dict) else stated.to_dict()
    known: Any = AutoHfQuantizer
    if stated and not known.supports_quant_method(stated):
        raise CheckpointError(
            f"model {name!r}: transformers does not know the quantization_config in config.json "
            f"({clipped_repr(stated.get('quant_method'))}); its weights would be read as plain "
            "numbers"
        )


def check_report(report: dict[str, Any], config: Any, name: str) -> None:
    """Refuse a model some of whose tensors are not those of its checkpoint.

    Args:
        report: `missing_keys`, `unexpected_keys` and `mismatched_keys` of `from_pretrained`,
            without those that the model's class does without.
        config: of the checkpoint.
        name: for messages.

    Raises:
        CheckpointError: a tensor is missing, has another shape, or has no place in the model.
    """
    missing = sorted(report["missing_keys"], key=_natural)
    unexpected = sorted(_left_over(report["unexpected_keys"], config), key=_natural)
    for tensor, there, wanted in sorted(report["mismatched_keys"], key=lambda key: key[0]):
        raise CheckpointError(
            f"model {name!r}: tensor {tensor!r} has the shape {_shape(there)} in its file, but "
            f"config.json asks for {_shape(wanted)}"
        )
    if missing:
        instead = f", and {unexpected[0]!r} has no place in it" if unexpected else ""
        raise CheckpointError(
            f"model {name!r}: {missing[0]!r}{_others(missing)} {_is(missing)} not in its files"
            f"{instead}; random numbers would stand in for what is missing; expected all weights "
            f"of the causal language model that config.json describes"
        )
    if unexpected:
        raise CheckpointError(
            f"model {name!r}: {unexpected[0]!r}{_others(unexpected)} {_is(unexpected)} in its "
            "files, but not in the causal language model that config.json describes; expected "
            "weights and config of one such model"
        )


def _left_over(unexpected: Collection[str], config: Any) -> list[str]:
    """The tensors without a place in the model, but for those that it does without."""
    text = config.get_text_config()
    layers = getattr(text, "num_hidden_layers", None)
    ahead = getattr(text, "num_nextn_predict_layers", None) or 0
    senses = bool(getattr(config, "sub_configs", None)) or text is not config

    def unused(tensor: str) -> bool:
        layer = _LAYER.search(tensor)
        guesses = bool(ahead and layer and layers and layers <= int(layer[1]) < layers + ahead)
        return bool(guesses or _UNUSED.search(tensor) or (senses and _OTHER_SENSES.search(tensor)))

    return [tensor for tensor in unexpected if not unused(tensor)]


def _natural(name: str) -> list[tuple[int, str]]:
    """A sorting key by which layer 2 comes before layer 10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in name.split(".")]


def _others(names: Collection[str]) -> str:
    return "" if len(names) == 1 else f" and {len(names) - 1} more tensors"


def _is(names: Collection[str]) -> str:
    return "is" if len(names) == 1 else "are"


def _shape(size: Any) -> str:
    return " x ".join(map(str, size)) or "of a single number"


def _unwrapped(model: Any) -> bool:
    """Whether names of tensors lost the prefix of a wrapper."""
    used = getattr(model, "_weight_conversions", None) or ()
    return any(_WRAPPERS in getattr(rule, "source_patterns", ()) for rule in used)


def _check_distinct(names: Collection[str], name: str) -> None:
    """Refuse weights that are there with a wrapper's prefix and without."""
    for tensor in sorted(names, key=_natural):
        if (plain := re.sub(_WRAPPERS, "", tensor)) != tensor and plain in names:
            raise CheckpointError(
                f"model {name!r} has both {tensor!r} and {plain!r} in its files; expected one of "
                "them"
            )


@contextmanager
def _conversions() -> Iterator[list[str]]:
    """Collect the tensors that transformers reports as not converted; its table stays unseen."""
    failed: list[str] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines = record.getMessage().splitlines()
            failed.extend(line.split("|")[0].strip() for line in lines if "| CONVERSION" in line)

    logger = logging.getLogger("transformers.modeling_utils")
    level, propagate, handler = logger.level, logger.propagate, Collect(logging.WARNING)
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING)
    logger.propagate = False
    try:
        yield failed
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate
