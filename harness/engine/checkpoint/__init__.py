"""From a model's name to weights on a device, and the digest that identifies them."""
