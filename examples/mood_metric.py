"""A metric: how much more often a prompt answers "positive" than the targets do."""


def positive_bias(targets, predictions):
    """Returns the difference of the shares of "positive", from -1 to 1."""
    difference = predictions.count("positive") - targets.count("positive")
    return {"positive_bias": difference / len(targets)}
