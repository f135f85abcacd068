"""Goldens of the ControlNet: diffusers' ControlNetModel beside its UNet2DConditionModel, tiny and random."""

import torch
from diffusers import ControlNetModel, UNet2DConditionModel

from golden import round_weights, save
from unet import CONFIGS as UNETS
from unet import SIZES

# Of the ControlNet alone: channels of the image, and the widths of its embedding, each after the first half the size.
CONFIGS = {
    "sd15": dict(conditioning_channels=3, conditioning_embedding_out_channels=[4, 6, 8]),
    "emoji": dict(conditioning_channels=1, conditioning_embedding_out_channels=[4, 6, 8, 10]),
    "odd": dict(conditioning_channels=3, conditioning_embedding_out_channels=[5, 7]),
}
SCALE = 0.7


def main():
    for seed, (name, own) in enumerate(CONFIGS.items()):
        torch.manual_seed(100 + seed)
        shared = UNETS[name]
        unet = UNet2DConditionModel(**shared)
        ours = {key: value for key, value in shared.items() if key not in ("out_channels", "up_block_types")}
        controlnet = ControlNetModel(**ours, **own)
        with torch.no_grad():
            for model in (unet, controlnet):
                for key, weight in model.named_parameters():
                    # The outputs and the embedding of a new ControlNet are zero.
                    if "norm" in key or key.startswith("controlnet_"):
                        weight.add_(0.2 * torch.randn_like(weight))
        round_weights(unet)
        round_weights(controlnet)

        height, width = SIZES.get(name, (8, 8))
        factor = 2 ** (len(own["conditioning_embedding_out_channels"]) - 1)
        inputs = {
            "sample": torch.randn(2, unet.config.in_channels, height, width),
            "timesteps": torch.tensor([981.0, 3.25]),
            "encoder_hidden_states": torch.randn(2, 7, unet.config.cross_attention_dim),
            "image": torch.rand(2, own["conditioning_channels"], height * factor, width * factor),
        }
        added = None
        if unet.config.addition_embed_type == "text_time":
            width = shared["addition_time_embed_dim"]
            dim = shared["projection_class_embeddings_input_dim"] - width
            added = {"text_embeds": torch.randn(2, dim), "time_ids": torch.randint(0, 99, (2, 1)).float()}
            unet.add_embedding.register_forward_pre_hook(lambda _, args: inputs.update(vector=args[0]))
        condition = (inputs["sample"], inputs["timesteps"], inputs["encoder_hidden_states"])
        with torch.no_grad():
            down, mid = controlnet(
                *condition, inputs["image"], conditioning_scale=SCALE, added_cond_kwargs=added, return_dict=False
            )
            sample = unet(
                *condition,
                added_cond_kwargs=added,
                down_block_additional_residuals=down,
                mid_block_additional_residual=mid,
            ).sample
        outputs = {f"down.{index}": residual for index, residual in enumerate(down)} | {"mid": mid, "sample": sample}
        weights = {f"unet.{key}": value for key, value in unet.state_dict().items()}
        weights |= {f"controlnet.{key}": value for key, value in controlnet.state_dict().items()}
        save(
            f"controlnet_{name}",
            {"unet": dict(unet.config), "controlnet": dict(controlnet.config), "scale": SCALE},
            weights,
            inputs,
            outputs,
        )


if __name__ == "__main__":
    main()
