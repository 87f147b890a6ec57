"""What is asked of an optimizer or a schedule: trajectories, uses, options, memory."""
