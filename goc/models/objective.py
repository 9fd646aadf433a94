"""What a denoiser was trained for, and so what the first half of its output means: noise, or a velocity."""

DIFFUSION = "diffusion"  # noise on a schedule of timesteps 0..999; the second half interpolates the variance
FLOW = "flow"  # the velocity of flow matching at a time t in [0, 1]; the second half is never trained
OBJECTIVES = (DIFFUSION, FLOW)
PIPELINE = "pipeline"  # not a denoiser of this project: a pipeline of diffusers, which knows that itself
