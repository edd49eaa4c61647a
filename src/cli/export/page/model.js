"use strict";
// The model of this page. With E = n_embd, H = n_head heads and V tokens, for one token at a position:
//
//   x      = rms_norm(wte[token] + wpe[position])                          [E]
//   in each layer:
//     q, k, v = wq · rms_norm(x), wk · rms_norm(x), wv · rms_norm(x)       [E] each, H heads of E / H
//     x      += wo · concat over heads of softmax(q·Kᵀ / √(E / H)) · V     K, V: this and all earlier positions
//     x      += fc2 · relu(fc1 · rms_norm(x))                              [E] → [4E] → [E]
//   logits = lm_head · x                                                   [V]
//
// Sections: 1. forward pass, 2. sampling, 3. tokens, 4. sequences, 5. weights.

// ---------- 1. Forward pass ----------

// The logits of the token after `token`. The cache of each layer has the keys and values of the earlier
// positions, and gets those of this one.
function forward(model, token, cache) {
  const position = cache[0].keys.length;
  let x = rmsNorm(add(row(model.wte, token), row(model.wpe, position)));
  model.layers.forEach((layer, i) => {
    const normed = rmsNorm(x);
    const q = matmul(layer.wq, normed);
    cache[i].keys.push(matmul(layer.wk, normed));
    cache[i].values.push(matmul(layer.wv, normed));
    x = add(x, matmul(layer.wo, attention(q, cache[i], model.n_head)));
    x = add(x, matmul(layer.fc2, relu(matmul(layer.fc1, rmsNorm(x)))));
  });
  return matmul(model.lm_head, x);
}

// softmax(q·Kᵀ / √(E / H)) · V of each head.
function attention(q, { keys, values }, heads) {
  const size = q.length / heads;
  const out = new Float64Array(q.length);
  for (let first = 0; first < q.length; first += size) {
    const score = (key) => dot(q, first, key, first, size) / Math.sqrt(size);
    const p = softmax(keys.map(score));
    for (let i = first; i < first + size; i++) {
      for (let t = 0; t < values.length; t++) out[i] += p[t] * values[t][i];
    }
  }
  return out;
}

// x / √(mean of x² + 1e-5).
function rmsNorm(x) {
  const scale = 1 / Math.sqrt(dot(x, 0, x, 0, x.length) / x.length + 1e-5);
  return x.map((value) => value * scale);
}

// W · x. Row r of W begins at r · cols.
function matmul({ data, rows, cols }, x) {
  const out = new Float64Array(rows);
  for (let r = 0; r < rows; r++) out[r] = dot(data, r * cols, x, 0, cols);
  return out;
}

function dot(a, aFirst, b, bFirst, length) {
  let sum = 0;
  for (let i = 0; i < length; i++) sum += a[aFirst + i] * b[bFirst + i];
  return sum;
}

const row = ({ data, cols }, r) => data.subarray(r * cols, (r + 1) * cols);
const add = (a, b) => a.map((value, i) => value + b[i]);
const relu = (x) => x.map((value) => Math.max(value, 0));

function softmax(x) {
  const { weights, total } = exponentials(x, 1);
  return weights.map((weight) => weight / total);
}

// e^((x − max) / temperature), and the sum. The maximum is subtracted so that nothing overflows.
function exponentials(x, temperature) {
  const max = x.reduce((a, b) => Math.max(a, b));
  const weights = x.map((value) => Math.exp((value - max) / temperature));
  return { weights, total: weights.reduce((a, b) => a + b) };
}

// ---------- 2. Sampling ----------

// The random numbers of wyrand, as the fastrand library defines them.
class Rng {
  constructor(seed) {
    this.state = seed;
  }

  u64() {
    this.state = BigInt.asUintN(64, this.state + 0x2d358dccaa6c78a5n);
    const product = this.state * (this.state ^ 0x8bb84b93962eacc9n);
    return BigInt.asUintN(64, product ^ (product >> 64n));
  }

  // A number from 0 up to, and without, 1.
  f64() {
    for (;;) {
      const number = Number(this.u64() >> 1n) / 2 ** 63;
      if (number < 1) return number;
    }
  }
}

// The random numbers of the sample with this index, which depend on the seed and the index alone.
function sampleRng(seed, index) {
  const fromIndex = new Rng(BigInt.asUintN(64, ~index)).u64();
  return new Rng(new Rng(new Rng(seed).u64() ^ fromIndex).u64());
}

// The probabilities of the tokens, before division by their total. Temperature 0 leaves one token.
function distribution(logits, temperature, allows) {
  const masked = logits.map((logit, token) => (allows(token) ? logit : -Infinity));
  if (temperature > 0) return exponentials(masked, temperature);
  const top = argmax(masked);
  return { weights: masked.map((_, token) => (token === top ? 1 : 0)), total: 1 };
}

// The token on which `random` from [0, 1) falls, if each covers a part as long as its probability.
function pick({ weights, total }, random) {
  let point = random * total;
  for (let token = 0; token < weights.length; token++) {
    point -= weights[token];
    if (point < 0) return token;
  }
  return argmax(weights);
}

const argmax = (x) => x.reduce((best, value, i) => (value > x[best] ? i : best), 0);

// ---------- 3. Tokens ----------

// The tokens of a text, without its unknown characters.
const encode = (model, text) => (model.merges ? words(text).flatMap((word) => encodeWord(model, word)) : encodeCharacters(model, text));

const encodeCharacters = (model, text) => [...text].map((c) => model.ids.get(c)).filter((id) => id !== undefined);

const unknownCharacters = (model, text) => (model.merges ? [] : [...new Set(text)].filter((c) => !model.ids.has(c)));

// The words of byte-level BPE, as GPT-2 splits them. No token extends over the end of a word.
const words = (text) =>
  text.match(/'(?:s|t|re|ve|m|ll|d)| ?\p{L}+| ?\p{N}+| ?[^\p{White_Space}\p{L}\p{N}]+|\p{White_Space}+(?!\P{White_Space})|\p{White_Space}+/gu) ?? [];

// The tokens of a word: its bytes, of which the pair that was learned first is merged, again and again.
function encodeWord(model, word) {
  const parts = Array.from(new TextEncoder().encode(word), (byte) => model.alphabet[byte]);
  for (;;) {
    const ranks = parts.slice(1).map((part, i) => model.merges.get(`${parts[i]} ${part}`) ?? Infinity);
    const first = ranks.indexOf(Math.min(...ranks));
    if (first < 0 || ranks[first] === Infinity) return parts.map((part) => model.ids.get(part));
    parts.splice(first, 2, parts[first] + parts[first + 1]);
  }
}

// The text of tokens, without the special ones. While more are to come, the bytes of an incomplete character
// at the end are held back.
function decode(model, tokens, isPartial = false) {
  const bytes = tokens.flatMap((token) => model.bytes[token] ?? []);
  return new TextDecoder("utf-8", { ignoreBOM: true }).decode(Uint8Array.from(bytes), { stream: isPartial });
}

function tokenName(model, token) {
  const bytes = model.bytes[token];
  if (!bytes) return `<${model.specialNames[token - model.bytes.length]}>`;
  const name = decode(model, [token]);
  return name.includes("\ufffd") ? bytes.map((byte) => `\\x${byte.toString(16).padStart(2, "0")}`).join("") : name;
}

// The messages of a conversation: a role token starts each.
function decodeConversation(model, tokens, isPartial = false) {
  const { user, assistant, system } = model.special;
  const messages = [];
  for (const token of tokens) {
    if ([user, assistant, system].includes(token)) messages.push({ role: tokenName(model, token).slice(1, -1), tokens: [] });
    else messages.at(-1)?.tokens.push(token);
  }
  return messages.map(({ role, tokens }) => ({ role, content: decode(model, tokens, isPartial) }));
}

// [bos, turns…, assistant], at most `maxTokens` of them. Drops the earliest turns first, but keeps a system
// message that takes at most half of the tokens; then the front of the last turn.
function chatPrompt(model, messages, maxTokens) {
  const { bos, assistant, end_turn } = model.special;
  const turns = messages.map(({ role, content }) => [model.special[role], ...encode(model, content), end_turn]);
  const maxKept = Math.max(maxTokens - 2, 0);
  const pinned = messages[0]?.role === "system" && turns[0].length <= maxKept / 2 ? 1 : 0;
  const length = () => turns.reduce((sum, turn) => sum + turn.length, 0);
  while (length() > maxKept && turns.length > pinned + 1) turns.splice(pinned, 1);
  const excess = length() - maxKept;
  if (excess > 0) turns.at(-1).splice(maxKept < 2 ? 0 : 1, maxKept < 2 ? Infinity : excess);
  return [bos, ...turns.flat(), assistant];
}

// ---------- 4. Sequences ----------

// The tokens that may come next, so that every sample is well-formed, and the end.
function grammar(model, kind, inTurn) {
  const { user, end_turn, bos } = model.special;
  const inMessage = (token) => token < user || token === end_turn;
  switch (kind) {
    case "documents": return { allows: () => true, isEnd: (token) => token === bos };
    case "continuous": return { allows: (token) => token !== bos, isEnd: () => false };
    case "reply": return { allows: inMessage, isEnd: (token) => token === end_turn };
    case "conversations": return {
      allows: (token) => (inTurn ? inMessage(token) : token >= user && token !== end_turn),
      isEnd: (token) => token === bos,
      advance: (token) => { inTurn = token !== end_turn; },
    };
  }
}

// Continues a prompt. Yields each sampled token with its distribution, random number and context, and
// nothing after each other token, so that the caller can pause. Once the context of a continuous text is
// full, its first half is dropped.
function* continueTokens(model, prompt, { allows, isEnd, advance }, { rng, temperature, maxTokens }) {
  const newCache = () => model.layers.map(() => ({ keys: [], values: [] }));
  let context = [...prompt];
  let cache = newCache();
  for (let sampled = 0; sampled < maxTokens; sampled++) {
    if (context.length > model.block_size) {
      context = context.slice(-Math.ceil(model.block_size / 2));
      cache = newCache();
    }
    while (cache[0].keys.length < context.length - 1) {
      forward(model, context[cache[0].keys.length], cache);
      yield;
    }
    const logits = forward(model, context.at(-1), cache);
    const next = distribution(logits, temperature, allows);
    const random = rng.f64();
    const token = pick(next, random);
    advance?.(token);
    yield { token, ...next, random, context: [...context] };
    if (isEnd(token)) return;
    context.push(token);
  }
}

// The sample with this index, as `microgpt generate` makes it: the tokens that its text begins with, and the
// steps.
function startSample(model, { prompt, seed, temperature, maxTokens }, index) {
  const unknown = unknownCharacters(model, prompt);
  if (unknown.length) throw new Error(`The prompt has characters that the model doesn't know: ${unknown.map((c) => JSON.stringify(c)).join(", ")}.`);
  const { bos, user } = model.special;
  const isContinuous = model.kind === "continuous";
  let start = [bos];
  if (isContinuous) start = prompt ? [] : [encode(model, "\n")[0] ?? bos];
  if (user !== undefined && prompt) start.push(user);
  const tokens = [...start, ...encode(model, prompt)];
  const left = model.block_size + 1 - tokens.length;
  if (!isContinuous && left < 1) throw new Error(`The prompt takes ${tokens.length} tokens, more than the model's context of ${model.block_size}.`);
  const max = isContinuous ? maxTokens ?? 500 : Math.min(maxTokens ?? Infinity, left);
  const rules = grammar(model, model.kind, tokens.length > 1);
  const steps = continueTokens(model, tokens, rules, { rng: sampleRng(seed, index), temperature, maxTokens: max });
  return { tokens: isContinuous ? encode(model, prompt) : tokens, steps };
}

// The reply with this index to a conversation, as `microgpt chat` makes it: the steps.
function startReply(model, messages, { seed, temperature, maxTokens }, index) {
  if (model.block_size < 3) throw new Error(`The model's context, ${model.block_size}, is too short to chat.`);
  const prompt = chatPrompt(model, messages, Math.floor((model.block_size * 3) / 4));
  const max = Math.min(maxTokens ?? Infinity, model.block_size + 1 - prompt.length);
  return continueTokens(model, prompt, grammar(model, "reply"), { rng: sampleRng(seed, index), temperature, maxTokens: max });
}

// ---------- 5. Weights ----------

// The model of a model directory's files: meta.json, tokenizer.json if it has a byte-level BPE, and
// weights.safetensors in base64.
function loadModel(metaJson, tokenizerJson, weightsBase64) {
  const model = JSON.parse(metaJson);
  const matrices = readSafetensors(decodeBase64(weightsBase64));
  const layer = (i) => {
    const matrix = (name) => matrices[`layer${i}.${name}`];
    return {
      wq: matrix("attn_wq"), wk: matrix("attn_wk"), wv: matrix("attn_wv"), wo: matrix("attn_wo"),
      fc1: matrix("mlp_fc1"), fc2: matrix("mlp_fc2"),
    };
  };
  Object.assign(model, matrices, { layers: Array.from({ length: model.n_layer }, (_, i) => layer(i)) });
  model.parameters = Object.values(matrices).reduce((sum, { rows, cols }) => sum + rows * cols, 0);
  model.kind = model.special_tokens ? "conversations" : model.continuous_text ? "continuous" : "documents";
  if (model.chars) loadCharacters(model);
  else loadBpe(model, JSON.parse(tokenizerJson).model);
  model.specialNames = [...(model.special_tokens ?? []), "bos"];
  model.special = Object.fromEntries(model.specialNames.map((name, i) => [name, model.bytes.length + i]));
  return model;
}

function loadCharacters(model) {
  model.ids = new Map(model.chars.map((c, id) => [c, id]));
  model.bytes = model.chars.map((c) => [...new TextEncoder().encode(c)]);
}

// The tokens of a byte-level BPE are written with one character per byte.
function loadBpe(model, { vocab, merges }) {
  model.alphabet = byteAlphabet();
  model.ids = new Map(Object.entries(vocab));
  model.merges = new Map(merges.map((pair, rank) => [[pair].flat().join(" "), rank]));
  const byteOf = new Map(model.alphabet.map((c, byte) => [c, byte]));
  model.bytes = [];
  for (const [token, id] of model.ids) model.bytes[id] = [...token].map((c) => byteOf.get(c));
}

// The character of each byte: itself, if it is printable Latin-1, or one from U+0100 on. From
// `bytes_to_unicode` of GPT-2.
function byteAlphabet() {
  let next = 0x100;
  const isPrintable = (byte) => (byte > 0x20 && byte < 0x7f) || (byte > 0xa0 && byte !== 0xad);
  return Array.from({ length: 256 }, (_, byte) => String.fromCodePoint(isPrintable(byte) ? byte : next++));
}

// The matrices of a safetensors file: the length of a JSON header, the header, and the numbers.
function readSafetensors(bytes) {
  const length = Number(new DataView(bytes.buffer).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(bytes.subarray(8, 8 + length)));
  delete header.__metadata__;
  const matrix = ([name, { dtype, shape: [rows, cols], data_offsets: [start, end] }]) => {
    const buffer = bytes.buffer.slice(8 + length + start, 8 + length + end);
    const data = dtype === "F16"
      ? Float64Array.from(new Uint16Array(buffer), halfToNumber)
      : Float64Array.from(new Float32Array(buffer));
    return [name, { rows, cols, data }];
  };
  return Object.fromEntries(Object.entries(header).map(matrix));
}

// The number in 16 bits: a sign, an exponent of 5 bits and a fraction of 10.
function halfToNumber(bits) {
  const [exponent, fraction] = [(bits >> 10) & 31, bits & 1023];
  const magnitude = exponent ? (1024 + fraction) * 2 ** (exponent - 25) : fraction * 2 ** -24;
  return bits >> 15 ? -magnitude : magnitude;
}

function decodeBase64(base64) {
  const binary = atob(base64);
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = binary.charCodeAt(i);
  return bytes;
}
