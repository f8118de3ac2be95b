"""The probe of the tokenizer: odd texts, by the one at hand and by the server."""

from harness.engine.endpoint.self_test.probing import Probing
from harness.engine.endpoint.self_test.prompts import odd_texts
from harness.errors import ResponseError, clipped_repr

PROBE = "tokenizer"


def check_tokenizer(probing: Probing) -> None:
    """Compare the tokens of odd texts; or else see whether the server knows the largest id."""
    ours = odd_texts(probing.tokenizer)
    try:
        asks = [ask for text in ours if (ask := probing.dialect.tokenized(text))]
        first = probing.asking.offered(asks[0] if asks else None)
        if isinstance(first, str):
            probing.found(PROBE, f"not compared: the server has no tokenizer to ask ({first})")
            return
        theirs = [first, *probing.asking.together(asks[1:])]
    except ResponseError as error:
        probing.found(PROBE, f"not compared: {error}", "warn", "check --tokenizer yourself")
        return
    different = [
        (text, tokens, other)
        for (text, tokens), other in zip(ours.items(), theirs, strict=True)
        if tokens != other
    ]
    if different:
        text, tokens, other = different[0]
        probing.fail(
            PROBE,
            f"{len(different)} of {len(ours)} odd texts differ: {clipped_repr(text)} has the "
            f"tokens {clipped_repr(list(tokens))} here and {clipped_repr(list(other))} there",
            "name the model's own tokenizer by --tokenizer",
        )
    probing.found(PROBE, f"{len(ours)} odd texts have the same tokens here and on the server")
