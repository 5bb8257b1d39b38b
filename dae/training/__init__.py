"""Training: batches, losses, optimizers, the fit loop and its checkpoints."""
