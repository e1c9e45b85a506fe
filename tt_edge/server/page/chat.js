"use strict";
// A chat over this server's own API: POST /v1/chat/completions, streamed.

const at = (id) => document.getElementById(id);
const log = at("log"), form = at("form"), text = at("text"), send = at("send");
let model = null, turns = [], running = null; // running: the AbortController of the answer that is on its way

function headers() {
  const key = at("key").value.trim();
  return { "Content-Type": "application/json", ...(key && { Authorization: `Bearer ${key}` }) };
}

function show(kind, content = "") {
  log.querySelector(".empty")?.remove();
  const turn = document.createElement("div");
  turn.className = kind === "note" ? "note" : `turn ${kind}`;
  turn.textContent = content; // never as HTML: it is a model's
  log.append(turn);
  log.scrollTop = log.scrollHeight;
  return turn;
}

function clear() {
  running?.abort();
  turns = [];
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
    model = (await response.json()).data[0].id;
    at("model").textContent = model;
    at("status").textContent = "";
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

function request(message) {
  const number = (id) => (at(id).value === "" ? undefined : Number(at(id).value));
  const system = at("system").value.trim();
  return {
    model,
    messages: [...(system ? [{ role: "system", content: system }] : []), ...turns, { role: "user", content: message }],
    temperature: number("temperature"),
    top_p: number("top_p"),
    max_tokens: number("max_tokens"),
    stream: true,
    stream_options: { include_usage: true },
  };
}

async function answer(message) {
  const began = performance.now();
  const shown = show("assistant");
  shown.classList.add("running");
  running = new AbortController();
  send.textContent = "Stop";
  let usage = null, first = 0, content = "", error = null;
  try {
    const body = JSON.stringify(request(message));
    const response = await fetch("v1/chat/completions", { method: "POST", headers: headers(), body, signal: running.signal });
    if (!response.ok) throw new Error(await failure(response));
    for await (const event of events(response)) {
      if (event.error) throw new Error(event.error.message);
      usage = event.usage ?? usage;
      const piece = event.choices[0]?.delta.content ?? "";
      if (piece) first ||= performance.now();
      content += piece;
      const below = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
      shown.textContent = content;
      if (below) log.scrollTop = log.scrollHeight;
    }
  } catch (caught) {
    if (caught.name !== "AbortError") error = caught;
  }
  shown.classList.remove("running");
  running = null;
  send.textContent = "Send";
  if (error) {
    if (!content) shown.remove();
    show("error", error.message);
  }
  if (error && !content) return false;
  turns.push({ role: "user", content: message }, { role: "assistant", content });
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
  const message = text.value.trim();
  if (!message) return;
  if (!model) await connect();
  if (!model) return;
  const asked = show("user", message);
  text.value = "";
  fit();
  if (!(await answer(message))) { // give the message back, to try again
    asked.remove();
    text.value = message;
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
at("reset").addEventListener("click", clear);
at("key").addEventListener("change", connect);
clear();
connect();
