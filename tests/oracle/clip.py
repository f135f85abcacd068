"""Goldens of CLIP's text tower and tokenizer from transformers."""

import json

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from golden import GOLDENS, round_weights, save


def tower(name, kind, lengths, tokens, **config):
    config = CLIPTextConfig(architectures=[kind.__name__], bos_token_id=1, pad_token_id=0, **config)
    model = kind(config)
    for key, value in model.named_parameters():
        # Weights large enough that attention is far from uniform.
        std = 0.1 if value.ndim == 1 else (2 / value.shape[1]) ** 0.5
        value.normal_(std=std).add_(1.0 if "norm" in key and key.endswith("weight") else 0.0)
    round_weights(model)
    # Ends of text at different places, padded with the same token.
    legacy = config.eos_token_id == 2
    eos = config.vocab_size - 1 if legacy else config.eos_token_id
    ids = torch.randint(3, config.vocab_size - 5, (len(lengths), tokens))
    for row, length in zip(ids, lengths):
        row[length:] = eos
        if legacy:
            row[length + 1 :] = 0
    result = model(ids, output_hidden_states=True)
    outputs = {"last_hidden_state": result.last_hidden_state, "penultimate_hidden_state": result.hidden_states[-2]}
    weights = model.state_dict()
    if kind is CLIPTextModel:
        outputs["pooled"] = result.pooler_output
        weights = {f"text_model.{key}": value for key, value in weights.items()}
    else:
        outputs["text_embeds"] = result.text_embeds
    save(f"clip_{name}", config.to_dict(), weights, {"ids": ids.float()}, outputs)


CORPUS = """
a red apple on a table, a photo of an astronaut riding a horse, the quick brown fox jumps over the lazy dog.
un café à la crème, ein großes Haus, 红苹果 一只猫 在 桌子 上, don't, it's, they're, we've, I'm, he'll, she'd, !!! ... --
highly detailed, 4k, 8k, 3d render, watercolor painting of a cat and a dog with a hat in the style of a cartoon
""".lower().split()  # fmt: skip

TEXTS = [
    "", " ", "a", "A Red Apple", "a red apple", "  a   photo\tof\n\nan   astronaut  ", "don't", "DON'T", "it's they're we've I'm he'll she'd",
    "'s", "''s", "x's'", "'sam's", "rock 'n' roll", "’s curly quote", "café", "cafe\u0301", "CAFÉ À LA CRÈME", "groß GROSS ẞ", "naïve façade",
    "红苹果", "一只猫在桌子上", "红苹果 red 红", "りんご", "사과", "яблоко ЯБЛОКО", "τέλος ΤΈΛΟΣ", "İstanbul", "Ǆ ǅ ǆ", "שלום", "سلام عليكم",
    "हिन्दी में", "ไทย", "🍎", "👨‍👩‍👧‍👦 family", "red🍎apple", "❤️", "🇫🇷🇨🇳", "1234567890", "4k 8K 3d", "½ ² ① Ⅷ ٣", "1,000.50", "a1b2c3", "!", "!!!", "hello!",
    "a!b!!c", "!?!?...", "--- --- ...", "(a) [b] {c}", "(masterpiece:1.2), best_quality", "a/b\\c|d", "#hash @at $5 %6 ^7 &8 *9", "e-mail@example.com",
    "https://example.com/?q=1&r=2", "<|startoftext|>", "a <|endoftext|> b", "<|ENDOFTEXT|>!! x", "<|startoftext|>a cat", "<| endoftext |>", "a\u00a0b\u2003c\u3000d", "zero\u200bwidth",
    "tab\tnul\u0000bell\u0007", "Ⓐ ⓐ 🅰 🄰", "\ufeffbom", "Å Å Å", "ﬁ ligature", "x² + y³ = z", "a" * 200, "ab " * 100, "ha" * 60 + "!", "— – ‑ …", "_under_score_",
]  # fmt: skip


def tokenizer():
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    symbols = [chr(b) for b in printable] + [chr(256 + i) for i in range(256 - len(printable))]
    trained = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trained.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=700, end_of_word_suffix="</w>", min_frequency=1))
    merges = [tuple(pair) for pair in json.loads(trained.to_str())["model"]["merges"]][:300]
    words = symbols + [symbol + "</w>" for symbol in symbols]
    words += [word for word in dict.fromkeys("".join(pair) for pair in merges)] + ["<|startoftext|>", "<|endoftext|>"]
    vocab, lines = json.dumps({word: i for i, word in enumerate(words)}), "\n".join(["#version: 0.2", *map(" ".join, merges)]) + "\n"
    paths = [GOLDENS / "vocab.json", GOLDENS / "merges.txt"]
    for path, text in zip(paths, (vocab, lines)):
        path.write_text(text)
    cases = {}
    for pad in ("<|endoftext|>", "!"):
        clip = CLIPTokenizer(*map(str, paths), pad_token=pad, model_max_length=77)
        cases[pad] = [clip(text, padding="max_length", truncation=True, max_length=77).input_ids for text in TEXTS]
    tokenizer_json = json.loads(CLIPTokenizer(*map(str, paths)).backend_tokenizer.to_str())
    for path in paths:
        path.unlink()
    golden = {"vocab_json": vocab, "merges_txt": lines, "tokenizer_json": json.dumps(tokenizer_json), "texts": TEXTS}
    golden |= {"ids_end": cases["<|endoftext|>"], "ids_bang": cases["!"]}
    path = GOLDENS / "clip_bpe.json"
    path.write_text(json.dumps(golden))
    print(f"{path.name}: {path.stat().st_size / 1024:.0f} KiB, {len(TEXTS)} texts, {len(merges)} merges")


@torch.no_grad()
def main():
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2, "vocab_size": 90}
    tower("quick_gelu", CLIPTextModel, (3, 9), 12, eos_token_id=89, max_position_embeddings=16, **shape)
    tower(
        "gelu_projection",
        CLIPTextModelWithProjection,
        (5, 76, 40),
        77,
        eos_token_id=88,
        hidden_act="gelu",
        projection_dim=20,
        **shape | {"num_attention_heads": 4, "num_hidden_layers": 2},
    )
    legacy = shape | {"hidden_size": 24, "num_attention_heads": 3, "num_hidden_layers": 4, "projection_dim": 24}
    tower("legacy_eos", CLIPTextModelWithProjection, (4, 1), 8, eos_token_id=2, **legacy)
    tokenizer()


if __name__ == "__main__":
    main()
