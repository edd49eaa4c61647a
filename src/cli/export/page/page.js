"use strict";
const $ = (id) => document.getElementById(id);
// The number of bars, and the least share that has one.
const MAX_BARS = 12;
const MIN_SHARE = 0.0005;

const model = loadModel(...["meta", "tokenizer", "weights"].map((id) => $(id).textContent));
const isChatModel = model.kind === "conversations";

// The steps of the samples or of the reply in progress.
let steps = null;
// The timer or animation frame of the next step; null while paused.
let timer = null;
let messages = [];
let replies = 0n;

const isChat = () => isChatModel && $("mode").value === "chat";

// The settings of the form. Throws if one is out of range.
function settings() {
  const seed = BigInt($("seed").value);
  if (seed >= 2n ** 64n) throw new Error(`The seed must be less than 2^64, not ${seed}.`);
  const maxTokens = $("max-tokens").value;
  return {
    prompt: $("prompt").value,
    seed,
    temperature: Number($("temperature").value),
    maxTokens: maxTokens === "" ? undefined : Number(maxTokens),
  };
}

function addItem(list, text, role) {
  const item = document.createElement("li");
  item.textContent = text;
  item.className = role ?? "";
  list.append(item);
  return item;
}

// Makes the samples of the form, one after the other.
function* makeSamples(options, count) {
  $("samples").replaceChildren();
  for (let index = 0n; index < count; index++) {
    const { tokens, steps } = startSample(model, options, index);
    const item = addItem($("samples"), "", "running");
    const show = (isPartial) => {
      const contents = isChatModel ? decodeConversation(model, tokens, isPartial).map(({ content }) => content) : [decode(model, tokens, isPartial)];
      item.textContent = contents.join("\n");
    };
    show(true);
    for (const step of steps) {
      if (step) {
        tokens.push(step.token);
        show(true);
      }
      yield step;
    }
    show(false);
    item.classList.remove("running");
  }
}

// Sends the message of the form, and makes the reply.
function* makeReply(options) {
  const content = options.prompt.trim();
  if (!content) return;
  const unknown = unknownCharacters(model, content);
  if (unknown.length) $("status").textContent = `The model doesn't know ${unknown.join(" ")}, and does not see it.`;
  messages.push({ role: "user", content });
  addItem($("messages"), content, "user");
  $("prompt").value = "";
  const system = $("system").value.trim();
  const conversation = system ? [{ role: "system", content: system }, ...messages] : messages;
  const tokens = [];
  const item = addItem($("messages"), "", "assistant running");
  const index = replies++;
  for (const step of startReply(model, conversation, options, index)) {
    if (step) {
      tokens.push(step.token);
      item.textContent = decode(model, tokens, true);
      item.scrollIntoView({ block: "nearest" });
    }
    yield step;
  }
  item.textContent = decode(model, tokens);
  messages.push({ role: "assistant", content: item.textContent });
  item.classList.remove("running");
}

// Advances to the next token. Returns its step, or null after the last.
function nextStep() {
  steps ??= isChat() ? makeReply(settings()) : makeSamples(settings(), BigInt($("count").value));
  for (;;) {
    const { value, done } = steps.next();
    if (done) steps = null;
    if (done || value) return value ?? null;
  }
}

// Runs an action and shows its error.
function attempt(action) {
  try {
    return action();
  } catch (error) {
    reset();
    $("error").textContent = error.message;
    return null;
  }
}

function step() {
  pause();
  if (!$("form").reportValidity()) return;
  $("error").textContent = $("status").textContent = "";
  const step = attempt(nextStep);
  if (step) showStep(step);
}

// Generates to the end, at full speed in as many steps per frame as it shows without delay.
function generate() {
  if (timer !== null) return;
  $("error").textContent = $("status").textContent = "";
  const started = performance.now();
  let tokens = 0;
  $("pause").disabled = false;
  setBusy(true);
  const run = () => {
    const perSecond = Number($("speed").value);
    const frame = performance.now();
    let step, last;
    do {
      step = attempt(nextStep);
      if (step) tokens++;
      last = step ?? last;
    } while (step && !perSecond && performance.now() - frame < 12);
    if (last) showStep(last);
    if (step) {
      timer = perSecond ? setTimeout(run, 1000 / perSecond) : requestAnimationFrame(run);
      return;
    }
    pause();
    if (tokens && !perSecond && !$("error").textContent) showSpeed(tokens, (performance.now() - started) / 1000);
    if (isChat()) $("prompt").focus();
  };
  run();
}

function showSpeed(tokens, seconds) {
  const perSecond = Math.round(tokens / Math.max(seconds, 0.001)).toLocaleString("en");
  const status = `${tokens.toLocaleString("en")} ${tokens === 1 ? "token" : "tokens"}, ${perSecond} tokens/s.`;
  $("status").textContent = `${status} ${$("status").textContent}`.trim();
}

function setBusy(isBusy) {
  for (const id of ["samples", "messages", "bars"]) $(id).setAttribute("aria-busy", isBusy);
}

function pause() {
  clearTimeout(timer);
  cancelAnimationFrame(timer);
  timer = null;
  $("pause").disabled = true;
  setBusy(false);
}

// Ends the samples or the reply in progress.
function reset() {
  pause();
  steps = null;
  for (const item of document.querySelectorAll(".running")) item.classList.remove("running");
}

function clear() {
  reset();
  messages = [];
  replies = 0n;
  for (const id of ["messages", "samples", "bars", "draw", "error", "status"]) $(id).replaceChildren();
}

// The name of a token with visible white space.
function visibleName(token) {
  const signs = { " ": "␣", "\n": "↵", "\t": "⇥" };
  return tokenName(model, token).replace(/[ \n\t]/g, (c) => signs[c]);
}

const percent = (share) => `${(100 * share).toFixed(1)} %`;

// Shows the distribution that a token was sampled from.
function showStep({ token, weights, total, random, context }) {
  const shares = Array.from(weights, (weight, token) => ({ token, share: weight / total })).filter(({ share }) => share > 0);
  const byShare = [...shares].sort((a, b) => b.share - a.share);
  const shown = byShare.filter((entry, rank) => (rank < MAX_BARS && entry.share >= MIN_SHARE) || entry.token === token);
  const width = ({ share }) => `${(100 * share) / byShare[0].share}%`;
  const isSampled = (entry) => entry.token === token;
  $("bars").replaceChildren(...shown.map((entry) => bar(visibleName(entry.token), entry.share, width(entry), isSampled(entry))));
  const others = byShare.length - shown.length;
  if (others) {
    const rest = bar(`${others} more`, Math.max(shown.reduce((rest, { share }) => rest - share, 1), 0));
    rest.className = "rest";
    $("bars").append(rest);
  }
  const before = document.createElement("b");
  before.textContent = context.slice(-40).map(visibleName).join("");
  $("context").replaceChildren(context.length > 40 ? "After …" : "After ", before);
  // The sampled token covers the part of [0, 1) after those of all tokens before it.
  const start = shares.filter((entry) => entry.token < token).reduce((sum, { share }) => sum + share, 0);
  const end = start + weights[token] / total;
  $("draw").textContent = shares.length === 1
    ? `${visibleName(token)} is the only token that may come.`
    : `The random number ${random.toFixed(4)} falls on ${visibleName(token)}, which covers ${start.toFixed(4)} to ${end.toFixed(4)}.`;
}

// A token or the rest of them, which have no bar.
function bar(name, share, width, isSampled) {
  const item = document.createElement("li");
  if (isSampled) item.className = "sampled";
  const part = (className, text) => {
    const span = document.createElement("span");
    span.className = className;
    span.textContent = text;
    item.append(span);
    return span;
  };
  part("token", name);
  if (width) part("bar", "").style.width = width;
  part("share", percent(share));
  if (isSampled) item.setAttribute("aria-current", "true");
  return item;
}

// Fits the form to the mode.
function showMode() {
  clear();
  $("mode-row").hidden = !isChatModel;
  $("system-label").hidden = !isChat() || model.special.system === undefined;
  $("count-label").hidden = isChat();
  $("prompt-label").textContent = isChat() ? "Message" : "Prompt";
  $("generate").textContent = isChat() ? "Send" : "Generate";
  $("samples").classList.toggle("long", model.kind !== "documents");
}

function start() {
  const { n_embd, n_head, n_layer, block_size, parameters, vocab_size } = model;
  $("description").textContent = `${parameters.toLocaleString("en")} parameters: n_embd ${n_embd}, n_head ${n_head}, n_layer ${n_layer}, block_size ${block_size}; ${vocab_size} tokens`;
  $("max-tokens").placeholder = model.kind === "continuous" ? "500" : "context";
  if (model.kind === "continuous") $("count").value = 1;
  $("program").querySelector("pre").textContent = $("model-script").textContent.trim();
  $("form").addEventListener("submit", (event) => {
    event.preventDefault();
    generate();
  });
  $("step").addEventListener("click", step);
  $("pause").addEventListener("click", pause);
  $("clear").addEventListener("click", clear);
  $("mode").addEventListener("change", showMode);
  // Samples in progress are those of the settings before.
  for (const id of ["prompt", "count", "temperature", "seed", "max-tokens"]) {
    $(id).addEventListener("input", () => { if (!isChat()) reset(); });
  }
  showMode();
  $("prompt").focus();
}

start();
