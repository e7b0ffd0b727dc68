// The page's one script. Whatever comes from the service, from the model or from the person goes into the document as
// text (`textContent`), never as markup. Nothing is stored: texts, answers and the key live as long as the page.
"use strict";

const at = (id) => document.getElementById(id);
const PROBES = { classification: "predict", regression: "predict", embedding: "similarity" };

let loaded = null; // what /info said
let key = ""; // of the API, where it asks for one
let retry = null; // what to do again once there is a key
let asking = null; // the request that is under way

/** An element that holds `words`. */
function element(name, words = "", style = "") {
  const made = document.createElement(name);
  made.textContent = words;
  if (style) made.className = style;
  return made;
}

class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** A path's answer; Refused with the API's own words where it is an error. */
async function call(path, body, signal) {
  const headers = key ? { authorization: `Bearer ${key}` } : {};
  const options = { headers, signal, cache: "no-store", credentials: "same-origin" };
  if (body !== undefined) {
    headers["content-type"] = "application/json";
    Object.assign(options, { method: "POST", body: JSON.stringify(body) });
  }
  const started = performance.now();
  const response = await fetch(path, options);
  const text = await response.text();
  const seconds = (performance.now() - started) / 1000;
  let content = null;
  try {
    content = JSON.parse(text);
  } catch {
    content = null; // a proxy's words, or an answer that broke off
  }
  if (!response.ok || content === null) throw new Refused(response.status, worded(content, text));
  return { content, headers: response.headers, seconds };
}

/** The message in an error of any protocol. */
function worded(content, text) {
  const error = content?.error;
  const message = typeof error === "string" ? error : error?.message;
  return typeof message === "string" ? message : text.slice(0, 300) || "an answer without words";
}

/** What a person must know of an error; a missing key is asked for. */
function complain(error, again) {
  if (error.name === "AbortError") return;
  const words = error instanceof Refused ? `${error.status}: ${error.message}` : `The service did not answer: ${error.message}`;
  const locked = error instanceof Refused && error.status === 401;
  at("unlock").hidden = !locked;
  at("error").hidden = locked && !key; // the first time the question for a key says enough
  at("error").textContent = words;
  at("answer").hidden = true;
  if (!locked) return;
  retry = again;
  at("key").focus();
}

async function load() {
  try {
    loaded = (await call("info")).content;
  } catch (error) {
    at("summary").textContent = "What is loaded is not known.";
    complain(error, load);
    return;
  }
  at("error").hidden = true;
  describe(loaded);
  showCurl();
}

function describe(info) {
  const { kind, inputs, labels, columns } = info.task;
  const two = inputs === 2 || kind === "embedding";
  at("right-field").hidden = !two;
  at("left-label").textContent = kind === "embedding" ? "First text" : columns?.[0] ?? "Text";
  at("right-label").textContent = kind === "embedding" ? "Second text" : columns?.[1] ?? "Second text";
  const what = {
    classification: `sorts ${two ? "pairs of texts" : "texts"} into ${labels.length} labels`,
    regression: `gives ${two ? "pairs of texts" : "texts"} a number`,
    embedding: "turns texts into vectors; here you see how close two of them are",
  };
  document.title = `${info.model_id} · Bantam`;
  at("name").textContent = info.model_id;
  at("summary").textContent = `This model ${what[kind]}.`;
  at("loaded").replaceChildren(...facts(info).flatMap(([name, words]) => [element("dt", name), element("dd", words)]));
  at("info").textContent = JSON.stringify(info, null, 2);
}

/** Names and words of what is loaded; what /info leaves out is left out. */
function facts(info) {
  const listed = (words) => Object.entries(words ?? {}).map(([name, word]) => `${name}: ${word}`).join("; ");
  const rates = Object.entries(info.rates ?? {}).map(
    ([name, found]) => `${name} ${Object.entries(found).map(([size, rate]) => `${Math.round(rate)} (calls of ${size})`).join(", ")}`,
  );
  return [
    ["Model", `${info.model} (${info.model_dtype}, ${info.method})`],
    ["Labels", info.task.labels.join(", ")],
    ["Runtime", info.runtime],
    ["Texts/s, tried here", rates.join("; ")],
    ["Not used", listed(info.declined)],
    ["Instruction set", [info.instruction_set ?? ""].flat().join(", ")],
    ["Tokenizer", info.tokenizer],
    ["Device", `${info.device}, ${info.threads} ${info.threads === 1 ? "thread" : "threads"} a run`],
    ["Longest text", `${info.max_input_length} tokens`],
    ["Texts a request", `${info.max_client_batch_size} at most`],
    ["Bantam", info.version],
    ["SHA-256 of the file", info.model_sha],
  ].filter(([, words]) => words);
}

/** Path and body of what the form asks. */
function question() {
  const left = at("left").value;
  const right = at("right").value;
  const truncate = at("truncate").checked;
  const { kind, inputs } = loaded?.task ?? { kind: "classification", inputs: 1 };
  const path = PROBES[kind];
  if (kind === "embedding") {
    return { path, body: { inputs: { source_sentence: left, sentences: [right] }, parameters: { truncate } } };
  }
  return { path, body: { inputs: inputs === 2 ? [left, right] : left, truncate } };
}

function showCurl() {
  const { path, body } = question();
  const quoted = (words) => `'${words.replaceAll("'", `'\\''`)}'`;
  const lines = [`curl ${quoted(new URL(path, document.baseURI).href)}`, "-H 'content-type: application/json'"];
  if (key) lines.push('-H "authorization: Bearer $API_KEY"');
  lines.push(`-d ${quoted(JSON.stringify(body))}`);
  at("curl").textContent = lines.join(" \\\n  ");
}

async function ask() {
  asking?.abort();
  const mine = (asking = new AbortController());
  const { path, body } = question();
  at("ask").setAttribute("aria-busy", "true");
  try {
    const answer = await call(path, body, mine.signal);
    at("error").hidden = true;
    at("unlock").hidden = true;
    show(answer);
  } catch (error) {
    if (mine === asking) complain(error, ask);
  } finally {
    if (mine === asking) at("ask").removeAttribute("aria-busy");
  }
}

function show({ content, headers, seconds }) {
  const rows = loaded?.task.kind === "embedding" ? [{ label: "cosine", score: content[0] }] : content;
  const bare = loaded?.task.kind === "regression"; // its scale is not known
  at("scores").tBodies[0].replaceChildren(...rows.map(({ label, score }) => scored(label, score, bare)));
  at("spoken").textContent = `${rows[0].label}: ${rows[0].score.toFixed(4)}`;
  at("cut").hidden = headers.get("x-truncated") !== "true";
  const times = [
    ["Round trip", `${(seconds * 1000).toFixed(1)} ms`],
    ...[
      ["In the service", "x-total-time"],
      ["Tokenising", "x-tokenization-time"],
      ["In the queue", "x-queue-time"],
      ["In the model", "x-inference-time"],
    ].map(([name, header]) => [name, headers.has(header) ? `${headers.get(header)} ms` : ""]),
    ["Tokens", headers.get("x-compute-tokens") ?? ""],
  ];
  const tiles = times.filter(([, words]) => words).map(([name, words]) => {
    const tile = element("div");
    tile.append(element("dt", name), element("dd", words));
    return tile;
  });
  at("times").replaceChildren(...tiles);
  at("answer").hidden = false;
}

/** A row of the table: a label, a bar and a number. */
function scored(label, score, bare) {
  const row = element("tr");
  const name = element("th");
  name.scope = "row";
  name.append(element("div", label));
  const middle = element("td");
  if (!bare) {
    const track = element("div", "", "track");
    const bar = element("div", "", score < 0 ? "bar below" : "bar");
    bar.style.width = `${Math.min(1, Math.abs(score)) * 100}%`;
    track.append(bar);
    track.setAttribute("aria-hidden", "true"); // the number says it
    middle.append(track);
  }
  row.append(name, middle, element("td", score.toFixed(4), "score"));
  return row;
}

at("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  ask();
});
at("ask").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    ask();
  }
});
at("ask").addEventListener("input", showCurl);
at("unlock").addEventListener("submit", (event) => {
  event.preventDefault();
  key = at("key").value;
  at("key").value = "";
  at("unlock").hidden = true;
  showCurl();
  at("left").focus();
  (async () => {
    if (loaded === null && retry !== load) await load();
    await retry?.();
  })();
});
at("copy").hidden = !navigator.clipboard; // browsers offer it to secure pages only
at("copy").addEventListener("click", async () => {
  await navigator.clipboard.writeText(at("curl").textContent);
  at("copy").textContent = "Copied";
  setTimeout(() => (at("copy").textContent = "Copy"), 1500);
});
load();
