/** A linear layer of random quantized weights, once as ggml's blocks and once as an ONNX model of one `MatMulNBits` node. */

/** Numbers in one block. */
const BLOCK = 32;

/** Numbers below `below` without a pattern. */
function random(seed) {
  let state = seed;
  return (below) => (state = (state * 48271) % 2147483647) % below;
}

/**
 * Codes `[output, input]` without their offset, and f16 scales of the blocks as bits; all the same for the same sizes.
 * @param {{ rows: number, input: number, output: number, bits: 4 | 8 }} sizes
 */
function weights({ input, output, bits }) {
  const next = random(1);
  const codes = Uint8Array.from({ length: output * input }, () => next(1 << bits));
  // From 2^-9 to 2^-8.
  const scales = Uint16Array.from({ length: codes.length / BLOCK }, () => (6 << 10) | next(1 << 10));
  return { codes, scales };
}

/** Numbers in -1..1: `[rows, input]`. */
export function inputs({ rows, input }) {
  const next = random(2);
  return Float32Array.from({ length: rows * input }, () => next(2001) / 1000 - 1);
}

/** The weights as `Q4_0` or `Q8_0`. */
export function ggml(sizes) {
  const { codes, scales } = weights(sizes);
  const half = BLOCK / 2;
  const length = sizes.bits === 4 ? half : BLOCK;
  const bytes = new Uint8Array(scales.length * (2 + length));
  scales.forEach((scale, block) => {
    const at = block * (2 + length);
    const of = codes.subarray(block * BLOCK, (block + 1) * BLOCK);
    bytes.set([scale & 255, scale >> 8], at);
    for (let i = 0; i < length; i++) bytes[at + 2 + i] = sizes.bits === 4 ? of[i] | (of[i + half] << 4) : of[i] ^ 128;
  });
  return bytes;
}

// What protocol buffers are made of.
const varint = (n) => (n < 128 ? [n] : [(n & 127) | 128, ...varint(Math.floor(n / 128))]);
function message(...parts) {
  const joined = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  parts.reduce((at, part) => (joined.set(part, at), at + part.length), 0);
  return joined;
}
const number = (field, n) => message(varint(field * 8), varint(n));
const text = (field, string) => bytes(field, new TextEncoder().encode(string));
function bytes(field, ...parts) {
  const content = message(...parts);
  return message(varint(field * 8 + 2), varint(content.length), content);
}

/** ONNX's numbers of element types. */
const [FLOAT, UINT8] = [1, 2];
const tensor = (name, type, dims, data) =>
  bytes(5, ...dims.map((dim) => number(1, dim)), number(2, type), text(8, name), bytes(9, new Uint8Array(data.buffer)));
const shape = (dims) => bytes(2, ...dims.map((dim) => bytes(1, number(1, dim))));
const value = (field, name, dims) => bytes(field, text(1, name), bytes(2, bytes(1, number(1, FLOAT), shape(dims))));
const attribute = ([name, n]) => bytes(5, text(1, name), number(3, n), number(20, 2));
const opset = (domain, version) => bytes(8, text(1, domain), number(2, version));

/** The model: `x`, `[rows, input]`, to `y`, `[rows, output]`; as ours it computes in f32. */
export function onnx({ rows, input, output, bits }) {
  const { codes, scales } = weights({ rows, input, output, bits });
  const packed = bits === 4 ? Uint8Array.from({ length: codes.length / 2 }, (_, i) => codes[2 * i] | (codes[2 * i + 1] << 4)) : codes;
  const floats = Float32Array.from(scales, (scale) => 2 ** ((scale >> 10) - 15) * (1 + (scale & 1023) / 1024));
  const blocks = input / BLOCK;
  const attributes = { K: input, N: output, bits, block_size: BLOCK };
  const names = ["x", "b", "s"].map((name) => text(1, name));
  const node = bytes(
    1,
    ...names,
    text(2, "y"),
    text(4, "MatMulNBits"),
    ...Object.entries(attributes).map(attribute),
    text(7, "com.microsoft"),
  );
  const graph = bytes(
    7,
    node,
    text(2, "layer"),
    tensor("b", UINT8, [output, blocks, packed.length / output / blocks], packed),
    tensor("s", FLOAT, [output, blocks], floats),
    value(11, "x", [rows, input]),
    value(12, "y", [rows, output]),
  );
  return message(number(1, 10), graph, opset("", 21), opset("com.microsoft", 1));
}
