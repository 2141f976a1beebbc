// The run page: its tables are in the page already, its charts are drawn from data/run.js.
"use strict";

for (const figure of document.querySelectorAll("[data-chart]")) {
  const chart = trpd.given.get("run")[figure.dataset.chart];
  if (!chart) continue;
  figure.hidden = false;
  draw(figure.querySelector(".plot"), chart);
  figure.append(figures(chart));
}
