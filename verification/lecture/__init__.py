"""What the lecture has beside ops and optimizers: the chain, initial weights, regularization."""
