"""What guessing gives: the loss of uniform probabilities and the accuracy of a random choice."""

import math

ROUNDING = 1e-3  # nats; far more than rounding moves a log-probability in float32


def uniform_loss(vocabulary: int) -> float:
    """The loss of uniform probabilities, ln V, in nats per token."""
    return math.log(vocabulary)


def is_no_better_than_uniform(loss: float, vocabulary: int) -> bool:
    """Whether a loss in nats per token is at or above that of uniform probabilities."""
    return loss >= uniform_loss(vocabulary) - ROUNDING


def random_accuracy(options: float) -> float:
    """The accuracy of a random choice among so many options, in percent."""
    return 100 / options
