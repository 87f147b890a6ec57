"""What is asked of an op: values, gradients, memory, errors, random numbers, ways to call it."""
