"use strict";
for (const figure of document.querySelectorAll("script.figure")) {
  const { data, layout, config } = JSON.parse(figure.textContent);
  Plotly.newPlot(figure.previousElementSibling, data, layout, config);
}

const plots = () => [...document.querySelectorAll(".js-plotly-plot")];

// plotly uses fixed colours: set those of the page, and again when the colour scheme changes
function paint() {
  const style = getComputedStyle(document.documentElement);
  const ink = style.getPropertyValue("--ink").trim();
  const line = style.getPropertyValue("--line").trim();
  for (const plot of plots()) {
    const colors = { "font.color": ink };
    for (const axis of Object.keys(plot.layout).filter((key) => /^[xy]axis\d*$/.test(key))) {
      Object.assign(colors, { [`${axis}.gridcolor`]: line, [`${axis}.zerolinecolor`]: ink, [`${axis}.linecolor`]: line });
    }
    Plotly.relayout(plot, colors);
  }
}

// in print, a figure is as wide as the page or as the panel of the verdict
const PAPER = 680;
const PANEL = 630;
const paper = matchMedia("print");
function fit() {
  for (const plot of plots()) {
    const width = plot.closest(".verdict") ? PANEL : PAPER;
    Plotly.relayout(plot, paper.matches ? { width, autosize: false } : { width: null, autosize: true });
  }
  paint();
}

function save({ name, type, deflated, data }) {
  const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream();
  const whole = new Response(deflated ? stream.pipeThrough(new DecompressionStream("deflate-raw")) : stream);
  return whole.arrayBuffer().then((content) => {
    const address = URL.createObjectURL(new Blob([content], { type }));
    Object.assign(document.createElement("a"), { href: address, download: name }).click();
    setTimeout(() => URL.revokeObjectURL(address), 60000);
  });
}

paint();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);
paper.addEventListener("change", fit);

for (const folded of document.querySelectorAll("details.figures")) {
  // figures drawn while hidden have no width
  folded.addEventListener("toggle", () => folded.querySelectorAll(".js-plotly-plot").forEach((plot) => Plotly.Plots.resize(plot)));
}

for (const choice of document.querySelectorAll("input[name=curve-axis]")) {
  choice.addEventListener("change", () => {
    const title = { minutes: "minutes of training", epochs: "epoch" }[choice.value];
    for (const plot of document.querySelectorAll(".curves .js-plotly-plot")) {
      Plotly.update(plot, { x: plot.data.map((trace) => trace.meta[choice.value]) }, { "xaxis.title.text": title });
    }
  });
}

const sizes = new Intl.NumberFormat("en", { maximumSignificantDigits: 2 });
for (const file of JSON.parse(document.getElementById("download-data").textContent)) {
  const text = `${file.name} (${sizes.format(file.size / 1000)} kB)`;
  const button = Object.assign(document.createElement("button"), { type: "button", textContent: text });
  button.addEventListener("click", () => save(file));
  document.getElementById("downloads").append(button);
}

document.getElementById("copy").addEventListener("click", async () => {
  const source = document.getElementById("bibtex");
  try {
    await navigator.clipboard.writeText(source.textContent);
    document.getElementById("copied").textContent = "Copied.";
  } catch {
    getSelection().selectAllChildren(source);
    document.getElementById("copied").textContent = "The citation is selected; copy it with the keyboard.";
  }
});
