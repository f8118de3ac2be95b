"""`harness show`: print what the model would read, without loading or computing anything."""

from contextlib import ExitStack
from typing import TYPE_CHECKING

from harness.commands.evaluate.session import connected, job_for
from harness.commands.options import RunOptions
from harness.display import terminal
from harness.display.preview import preview
from harness.engine.endpoint.settings import is_endpoint
from harness.plugins.registry import load_task
from harness.records.trace import trace
from harness.runner import prepare
from harness.task import encoding

if TYPE_CHECKING:
    from harness.engine.tokenizer.tokenizer import Tokenizer


def show_examples(name: str, count: int, options: RunOptions) -> None:
    """Print the requests of the first `count` examples as tokens; no weights are loaded."""
    from harness.engine.queries.encode import Encoder

    options.check()
    model = options.model.only_name("show")
    task = load_task(name)
    protocol = task.protocol(options.protocol.name, options.protocol.overrides())
    job = job_for(task, protocol, options.data)
    terminal.start_logging()
    tokenizer, context = _tokenizer_and_context(model, options)
    prepared = prepare(job)
    encoder = Encoder(tokenizer, context)
    for example, requests in list(zip(prepared.examples, prepared.groups, strict=True))[:count]:
        references = f"  references: {list(example.references)}" if example.references else ""
        terminal.OUT.print(f"{name} item {example.id}{references}")
        encoded = encoder.encode(requests, encoding(protocol.options))
        traces = [
            trace(r, e, tokenizer.token_texts) for r, e in zip(requests, encoded, strict=True)
        ]
        for line in preview(traces):
            terminal.OUT.print(line)


def _tokenizer_and_context(model: str, options: RunOptions) -> "tuple[Tokenizer, int]":
    """Those of a checkpoint, whose weights are not loaded, or those found out from its server."""
    if is_endpoint(model):
        with ExitStack() as closing:
            endpoint = connected(options.endpoint(model), None, closing)
            return endpoint.tokenizer, endpoint.identity.context
    from harness.engine.checkpoint.load import tokenizer_and_context

    return tokenizer_and_context(model, options.model.settings(options.data.data_dir))
