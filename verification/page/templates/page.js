"use strict";
// The table of all rows: thousands of them, of which a hundred are drawn at a time.

const PAGE = 100;
const COLUMNS = JSON.parse(document.getElementById("data").textContent);
const FILTERS = ["subject", "check", "verdict", "dtype"];
const get = (id) => document.getElementById(id);

function value(name, i) {
  const column = COLUMNS[name];
  return column.words ? column.words[column.at[i]] : column[i];
}

// What the search looks at, made once.
const texts = Array.from({ length: COLUMNS.count }, (_, i) =>
  Object.keys(COLUMNS)
    .filter((name) => COLUMNS[name].words)
    .map((name) => value(name, i))
    .join("\n")
    .toLowerCase());

function number(x) {
  if (x === null) return "–";
  x = Number(x);
  if (!Number.isFinite(x)) return "∞";
  if (x === 0 || (x >= 1e-3 && x < 1e6)) return String(Number.isInteger(x) ? x : +x.toPrecision(2));
  return x.toExponential(1);
}

function share(x) {
  x = Number(x);
  if (x < 0) return "–";
  if (x > 1) return `${x < 1000 ? +x.toPrecision(3) : number(x)}×`;
  return x > 0 && x < 0.01 ? "<1 %" : `${Math.round(100 * x)} %`;
}

const passes = (i) => ["better", "as good", "null direction"].includes(value("verdict", i));

function found() {
  // words, or "several in quotes", that all have to occur
  const words = (get("search").value.toLowerCase().match(/"[^"]*"|\S+/g) ?? [])
    .map((word) => word.replaceAll('"', ""));
  const wanted = FILTERS.map((name) => [name, get(name).value]).filter(([, v]) => v);
  const rows = [];
  for (let i = 0; i < COLUMNS.count; i++) {
    const fits = ([name, v]) => (v === "failing" ? !passes(i) : value(name, i) === v);
    if (wanted.every(fits) && words.every((word) => texts[i].includes(word))) rows.push(i);
  }
  const order = get("order").value;
  if (!order) return rows;
  const key = new Map(rows.map((i) => {
    const x = COLUMNS[order][i];
    return [i, x === null ? -Infinity : Number(x)];
  }));
  const compare = (a, b) => (a === b ? 0 : a < b ? 1 : -1); // infinities have no difference
  return rows.sort((a, b) => passes(a) - passes(b) || compare(key.get(a), key.get(b)) || a - b);
}

let rows = [];
let shown = 0;

function draw() {
  rows = found();
  shown = 0;
  document.querySelectorAll("table.rows tbody").forEach((body) => body.remove());
  more();
}

function more() {
  const next = rows.slice(shown, shown + PAGE);
  document.querySelector("table.rows").append(...next.map(body));
  shown += next.length;
  get("more").hidden = shown === rows.length;
  const part = shown < rows.length ? `, the first ${shown} shown` : "";
  get("count").textContent = `${rows.length} of ${COLUMNS.count} rows${part}`;
}

function body(i) {
  const part = get("row").content.cloneNode(true).firstElementChild;
  const set = (name, text) => { part.querySelector(`[data-name=${name}]`).textContent = text; };
  const verdict = value("verdict", i);
  const mark = document.createElement("span");
  mark.className = `verdict ${verdict.replaceAll(" ", "-")}`;
  mark.textContent = `${COLUMNS.marks[verdict]} ${verdict}`;
  part.querySelector("[data-name=verdict]").append(mark);
  set("case", `${value("subject", i)}: ${value("case", i)}`);
  for (const name of ["quantity", "dtype", "rule", "note"]) set(name, value(name, i) || "–");
  for (const name of ["error", "builtin_error", "bound", "floor"]) set(name, number(COLUMNS[name][i]));
  set("used", share(COLUMNS.used[i]));
  set("seed", COLUMNS.seed[i] ?? "–");
  const nearest = value("nearest", i);
  set("nearest", nearest ? `${nearest}, ${number(COLUMNS.margin[i])} bounds away` : "–");
  part.querySelector("code").textContent = value("repeat", i);
  part.querySelector(".command").hidden = !value("repeat", i);
  return part;
}

async function copy(button) {
  const code = button.previousElementSibling;
  try {
    await navigator.clipboard.writeText(code.textContent);
    button.textContent = "copied";
  } catch { // not allowed here: selected, so that a key does it
    getSelection().selectAllChildren(code);
    button.textContent = "selected";
  }
  setTimeout(() => { button.textContent = "copy"; }, 2000);
}

function toggle(button) {
  const details = button.closest("tr").nextElementSibling;
  details.hidden = !details.hidden;
  button.setAttribute("aria-expanded", String(!details.hidden));
}

// From a cell of a picture to its rows.
function jump(link) {
  document.querySelector("form.filters").reset();
  get("search").value = link.dataset.search ? `"${link.dataset.search}"` : "";
  get("subject").value = link.dataset.subject ?? "";
  get("check").value = link.dataset.check ?? "";
  draw();
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  const link = event.target.closest("a[data-subject]");
  if (link) jump(link);
  else if (button?.matches(".copy")) copy(button);
  else if (button?.matches(".toggle")) toggle(button);
  else if (button?.matches("#more")) more();
});

for (const name of FILTERS) {
  const values = COLUMNS.count ? COLUMNS[name].words : [];
  const all = name === "verdict" ? ["failing", ...values] : values;
  get(name).append(...all.map((v) => new Option(v, v)));
}
const form = document.querySelector("form.filters");
get("search").addEventListener("input", draw);
for (const name of [...FILTERS, "order"]) get(name).addEventListener("change", draw);
form.addEventListener("submit", (event) => event.preventDefault());
form.addEventListener("reset", () => setTimeout(draw)); // the fields are empty only then
draw();
