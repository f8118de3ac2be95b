"""Where the weights of a checkpoint are: on one device, on several, or in parts in processes."""
