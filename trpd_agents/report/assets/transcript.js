// An episode as a transcript: what the student was shown, what it wrote token by token, what became of every turn.
"use strict";

const NONE = 9999999;
const EDGES = [-4, -2, -1, -0.25, 0.25, 1, 2, 4];
const SCALE = ["n4", "n3", "n2", "n1", "z", "p1", "p2", "p3", "p4"];
const STATES = {
  kept: "kept", raised: "raised", lowered: "down-weighted", masked: "masked", guided: "guided", unknown: "no credit",
};
const AT_ONCE = 2000; // tokens of a turn that are drawn before somebody asks for more

// Nats of a whole number of thousandths; null where there is none.
function nats(milli) {
  if (milli === undefined || milli === NONE) return null;
  return milli === -NONE ? -Infinity : milli / 1000;
}

function unrun(runs) {
  if (!runs) return null;
  const found = [];
  for (let i = 0; i < runs.length; i += 2) for (let n = 0; n < runs[i + 1]; n++) found.push(runs[i]);
  return found;
}

function shade(d) {
  if (d === null || Number.isNaN(d)) return "none";
  return SCALE[EDGES.filter((edge) => d >= edge).length];
}

// The transcript of episode `n` of run "a" or "b", as an element.
async function transcript(run, n, options = {}) {
  const {columns, names} = trpd.given.get(`${run}/index`);
  const {texts, reasons} = trpd.given.get(`${run}/vocabulary`);
  const chunk = await trpd.chunk(run, columns.chunk[n]);
  const episode = chunk.episodes[columns.place[n]];
  const tokens = episode.tokens;
  const columnsOfTokens = Object.fromEntries(["policy", "forward", "imitation", "reason"].map((name) => [name, unrun(tokens[name])]));
  const view = {episode, tokens, ...columnsOfTokens, texts, reasons};
  const success = columns.success[n];
  const facts = [
    ["outcome", success === 1 ? "success" : success === 0 ? "failure" : "not known"],
    ["ended", names.outcome[columns.outcome[n]]],
    ["environment", names.env[columns.env[n]]],
    ["seed", columns.seed[n]],
    ["update", columns.step[n]],
    ["reward", shorten(columns.reward[n])],
    ["kept share", number(columns.kept[n])],
    ["policy version", episode.version],
  ];
  const page = el("article.episode", {});
  page.append(
    el("h2", {}, options.title || `Episode ${columns.id[n]}`),
    el("dl.facts", {}, ...facts.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, String(value))))),
  );
  if (episode.error) page.append(el("p.note", {}, `The environment failed (${names.error[columns.error[n]]}): ${episode.error}`));
  if (!options.plain) page.append(legend(), strip(view), places(view));
  const instructions = chunk.texts[episode.instructions];
  if (instructions) page.append(folded("Instructions", instructions, true));
  if (episode.tools !== null) page.append(folded("Tools", chunk.texts[episode.tools], false));
  if (episode.hint) page.append(folded("Hint of the environment, which the student did not see", episode.hint, false));
  let start = 0;
  episode.turns.forEach((turn, k) => {
    page.append(oneTurn(view, turn, k, start));
    start = turn.end;
  });
  if (episode.final) page.append(el("section.turn.last", {}, el("h3", {}, "Last observation"), el("div.seen", {}, episode.final)));
  return page;
}

function folded(title, text, open) {
  return el("details.folded", {open}, el("summary", {}, title), el("div.seen", {}, text));
}

function legend() {
  const steps = SCALE.map((name, i) => {
    const low = i ? EDGES[i - 1] : null;
    const high = i < EDGES.length ? EDGES[i] : null;
    const words = low === null ? `< ${high}` : high === null ? `≥ ${low}` : i === 4 ? "±0.25" : `${low} to ${high}`;
    return el(`span.tok.${name}`, {}, words);
  });
  return el("div.legend", {}, el("span", {}, "Log ratio of teacher to student, nats: the teacher likes it less "), ...steps, el("span", {}, " more. "),
    el("span.tok.z.off", {}, "struck through"), el("span", {}, ": no weight in any loss."));
}

// All turns at a glance; each leads to its own.
function strip(view) {
  const bars = view.episode.turns.map((turn, k) =>
    el(`a.cell.${turn.state}`, {href: `#turn-${k}`, title: `turn ${k}: ${STATES[turn.state]}${turn.why ? ": " + turn.why : ""}`, "data-turn": k}, String(k)));
  const made = el("nav.strip", {"aria-label": "Turns"}, ...bars);
  made.addEventListener("click", (event) => {
    const k = event.target.dataset.turn;
    if (k === undefined) return;
    event.preventDefault();
    const turn = made.closest("article").querySelector(`.turn[data-turn="${k}"]`);
    turn.scrollIntoView({block: "start"});
    turn.focus({preventScroll: true});
  });
  return made;
}

// Divergence by turn and, where the rule looks at something else, that too; each with the lines that decide.
function places(view) {
  const {turns, lines, drawn} = view.episode;
  const holder = el("div.charts", {});
  for (const [key, title] of [["reach", "Log ratio of the history by turn, nats"], ["divergence", "Divergence by turn"]]) {
    const values = turns.map((turn) => (turn[key] === undefined ? null : turn[key]));
    if ((key === "reach" && drawn !== "reach") || values.every((value) => value === null)) continue;
    const x = turns.map((_, k) => k);
    const fixed = drawn === key ? Object.entries(lines).filter(([, value]) => value !== null) : [];
    const series = {[key === "reach" ? "log ratio" : "divergence"]: values};
    for (const [name, value] of fixed) series[name] = x.map(() => value);
    const chart = {x, series, lines: fixed.map(([name]) => name), xLabel: "turn", height: 150, marked: true};
    const plot = el("div.plot", {});
    holder.append(el("figure.chart", {}, el("figcaption", {}, el("strong", {}, title)), plot, figures(chart)));
    requestAnimationFrame(() => plot.isConnected && draw(plot, chart)); // once it is in the page and has a width
  }
  return holder;
}

// What is left of a turn: the mean weight of its tokens, each in the stream where it weighs most.
function meanWeight(view, start, end) {
  let total = 0;
  for (let i = start; i < end; i++) total += Math.max(view.policy[i], view.forward[i]);
  return total / (end - start);
}

function oneTurn(view, turn, k, start) {
  const flags = [
    turn.refused && "refused by the environment", turn.cut && "cut off at the token limit", turn.repeat && "repeats the turn before",
    turn.reward && `reward ${shorten(turn.reward)}`,
  ].filter(Boolean);
  const weight = turn.state === "lowered" || turn.state === "raised" ? ` to ${number(meanWeight(view, start, turn.end))}` : "";
  const head = el("header", {}, el("h3", {}, `turn ${k}`), el(`span.badge.${turn.state}`, {}, STATES[turn.state] + weight), el("span.why", {}, turn.why));
  const made = el(`section.turn.${turn.state}`, {"data-turn": k, tabindex: "-1", "aria-label": `turn ${k}`}, head);
  if (flags.length) made.append(el("p.flags", {}, flags.join(", ")));
  made.append(el("div.seen", {}, turn.seen), said(view, turn, k, start));
  for (const [name, given] of turn.calls) {
    made.append(el("details.call", {open: true}, el("summary", {}, `calls ${name}`), el("pre", {}, given)));
  }
  return made;
}

function said(view, turn, k, start) {
  const box = el("div.said", {role: "group", "aria-label": `What was written in turn ${k}; arrow keys move between tokens`});
  if (turn.text !== undefined) box.append(el("p", {}, turn.text || "(nothing)"));
  function tokensFrom(first) {
    const last = Math.min(turn.end, first + AT_ONCE);
    for (let i = first; i < last; i++) {
      const id = view.tokens.ids[i];
      const text = turn.pieces ? turn.pieces[i - start] : view.texts[id];
      const [ls, lt] = [nats(view.tokens.ls[i]), nats(view.tokens.lt[i])];
      const weight = view.policy && Math.max(view.policy[i], view.forward[i], view.imitation[i]);
      const d = ls === null || lt === null ? null : lt - ls;
      box.append(el(`span.tok.${shade(d)}${weight === 0 ? ".off" : ""}`, {tabindex: i === start ? "0" : "-1", "data-i": i}, text || "·"));
    }
    if (last < turn.end) {
      const more = el("button", {type: "button"}, `show ${Math.min(AT_ONCE, turn.end - last)} of ${turn.end - last} more tokens`);
      more.onclick = () => {
        more.remove();
        tokensFrom(last);
      };
      box.append(more);
    }
  }
  tokensFrom(start);
  const show = (event) => event.target.dataset.i !== undefined && detail(view, turn, k, start, event.target);
  box.addEventListener("mouseover", show);
  box.addEventListener("focusin", show);
  box.addEventListener("keydown", (event) => {
    const step = {ArrowRight: "nextElementSibling", ArrowDown: "nextElementSibling", ArrowLeft: "previousElementSibling", ArrowUp: "previousElementSibling"}[event.key];
    const to = step && event.target[step];
    if (!to) return;
    event.preventDefault();
    event.target.tabIndex = -1;
    to.tabIndex = 0;
    to.focus();
  });
  return box;
}

// Everything that is known of one token, in the panel.
function detail(view, turn, k, start, target) {
  const i = Number(target.dataset.i);
  const {tokens} = view;
  const [ls, lt] = [nats(tokens.ls[i]), nats(tokens.lt[i])];
  const d = ls === null || lt === null ? null : lt - ls;
  const streams = [["reverse KL", view.policy], ["forward KL", view.forward], ["imitation", view.imitation]]
    .filter(([, weights]) => weights && weights[i] > 0).map(([name, weights]) => `${name} ${shorten(weights[i])}`);
  const facts = [
    ["token", JSON.stringify(target.textContent)],
    ["id", tokens.ids[i]],
    ["log ratio", d === null ? "–" : number(d, 3)],
    ["student", ls === null ? "–" : `${number(ls, 3)} (${number(Math.exp(ls), 3)})`],
    ["teacher", lt === null ? "–" : `${number(lt, 3)} (${number(Math.exp(lt), 3)})`],
    ["acceptance", d === null ? "–" : number(Math.exp(Math.min(d, 0)), 3)],
    ["streams", view.policy ? streams.join(", ") || "none: weight 0" : "not known"],
    ["why", view.reason ? view.reasons[view.reason[i]] : "not known"],
    ["turn", `${k}: ${STATES[turn.state]}${turn.why ? ", " + turn.why : ""}`],
  ];
  if (tokens.entropy) facts.push(["teacher's entropy", number(nats(tokens.entropy[i]), 3)]);
  const panel = document.getElementById("detail");
  panel.replaceChildren(el("dl", {}, ...facts.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, String(value))))));
  if (tokens.alternatives) {
    const from = i * tokens.per_token;
    const rows = tokens.alternatives.slice(from, from + tokens.per_token).map((id, rank) => {
      const logp = nats(tokens.alternatives_lt[from + rank]);
      return el("tr", {}, el("td", {}, JSON.stringify(view.texts[id])), el("td.number", {}, number(logp, 3)), el("td.number", {}, logp === null ? "–" : number(Math.exp(logp), 3)));
    });
    panel.append(el("table", {}, el("caption", {}, "the teacher's likeliest tokens, nats and probability"), el("tbody", {}, ...rows)));
  } else {
    panel.append(el("p.quiet", {}, "The teacher's likeliest tokens were not stored (training.save_top_k)."));
  }
  const close = el("button.close", {type: "button", "aria-label": "Close"}, "×");
  close.onclick = () => { panel.hidden = true; };
  panel.append(close);
  panel.hidden = false;
  for (const other of document.querySelectorAll(".tok.chosen")) other.classList.remove("chosen");
  target.classList.add("chosen");
}

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") document.getElementById("detail").hidden = true;
});
