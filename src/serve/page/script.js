"use strict";
const $ = (id) => document.getElementById(id);
const SETTINGS = ["temperature", "top-k", "top-p", "seed", "max-tokens"];
const FIELDS = [...SETTINGS, "num-samples", "prompt"];
let kind = "";
let messages = [];
let running = null;

// What is kept on reload. A browser that keeps nothing, or kept something else, is no reason to fail.
function load() {
  try {
    const kept = JSON.parse(localStorage.getItem("microgpt")) || {};
    const sound = (m) => m && (m.role === "user" || m.role === "assistant") && typeof m.content === "string";
    if (Array.isArray(kept.messages)) messages = kept.messages.filter(sound).map(({ role, content }) => ({ role, content }));
    for (const id of FIELDS) if (kept.fields && typeof kept.fields[id] === "string") $(id).value = kept.fields[id];
  } catch { /* begins anew */ }
}

function keep() {
  try {
    const fields = Object.fromEntries(FIELDS.map((id) => [id, $(id).value]));
    localStorage.setItem("microgpt", JSON.stringify({ messages, fields }));
  } catch { /* is not kept */ }
}

// The settings that are set, under the names that the API has for them.
function settings() {
  const set = {};
  for (const id of SETTINGS) {
    const field = $(id);
    if (field.validity.badInput) throw new Error(`${field.parentElement.firstChild.textContent} is not a number.`);
    if (field.value !== "") set[id.replace("-", "_")] = Number(field.value);
  }
  return set;
}

function item(list, text, role) {
  const li = document.createElement("li");
  li.textContent = text;
  if (role) li.className = role;
  list.append(li);
  return li;
}

const atEnd = () => $("view").scrollHeight - $("view").scrollTop - $("view").clientHeight < 60;
const toEnd = () => { $("view").scrollTop = $("view").scrollHeight; };

function draw() {
  $("messages").replaceChildren();
  for (const message of messages) item($("messages"), message.content, message.role);
  $("hint").hidden = kind === "chat" ? messages.length > 0 : $("samples").children.length > 0;
  toEnd();
}

// An answer, or an error that says in words what the server said.
async function post(path, body) {
  const answer = await fetch(path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
    signal: running.signal,
  });
  if (answer.ok) return answer;
  const said = await answer.json().then((body) => body.error.message || body.error, () => "");
  throw new Error(`The server refused: ${said || answer.status}.`);
}

async function reply() {
  const content = $("input").value.trim();
  if (!content) return;
  const body = { model: "microgpt", stream: true, ...settings() };
  messages.push({ role: "user", content });
  const sent = [...messages];
  $("input").value = "";
  draw();
  const message = { role: "assistant", content: "" };
  const li = item($("messages"), "", "assistant running");
  toEnd();
  try {
    const answer = await post("/v1/chat/completions", { ...body, messages: sent });
    messages.push(message);
    await readEvents(answer.body, (text) => {
      const follow = atEnd();
      message.content += text;
      li.textContent = message.content;
      if (follow) toEnd();
    });
  } catch (error) {
    if (!messages.includes(message)) {
      // The server has not taken the message, so it goes back to where it can be changed.
      messages.pop();
      $("input").value = content;
    }
    throw error;
  } finally {
    draw();
  }
}

// Server-sent events, each with a piece of the reply, up to [DONE].
async function readEvents(stream, take) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) throw new Error("The connection broke off before the reply was finished.");
    const events = (text + value).split("\n\n");
    text = events.pop();
    for (const event of events) {
      const data = event.replace(/^data: /, "");
      if (data === "[DONE]") return;
      const [choice] = JSON.parse(data).choices;
      if (choice && choice.delta.content) take(choice.delta.content);
    }
  }
}

async function samples() {
  const body = { ...settings(), num_samples: Number($("num-samples").value) };
  if ($("prompt").value) body.prompt = $("prompt").value;
  const answer = await post("/microgpt/v1/generate", body);
  $("samples").replaceChildren();
  for (const text of (await answer.json()).samples) item($("samples"), text);
  draw();
  $("view").scrollTop = 0;
}

async function run(action) {
  if (running) return;
  running = new AbortController();
  $("error").textContent = "";
  busy(true);
  try {
    await action();
  } catch (error) {
    if (error.name === "TypeError") $("error").textContent = "The server cannot be reached.";
    else if (error.name !== "AbortError") $("error").textContent = error.message;
  } finally {
    running = null;
    busy(false);
    keep();
    $(kind === "chat" ? "input" : "prompt").focus();
  }
}

function busy(is) {
  $("send").disabled = $("generate").disabled = is;
  $("stop").disabled = !is;
}

$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  run(kind === "chat" ? reply : samples);
});
// The server checks the settings, and says what is wrong with them better than a browser does.
$("form").noValidate = true;
$("input").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    $("form").requestSubmit();
  }
});
$("stop").addEventListener("click", () => running && running.abort());
$("clear").addEventListener("click", () => {
  if (running) running.abort();
  messages = [];
  $("samples").replaceChildren();
  $("error").textContent = "";
  draw();
  keep();
});
for (const id of FIELDS) $(id).addEventListener("change", keep);

async function begin() {
  load();
  try {
    const info = await (await fetch("/microgpt/v1/info")).json();
    kind = info.kind;
    const size = `${info.parameters.toLocaleString("en")} parameters, ${info.n_layer} ${info.n_layer > 1 ? "layers" : "layer"}`;
    $("model").textContent = `a ${kind} model: ${size}, a context of ${info.block_size} characters`;
  } catch {
    $("model").textContent = "";
    $("error").textContent = "The server cannot be reached.";
    return;
  }
  const chat = kind === "chat";
  $("messages").hidden = $("chat-row").hidden = !chat;
  $("samples").hidden = $("text-row").hidden = chat;
  $("hint").textContent = chat
    ? "Say something to the model. Enter sends, Shift and Enter begin a new line."
    : "Press Generate for new text. Every sample begins with the text that you give, if you give any.";
  draw();
  $(chat ? "input" : "prompt").focus();
}
begin();
