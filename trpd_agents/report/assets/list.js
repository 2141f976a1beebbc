// The list of all stored episodes, filtered and sorted, and one of them at #e=NUMBER.
"use strict";

const {columns, names} = trpd.given.get("a/index");
const count = columns.id.length;
const form = document.getElementById("filters");
const COLUMNS = [
  ["id", "episode"], ["step", "update"], ["seed", "seed", "minor"], ["success", "outcome"], ["outcome", "ended", "minor"],
  ["error", "error", names.error.length ? "" : "minor"], ["turns", "turns"], ["kept", "kept"], ["divergence", "worst divergence", "minor"],
  ["guided", "guided", "minor"], ["refused", "refused", "minor"], ["reward", "reward", "minor"],
];
let shown = []; // row numbers, filtered and sorted
let order = [null, false];

for (const [i, name] of names.env.entries()) form.elements.env.append(el("option", {value: i}, name));
form.elements.env.closest("label").hidden = names.env.length < 2;
for (const [i, name] of names.error.entries()) form.elements.error.append(el("option", {value: i}, `failure: ${name}`));
for (const step of new Set(columns.step)) form.elements.step.append(el("option", {value: step}, step));

function fits(n) {
  const {success, env, error, step, low, high} = form.elements;
  if (success.value !== "" && (columns.success[n] === null ? "none" : String(columns.success[n])) !== success.value) return false;
  if (env.value !== "" && columns.env[n] !== Number(env.value)) return false;
  if (step.value !== "" && columns.step[n] !== Number(step.value)) return false;
  if (error.value === "none" && (columns.error[n] !== null || columns.refused[n] || columns.cut[n])) return false;
  if (error.value === "refused" && !columns.refused[n]) return false;
  if (error.value === "cut" && !columns.cut[n]) return false;
  if (/^\d+$/.test(error.value) && columns.error[n] !== Number(error.value)) return false;
  const kept = columns.kept[n];
  if (low.value !== "" && (kept === null || kept < Number(low.value))) return false;
  if (high.value !== "" && (kept === null || kept > Number(high.value))) return false;
  return true;
}

const body = document.querySelector("#episodes tbody");
const showPage = makePager(document.getElementById("pager"), (rows) => {
  body.replaceChildren(...rows.map((n) => el("tr", {}, ...COLUMNS.map(([key, , minor]) => {
    const made = cell(key, n);
    if (minor) made.classList.add("minor");
    return made;
  }))));
});

function cell(key, n) {
  const value = columns[key][n];
  if (key === "id") return el("th", {scope: "row"}, el("a", {href: `#e=${n}`}, String(value)));
  if (key === "success") return el(`td.${value === 1 ? "won" : value === 0 ? "lost" : "quiet"}`, {}, value === 1 ? "✓ success" : value === 0 ? "✗ failure" : "not known");
  if (key === "outcome") return el("td", {}, names.outcome[value]);
  if (key === "error") return el("td", {}, value === null ? "" : names.error[value]);
  if (key === "kept") return el("td.number", {}, value === null ? "–" : el("meter", {min: 0, max: 1, value, "aria-hidden": true}), value === null ? "" : ` ${number(value)}`);
  if (key === "divergence") return el("td.number", {}, number(value));
  return el("td.number", {}, String(value ?? "–"));
}

function refresh() {
  const all = Array.from({length: count}, (_, n) => n).filter(fits);
  shown = sorted(all, order[0] && columns[order[0]], order[1]);
  document.getElementById("count").textContent = `${shown.length} of ${count} stored episodes`;
  showPage(shown);
}

async function route() {
  const wanted = /^#e=(\d+)$/.exec(location.hash);
  const n = wanted ? Number(wanted[1]) : -1;
  const open = n >= 0 && n < count;
  document.getElementById("list").hidden = open;
  document.getElementById("viewer").hidden = !open;
  document.getElementById("detail").hidden = true;
  if (!open) return;
  const holder = document.getElementById("episode");
  const at = shown.indexOf(n);
  for (const [id, to] of [["previous", shown[at - 1]], ["next", at < 0 ? undefined : shown[at + 1]]]) {
    const link = document.getElementById(id);
    link.hidden = to === undefined;
    if (to !== undefined) link.href = `#e=${to}`;
  }
  holder.setAttribute("aria-busy", "true");
  try {
    holder.replaceChildren(await transcript("a", n));
  } catch (error) {
    holder.replaceChildren(el("p.note", {}, error.message));
  }
  holder.removeAttribute("aria-busy");
  scrollTo(0, 0);
}

makeHeads(document.querySelector("#episodes thead tr"), COLUMNS, (by, descending) => {
  order = [by, descending];
  refresh();
});
form.addEventListener("input", refresh);
form.addEventListener("change", refresh);
form.addEventListener("reset", () => setTimeout(refresh));
form.addEventListener("submit", (event) => event.preventDefault());
addEventListener("hashchange", route);
refresh();
route();
