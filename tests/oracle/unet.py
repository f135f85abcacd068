"""Goldens of the UNet: diffusers' UNet2DConditionModel, tiny and random."""

import torch
from diffusers import UNet2DConditionModel

from golden import round_weights, save

TEXT_TIME = dict(addition_embed_type="text_time", use_linear_projection=True)

CONFIGS = {
    # Convolutional projections, attention at all levels but the coarsest.
    "sd15": dict(
        block_out_channels=[8, 12, 16],
        down_block_types=["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
        up_block_types=["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
        layers_per_block=1,
        attention_head_dim=2,
        cross_attention_dim=12,
        norm_num_groups=4,
    ),
    # Linear projections, several transformer layers, heads by level, pooled prompt and six time ids.
    "sdxl": dict(
        block_out_channels=[8, 16],
        down_block_types=["DownBlock2D", "CrossAttnDownBlock2D"],
        up_block_types=["CrossAttnUpBlock2D", "UpBlock2D"],
        layers_per_block=1,
        transformer_layers_per_block=[1, 2],
        attention_head_dim=[1, 4],
        cross_attention_dim=20,
        norm_num_groups=4,
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=10 + 6 * 8,
        **TEXT_TIME,
    ),
    # The experts of PanGu-Draw and of this project: eight latent channels, time by scale and shift, one bucket index.
    "emoji": dict(
        in_channels=8,
        out_channels=8,
        block_out_channels=[8, 18],
        down_block_types=["DownBlock2D", "CrossAttnDownBlock2D"],
        up_block_types=["CrossAttnUpBlock2D", "UpBlock2D"],
        layers_per_block=1,
        attention_head_dim=[1, 3],
        cross_attention_dim=16,
        norm_num_groups=2,
        resnet_time_scale_shift="scale_shift",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=12 + 1 * 8,
        **TEXT_TIME,
    ),
    # Three levels of two blocks each, latents that do not halve evenly, sinusoids the other way round.
    "odd": dict(
        in_channels=3,
        out_channels=5,
        block_out_channels=[4, 8, 12],
        down_block_types=["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        up_block_types=["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        layers_per_block=2,
        attention_head_dim=[1, 2, 3],
        cross_attention_dim=6,
        norm_num_groups=2,
        norm_eps=1e-6,
        flip_sin_to_cos=False,
        freq_shift=1,
    ),
}
SIZES = {"odd": (7, 10)}


def main():
    for seed, (name, config) in enumerate(CONFIGS.items()):
        torch.manual_seed(seed)
        model = UNet2DConditionModel(**config)
        with torch.no_grad():
            for key, weight in model.named_parameters():
                if "norm" in key:
                    weight.add_(0.2 * torch.randn_like(weight))
        round_weights(model)

        inputs = {
            "sample": torch.randn(2, model.config.in_channels, *SIZES.get(name, (8, 8))),
            "timesteps": torch.tensor([981.0, 3.25]),
            "encoder_hidden_states": torch.randn(2, 7, model.config.cross_attention_dim),
        }
        added = None
        if model.config.addition_embed_type == "text_time":
            dim, width = config["projection_class_embeddings_input_dim"], config["addition_time_embed_dim"]
            ids = 6 if name == "sdxl" else 1
            added = {"text_embeds": torch.randn(2, dim - ids * width), "time_ids": torch.randint(0, 99, (2, ids)).float()}
            # What the network's own embedding is given: the pooled prompt and the sinusoids, side by side.
            model.add_embedding.register_forward_pre_hook(lambda _, args: inputs.update(vector=args[0]))
        for key in ("sample", "encoder_hidden_states"):
            inputs[key].requires_grad_()
        sample = model(
            inputs["sample"], inputs["timesteps"], inputs["encoder_hidden_states"], added_cond_kwargs=added
        ).sample
        sample.square().mean().backward()
        # Of each weight's gradient, in the order of names: its norm, and its product with the weight.
        weights = dict(sorted(model.named_parameters()))
        gradients = [torch.stack([weight.grad.norm(), (weight.grad * weight).sum()]) for weight in weights.values()]
        outputs = {
            "sample": sample,
            "gradient.sample": inputs["sample"].grad,
            "gradient.encoder_hidden_states": inputs["encoder_hidden_states"].grad,
            "gradient.weights": torch.stack(gradients),
        }
        if added is not None:
            inputs |= added
        save(f"unet_{name}", dict(model.config), model.state_dict(), inputs, outputs)


if __name__ == "__main__":
    main()
