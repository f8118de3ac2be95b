"""A model in memory is lent to the engine, and is afterwards what it was."""

import copy
import random
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import MethodType
from typing import Any

import numpy as np
import pytest
import torch
from nano_gpt import TOKENIZER, NanoGPT
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from harness.core import Encoding, Generate, Generated, Loglikelihood, Request, Scored
from harness.engine.cache.response_cache import numerics
from harness.engine.checkpoint.in_memory import borrowed
from harness.engine.checkpoint.load import load
from harness.engine.checkpoint.settings import Settings
from harness.engine.engine import Engine
from harness.errors import CheckpointError

REQUESTS: list[Request] = [
    Loglikelihood("the sand and the", " sea said"),
    Loglikelihood("the sand and an", " end"),
    Generate(("the sand",), 4),
]


def gpt2(**changes: Any) -> Any:
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(TOKENIZER), n_layer=2, n_head=2, n_embd=32, n_positions=64,
        initializer_range=0.5, bos_token_id=262, eos_token_id=262, **changes,
    )  # fmt: skip
    return GPT2LMHeadModel(config)


def llama(**changes: Any) -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(TOKENIZER), hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
        initializer_range=0.5, bos_token_id=262, eos_token_id=262, **changes,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def dynamic_rope() -> Any:
    """Its forward pass rewrites a buffer that is not saved."""
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    model = llama(rope_parameters=rope)
    model.config.max_position_embeddings = 16  # so that rows of this test are beyond it
    for module in model.modules():
        if hasattr(module, "original_max_seq_len"):
            module.max_seq_len_cached = module.original_max_seq_len = 16
    return model


def hooked() -> Any:
    model = gpt2()
    model.transformer.h[0].register_forward_hook(lambda module, inputs, output: None)
    model.transformer.h[1].register_full_backward_hook(lambda module, before, after: None)
    return model


def checkpointed() -> Any:
    model = gpt2()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model.config.use_cache = False
    return model


def in_mixed_precision() -> Any:
    """As `Accelerator.prepare` leaves a model."""
    model = gpt2()

    def forward(self: Any, *args: Any, **named: Any) -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            return type(self).forward(self, *args, **named)

    model._original_forward = model.forward
    model.forward = MethodType(forward, model)
    return model


def compiled_in_place() -> Any:
    model = gpt2()
    model.compile(backend="eager")
    return model


class Parallel(nn.Module):
    """As DistributedDataParallel holds a model; that one needs a process group."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.module = module

    def forward(self, *args: Any, **named: Any) -> Any:
        return self.module(*args, **named)


Parallel.__name__ = "DataParallel"

MODELS: dict[str, Callable[[], Any]] = {
    "dropout": gpt2,
    "untied": lambda: gpt2(tie_word_embeddings=False),
    "dynamic RoPE": dynamic_rope,
    "hooks": hooked,
    "gradient checkpointing": checkpointed,
    "mixed precision": in_mixed_precision,
    "compiled": lambda: torch.compile(gpt2(), backend="eager"),
    "compiled in place": compiled_in_place,
    "nanoGPT": NanoGPT,
    "parallel and compiled": lambda: Parallel(torch.compile(gpt2(), backend="eager")),
}


def ask(engine: Engine) -> list[Any]:
    answers = dict(engine.answer(REQUESTS, engine.encode(REQUESTS, Encoding())))
    return [answers[i] for i in range(len(REQUESTS))]


def evaluated(model: Any, *, share: bool = False) -> list[Any]:
    with borrowed(model, TOKENIZER) as checkpoint:
        return ask(Engine(checkpoint, share=share))


def logits_of(model: Any, ids: torch.Tensor) -> torch.Tensor:
    output = model(ids, ids) if isinstance(model, NanoGPT) else model(ids)
    return output[0] if isinstance(output, tuple) else output.logits


def trained(model: Any, steps: int, between: Callable[[], object]) -> list[bytes]:
    """Losses and weights of some training steps, with gradients accumulated over two of them."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    torch.manual_seed(1)
    seen: list[bytes] = []
    model.train()
    for step in range(steps):
        ids = torch.randint(0, len(TOKENIZER), (2, 24))
        loss = nn.functional.cross_entropy(
            logits_of(model, ids)[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten()
        )
        loss.backward()
        between()  # after the backward pass, before its gradients are used
        seen.append(loss.detach().numpy().tobytes())
        if step % 2:
            optimizer.step()
            optimizer.zero_grad(set_to_none=False)
    return seen + [p.detach().numpy().tobytes() for p in model.parameters()]


def traces(model: nn.Module) -> dict[str, Any]:
    """Everything about a model that evaluation might change."""
    found: dict[str, Any] = {
        "states": (random.getstate(), torch.get_rng_state().tolist()),
        "numpy": str(np.random.get_state()),  # noqa: NPY002
        "settings": (torch.is_grad_enabled(), torch.get_float32_matmul_precision()),
    }
    for name, module in model.named_modules():
        values = dict(vars(module))
        found[name] = {
            key: {k: id(v) for k, v in value.items()} if isinstance(value, dict) else id(value)
            for key, value in values.items()
        }
        found[name, "flags"] = module.training
        if config := values.get("config"):
            found[name, "config"] = {k: repr(v) for k, v in vars(config).items()}
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        gradient = None if tensor.grad is None else (id(tensor.grad), tensor.grad.clone().tolist())
        inference = tensor.is_inference()
        found[name, "tensor"] = (
            tensor.data_ptr(), tensor.stride(), tensor.dtype, tensor.requires_grad,
            tensor._version, gradient, inference, tensor.detach().clone().tolist(),
        )  # fmt: skip
    return found


SOME = ("dropout", "dynamic RoPE", "gradient checkpointing", "mixed precision", "nanoGPT")
"""What differs while a model is trained; the wrappers are in the test of traces."""


@pytest.mark.parametrize("make", [MODELS[name] for name in SOME], ids=SOME)
def test_training_goes_on_as_if_nothing_had_happened(make: Callable[[], Any]) -> None:
    undisturbed = trained(make(), 2, lambda: None)
    model = make()
    assert trained(model, 2, lambda: evaluated(model)) == undisturbed


def interrupted(model: Any, tokenizer: Any, error: type[BaseException]) -> None:
    with borrowed(model, tokenizer) as checkpoint:
        assert not checkpoint.model.training
        engine = Engine(checkpoint, share=False)
        next(engine.answer(REQUESTS, engine.encode(REQUESTS, Encoding())))
        raise error


@pytest.mark.filterwarnings("ignore")  # of torch.compile
@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_no_trace(make: Callable[[], Any]) -> None:
    model = make()
    trained(model, 1, lambda: None)  # there are gradients
    model.train()
    next(m for m in model.modules() if isinstance(m, nn.LayerNorm | nn.Embedding)).eval()
    tokenizer = copy.deepcopy(TOKENIZER)
    tokenizer.backend_tokenizer.enable_truncation(5)
    settings = tokenizer.backend_tokenizer.to_str()
    before = traces(model)
    for error in (RuntimeError, KeyboardInterrupt):
        with pytest.raises(error):
            interrupted(model, tokenizer, error)
    assert traces(model) == before
    assert tokenizer.backend_tokenizer.to_str() == settings


ANSWERED = ("dropout", "dynamic RoPE", "mixed precision", "parallel and compiled")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("make", [MODELS[name] for name in ANSWERED], ids=ANSWERED)
def test_answers_are_those_of_the_model_itself(make: Callable[[], Any]) -> None:
    """The referee is the plain model in evaluation mode, fed one row at a time in float32."""
    model = make()
    first, second, text = evaluated(model, share=make is gpt2)
    referee = (gpt2 if make is in_mixed_precision else make)().eval()
    for request, answer in zip(REQUESTS[:2], (first, second), strict=True):
        assert isinstance(request, Loglikelihood)
        assert isinstance(answer, Scored)
        context = [262, *TOKENIZER(request.context).input_ids]
        ids = context + TOKENIZER(request.continuation).input_ids
        with torch.no_grad():
            logprobs = logits_of(referee, torch.tensor([ids]))[0].log_softmax(-1)
        expected = [logprobs[i - 1, ids[i]].item() for i in range(len(context), len(ids))]
        assert answer.logprobs == pytest.approx(expected, abs=2e-5)
    assert isinstance(text, Generated)
    ids = [262, *TOKENIZER("the sand").input_ids]
    for token in text.tokens:
        with torch.no_grad():
            assert logits_of(referee, torch.tensor([ids]))[0, -1].argmax().item() == token
        ids.append(token)


def test_nothing_compiled_runs() -> None:
    calls: list[int] = []

    def backend(graph: Any, inputs: Any) -> Any:
        calls.append(1)
        return graph.forward

    for model in (torch.compile(gpt2(), backend=backend), gpt2()):
        model.compile(backend=backend) if isinstance(model, GPT2LMHeadModel) else None
        evaluated(model)
    assert calls == []


def test_within_autocast_the_weights_format_counts() -> None:
    model = gpt2()
    with torch.autocast("cpu", torch.bfloat16):
        assert evaluated(model) == evaluated(gpt2())


@contextmanager
def process_group() -> Iterator[None]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"tcp://127.0.0.1:{port}"
    torch.distributed.init_process_group("gloo", init_method=address, world_size=1, rank=0)
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore")
def test_distributed_data_parallel() -> None:
    with process_group():
        undisturbed = trained(nn.parallel.DistributedDataParallel(gpt2()), 2, lambda: None)
        model = nn.parallel.DistributedDataParallel(gpt2())
        assert trained(model, 2, lambda: evaluated(model)) == undisturbed


@pytest.mark.filterwarnings("ignore")
def test_a_model_divided_among_processes_is_refused() -> None:
    from torch.distributed.fsdp import fully_shard

    with process_group():
        model = gpt2()
        mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
        fully_shard(model, mesh=mesh)
        with pytest.raises(CheckpointError, match=r"divided among processes \(DTensor\)"):
            evaluated(model)
    empty = gpt2()
    for parameter in empty.parameters():
        parameter.data, parameter.ds_id = torch.empty(0), 1
    with pytest.raises(CheckpointError, match=r"divided among processes \(DeepSpeed ZeRO-3\)"):
        evaluated(empty)
    with pytest.raises(CheckpointError, match="parameters without numbers"):
        evaluated(gpt2().to("meta"))


@pytest.mark.parametrize(
    ("model", "tokenizer", "message"),
    [
        (gpt2(), None, "comes with no tokenizer; expected one of transformers or tokenizers"),
        (gpt2(), 3, "comes with a int as tokenizer"),
        ({"model": 1}, TOKENIZER, "a value of type dict is no model"),
        (gpt2().transformer, TOKENIZER, "GPT2Model"),
    ],
    ids=["no tokenizer", "a number", "a state dict", "no head"],
)
def test_what_is_not_a_model_with_its_tokenizer(model: Any, tokenizer: Any, message: str) -> None:
    with pytest.raises(CheckpointError, match=message), borrowed(model, tokenizer):
        pass


# --- identity -----------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "make",
    [
        gpt2,
        lambda: gpt2(tie_word_embeddings=False),
        lambda: gpt2(resid_pdrop=0.3, attn_pdrop=0.0),
        lambda: llama(tie_word_embeddings=True),
        dynamic_rope,
        in_mixed_precision,
    ],
)
def test_the_digest_is_that_of_the_saved_model(make: Callable[[], Any], tmp_path: Path) -> None:
    model = make()
    digests = set()
    for folder in ("before", "after"):
        with borrowed(model, TOKENIZER, name="here", step=7) as checkpoint:
            identity = checkpoint.identity
        model.save_pretrained(tmp_path / folder)
        TOKENIZER.save_pretrained(tmp_path / folder)
        saved = load(str(tmp_path / folder), Settings(device="cpu"))
        assert (identity.digest, identity.tokenizer) == (
            saved.identity.digest,
            saved.identity.tokenizer,
        )
        assert identity.parameters == saved.identity.parameters
        assert numerics(checkpoint) != numerics(saved)
        digests.add(identity.digest)
        trained(model, 2, lambda: None)
    assert (identity.name, identity.step, len(digests)) == ("here", 7, 2)


def test_a_model_that_is_more_than_its_weights_has_no_digest_of_theirs() -> None:
    def digest(model: Any) -> str:
        with borrowed(model, TOKENIZER) as checkpoint:
            return checkpoint.identity.digest

    plain = digest(gpt2())
    assert digest(gpt2()) == plain
    assert digest(hooked()) != digest(hooked())
    patched = gpt2()
    patched.transformer.ln_f.forward = lambda states: states
    assert digest(patched) != plain
