"use strict";
const $ = (id) => document.getElementById(id);
const SETTINGS = ["temperature", "top-k", "top-p", "seed", "max-tokens"];
const FIELDS = [...SETTINGS, "num-samples", "prompt"];
let kind = "";
let messages = [];
let running = null;

// Restores the state of the last visit. Storage may be disabled, or hold something invalid.
function loadState() {
  try {
    const state = JSON.parse(localStorage.getItem("microgpt")) || {};
    const isMessage = (m) => m && (m.role === "user" || m.role === "assistant") && typeof m.content === "string";
    if (Array.isArray(state.messages)) messages = state.messages.filter(isMessage).map(({ role, content }) => ({ role, content }));
    for (const id of FIELDS) if (state.fields && typeof state.fields[id] === "string") $(id).value = state.fields[id];
  } catch { /* keeps the defaults */ }
}

function saveState() {
  try {
    const fields = Object.fromEntries(FIELDS.map((id) => [id, $(id).value]));
    localStorage.setItem("microgpt", JSON.stringify({ messages, fields }));
  } catch { /* storage is disabled */ }
}

// The settings with a value, as fields of a request.
function settings() {
  const fields = {};
  for (const id of SETTINGS) {
    const field = $(id);
    if (field.validity.badInput) throw new Error(`${field.parentElement.firstChild.textContent} is not a number.`);
    if (field.value !== "") fields[id.replace("-", "_")] = Number(field.value);
  }
  return fields;
}

// Shows the speed of the last reply or samples and the settings that they were made with.
function showStatus(tokens, seconds, body) {
  const perSecond = Math.round(tokens / seconds).toLocaleString("en");
  const count = `${tokens.toLocaleString("en")} ${tokens === 1 ? "token" : "tokens"}`;
  const used = SETTINGS.map((id) => [id.replace("-", " "), body[id.replace("-", "_")]])
    .filter(([, value]) => value !== undefined).map(([name, value]) => `${name} ${value}`);
  $("status").textContent = [count, `${perSecond} tokens/s`, ...used].join(", ");
}

const secondsSince = (start) => Math.max(performance.now() - start, 1) / 1000;

// The last reply, or all samples, one per line.
function output() {
  if (kind !== "chat") return [...$("samples").children].map((li) => li.textContent).join("\n");
  return messages.filter((m) => m.role === "assistant").map((m) => m.content).pop() || "";
}

async function copyOutput() {
  // The clipboard needs HTTPS or this machine; a selection does not.
  if (navigator.clipboard) return navigator.clipboard.writeText(output());
  const area = document.createElement("textarea");
  area.value = output();
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}

// Generates again with the next seed: the same one would give the same text.
function regenerate() {
  if ($("seed").value !== "") $("seed").value = Number($("seed").value) + 1;
  if (kind !== "chat") return generate();
  const last = messages.map((m) => m.role).lastIndexOf("user");
  return last < 0 ? undefined : sendConversation(last);
}

function addItem(list, text, role) {
  const li = document.createElement("li");
  li.textContent = text;
  if (role) li.className = role;
  list.append(li);
  return li;
}

const isAtEnd = () => $("view").scrollHeight - $("view").scrollTop - $("view").clientHeight < 60;
const scrollToEnd = () => { $("view").scrollTop = $("view").scrollHeight; };

function render() {
  $("messages").replaceChildren();
  for (const message of messages) addItem($("messages"), message.content, message.role);
  $("hint").hidden = kind === "chat" ? messages.length > 0 : $("samples").children.length > 0;
  scrollToEnd();
}

// The API key of this tab, if the server needs one.
let key = "";
try { key = sessionStorage.getItem("microgpt-key") || ""; } catch { /* storage is disabled */ }

// Sends a request with the API key. Asks for the key where the server refuses it.
async function request(path, options = {}) {
  const headers = { ...options.headers };
  if (key) headers.Authorization = `Bearer ${key}`;
  const response = await fetch(path, { ...options, headers });
  if (response.status === 401) {
    $("key-row").hidden = false;
    $("key").focus();
  }
  return response;
}

function useKey() {
  key = $("key").value.trim();
  try { sessionStorage.setItem("microgpt-key", key); } catch { /* storage is disabled */ }
  $("key").value = $("error").textContent = "";
  $("key-row").hidden = true;
  start();
}

// Posts a request. Throws the server's error message.
async function post(path, body) {
  const response = await request(path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
    signal: running.signal,
  });
  if (response.ok) return response;
  const message = await response.json().then((body) => body.error.message || body.error, () => "");
  throw new Error(`The server refused: ${message || response.status}.`);
}

async function sendMessage() {
  const content = $("input").value.trim();
  if (!content) return;
  settings();
  messages.push({ role: "user", content });
  $("input").value = "";
  await sendConversation(messages.length - 1);
}

// Asks for a reply to the message at an index, and replaces those after it.
async function sendConversation(last) {
  const body = { model: "microgpt", stream: true, stream_options: { include_usage: true }, ...settings() };
  const replaced = messages.splice(last + 1);
  const conversation = [...messages];
  render();
  const message = { role: "assistant", content: "" };
  const li = addItem($("messages"), "", "assistant running");
  scrollToEnd();
  const started = performance.now();
  try {
    const response = await post("/v1/chat/completions", { ...body, messages: conversation });
    messages.push(message);
    const usage = await readEvents(response.body, (text) => {
      const follow = isAtEnd();
      message.content += text;
      li.textContent = message.content;
      if (follow) scrollToEnd();
    });
    showStatus(usage.completion_tokens, secondsSince(started), body);
  } catch (error) {
    if (!messages.includes(message)) {
      // The server refused the message: keep the old reply, or put the message back for editing.
      if (replaced.length) messages.push(...replaced);
      else $("input").value = messages.pop().content;
    }
    throw error;
  } finally {
    render();
  }
}

// Reads server-sent events up to [DONE] and passes the text of each to onText. Returns the usage.
async function readEvents(stream, onText) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let [buffer, usage] = ["", null];
  for (;;) {
    const { done, value } = await reader.read();
    if (done) throw new Error("The connection closed before the end of the reply.");
    const events = (buffer + value).split("\n\n");
    buffer = events.pop();
    for (const event of events) {
      const data = event.replace(/^data: /, "");
      if (data === "[DONE]") return usage;
      const parsed = JSON.parse(data);
      usage = parsed.usage || usage;
      const [choice] = parsed.choices;
      if (choice && choice.delta.content) onText(choice.delta.content);
    }
  }
}

async function generate() {
  const body = { ...settings(), num_samples: Number($("num-samples").value) };
  if ($("prompt").value) body.prompt = $("prompt").value;
  const started = performance.now();
  const response = await post("/microgpt/v1/generate", body);
  $("samples").replaceChildren();
  const { samples } = await response.json();
  for (const text of samples) addItem($("samples"), text);
  // A token is a character. The prompt was not generated.
  const characters = (text) => [...text].length;
  const generated = characters(samples.join("")) - samples.length * characters($("prompt").value);
  showStatus(generated, secondsSince(started), body);
  render();
  $("view").scrollTop = 0;
}

async function run(action) {
  if (running) return;
  running = new AbortController();
  $("error").textContent = $("status").textContent = "";
  setBusy(true);
  try {
    await action();
  } catch (error) {
    if (error.name === "TypeError") $("error").textContent = "The server cannot be reached.";
    else if (error.name !== "AbortError") $("error").textContent = error.message;
  } finally {
    running = null;
    setBusy(false);
    saveState();
    $(kind === "chat" ? "input" : "prompt").focus();
  }
}

function setBusy(busy) {
  $("send").disabled = $("generate").disabled = $("regenerate").disabled = busy;
  $("stop").disabled = !busy;
}

$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  run(kind === "chat" ? sendMessage : generate);
});
// The server's error messages are better than the browser's.
$("form").noValidate = true;
$("input").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    $("form").requestSubmit();
  }
});
$("use-key").addEventListener("click", useKey);
$("key").addEventListener("keydown", (event) => {
  if (event.key === "Enter") {
    event.preventDefault();
    useKey();
  }
});
$("regenerate").addEventListener("click", () => run(regenerate));
$("copy").addEventListener("click", copyOutput);
$("stop").addEventListener("click", () => running && running.abort());
$("clear").addEventListener("click", () => {
  if (running) running.abort();
  messages = [];
  $("samples").replaceChildren();
  $("error").textContent = $("status").textContent = "";
  render();
  saveState();
});
for (const id of FIELDS) $(id).addEventListener("change", saveState);

async function start() {
  loadState();
  try {
    const response = await request("/microgpt/v1/info");
    if (response.status === 401) {
      $("model").textContent = "";
      $("error").textContent = "The server needs an API key.";
      return;
    }
    const info = await response.json();
    kind = info.kind;
    const size = `${info.parameters.toLocaleString("en")} parameters, ${info.n_layer} ${info.n_layer > 1 ? "layers" : "layer"}`;
    $("model").textContent = `${kind} model: ${size}, context of ${info.block_size} tokens`;
  } catch {
    $("model").textContent = "";
    $("error").textContent = "The server cannot be reached.";
    return;
  }
  const chat = kind === "chat";
  $("messages").hidden = $("chat-row").hidden = !chat;
  $("samples").hidden = $("text-row").hidden = chat;
  $("hint").textContent = chat
    ? "Write a message to the model. Enter sends it, Shift+Enter starts a new line."
    : "Press Generate for new samples. Each starts with the prompt, if there is one.";
  render();
  $(chat ? "input" : "prompt").focus();
}
start();
