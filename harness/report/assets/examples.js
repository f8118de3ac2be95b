"use strict";
/* The examples: all text is inserted as text, never as markup. */
(() => {
  const list = document.getElementById("example-list");
  if (!list) return;
  const data = window.reportData;
  const at = (id) => document.getElementById(id);
  const [pick, show, order, search] = ["example-group", "example-show", "example-order", "example-search"].map(at);
  const more = at("example-more"), count = at("example-count");
  const STEP = 25; // examples that are added at a time
  const NAMES = { right: "right", wrong: "wrong", part: "in part" };
  const KINDS = {
    loglikelihood: "how probable is the marked text", rolling: "how probable is the text",
    generate: "what comes next", next_word: "which word comes next",
  };
  let found = [];

  function element(name, kind, text) {
    const made = document.createElement(name);
    if (kind) made.className = kind;
    if (text !== undefined) made.textContent = text;
    return made;
  }

  function text(title, value) {
    const box = element("div");
    box.append(element("h4", "", title), element("pre", "text", value));
    return box;
  }

  function prompt(example) {
    if (!example.traced_prompt) return text("prompt", example.prompt);
    const { left, text: before, marked } = example.traced_prompt;
    const box = text(left ? `prompt, ${left}` : "prompt", before);
    if (marked) box.lastElementChild.append(element("mark", "", marked));
    return box;
  }

  const shade = (logprob) => {
    const p = Math.exp(logprob);
    return [0.9, 0.6, 0.35, 0.1, 0.01].filter((edge) => p <= edge).length;
  };
  const minus = (value, digits) => value.toFixed(digits).replace("-", "\u2212");
  const meaning = (logprob, rank) =>
    `${minus(logprob, 2)} nats${rank === null ? "" : `, rank ${rank}`}`;

  function tokens(request) {
    const box = element("pre", "text", request.begins ? "" : "\u2026");
    for (const [value, scored, logprob, rank] of request.tokens) {
      if (!scored && logprob === null) { box.append(value); continue; }
      const span = element("span", scored ? "tok" : "", value);
      if (logprob !== null) {
        span.classList.add(`s${shade(logprob)}`);
        span.title = meaning(logprob, rank);
      }
      box.append(span);
    }
    return box;
  }

  function numbers(request) {
    const box = element("details", "small");
    box.append(element("summary", "", "Tokens as a table"));
    const table = element("table"), body = element("tbody");
    for (const [value, , logprob, rank] of request.tokens)
      if (logprob !== null) {
        const row = element("tr");
        row.append(element("td", "", JSON.stringify(value)), element("td", "n", minus(logprob, 3)), element("td", "n", rank ?? ""));
        body.append(row);
      }
    const head = element("tr");
    for (const name of ["token", "log-probability", "rank"]) head.append(element("th", name === "token" ? "" : "n", name));
    const top = element("thead");
    top.append(head);
    table.append(top, body);
    box.append(table);
    return box;
  }

  function traced(request) {
    const box = element("div");
    const facts = [KINDS[request.kind] ?? request.kind];
    if (request.logprob !== null) facts.push(`${minus(request.logprob, 2)} nats`);
    if (request.left) facts.push(request.left);
    box.append(element("h4", "", facts.join(", ")));
    if (request.tokens.some((token) => token[1])) box.append(tokens(request)); // else the prompt says it all
    if (request.output !== null) box.append(element("pre", "text", request.output || "(nothing)"));
    if (request.note) box.append(element("p", "small", request.note));
    if (request.tokens.some((token) => token[2] !== null)) box.append(numbers(request));
    return box;
  }

  function response(run) {
    const box = element("div", `run ${run.state}`);
    const head = element("h3");
    head.append(element("bdi", "", data.labels[run.column]));
    if (run.state) head.append(element("span", `state ${run.state}`, NAMES[run.state]));
    box.append(head);
    box.append(element("pre", "text", run.response || "(nothing)"));
    const values = element("ul");
    for (const [name, value] of run.values) {
      const row = element("li");
      row.append(element("span", "", name), element("span", "", value));
      values.append(row);
    }
    if (run.values.length) box.append(values);
    if (run.trace) for (const request of run.trace) box.append(traced(request));
    return box;
  }

  function fill(box, example) {
    const body = element("div", "body");
    body.append(prompt(example));
    if (example.reference) body.append(text("reference", example.reference));
    const runs = element("div", "runs");
    for (const run of example.runs) runs.append(response(run));
    body.append(runs);
    box.append(body);
  }

  function entry(example) {
    const box = element("details", "example");
    const head = element("summary");
    const line = example.prompt.trim().slice(-160).replace(/\s+/g, " ");
    head.append(element("span", "id", example.id), element("span", "tail", example.reference ? `${line} \u2192 ${example.reference.slice(0, 80)}` : line));
    const states = element("span", "states");
    for (const run of example.runs)
      if (run.state) {
        const mark = element("span", `state ${run.state}`, { right: "\u2713", wrong: "\u2717", part: "\u00bd" }[run.state]);
        mark.title = `${data.labels[run.column]}: ${NAMES[run.state]}`;
        mark.setAttribute("aria-label", mark.title);
        mark.setAttribute("role", "img");
        states.append(mark);
      }
    head.append(states);
    box.append(head);
    box.addEventListener("toggle", () => { if (box.open && box.childElementCount === 1) fill(box, example); });
    return box;
  }

  const losses = (example) => example.runs.map((run) => run.loss).filter((loss) => loss !== null);
  const worst = (example) => Math.max(-Infinity, ...losses(example));
  const change = (example) => (losses(example).length > 1 ? worst(example) - Math.min(...losses(example)) : -Infinity);
  const TESTS = {
    all: () => true,
    flipped: (example) => example.flipped,
    wrong: (example) => example.runs.some((run) => run.state === "wrong"),
    right: (example) => example.runs.every((run) => run.state === "right"),
  };

  function add() {
    const done = list.querySelectorAll(".example").length;
    list.append(...found.slice(done, done + STEP).map(entry));
    more.hidden = done + STEP >= found.length;
  }

  function refresh() {
    const group = data.groups[pick.value];
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const matches = (example) => {
      const all = [example.id, example.prompt, example.reference, ...example.runs.map((run) => run.response)].join(" ").toLowerCase();
      return words.every((word) => all.includes(word));
    };
    found = group.examples.filter((example) => TESTS[show.value](example) && matches(example));
    const key = { worst, change }[order.value];
    if (key) found.sort((a, b) => key(b) - key(a) || 0);
    count.textContent = group.words.replace("{}", String(found.length));
    list.replaceChildren();
    if (!found.length) list.append(element("p", "empty", "No example matches."));
    add();
    at("example-shades").hidden = !group.traced;
  }

  for (const control of [pick, show, order]) control.addEventListener("change", refresh);
  search.addEventListener("input", refresh);
  more.addEventListener("click", add);
  at("example-controls").addEventListener("submit", (event) => event.preventDefault());
  for (const link of document.querySelectorAll("#changes a[data-task]"))
    link.addEventListener("click", () => {
      const place = data.groups.findIndex((group) => group.task === link.dataset.task);
      if (place < 0) return;
      pick.value = String(place);
      show.value = "flipped";
      search.value = "";
      refresh();
    });
  refresh();
})();
