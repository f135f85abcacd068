"""Goldens of schedules and samplers from diffusers, and of the seeded noise from an independent ChaCha20.

schedule_*:  every spacing's noise levels for many step counts (EulerDiscreteScheduler), and its timestep for a noise level.
sampler_*:   a scheduler's whole trajectory, as x = x0 + sigma n after every step, with an analytic network.
"""

import hashlib
import json
import math

import numpy as np
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    LCMScheduler,
)
from diffusers.schedulers import scheduling_euler_ancestral_discrete, scheduling_lcm

from golden import save

SCHEDULES = {
    "sd": dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1),
    "linear": dict(beta_start=0.0001, beta_end=0.02, beta_schedule="linear"),
    "cosine": dict(beta_schedule="squaredcos_cap_v2"),
    "zero_snr": dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", rescale_betas_zero_snr=True),
    "short": dict(num_train_timesteps=50, beta_start=0.001, beta_end=0.2, beta_schedule="linear"),
}
SHAPE = (2, 3, 4, 4)
SEED = 0x0123456789ABCDEF


def spaced(spacing):
    """The arguments of a scheduler's constructor that ask for `spacing`."""
    if spacing in ("karras", "exponential"):
        return {"timestep_spacing": "linspace", f"use_{spacing}_sigmas": True}
    return {"timestep_spacing": spacing}


def chacha20(seed, stream, blocks):
    """ChaCha20 (RFC 8439's rounds, Bernstein's 64-bit counter and nonce) as 64-bit words."""
    state = np.zeros((16, blocks), np.uint32)
    state[0:4] = np.frombuffer(b"expand 32-byte k", "<u4")[:, None]
    state[4:6] = np.frombuffer(seed.to_bytes(8, "little"), "<u4")[:, None]
    state[12] = np.arange(blocks)
    state[14:16] = np.frombuffer(stream.to_bytes(8, "little"), "<u4")[:, None]
    s = state.copy()

    def quarter(a, b, c, d):
        for x, y, z, bits in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
            s[x] += s[y]
            s[z] ^= s[x]
            s[z] = (s[z] << np.uint32(bits)) | (s[z] >> np.uint32(32 - bits))

    for _ in range(10):
        for i in range(4):
            quarter(i, 4 + i, 8 + i, 12 + i)
        for i in range(4):
            quarter(i, 4 + (i + 1) % 4, 8 + (i + 2) % 4, 12 + (i + 3) % 4)
    return (s + state).T.astype("<u4").tobytes()


def normal(seed, stream, count):
    words = np.frombuffer(chacha20(seed, stream, -(-count // 8)), "<u8") >> np.uint64(11)
    u1, u2 = (words[0::2] + np.uint64(1)) / 2**53, words[1::2] / 2**53
    radius, angle = np.sqrt(-2 * np.log(u1)), 2 * np.pi * u2
    pairs = np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)
    return pairs.reshape(-1)[:count].astype(np.float32)


def noise(stream):
    return torch.from_numpy(normal(SEED, stream, math.prod(SHAPE)).reshape(SHAPE))


def network(x, t):
    return torch.tanh(0.7 * x + 0.001 * t - 0.3)


def schedules():
    for name, config in SCHEDULES.items():
        count = config.get("num_train_timesteps", 1000)
        outputs = {}
        for spacing in ("leading", "linspace", "trailing", "karras", "exponential"):
            scheduler = EulerDiscreteScheduler(**config, **spaced(spacing))
            for steps in (*range(1, 17), 20, 25, 30, 40, 48, 49, 50, 100, 250, 999, 1000):
                # With one step these two have no range to span; with 1000 an offset runs past the schedule's end.
                degenerate = steps == 1 and spacing in ("karras", "exponential")
                if steps <= count and not degenerate and not (steps == 1000 and config.get("steps_offset")):
                    scheduler.set_timesteps(steps)
                    outputs[f"{spacing}.{steps}"] = scheduler.sigmas
        abar = scheduler.alphas_cumprod
        levels = ((1 - abar) / abar).sqrt()
        query = torch.logspace(math.log10(levels[0] / 2), math.log10(levels[-1] * 2), 200)
        outputs["timestep"] = torch.from_numpy(scheduler._sigma_to_t(query.numpy(), levels.log().numpy())).float()
        save(f"schedule_{name}", config, {}, {"sigma": query}, {**outputs, "alphas_cumprod": abar})


def trajectory(name, cls, schedule, prediction, spacing, steps, eta=0.0):
    """One scheduler driven from unit noise to its end; alpha-space latents are divided by sqrt(abar)."""
    config = dict(SCHEDULES[schedule], prediction_type=prediction)
    extra = {"clip_sample": False} if cls is DDIMScheduler else {}
    own_spacing = {} if cls is LCMScheduler else spaced(spacing)
    scheduler = cls(**config, **own_spacing, **extra)
    if cls in (DDIMScheduler, LCMScheduler) and config.get("rescale_betas_zero_snr"):
        # The other schedulers' stand-in for an infinite noise level.
        scheduler.alphas_cumprod[-1] = 2**-24
    scheduler.set_timesteps(steps)

    abar = scheduler.alphas_cumprod.double()
    levels = ((1 - abar) / abar).sqrt()
    if hasattr(scheduler, "sigmas"):
        sigmas = torch.unique_consecutive(scheduler.sigmas)
    else:
        sigmas = torch.cat([levels[scheduler.timesteps], torch.zeros(1)]).float()
    assert len(sigmas) == steps + 1, name
    timesteps = scheduler.timesteps
    if cls is DPMSolverMultistepScheduler and spacing in ("karras", "exponential"):
        # It tells the network whole timesteps; the noise levels lie between them.
        timesteps = torch.from_numpy(scheduler._sigma_to_t(sigmas[:-1].numpy(), levels.float().log().numpy())).float()

    noises = torch.stack([noise(1 + i) for i in range(steps)])
    draws = iter(noises)
    for module in (scheduling_euler_ancestral_discrete, scheduling_lcm):
        module.randn_tensor = lambda *args, **kwargs: next(draws)

    in_alpha_space = cls in (DDIMScheduler, LCMScheduler, DPMSolverMultistepScheduler)
    scale = (sigmas.double() ** 2 + 1).sqrt().float()
    x = noise(0) if in_alpha_space else noise(0) * scale[0]
    xs = []
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(0)
    for t in timesteps:
        output = network(scheduler.scale_model_input(x, t), t.float())
        keywords = {}
        if cls is DDIMScheduler and eta:
            keywords = dict(eta=eta, variance_noise=next(draws))
        x = scheduler.step(output, t, x, **keywords).prev_sample
        # Heun's two evaluations make one step, but for the last one, to 0.
        if getattr(scheduler, "state_in_first_order", True) or sigmas[len(xs) + 1] == 0:
            xs.append(x * scale[len(xs) + 1] if in_alpha_space else x)
    config |= dict(timestep_spacing=spacing)
    sampler = dict(sampler=name.split("-")[0], steps=steps, eta=eta, seed=SEED, schedule=config)
    save(f"sampler_{name}", sampler, {}, {"noise": noises, "latent": noise(0), "sigmas": sigmas}, {"x": torch.stack(xs)})


def samplers():
    euler, ancestral, heun = EulerDiscreteScheduler, EulerAncestralDiscreteScheduler, HeunDiscreteScheduler
    dpmpp, ddim, lcm = DPMSolverMultistepScheduler, DDIMScheduler, LCMScheduler
    eps, v = "epsilon", "v_prediction"
    trajectory("euler-sd", euler, "sd", eps, "leading", 20)
    trajectory("euler-linear", euler, "linear", eps, "linspace", 10)
    trajectory("euler-cosine", euler, "cosine", v, "leading", 7)
    trajectory("euler-zero_snr", euler, "zero_snr", v, "trailing", 8)
    trajectory("euler-karras", euler, "sd", eps, "karras", 12)
    trajectory("euler-exponential", euler, "linear", v, "exponential", 9)
    trajectory("euler-one", euler, "sd", eps, "trailing", 1)
    trajectory("euler_ancestral-sd", ancestral, "sd", eps, "leading", 12)
    trajectory("euler_ancestral-linear", ancestral, "linear", eps, "linspace", 9)
    trajectory("euler_ancestral-cosine", ancestral, "cosine", eps, "leading", 6)
    trajectory("euler_ancestral-zero_snr", ancestral, "zero_snr", v, "trailing", 8)
    trajectory("euler_ancestral-one", ancestral, "sd", v, "trailing", 1)
    trajectory("heun-sd", heun, "sd", eps, "leading", 10)
    trajectory("heun-linear", heun, "linear", v, "linspace", 8)
    trajectory("heun-cosine", heun, "cosine", eps, "leading", 5)
    trajectory("heun-karras", heun, "sd", v, "karras", 12)
    trajectory("heun-one", heun, "sd", eps, "trailing", 1)
    trajectory("dpmpp_2m-sd", dpmpp, "sd", eps, "trailing", 20)
    trajectory("dpmpp_2m-linear", dpmpp, "linear", v, "trailing", 5)
    trajectory("dpmpp_2m-cosine", dpmpp, "cosine", v, "exponential", 9)
    trajectory("dpmpp_2m-zero_snr", dpmpp, "zero_snr", v, "trailing", 8)
    trajectory("dpmpp_2m-karras", dpmpp, "sd", eps, "karras", 15)
    trajectory("dpmpp_2m-two", dpmpp, "sd", eps, "trailing", 2)
    trajectory("dpmpp_2m-one", dpmpp, "sd", v, "trailing", 1)
    trajectory("ddim-sd", ddim, "sd", eps, "leading", 20)
    trajectory("ddim-half", ddim, "sd", eps, "leading", 12, eta=0.5)
    trajectory("ddim-full", ddim, "linear", v, "leading", 10, eta=1.0)
    trajectory("ddim-cosine", ddim, "cosine", "sample", "leading", 9)
    trajectory("ddim-zero_snr", ddim, "zero_snr", v, "trailing", 10)
    trajectory("ddim-one", ddim, "sd", eps, "trailing", 1)
    trajectory("lcm-sd", lcm, "sd", eps, "trailing", 5)
    trajectory("lcm-zero_snr", lcm, "zero_snr", v, "trailing", 10)
    trajectory("lcm-cosine", lcm, "cosine", "sample", "trailing", 2)
    trajectory("lcm-one", lcm, "sd", eps, "trailing", 1)


if __name__ == "__main__":
    torch.manual_seed(0)
    schedules()
    samplers()
    for seed, stream, count in ((0, 0, 4096), (7, 0, 4096), (SEED, 3, 1001)):
        print(json.dumps([seed, stream, count, hashlib.sha256(normal(seed, stream, count).tobytes()).hexdigest()]))
