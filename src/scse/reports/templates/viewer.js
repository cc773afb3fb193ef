"use strict";
// the viewer shows two predictions of one slice side by side, drawn from the packed label maps
(() => {
  const data = JSON.parse(document.getElementById("viewer-data").textContent);
  const at = (name) => document.getElementById(`v-${name}`);
  const LONGEST = 560; // longest side of a canvas in pixels
  const VIRIDIS = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]];
  // colours of missed pixels, added pixels, and pixels of another structure
  const ERRORS = { missed: [230, 159, 0], added: [86, 180, 233], swapped: [240, 80, 200] };
  const SIDES = ["left", "right"];
  const colors = [null, ...data.structures.map(({ color }) => [1, 3, 5].map((i) => parseInt(color.slice(i, i + 2), 16)))];
  const names = ["background", ...data.structures.map(({ name }) => name)];
  const on = new Uint8Array(256).fill(1);
  const unpacked = new Map(); // unpacked data of the shown case
  let shown = null; // {index, reference, bitmaps}
  let turn = 0;

  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const percent = (x) => (x === null || x === undefined ? "–" : x.toFixed(3));

  async function inflate(text) {
    const stream = new Blob([bytes(text)]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  }

  async function once(key, make) {
    if (!unpacked.has(key)) unpacked.set(key, await make());
    return unpacked.get(key);
  }

  const current = () => data.cases[at("case").value];
  const network = () => data.networks.find(({ id }) => id === at("network").value);
  const variantName = (id) => network().variants.find((variant) => variant.id === id)?.name ?? id;
  const mean = (values) => {
    const known = values.filter((value) => value !== null);
    return known.length ? known.reduce((a, b) => a + b, 0) / known.length : null;
  };

  async function unpack(side) {
    const item = current();
    const key = `${at("network").value}|${at(side).value}`;
    const reference = await once("reference", () => inflate(item.reference));
    const prediction = await once(`map ${key}`, async () => {
      const difference = await inflate(item.maps[key]);
      return difference.map((value, i) => value + reference[i]); // modulo 256
    });
    const gate = item.gates[key] && { ...item.gates[key], levels: await once(`gate ${key}`, () => inflate(item.gates[key].levels)) };
    return { reference, prediction, gate };
  }

  const picture = (item, slice) =>
    once(`image ${slice}`, () => createImageBitmap(new Blob([bytes(item.images[slice])], { type: "image/jpeg" })));

  function overlay(item, slice, maps, canvas) {
    const { width, height } = canvas;
    const start = slice * item.width * item.height;
    const reference = maps.reference.subarray(start, start + item.width * item.height);
    const prediction = maps.prediction.subarray(start, start + item.width * item.height);
    const layer = new ImageData(width, height);
    const across = Int32Array.from({ length: width }, (_, x) => Math.floor((x * item.width) / width));
    const down = Int32Array.from({ length: height }, (_, y) => Math.floor((y * item.height) / height) * item.width);
    const alpha = Math.round(2.55 * at("opacity").value);
    const [outlines, filled, errors] = ["reference", "prediction", "errors"].map((name) => at(name).checked);
    const line = 2;
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        const place = down[y] + across[x];
        const wanted = reference[place];
        const found = prediction[place];
        if (!wanted && !found) continue;
        let color = null;
        let strength = alpha;
        if (errors && wanted !== found && ((wanted && on[wanted]) || (found && on[found]))) {
          // stripes distinguish errors from structures
          color = ((x + y) >> 2) % 3 === 0 ? [0, 0, 0] : !found ? ERRORS.missed : !wanted ? ERRORS.added : ERRORS.swapped;
          strength = 255;
        } else if (filled && found && on[found]) color = colors[found];
        if (outlines && wanted && on[wanted]) {
          const left = across[Math.max(x - line, 0)];
          const right = across[Math.min(x + line, width - 1)];
          const up = down[Math.max(y - line, 0)];
          const low = down[Math.min(y + line, height - 1)];
          const edge = [down[y] + left, down[y] + right, up + across[x], low + across[x]].some((i) => reference[i] !== wanted);
          if (edge) [color, strength] = [colors[wanted], 255];
        }
        if (color) layer.data.set([...color, strength], 4 * (y * width + x));
      }
    }
    const counts = { errors: 0, predicted: 0 };
    for (let i = 0; i < reference.length; i++) {
      if (prediction[i] && on[prediction[i]]) counts.predicted++;
      if (reference[i] !== prediction[i] && ((reference[i] && on[reference[i]]) || (prediction[i] && on[prediction[i]]))) counts.errors++;
    }
    return { layer, counts };
  }

  function offscreen(layer) {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [layer.width, layer.height];
    canvas.getContext("2d").putImageData(layer, 0, 0);
    return canvas;
  }

  function heat(gate, slice) {
    const layer = new ImageData(gate.width, gate.height);
    const start = slice * gate.width * gate.height;
    for (let i = 0; i < gate.width * gate.height; i++) {
      const place = (gate.levels[start + i] / data.gate_levels) * (VIRIDIS.length - 1);
      const below = Math.min(Math.floor(place), VIRIDIS.length - 2);
      const color = VIRIDIS[below].map((c, k) => Math.round(c + (place - below) * (VIRIDIS[below + 1][k] - c)));
      layer.data.set([...color, 255], 4 * i);
    }
    return offscreen(layer);
  }

  function caption(side, item, gate) {
    const key = `${at("network").value}|${at(side).value}`;
    const dice = mean(item.dice[key] ?? []);
    const parts = [`${item.name}, Dice ${percent(dice)}`];
    if (at("gate").checked) parts.push(gate ? `gate from ${gate.low.toFixed(2)} (dark) to ${gate.high.toFixed(2)} (bright)` : "no spatial gate");
    if (at("errors").checked) parts.push("errors (striped): missed in orange, added in blue, another structure in pink");
    at(`${side}-caption`).textContent = `${variantName(at(side).value)}: ${parts.join("; ")}.`;
  }

  async function draw() {
    const mine = ++turn;
    const item = current();
    const slice = Number(at("slice").value);
    const image = await picture(item, slice);
    const [wide, high] = [item.width * item.pixel[0], item.height * item.pixel[1]];
    const scale = LONGEST / Math.max(wide, high);
    for (const side of SIDES) {
      const maps = await unpack(side);
      if (mine !== turn) return; // superseded by a newer call
      const canvas = at(`${side}-canvas`);
      [canvas.width, canvas.height] = [Math.round(wide * scale), Math.round(high * scale)];
      const context = canvas.getContext("2d");
      context.fillStyle = "#000";
      context.fillRect(0, 0, canvas.width, canvas.height);
      if (at("image").checked) context.drawImage(image, 0, 0, canvas.width, canvas.height);
      if (at("gate").checked && maps.gate) {
        context.globalAlpha = at("opacity").value / 100;
        context.drawImage(heat(maps.gate, slice), 0, 0, canvas.width, canvas.height);
        context.globalAlpha = 1;
      }
      const { layer, counts } = overlay(item, slice, maps, canvas);
      context.drawImage(offscreen(layer), 0, 0);
      const what = { case: item.name, slice: item.slices[slice], network: at("network").value, variant: at(side).value };
      canvas.dataset.drawn = JSON.stringify({ ...what, ...counts });
      canvas.setAttribute("aria-label", `${item.name}, slice ${item.slices[slice] + 1}, ${variantName(at(side).value)}: ${counts.errors} wrong pixels`);
      caption(side, item, maps.gate);
    }
    shown = { item, slice };
  }

  function number() {
    const item = current();
    const text = item.count > 1 ? `${item.slices[at("slice").value] + 1} of ${item.count}` : "1";
    at("number").textContent = text;
    at("slice").setAttribute("aria-valuetext", `slice ${text}`);
  }

  function chooseCase(index, slice) {
    unpacked.clear();
    at("case").value = index;
    const item = current();
    at("slice").max = item.slices.length - 1;
    at("slice").value = slice ?? Math.floor((item.slices.length - 1) / 2);
    at("slice").disabled = item.slices.length < 2;
    for (const button of at("picked").children) button.setAttribute("aria-pressed", String(Number(button.dataset.index) === Number(index)));
    number();
    dice();
    return draw();
  }

  function step(by) {
    at("slice").value = Number(at("slice").value) + by;
    number();
    return draw();
  }

  function dice() {
    const item = current();
    const keys = SIDES.map((side) => `${at("network").value}|${at(side).value}`);
    data.structures.forEach((_, i) => {
      document.getElementById(`v-dice-${i}`).textContent = keys.map((key) => percent(item.dice[key]?.[i])).join(" | ");
    });
  }

  function options(select, entries) {
    const kept = select.value;
    select.replaceChildren(...entries.map(([value, text]) => new Option(text, value)));
    if (entries.some(([value]) => String(value) === kept)) select.value = kept;
  }

  function chooseNetwork() {
    const variants = network().variants.map(({ id, name }) => [id, name]);
    const first = at("left").value === "";
    for (const side of SIDES) options(at(side), variants);
    if (first) at("right").value = variants[variants.length - 1][0];
    const gated = data.cases.some(({ gates }) => Object.keys(gates).some((key) => key.startsWith(`${network().id}|`)));
    at("gate-label").hidden = !gated;
  }

  function point(event) {
    if (!shown) return;
    const canvas = event.currentTarget;
    const side = SIDES.find((name) => at(`${name}-canvas`) === canvas);
    const { item, slice } = shown;
    const box = canvas.getBoundingClientRect();
    const x = Math.min(Math.max(Math.floor(((event.clientX - box.left) / box.width) * item.width), 0), item.width - 1);
    const y = Math.min(Math.max(Math.floor(((event.clientY - box.top) / box.height) * item.height), 0), item.height - 1);
    const key = `${at("network").value}|${at(side).value}`;
    const place = (slice * item.height + y) * item.width + x;
    const [wanted, found] = ["reference", `map ${key}`].map((name) => unpacked.get(name)?.[place] ?? 0);
    const of = (label) => (label ? ` (Dice of this case ${percent(item.dice[key]?.[label - 1])})` : "");
    at("under").textContent = `Reference: ${names[wanted]}${of(wanted)}. ${variantName(at(side).value)}: ${names[found]}${wanted === found ? "" : of(found)}.`;
  }

  data.structures.forEach(({ name, color }, i) => {
    const label = document.createElement("label");
    const box = Object.assign(document.createElement("input"), { type: "checkbox", checked: true });
    box.addEventListener("change", () => {
      on[i + 1] = Number(box.checked);
      draw();
    });
    const swatch = Object.assign(document.createElement("span"), { className: "swatch" });
    swatch.style.background = color;
    const value = Object.assign(document.createElement("span"), { className: "faint", id: `v-dice-${i}` });
    label.append(box, swatch, Object.assign(document.createElement("span"), { textContent: name, className: "name" }), value);
    at("structures").append(label);
  });
  for (const [id, state] of [["all", true], ["none", false]]) {
    at(id).addEventListener("click", () => {
      on.fill(Number(state));
      for (const box of at("structures").querySelectorAll("input")) box.checked = state;
      draw();
    });
  }
  for (const [word, index] of Object.entries(data.picked)) {
    const button = Object.assign(document.createElement("button"), { type: "button", textContent: word });
    button.dataset.index = index;
    button.addEventListener("click", () => chooseCase(index));
    at("picked").append(button);
  }
  options(at("network"), data.networks.map(({ id, name }) => [id, name]));
  options(at("case"), data.cases.map(({ name }, i) => [i, name]));
  at("network").addEventListener("change", () => {
    chooseNetwork();
    dice();
    draw();
  });
  at("case").addEventListener("change", () => chooseCase(at("case").value));
  at("slice").addEventListener("input", () => step(0));
  for (const side of SIDES) {
    at(side).addEventListener("change", () => {
      dice();
      draw();
    });
    const canvas = at(`${side}-canvas`);
    canvas.addEventListener("pointermove", point);
    canvas.addEventListener("pointerdown", point);
    canvas.addEventListener("keydown", (event) => {
      const by = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, PageUp: 5, PageDown: -5 }[event.key];
      if (!by) return;
      event.preventDefault();
      step(by);
    });
  }
  for (const name of ["image", "reference", "prediction", "errors", "gate", "opacity"]) at(name).addEventListener("input", draw);
  const pairs = new Set(data.structures.map(({ color }) => color)).size < data.structures.length;
  at("note").textContent = [
    `Test cases of seed ${data.seed}, sorted from worst to best by the Dice of ${data.by}${data.networks.length > 1 ? " (mean over the networks)" : ""}.`,
    data.left_out ? `${data.left_out} more cases are left out to limit the size of the page; it shows the worst, the median and the best case and an even selection between them.` : "",
    data.cases.some(({ slices, count }) => slices.length < count) ? "Only every n-th slice that contains a structure is shown for each case." : "",
    data.view === "picture" ? "" : `Slices are ${data.view}; ${data.view === "sagittal" ? "anterior is on the right, superior" : `the subject's left is on the left, ${data.view === "axial" ? "anterior" : "superior"}`} is up.`,
    pairs ? "Some structures have the same colour, such as the left and right structure of a pair." : "",
    "The numbers next to the name of a structure are its Dice in this case, left | right. Arrow keys on a picture change the slice. The spatial gate is that of the last block that has one.",
  ].filter(Boolean).join(" ");
  chooseNetwork();
  chooseCase(data.picked.median ?? 0);
})();
