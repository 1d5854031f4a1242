"use strict";

// Charts in the colours of the page: drawn again when the system turns dark or light.
const RUN_COLOURS = 8;
const charts = JSON.parse(document.getElementById("charts").textContent);

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

function coloured(trace) {
  const run = colour(`run-${trace.meta.run % RUN_COLOURS}`);
  const result = { ...trace, marker: { ...trace.marker, color: run } };
  if (trace.line) result.line = { ...trace.line, color: run };
  if (trace.error_y) result.error_y = { ...trace.error_y, color: colour("ink") };
  return result;
}

function axis(own) {
  const line = colour("line");
  return { automargin: true, gridcolor: line, linecolor: line, zerolinecolor: colour("soft"), ...own };
}

function draw() {
  charts.forEach((chart, number) => {
    const layout = {
      ...chart.layout,
      xaxis: axis(chart.layout.xaxis),
      yaxis: axis(chart.layout.yaxis),
      autosize: true,
      // A finger on a chart scrolls the page.
      dragmode: matchMedia("(pointer: fine)").matches ? "zoom" : false,
      font: { color: colour("ink"), family: "system-ui, sans-serif", size: 12 },
      hovermode: "x unified", // the values of all runs
      hoverlabel: { bgcolor: colour("surface"), bordercolor: colour("line"), font: { color: colour("ink") } },
      margin: { l: 8, r: 8, t: 8, b: 8 },
      paper_bgcolor: "rgba(0, 0, 0, 0)",
      plot_bgcolor: "rgba(0, 0, 0, 0)",
      showlegend: false,
    };
    const settings = { displayModeBar: false, responsive: true };
    Plotly.react(`chart-${number}`, chart.traces.map(coloured), layout, settings);
  });
}

// Tables that are sorted by the column whose head is pressed: largest first, then smallest first.
function value(row, column) {
  const cell = row.cells[column];
  return "order" in cell.dataset ? Number(cell.dataset.order) : -Infinity;
}

function sort(head) {
  const table = head.closest("table");
  const order = head.ariaSort === "descending" ? "ascending" : "descending";
  const sign = order === "ascending" ? 1 : -1;
  const rows = [...table.tBodies[0].rows];
  rows.sort((a, b) => sign * (value(a, head.cellIndex) - value(b, head.cellIndex) || 0));
  table.querySelectorAll("thead th").forEach((other) => other.removeAttribute("aria-sort"));
  head.setAttribute("aria-sort", order);
  table.tBodies[0].append(...rows);
}

document.querySelectorAll("table.sortable thead th").forEach((head) => {
  const button = document.createElement("button");
  button.type = "button";
  button.append(...head.childNodes);
  button.addEventListener("click", () => sort(head));
  head.append(button);
});

draw();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
