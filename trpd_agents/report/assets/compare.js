// Pairs of episodes that two runs played from the same seed, and where they part; one pair at #p=NUMBER.
"use strict";

const pairs = trpd.given.get("pairs");
const [A, B] = ["a", "b"].map((run) => trpd.given.get(`${run}/index`).columns);
const count = pairs ? pairs.a.length : 0;
const HOW = {
  same: () => "the same throughout",
  acted: (k) => `turn ${k}: another action`,
  shown: (k) => `turn ${k}: another observation after the same actions`,
  ended: (k) => `turn ${k}: one of them had ended`,
};
const form = document.getElementById("filters");
let shown = [];
let order = [null, false];

const read = {
  seed: pairs.a.map((n) => A.seed[n]),
  step: pairs.a.map((n) => A.step[n]),
  a: pairs.a.map((n) => A.success[n]),
  b: pairs.b.map((n) => B.success[n]),
  part: pairs.turn.map((turn, p) => (pairs.how[p] === "same" ? null : turn)),
  kept_a: pairs.a.map((n) => A.kept[n]),
  kept_b: pairs.b.map((n) => B.kept[n]),
};
const COLUMNS = [["seed", "seed"], ["step", "update of A"], ["a", "A"], ["b", "B"], ["part", "first turn at which they part"], ["kept_a", "kept in A"], ["kept_b", "kept in B"]];

function outcome(value) {
  return el(`td.${value === 1 ? "won" : value === 0 ? "lost" : "quiet"}`, {}, value === 1 ? "✓ success" : value === 0 ? "✗ failure" : "not known");
}

function where(p) {
  return HOW[pairs.how[p]](pairs.turn[p]);
}

function fits(p) {
  const which = form.elements.which.value;
  if (which === "part") return pairs.how[p] !== "same";
  if (which === "same") return pairs.how[p] === "same";
  return which === "" || read.a[p] !== read.b[p];
}

const showPage = form && makePager(document.getElementById("pager"), (rows) => {
  document.querySelector("#episodes tbody").replaceChildren(...rows.map((p) => el("tr", {},
    el("th", {scope: "row"}, el("a", {href: `#p=${p}`}, String(read.seed[p]))), el("td.number", {}, String(read.step[p])),
    outcome(read.a[p]), outcome(read.b[p]), el("td", {}, where(p)), el("td.number", {}, number(read.kept_a[p])), el("td.number", {}, number(read.kept_b[p])))));
});

function refresh() {
  const all = Array.from({length: count}, (_, p) => p).filter(fits);
  shown = sorted(all, order[0] && read[order[0]], order[1]);
  const parted = shown.filter((p) => pairs.how[p] !== "same").length;
  document.getElementById("count").textContent = `${shown.length} of ${count} pairs; ${parted} of these part`;
  showPage(shown);
}

async function route() {
  const wanted = /^#p=(\d+)$/.exec(location.hash);
  const p = wanted ? Number(wanted[1]) : -1;
  const open = p >= 0 && p < count;
  document.getElementById("list").hidden = open;
  document.getElementById("viewer").hidden = !open;
  document.getElementById("detail").hidden = true;
  if (!open) return;
  const at = shown.indexOf(p);
  for (const [id, to] of [["previous", shown[at - 1]], ["next", at < 0 ? undefined : shown[at + 1]]]) {
    const link = document.getElementById(id);
    link.hidden = to === undefined;
    if (to !== undefined) link.href = `#p=${to}`;
  }
  document.getElementById("parting").textContent = pairs.how[p] === "same" ? "They are the same throughout." : `They part at ${where(p)}.`;
  for (const [side, run, n] of [["side-a", "a", pairs.a[p]], ["side-b", "b", pairs.b[p]]]) {
    const holder = document.getElementById(side);
    try {
      const made = await transcript(run, n, {title: run.toUpperCase(), plain: true});
      if (pairs.how[p] !== "same") {
        const turn = made.querySelector(`.turn[data-turn="${pairs.turn[p]}"]`);
        if (turn) turn.classList.add("parts");
      }
      holder.replaceChildren(made);
    } catch (error) {
      holder.replaceChildren(el("p.note", {}, error.message));
    }
  }
  scrollTo(0, 0);
}

if (form) {
  makeHeads(document.querySelector("#episodes thead tr"), COLUMNS, (by, descending) => {
    order = [by, descending];
    refresh();
  });
  form.addEventListener("input", refresh);
  form.addEventListener("change", refresh);
  form.addEventListener("submit", (event) => event.preventDefault());
  addEventListener("hashchange", route);
  refresh();
  route();
}
