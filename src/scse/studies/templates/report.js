"use strict";
// plotly draws with fixed colours: give it the page's own, and again when the reader changes dark and light
function paint() {
  const style = getComputedStyle(document.documentElement);
  const ink = style.getPropertyValue("--ink").trim();
  const line = style.getPropertyValue("--line").trim();
  const colors = { "font.color": ink };
  for (const axis of ["xaxis", "yaxis"]) {
    Object.assign(colors, { [`${axis}.gridcolor`]: line, [`${axis}.zerolinecolor`]: line, [`${axis}.linecolor`]: line });
  }
  for (const plot of document.querySelectorAll(".js-plotly-plot")) Plotly.relayout(plot, colors);
}
paint();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);
