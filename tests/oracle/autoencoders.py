"""Goldens of the autoencoders from diffusers: AutoencoderTiny and AutoencoderKL."""

import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from diffusers.models.autoencoders.vae import DecoderTiny, EncoderTiny
from diffusers.models.unets.unet_2d_blocks import AutoencoderTinyBlock
from torch import nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from golden import round_weights, save


class PatchedTiny(nn.Module):
    """AutoencoderTiny between a pixel-unshuffle and a pixel-shuffle, with a width of its own for every level."""

    def __init__(self, config):
        super().__init__()
        self.patch, self.rescale = config["patch_size"], config["rescale_pixels"]
        enc, dec = config["encoder_block_out_channels"], config["decoder_block_out_channels"]
        latent, pixels = config["latent_channels"], 3 * self.patch**2

        def conv(a, b, **kwargs):
            return nn.Conv2d(a, b, 3, padding=1, **kwargs)

        layers = []
        for i, blocks in enumerate(config["num_encoder_blocks"]):
            layers += [conv(enc[i - 1], enc[i], stride=2, bias=False) if i else conv(pixels, enc[0])]
            layers += [AutoencoderTinyBlock(enc[i], enc[i], "relu") for _ in range(blocks)]
        # The reference's own forward passes run over these layers.
        self.encoder = EncoderTiny(3, latent, (1,), (8,), "relu")
        self.encoder.layers = nn.Sequential(*layers, conv(enc[-1], latent))

        layers = [conv(latent, dec[0]), nn.ReLU()]
        for i, blocks in enumerate(config["num_decoder_blocks"]):
            layers += [AutoencoderTinyBlock(dec[i], dec[i], "relu") for _ in range(blocks)]
            last = i == len(dec) - 1
            layers += [conv(dec[i], pixels)] if last else [nn.Upsample(scale_factor=2), conv(dec[i], dec[i + 1], bias=False)]
        self.decoder = DecoderTiny(latent, 3, (1,), (8,), 2, "relu", "nearest")
        self.decoder.layers = nn.Sequential(*layers)

    def encode(self, x):
        # The reference rescales always: undo it where the configuration does not.
        return self.encoder(pixel_unshuffle(x if self.rescale else 2 * x - 1, self.patch))

    def decode(self, z):
        x = pixel_shuffle(self.decoder(z), self.patch)
        return x if self.rescale else (x + 1) / 2


def tiny(name, size, **config):
    if "patch_size" in config:
        model = round_weights(PatchedTiny(config))
        encode, decode = model.encode, model.decode
    else:
        model = round_weights(AutoencoderTiny(**config))
        encode, decode = (lambda x: model.encode(x).latents), (lambda z: model.decode(z).sample)
    image = torch.rand(2, 3, *size) * 2 - 1
    encoded = encode(image)
    latent = torch.randn(encoded.shape)
    outputs = {"latent": encoded, "image": decode(latent)}
    save(f"autoencoder_tiny_{name}", config, model.state_dict(), {"image": image, "latent": latent}, outputs)


def kl(name, size, **config):
    levels = len(config["block_out_channels"])
    config |= {"down_block_types": ["DownEncoderBlock2D"] * levels, "up_block_types": ["UpDecoderBlock2D"] * levels}
    model = round_weights(AutoencoderKL(**config))
    image = torch.rand(2, 3, *size) * 2 - 1
    encoded = model.encode(image).latent_dist.mean
    latent = torch.randn(encoded.shape)
    outputs = {"latent": encoded, "image": model.decode(latent).sample}
    save(f"autoencoder_kl_{name}", config, model.state_dict(), {"image": image, "latent": latent}, outputs)


@torch.no_grad()
def main():
    torch.manual_seed(0)
    tiny(
        "taesd",
        (32, 32),
        encoder_block_out_channels=(12,) * 4,
        decoder_block_out_channels=(12,) * 4,
        num_encoder_blocks=(1, 3, 3, 3),
        num_decoder_blocks=(3, 3, 3, 1),
    )
    tiny(
        "two_levels",
        (24, 16),
        encoder_block_out_channels=(16, 16),
        decoder_block_out_channels=(16, 16),
        num_encoder_blocks=(2, 1),
        num_decoder_blocks=(1, 2),
        latent_channels=8,
    )
    tiny(
        "patched",
        (32, 48),
        encoder_block_out_channels=(8, 12, 16),
        decoder_block_out_channels=(20, 16, 8),
        num_encoder_blocks=(1, 1, 2),
        num_decoder_blocks=(2, 1, 1),
        latent_channels=6,
        patch_size=2,
        rescale_pixels=False,
    )
    kl("sd", (16, 16), block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4)
    kl("three_levels", (24, 16), block_out_channels=(8, 8, 16), layers_per_block=2, norm_num_groups=8)
    kl(
        "without_quant_conv",
        (8, 20),
        block_out_channels=(16, 8),
        layers_per_block=1,
        norm_num_groups=2,
        latent_channels=6,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    kl(
        "without_attention",
        (12, 12),
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        mid_block_add_attention=False,
    )


if __name__ == "__main__":
    main()
