"""What is right must pass: right implementations of every op and optimizer, asked many times."""
