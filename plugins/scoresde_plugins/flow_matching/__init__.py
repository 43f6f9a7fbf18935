"""Flow matching: processes whose signal vanishes at t = 1, and the loss on velocities."""
