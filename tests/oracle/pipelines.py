"""Whole pipelines: a tiny random StableDiffusionPipeline and StableDiffusionXLPipeline, saved as diffusers saves them,
and the latents and pictures that diffusers draws with them.

Writes tests/goldens/pipeline_{sd,sdxl}/ (the folders) and tests/goldens/pipeline_{sd,sdxl}.safetensors; and a tiny random
ControlNet for the first of them as tests/goldens/pipeline_sd_controlnet/, with what it steers in
tests/goldens/pipeline_sd_controlnet.safetensors. The lines that it sees are what `pangu-draw outline` makes of PICTURE:
    pangu-draw outline picture.png --size 16x16 -o tests/goldens/pipeline_sd_controlnet_lines.png
"""

import json
import pathlib
import shutil

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    StableDiffusionControlNetPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from PIL import Image
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

GOLDENS = pathlib.Path(__file__).parent.parent / "goldens"
PROMPT, NEGATIVE = "a red apple, 3d", "blue"
STEPS, GUIDANCE = 8, 4.0
SCHEDULE = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1)


def tokenizer(folder, pad):
    """A CLIP tokenizer whose vocabulary is the bytes and a few merges."""
    folder.mkdir(parents=True, exist_ok=True)
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    symbols = [chr(b) for b in printable] + [chr(256 + i) for i in range(256 - len(printable))]
    merges = [("r", "e"), ("re", "d</w>"), ("a", "p"), ("ap", "p"), ("l", "e</w>"), ("app", "le</w>"), ("b", "l")]
    words = symbols + [s + "</w>" for s in symbols] + ["".join(m) for m in merges]
    words += ["<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({w: i for i, w in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(m) for m in merges) + "\n")
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), pad_token=pad, model_max_length=77)


def clip(vocab, act, width):
    return CLIPTextConfig(
        vocab_size=vocab, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=3, num_attention_heads=2,
        hidden_act=act, projection_dim=width, bos_token_id=vocab - 2, eos_token_id=vocab - 1, pad_token_id=vocab - 1,
    )  # fmt: skip


def unet(**extra):
    return UNet2DConditionModel(
        sample_size=8, block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(2, 4), **extra,
    )  # fmt: skip


def vae(scaling):
    return AutoencoderKL(
        block_out_channels=(8, 16), norm_num_groups=4, latent_channels=4, sample_size=16, scaling_factor=scaling,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    )  # fmt: skip


def write(name, pipeline, kind):
    folder = GOLDENS / f"pipeline_{name}"
    shutil.rmtree(folder, ignore_errors=True)
    pipeline.to(torch.float16).save_pretrained(folder)
    if name == "sdxl":  # the layout of older checkpoints; the other pipeline keeps today's tokenizer.json
        for each in folder.glob("tokenizer*"):
            model = json.loads((each / "tokenizer.json").read_text())["model"]
            (each / "vocab.json").write_text(json.dumps(model["vocab"]))
            merges = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
            (each / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
            (each / "tokenizer.json").unlink()
    pipeline = kind.from_pretrained(folder, torch_dtype=torch.float32, **({} if name == "sdxl" else {"safety_checker": None}))
    pipeline.set_progress_bar_config(disable=True)
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    tensors = {"input.latents": noise}
    # diffusers' two schedulers place "leading" steps differently; on "trailing" ones they agree.
    for scheduler, spacing in ((EulerDiscreteScheduler, "leading"), (DPMSolverMultistepScheduler, "trailing")):
        pipeline.scheduler = scheduler.from_config({**pipeline.scheduler.config, "timestep_spacing": spacing})
        for negative in (NEGATIVE, None):
            arguments = dict(prompt=PROMPT, negative_prompt=negative, num_inference_steps=STEPS, guidance_scale=GUIDANCE)
            arguments |= dict(height=16, width=16)
            key = ("euler" if scheduler is EulerDiscreteScheduler else "dpmpp_2m") + ("_negative" if negative else "")
            tensors[f"output.{key}.latents"] = pipeline(**arguments, latents=noise.clone(), output_type="latent").images
            image = pipeline(**arguments, latents=noise.clone(), output_type="np").images
            tensors[f"output.{key}.image"] = torch.from_numpy(np.ascontiguousarray(image.transpose(0, 3, 1, 2)))
    tensors = {k: v.detach().float().contiguous() for k, v in tensors.items()}
    config = dict(prompt=PROMPT, negative=NEGATIVE, steps=STEPS, guidance=GUIDANCE)
    save_file(tensors, GOLDENS / f"pipeline_{name}.safetensors", metadata={"config": json.dumps(config)})


def picture():
    """A red disc and a blue bar on white, 64x64."""
    y, x = np.mgrid[:64, :64]
    pixels = np.full((64, 64, 3), 255, np.uint8)
    pixels[(x - 26) ** 2 + (y - 26) ** 2 < 18**2] = (220, 30, 40)
    pixels[48:58, 12:56] = (30, 60, 220)
    return pixels


def controlnet():
    """diffusers steers the first pipeline with a ControlNet, several guided steps."""
    name, scale = "pipeline_sd_controlnet", 0.7
    torch.manual_seed(7)
    net = ControlNetModel(
        block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=8, cross_attention_dim=32,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), attention_head_dim=(2, 4),
        conditioning_embedding_out_channels=(4, 6),
    )  # fmt: skip
    for key, weight in net.named_parameters():
        if key.startswith("controlnet_"):  # a new ControlNet adds nothing
            weight.add_(0.3 * torch.randn_like(weight))
    net.to(torch.float16).save_pretrained(GOLDENS / name)
    net = ControlNetModel.from_pretrained(GOLDENS / name, torch_dtype=torch.float32)
    pipeline = StableDiffusionControlNetPipeline.from_pretrained(
        GOLDENS / "pipeline_sd", controlnet=net, torch_dtype=torch.float32, safety_checker=None
    )
    pipeline.set_progress_bar_config(disable=True)
    # Strengths of lines are halves.
    png = np.asarray(Image.open(GOLDENS / f"{name}_lines.png").convert("L"), np.float32)
    lines = torch.from_numpy(np.round(2 * (1 - png / 255)) / 2)[None, None]
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    arguments = dict(prompt=PROMPT, num_inference_steps=STEPS, guidance_scale=GUIDANCE, height=16, width=16)
    arguments |= dict(image=lines.expand(1, 3, 16, 16), controlnet_conditioning_scale=scale)
    latents = pipeline(**arguments, latents=noise.clone(), output_type="latent").images
    image = pipeline(**arguments, latents=noise.clone(), output_type="np").images
    tensors = {
        "input.latents": noise,
        "input.lines": lines,
        "input.picture": torch.from_numpy(picture().transpose(2, 0, 1).copy())[None],
        "output.latents": latents,
        "output.image": torch.from_numpy(np.ascontiguousarray(image.transpose(0, 3, 1, 2))),
    }
    tensors = {k: v.detach().float().contiguous() for k, v in tensors.items()}
    config = dict(prompt=PROMPT, steps=STEPS, guidance=GUIDANCE, scale=scale)
    save_file(tensors, GOLDENS / f"{name}.safetensors", metadata={"config": json.dumps(config)})


def main():
    torch.manual_seed(0)
    scratch = GOLDENS / "tokenizer"
    eos = tokenizer(scratch, "<|endoftext|>")
    bang = tokenizer(scratch, "!")
    shutil.rmtree(scratch)
    scheduler = EulerDiscreteScheduler(**SCHEDULE, timestep_spacing="leading")
    with torch.no_grad():
        sd = StableDiffusionPipeline(
            vae=vae(0.18215), text_encoder=CLIPTextModel(clip(len(eos), "quick_gelu", 32)), tokenizer=eos,
            unet=unet(cross_attention_dim=32), scheduler=scheduler, safety_checker=None, feature_extractor=None,
            requires_safety_checker=False,
        )  # fmt: skip
        write("sd", sd, StableDiffusionPipeline)
        sdxl = StableDiffusionXLPipeline(
            vae=vae(0.13025), text_encoder=CLIPTextModel(clip(len(eos), "quick_gelu", 32)), tokenizer=eos,
            text_encoder_2=CLIPTextModelWithProjection(clip(len(bang), "gelu", 48)), tokenizer_2=bang,
            unet=unet(
                cross_attention_dim=80, transformer_layers_per_block=(1, 2), use_linear_projection=True,
                addition_embed_type="text_time", addition_time_embed_dim=8,
                projection_class_embeddings_input_dim=48 + 6 * 8,
            ),
            scheduler=scheduler, force_zeros_for_empty_prompt=True, add_watermarker=False,
        )  # fmt: skip
        write("sdxl", sdxl, StableDiffusionXLPipeline)
        controlnet()


if __name__ == "__main__":
    main()
