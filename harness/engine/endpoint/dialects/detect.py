"""Which program is behind an address, and which of its models."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from harness.engine.endpoint.call import Call
from harness.engine.endpoint.dialects.check import optional
from harness.engine.endpoint.dialects.dialect import Dialect, Get
from harness.engine.endpoint.dialects.llama_cpp import llama_cpp
from harness.engine.endpoint.dialects.openai import openai
from harness.engine.endpoint.dialects.sglang import sglang
from harness.engine.endpoint.dialects.vllm import vllm
from harness.errors import EndpointError

Make = Callable[[Get, Mapping[str, Any]], Dialect]

OWNERS: Mapping[str, Make] = {"vllm": vllm, "sglang": sglang, "llamacpp": llama_cpp}
"""`owned_by` in the list of models -> what makes the dialect."""

SIGNS: Mapping[str, tuple[str, Make]] = {
    "version": ("version", vllm),
    "model_info": ("model_path", sglang),
    "props": ("build_info", llama_cpp),
}
"""Path -> the field in its reply that only one program has, for models behind a proxy."""

_NO_LIST = {404, 405, 501}  # statuses of a server without a list of models


class Caller(Protocol):
    """What sends a call: the transport."""

    @property
    def urls(self) -> Sequence[str]:
        """The addresses of the servers."""
        ...

    def call(self, call: Call, *, patient: bool = True) -> Any:
        """The parsed JSON of the reply."""
        ...


def detect(caller: Caller, name: str | None) -> Dialect:
    """The dialect of a server, for its model `name`; None: its only one.

    Raises:
        EndpointError: the server cannot be reached, or has no such model.
    """
    get = partial(_reply, caller)
    try:
        models = caller.call(Call("v1/models"), patient=False)
    except EndpointError as error:
        if error.status not in _NO_LIST or name is None:
            raise
        models = None
    model = _model(models, name, caller.urls[0])
    make = OWNERS.get(str(model.get("owned_by")))
    for path, (field, sign) in SIGNS.items() if make is None else ():
        if optional(get(Call(path)), field):
            make = sign
            break
    return (make or openai)(get, model)


def _reply(caller: Caller, call: Call) -> Any:
    """The reply to a call; None if the server refuses it, or sends a page instead of JSON."""
    try:
        return caller.call(call)
    except EndpointError as error:
        if error.status is None:
            raise
        return None


def _model(models: Any, name: str | None, url: str) -> Mapping[str, Any]:
    """The entry of a model in the server's list."""
    data = optional(models, "data")
    listed = data if isinstance(data, list) else []
    entries: list[Mapping[str, Any]] = [entry for entry in listed if optional(entry, "id")]
    names = ", ".join(str(entry["id"]) for entry in entries)
    if name is not None:
        found = [entry for entry in entries if entry["id"] == name]
        if entries and not found:
            raise EndpointError(f"{url} has no model {name!r}; it has {names}")
        return found[0] if found else {"id": name}
    if not entries:
        raise EndpointError(f"{url} lists no models; add #NAME of its model to the address")
    if len({str(entry.get("root", entry["id"])) for entry in entries}) > 1:
        first = entries[0]["id"]
        raise EndpointError(f"{url} has several models ({names}); choose one, as in #{first}")
    return entries[0]
