"use strict";
// A chat over this server's own API: POST /v1/chat/completions, streamed.

const at = (id) => document.getElementById(id);
const log = at("log"), form = at("form"), text = at("text"), send = at("send");
const SIDE = 2048, KEPT_AS_THEY_ARE = ["image/png", "image/jpeg", "image/webp", "image/bmp", "image/gif"], LARGE = 4 << 20;
let model = null, turns = [], running = null; // running: the AbortController of the answer that is on its way
let takesImages = false, attached = []; // images of the next message: {name, url}, url of the form data:image/…

function headers() {
  const key = at("key").value.trim();
  return { "Content-Type": "application/json", ...(key && { Authorization: `Bearer ${key}` }) };
}

function show(kind, content = "", images = []) {
  log.querySelector(".empty")?.remove();
  const turn = document.createElement("div");
  turn.className = kind === "note" ? "note" : `turn ${kind}`;
  turn.textContent = content; // never as HTML: it is a model's
  if (images.length) {
    const row = document.createElement("div");
    row.className = "images";
    row.append(...images.map(thumbnail));
    turn.prepend(row);
  }
  log.append(turn);
  log.scrollTop = log.scrollHeight;
  return turn;
}

function thumbnail({ name, url }) {
  const image = document.createElement("img");
  image.alt = name;
  image.src = url;
  return image;
}

function showAttached() {
  const list = at("attached");
  list.hidden = !attached.length;
  list.replaceChildren(...attached.map((one) => {
    const item = document.createElement("li"), remove = document.createElement("button");
    remove.type = "button";
    remove.textContent = "×";
    remove.setAttribute("aria-label", `Remove ${one.name}`);
    remove.addEventListener("click", () => {
      attached = attached.filter((other) => other !== one);
      showAttached();
      text.focus();
    });
    item.append(thumbnail(one), remove);
    return item;
  }));
}

const dataUrl = (blob) => new Promise((resolve, reject) => {
  const reader = new FileReader();
  reader.onload = () => resolve(reader.result);
  reader.onerror = () => reject(reader.error);
  reader.readAsDataURL(blob);
});

// Small images as they are; large ones, and formats that the server does not read, drawn anew.
async function read(file) {
  const bitmap = await createImageBitmap(file);
  const scale = Math.min(1, SIDE / Math.max(bitmap.width, bitmap.height));
  if (scale === 1 && file.size <= LARGE && KEPT_AS_THEY_ARE.includes(file.type)) return dataUrl(file);
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(bitmap.width * scale));
  canvas.height = Math.max(1, Math.round(bitmap.height * scale));
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return canvas.toDataURL("image/jpeg", 0.92);
}

async function attach(files) {
  for (const file of files) {
    if (!file.type.startsWith("image/")) continue;
    const name = file.name || "image";
    try {
      attached.push({ name, url: await read(file) });
    } catch {
      at("status").textContent = `${name} cannot be read as an image`;
    }
  }
  showAttached();
  text.focus();
}

function clear() {
  running?.abort();
  turns = [];
  attached = [];
  showAttached();
  log.replaceChildren();
  show("empty", "Nothing leaves this machine.").className = "empty";
  text.focus();
}

async function failure(response) {
  try {
    return (await response.json()).error.message;
  } catch {
    return `${response.status} ${response.statusText}`;
  }
}

async function connect() {
  try {
    const response = await fetch("v1/models", { headers: headers() });
    if (!response.ok) throw new Error(await failure(response));
    const card = (await response.json()).data[0];
    model = card.id;
    takesImages = card.input_modalities?.includes("image") ?? false;
    at("model").textContent = model;
    at("status").textContent = "";
    at("attach").hidden = !takesImages;
  } catch (error) {
    model = null;
    at("status").textContent = error.message;
  }
}

// The JSON of each server-sent event, up to [DONE].
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) throw new Error("the connection broke off");
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      if (part === "data: [DONE]") return;
      if (part.startsWith("data: ")) yield JSON.parse(part.slice(6));
    }
  }
}

// What a message is to the server: text, or its images and then the text.
function content(message, images) {
  if (!images.length) return message;
  const parts = images.map(({ url }) => ({ type: "image_url", image_url: { url } }));
  return message ? [...parts, { type: "text", text: message }] : parts;
}

function request(asked) {
  const number = (id) => (at(id).value === "" ? undefined : Number(at(id).value));
  const system = at("system").value.trim();
  return {
    model,
    messages: [...(system ? [{ role: "system", content: system }] : []), ...turns, asked],
    temperature: number("temperature"),
    top_p: number("top_p"),
    max_tokens: number("max_tokens"),
    stream: true,
    stream_options: { include_usage: true },
  };
}

async function answer(asked) {
  const began = performance.now();
  const shown = show("assistant");
  shown.classList.add("running");
  running = new AbortController();
  send.textContent = "Stop";
  let usage = null, first = 0, answered = "", error = null;
  try {
    const body = JSON.stringify(request(asked));
    const response = await fetch("v1/chat/completions", { method: "POST", headers: headers(), body, signal: running.signal });
    if (!response.ok) throw new Error(await failure(response));
    for await (const event of events(response)) {
      if (event.error) throw new Error(event.error.message);
      usage = event.usage ?? usage;
      for (const warning of event.warnings ?? []) show("note", warning);
      const piece = event.choices[0]?.delta.content ?? "";
      if (piece) first ||= performance.now();
      answered += piece;
      const below = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
      shown.textContent = answered;
      if (below) log.scrollTop = log.scrollHeight;
    }
  } catch (caught) {
    if (caught.name !== "AbortError") error = caught;
  }
  shown.classList.remove("running");
  running = null;
  send.textContent = "Send";
  if (error) {
    if (!answered) shown.remove();
    show("error", error.message);
  }
  if (error && !answered) return false;
  turns.push(asked, { role: "assistant", content: answered });
  if (usage) {
    const seconds = (performance.now() - began) / 1000, tokens = usage.completion_tokens;
    const cached = usage.prompt_tokens_details.cached_tokens;
    show("note", `${tokens} tokens in ${seconds.toFixed(2)} s, first after ${Math.round(first ? first - began : 0)} ms` +
      `; ${usage.prompt_tokens} in the prompt${cached ? `, ${cached} of them known from before` : ""}`);
  } else {
    show("note", "stopped");
  }
  return true;
}

function fit() {
  text.style.height = "auto";
  text.style.height = `${Math.min(text.scrollHeight + 2, 190)}px`;
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  if (running) return running.abort();
  const message = text.value.trim(), images = attached;
  if (!message && !images.length) return;
  if (!model) await connect();
  if (!model) return;
  const shown = show("user", message, images);
  text.value = "";
  attached = [];
  showAttached();
  fit();
  if (!(await answer({ role: "user", content: content(message, images) }))) { // give the message back, to try again
    shown.remove();
    text.value = message;
    attached = images;
    showAttached();
    fit();
  }
  text.focus();
});
text.addEventListener("input", fit);
text.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  if (!running) form.requestSubmit();
});
at("attach").addEventListener("click", () => at("files").click());
at("files").addEventListener("change", async () => {
  await attach([...at("files").files]);
  at("files").value = ""; // so that the same file may be chosen again
});
text.addEventListener("paste", (event) => {
  const files = [...event.clipboardData.files].filter((file) => file.type.startsWith("image/"));
  if (!takesImages || !files.length) return;
  event.preventDefault();
  attach(files);
});
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault(); // or the browser would open the file in the page's place
    form.classList.toggle("dropping", kind === "dragover" && takesImages);
    if (kind === "drop" && takesImages) attach([...event.dataTransfer.files]);
  });
}
at("reset").addEventListener("click", clear);
at("key").addEventListener("change", connect);
clear();
connect();
