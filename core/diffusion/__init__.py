"""Pure math of diffusion: schedule, noise, timesteps, targets, losses and samplers."""
