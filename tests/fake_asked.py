"""What a completion request asks for, and how vLLM 0.32 refuses one that is wrong."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from fake_model import Model

MOST_NAMED = 128  # ids of `logprob_token_ids`
MOST_STOPS = 4


class Refusal(Exception):
    """A reply that is not 200."""

    def __init__(self, message: str, param: str | None = None, status: int = 400, **more: Any):
        super().__init__(message)
        self.status = status
        kind = {400: "BadRequestError", 404: "NotFoundError"}[status]
        if "value" in more:
            message += f" (parameter={param}, value={more['value']})"
        elif more.get("named"):
            message += f" (parameter={param})"
        if more.get("validation"):
            kind = "Bad Request"
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": status}}


class Asked(NamedTuple):
    """One completion request, checked."""

    prompts: list[list[int]]
    most: int
    echo: bool
    logprobs: int | None  # of generated tokens, and of the prompt under `echo`
    prompt_logprobs: int | None
    named: list[int] | None
    as_ids: bool  # token strings such as "token_id:5"
    show_ids: bool


def asked_of(body: Mapping[str, Any], model: Model, most_logprobs: int) -> Asked:
    """Check a request in the order in which vLLM does."""
    prompts = _prompts(body, model)
    _check_stops(body.get("stop"))
    if body.get("temperature", 1) < 0:
        value = body["temperature"]
        raise Refusal(f"temperature must be non-negative, got {value}.", "temperature", value=value)
    named = body.get("logprob_token_ids")
    asked = Asked(
        prompts,
        0,
        bool(body.get("echo")),
        body.get("logprobs"),
        _prompt_logprobs(body, model, most_logprobs),
        named,
        bool(body.get("return_tokens_as_token_ids")),
        bool(body.get("return_token_ids")),
    )
    if asked.logprobs is not None and asked.logprobs > most_logprobs:
        raise _too_many("sample logprobs of", asked.logprobs, most_logprobs, "logprobs")
    if named is not None:
        _check_named(named, asked, model)
    fitted = [_fitted(ids, body, model) for ids in prompts]
    return asked._replace(prompts=[ids for ids, _ in fitted], most=min(room for _, room in fitted))


def _prompts(body: Mapping[str, Any], model: Model) -> list[list[int]]:
    prompt = body.get("prompt")
    if prompt is None or prompt == "":
        message = "Either prompt or prompt_embeds must be provided and non-empty."
        raise Refusal(message, "prompt", named=True)
    if prompt == []:
        raise Refusal("You must pass at least one prompt")
    several = isinstance(prompt, list) and isinstance(prompt[0], list | str)
    prompts = prompt if several else [prompt]
    ids = [model.tokenizer.encode(p) if isinstance(p, str) else p for p in prompts]
    for each in ids:
        wrong = [place for place, i in enumerate(each) if type(i) is not int or i < 0]
        if wrong:
            where = f"body.prompt.{wrong[0]}"
            raise Refusal(f"1 validation error:\n  {{'loc': {where!r}}}", where, validation=True)
        if not each:
            raise Refusal("The decoder prompt cannot be empty")
        if max(each) >= model.vocabulary:
            raise Refusal(f"Token id {max(each)} is out of vocabulary")
    return ids


def _check_stops(stop: Any) -> None:
    stops = [stop] if isinstance(stop, str) else stop or []
    if len(stops) > MOST_STOPS:
        message = f"1 validation error:\n  {{'type': 'too_long', 'input': {len(stops)}}}"
        raise Refusal(message, "body.stop", validation=True)
    if "" in stops:
        raise Refusal("stop cannot contain an empty string.")


def _prompt_logprobs(body: Mapping[str, Any], model: Model, most: int) -> int | None:
    asked = body.get("prompt_logprobs")
    if asked is None:
        return None
    if not isinstance(asked, int):
        message = "`prompt_logprobs` must be an integer."
        raise Refusal(message, "prompt_logprobs", value=asked)
    if body.get("stream") and asked:
        message = "`prompt_logprobs` are not available when `stream=True`."
        raise Refusal(message, "prompt_logprobs", named=True)
    number = model.vocabulary if asked == -1 else int(asked)
    if number > most:
        raise _too_many("prompt logprobs of", number, most, "prompt_logprobs")
    return number


def _too_many(what: str, number: int, most: int, param: str) -> Refusal:
    message = f"Requested {what} {number}, which is greater than max allowed: {most}"
    return Refusal(message, param, value=number)


def _check_named(named: list[int], asked: Asked, model: Model) -> None:
    param = "logprob_token_ids"
    if asked.logprobs is None:
        message = "when using `logprob_token_ids`, `logprobs` must be set."
        raise Refusal(message, param, named=True)
    if len(named) > MOST_NAMED:
        raise _too_many(f"{param} of length", len(named), MOST_NAMED, param)
    if max(named, default=0) >= model.vocabulary:
        outside = [i for i in named if i >= model.vocabulary]
        message = (
            f"token_id(s) {outside} in {param} contain out-of-vocab token ids. "
            f"Vocabulary size: {model.vocabulary}"
        )
        raise Refusal(message, param, value=outside)


def _fitted(ids: list[int], body: Mapping[str, Any], model: Model) -> tuple[list[int], int]:
    """A prompt, cut if that was asked for, and how many tokens may be generated after it."""
    longest, most = model.context, body.get("max_tokens", 16)
    limit = body.get("truncate_prompt_tokens")
    if limit is not None:
        ids = _cut(ids, limit, longest, most, body.get("truncation_side"))
    if len(ids) > longest:
        about = "at least " if len(ids) == longest + 1 else ""
        message = (
            f"This model's maximum context length is {longest} tokens. However, your prompt "
            f"contains {about}{len(ids)} input tokens, which exceeds this limit even without any "
            "output tokens. Please reduce the length of the input prompt."
        )
        raise Refusal(message, "input_tokens", value=len(ids))
    if most == 0 and body.get("echo"):
        if len(ids) >= longest:
            raise Refusal(
                f"The decoder prompt (length {len(ids)}) plus the number of requested output "
                "tokens (at least 1) is longer than the maximum model length of "
                f"{longest}. Make sure that `max_model_len` is no smaller than the number of text "
                "tokens (prompt + requested output tokens)."
            )
        return ids, 0
    room = min(most, longest - len(ids))
    if room < 1:
        raise Refusal(f"max_tokens must be at least 1, got {room}.", "max_tokens", value=room)
    return ids, room


def _cut(ids: list[int], limit: int, longest: int, most: int, side: str | None) -> list[int]:
    if limit > longest:
        message = (
            f"truncate_prompt_tokens={limit} cannot be greater than max_model_len = {longest}. "
            "Please request a smaller truncation size."
        )
        raise Refusal(message, "truncate_prompt_tokens", value=limit)
    kept = longest - most if limit == -1 else limit
    return ids[:kept] if side == "right" else ids[-kept:]
