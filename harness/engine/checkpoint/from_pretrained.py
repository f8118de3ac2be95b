"""Load a model with transformers' `from_pretrained` and refuse weights that do not fit its config.

transformers fills tensors that a checkpoint lacks with random numbers and drops those that have no
place in the model. The score of such a model would be the score of noise.
"""

import logging
import re
import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.engine.checkpoint.steps import natural_order
from harness.engine.checkpoint.weight_files import tensor_names
from harness.errors import CheckpointError, HarnessError, clipped_repr, short_reason

log = logging.getLogger(__name__)

_WRAPPERS = r"^(module\.|_orig_mod\.)+"  # prefixes of DistributedDataParallel and torch.compile
# Tensors that a causal language model does not need, in addition to those its class ignores:
_UNUSED = re.compile(
    r"(^|\.)(attn|attention|self_attn)\.(attention\.)?(bias|masked_bias|causal_mask)$"  # masks
    r"|(^|\.)(position_ids|inv_freq|original_inv_freq|cos_cached|sin_cached|alibi|causal_mask"
    r"|num_batches_tracked|_extra_state)$"  # computed from the config, or unused when scoring
    r"|(^|\.)embed_positions\.weights$"  # sinusoids
    r"|(^|\.)mtp(_\w+)?\."  # heads that predict several tokens ahead
    r"|^v_head\."  # value head of reinforcement learning
    r"|^n_averaged$"  # step count of an averaged model
)
_OTHER_MODALITIES = re.compile(
    r"(^|[._])(vision|visual|image|vit|audio|speech|sound|video|multi_?modal|mm|talker|token2wav"
    r"|code2wav)([._]|$)"
)
_LAYER = re.compile(r"\.(?:layers|h|blocks)\.(\d+)\.")


@contextmanager
def one_line_errors(name: str) -> Iterator[None]:
    """Turn any error of transformers into a CheckpointError of one line."""
    try:
        yield
    except HarnessError:
        raise
    except Exception as error:
        raise CheckpointError(
            f"model {name!r} cannot be loaded as a causal language model: {_reason(error)}"
        ) from error


def _reason(error: Exception) -> str:
    if "Weights only load failed" not in str(error):
        return f"{type(error).__name__}: {short_reason(error)}"
    function = re.search(r"GLOBAL (\S+)", str(error))
    call = f" (it calls {function[1]})" if function else ""
    return (
        f"its pickled weights hold other things than plain tensors{call}, which are not "
        "loaded, for they may run code; expected safetensors, or the pickle of a state dict"
    )


def load_model(folder: Path, config: Any, name: str, files: Sequence[Path], **options: Any) -> Any:
    """Load the causal language model in a folder; every tensor comes from the weight files.

    `options` are further arguments of `from_pretrained`.

    Raises:
        CheckpointError: it cannot be loaded, or weights and config do not belong together.
    """
    from transformers import AutoModelForCausalLM

    with one_line_errors(name), warnings.catch_warnings(), _failed_conversions() as failed:
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
    conversions = getattr(model, "_weight_conversions", None) or ()
    if any(_WRAPPERS in getattr(rule, "source_patterns", ()) for rule in conversions):
        _check_distinct(tensor_names(files), name)
        log.warning("%s: 'module.' or '_orig_mod.' is removed from its tensors' names", name)
    return model


def copy_weights(model: Any) -> None:
    """Copy a model's tensors out of the files that they are mapped from.

    What another program writes into such a file changes the model in use, and a file that is cut
    short ends the process.
    """
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.clone()


def _check_quantization(config: Any, name: str) -> None:
    """Refuse a quantisation method that transformers does not know and would ignore."""
    from transformers.quantizers.auto import AutoHfQuantizer

    stated = getattr(config, "quantization_config", None)
    stated = stated if stated is None or isinstance(stated, dict) else stated.to_dict()
    quantizer: Any = AutoHfQuantizer
    if stated and not quantizer.supports_quant_method(stated):
        raise CheckpointError(
            f"model {name!r}: transformers does not know the quantization_config in config.json "
            f"({clipped_repr(stated.get('quant_method'))}); its weights would be read as plain "
            "numbers"
        )


def check_report(report: dict[str, Any], config: Any, name: str) -> None:
    """Refuse a model if some of its tensors are not those of its checkpoint.

    Args:
        report: `missing_keys`, `unexpected_keys` and `mismatched_keys` of `from_pretrained`,
            without those that the model's class ignores.
        config: of the checkpoint.
        name: of the checkpoint, for messages.

    Raises:
        CheckpointError: a tensor is missing, has another shape, or has no place in the model.
    """
    missing = sorted(report["missing_keys"], key=natural_order)
    unexpected = sorted(_unexpected(report["unexpected_keys"], config), key=natural_order)
    for tensor, shape, expected in sorted(report["mismatched_keys"], key=lambda key: key[0]):
        raise CheckpointError(
            f"model {name!r}: tensor {tensor!r} has the shape {_shape(shape)} in its file, but "
            f"config.json asks for {_shape(expected)}"
        )
    if missing:
        instead = f", and {unexpected[0]!r} has no place in it" if unexpected else ""
        raise CheckpointError(
            f"model {name!r}: {_listed(missing)} not in its files{instead}; random numbers would "
            "stand in for what is missing; expected all weights of the causal language model that "
            "config.json describes"
        )
    if unexpected:
        raise CheckpointError(
            f"model {name!r}: {_listed(unexpected)} in its files, but not in the causal language "
            "model that config.json describes; expected weights and config of one such model"
        )


def _unexpected(tensors: Collection[str], config: Any) -> list[str]:
    """The tensors without a place in the model that a language model needs."""
    text = config.get_text_config()
    layers = getattr(text, "num_hidden_layers", None)
    extra_layers = getattr(text, "num_nextn_predict_layers", None) or 0
    multimodal = bool(getattr(config, "sub_configs", None)) or text is not config

    def is_unused(tensor: str) -> bool:
        layer = _LAYER.search(tensor)
        predicts_ahead = layer and layers and layers <= int(layer[1]) < layers + extra_layers
        return bool(
            predicts_ahead
            or _UNUSED.search(tensor)
            or (multimodal and _OTHER_MODALITIES.search(tensor))
        )

    return [tensor for tensor in tensors if not is_unused(tensor)]


def _listed(names: Sequence[str]) -> str:
    others = len(names) - 1
    return f"{names[0]!r} and {others} more tensors are" if others else f"{names[0]!r} is"


def _shape(size: Any) -> str:
    return " x ".join(map(str, size)) or "of a single number"


def _check_distinct(names: Collection[str], name: str) -> None:
    """Refuse weights that are there with and without the prefix of a wrapper."""
    for tensor in sorted(names, key=natural_order):
        if (plain := re.sub(_WRAPPERS, "", tensor)) != tensor and plain in names:
            raise CheckpointError(
                f"model {name!r} has both {tensor!r} and {plain!r} in its files; expected one of "
                "them"
            )


@contextmanager
def _failed_conversions() -> Iterator[list[str]]:
    """Collect the tensors that transformers logs as not converted, and hide that log."""
    failed: list[str] = []

    def collect(record: logging.LogRecord) -> bool:
        lines = record.getMessage().splitlines()
        failed.extend(line.split("|")[0].strip() for line in lines if "| CONVERSION" in line)
        return False

    logger = logging.getLogger("transformers.modeling_utils")
    level = logger.level
    logger.addFilter(collect)
    logger.setLevel(logging.WARNING)
    try:
        yield failed
    finally:
        logger.removeFilter(collect)
        logger.setLevel(level)


def silence_transformers() -> None:
    """Hide progress bars and logs of transformers and accelerate; problems are raised as errors."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity(logging.CRITICAL)
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    logging.getLogger("accelerate").setLevel(logging.CRITICAL)
