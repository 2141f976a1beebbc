// What all pages share: data files that arrive as scripts (a page opened from disk may load nothing else), and elements
// that are only ever made from text, never from markup.
"use strict";

const trpd = {
  given: new Map(),
  waiting: new Map(),

  // Called by every data file.
  give(name, data) {
    trpd.given.set(name, data);
  },

  // The data of `name`, loaded from data/NAME.js the first time.
  load(name) {
    if (trpd.given.has(name)) return Promise.resolve(trpd.given.get(name));
    if (!trpd.waiting.has(name)) {
      trpd.waiting.set(name, new Promise((resolve, reject) => {
        const script = document.createElement("script");
        script.src = `data/${name}.js`;
        script.onload = () => {
          script.remove();
          trpd.waiting.delete(name);
          resolve(trpd.given.get(name));
        };
        script.onerror = () => {
          trpd.waiting.delete(name);
          reject(new Error(`data/${name}.js is missing or damaged; write the report again`));
        };
        document.head.append(script);
      }));
    }
    return trpd.waiting.get(name);
  },

  // Chunks are forgotten again but for the latest few, so that a long session does not hold the whole run.
  async chunk(run, number) {
    const name = `${run}/chunk-${String(number).padStart(4, "0")}`;
    const data = await trpd.load(name);
    trpd.recent = [name, ...(trpd.recent || []).filter((other) => other !== name)];
    for (const old of trpd.recent.splice(8)) trpd.given.delete(old);
    return data;
  },
};

// el("p.note", {title: "..."}, "text", child, ...)
function el(kind, attributes, ...children) {
  const [tag, ...classes] = kind.split(".");
  const made = document.createElement(tag);
  if (classes.length) made.className = classes.join(" ");
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value !== null && value !== undefined && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

function number(value, digits = 2) {
  return value === null || value === undefined ? "–" : value.toFixed(digits);
}

// A list in pages: `show(rows)` draws a page of row numbers, and the pager below it.
const PAGE = 100;

function makePager(pager, draw) {
  let rows = [];
  let page = 0;
  function turnTo(to) {
    page = to;
    const pages = Math.max(1, Math.ceil(rows.length / PAGE));
    draw(rows.slice(page * PAGE, (page + 1) * PAGE));
    pager.replaceChildren();
    if (pages === 1) return;
    const back = el("button", {type: "button", disabled: page === 0}, "Back");
    const on = el("button", {type: "button", disabled: page === pages - 1}, "On");
    back.onclick = () => turnTo(page - 1);
    on.onclick = () => turnTo(page + 1);
    pager.append(back, el("span", {}, ` page ${page + 1} of ${pages} `), on);
  }
  return (found) => {
    rows = found;
    turnTo(0);
  };
}

// Heads of a table that sort by their column; `changed(key, descending)` draws anew.
function makeHeads(head, columns, changed) {
  let by = null;
  let descending = false;
  for (const [key, title, kind] of columns) {
    const button = el("button", {type: "button"}, title);
    const cell = el("th", {scope: "col", "aria-sort": "none", class: kind}, button);
    button.onclick = () => {
      descending = by === key ? !descending : false;
      by = key;
      for (const other of head.children) other.setAttribute("aria-sort", "none");
      cell.setAttribute("aria-sort", descending ? "descending" : "ascending");
      changed(by, descending);
    };
    head.append(cell);
  }
}

// Row numbers by a column; what is not known comes last, whichever way.
function sorted(rows, column, descending) {
  if (!column) return rows;
  const sign = descending ? -1 : 1;
  const last = (value) => value === null || value === undefined;
  return rows.slice().sort((i, j) => {
    const [a, b] = [column[i], column[j]];
    if (last(a) || last(b)) return last(a) - last(b) || i - j;
    return (a < b ? -sign : a > b ? sign : 0) || i - j;
  });
}
