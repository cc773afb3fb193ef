"use strict";
// the viewer shows two predictions of one slice side by side, or of a volume in three planes in two rows, drawn from the
// packed label maps; on a page of cases without reference one prediction, whose outlines take the place of the reference
(() => {
  const data = JSON.parse(document.getElementById("viewer-data").textContent);
  const at = (name) => document.getElementById(`v-${name}`);
  const LONGEST = 560; // longest side of a canvas in pixels
  const VIRIDIS = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]];
  // colours of missed pixels, added pixels, and pixels of another structure
  const ERRORS = { missed: [230, 159, 0], added: [86, 180, 233], swapped: [240, 80, 200] };
  const SIDES = ["left", "right"].filter((side) => at(side));
  const volumes = data.view === "volume";
  const PLANES = volumes ? ["coronal", "axial", "sagittal"] : [data.view];
  const NOTCH = 100; // turn of a wheel that moves by one slice, in pixels
  const colors = [null, ...data.structures.map(({ color }) => [1, 3, 5].map((i) => parseInt(color.slice(i, i + 2), 16)))];
  const names = ["background", ...data.structures.map(({ name }) => name)];
  const on = new Uint8Array(256).fill(1);
  const unpacked = new Map(); // unpacked data of the shown case
  const states = new Map(); // what each canvas shows
  let shown = null; // the case that was drawn
  let turn = 0;

  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const percent = (x) => (x === null || x === undefined ? "–" : x.toFixed(3));

  async function inflate(text) {
    const stream = new Blob([bytes(text)]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  }

  // by case, because a call that started before another case was chosen may end after it
  async function once(item, name, make) {
    const key = `${item.name} ${name}`;
    if (!unpacked.has(key)) unpacked.set(key, await make());
    return unpacked.get(key);
  }

  const part = (name, plane) => at(volumes ? `${name}-${plane}` : name);
  const current = () => data.cases[at("case").value];
  // stored indices of the slices, in the order in which they are packed
  const slicesOf = (item, plane) => ({ axial: item.rows, sagittal: item.columns })[volumes ? plane : ""] ?? item.slices;
  const countOf = (item, plane) => (volumes ? item.counts[PLANES.indexOf(plane)] : item.count);
  const sizeOf = ({ width, height, slices }) => ({ width, height, depth: slices.length });

  // sliders count slices as stored, which may be the reverse of the order in which they are packed
  function turned(item, plane, i) {
    const slices = slicesOf(item, plane);
    return slices[0] > slices[slices.length - 1] ? slices.length - 1 - i : i;
  }
  const index = (item, plane) => turned(item, plane, Number(part("slice", plane).value));
  function setIndex(item, plane, i) {
    part("slice", plane).value = turned(item, plane, i);
  }
  const network = () => data.networks.find(({ id }) => id === at("network").value);
  const variantName = (id) => network().variants.find((variant) => variant.id === id)?.name ?? id;
  const mean = (values) => {
    const known = values.filter((value) => value !== null);
    return known.length ? known.reduce((a, b) => a + b, 0) / known.length : null;
  };

  async function unpack(item, side) {
    const key = `${at("network").value}|${at(side).value}`;
    const reference = await once(item, "reference", async () => item.reference && inflate(item.reference));
    const prediction = await once(item, `map ${key}`, async () => {
      const difference = await inflate(item.maps[key]);
      return reference ? difference.map((value, i) => value + reference[i]) : difference; // modulo 256
    });
    const packed = item.gates[key];
    const gate = packed && { ...packed, levels: await once(item, `gate ${key}`, () => inflate(packed.levels)) };
    return { reference: reference ?? prediction, prediction, gate };
  }

  // a slice of a stack of slices: its size, the place of its first pixel, and the steps to the next column and row
  function cut({ width, height, depth }, plane, i) {
    const page = width * height;
    if (volumes && plane === "axial") return { width, height: depth, start: i * width, across: 1, down: page };
    // volumes are packed from anterior to posterior, and anterior is on the right of a sagittal slice
    if (volumes && plane === "sagittal") return { width: depth, height, start: i + (depth - 1) * page, across: -page, down: width };
    return { width, height, start: i * page, across: 1, down: width };
  }

  function taken(stack, { width, height, start, across, down }) {
    const slice = new Uint8Array(width * height);
    for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) slice[y * width + x] = stack[start + y * down + x * across];
    return slice;
  }

  // width and height of a slice in mm
  function extent(item, plane) {
    if (!volumes) return [item.width * item.pixel[0], item.height * item.pixel[1]];
    const [y, z, x] = [item.slices.length, item.height, item.width].map((count, i) => count * item.voxel[i]);
    return { coronal: [x, z], axial: [x, y], sagittal: [y, z] }[plane];
  }

  const bitmap = (item, i) =>
    once(item, `image ${i}`, () => createImageBitmap(new Blob([bytes(item.images[i])], { type: "image/jpeg" })));

  async function picture(item, plane, i) {
    if (!volumes) return bitmap(item, i);
    const tiles = await bitmap(item, 0);
    const { width, height, depth } = sizeOf(item);
    const size = cut(sizeOf(item), plane, i);
    const canvas = Object.assign(document.createElement("canvas"), { width: size.width, height: size.height });
    const context = canvas.getContext("2d");
    for (let slice = 0; slice < depth; slice++) {
      const [left, top] = [(slice % item.tiles) * width, Math.floor(slice / item.tiles) * height];
      if (plane === "axial") context.drawImage(tiles, left, top + i, width, 1, 0, slice, width, 1);
      else if (plane === "sagittal") context.drawImage(tiles, left + i, top, 1, height, depth - 1 - slice, 0, 1, height);
      else if (slice === i) context.drawImage(tiles, left, top, width, height, 0, 0, width, height);
    }
    return canvas;
  }

  function overlay(size, reference, prediction, canvas) {
    const { width, height } = canvas;
    const layer = new ImageData(width, height);
    const across = Int32Array.from({ length: width }, (_, x) => Math.floor((x * size.width) / width));
    const down = Int32Array.from({ length: height }, (_, y) => Math.floor((y * size.height) / height) * size.width);
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
          const same = (i) => reference[i] === wanted;
          const edge = !(same(down[y] + left) && same(down[y] + right) && same(up + across[x]) && same(low + across[x]));
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

  function heat(gate, item, plane, index) {
    const depth = gate.levels.length / (gate.width * gate.height);
    const stack = { width: gate.width, height: gate.height, depth };
    const along = { axial: gate.height, sagittal: gate.width }[volumes ? plane : ""] ?? depth;
    const size = cut(stack, plane, Math.floor((index * along) / slicesOf(item, plane).length));
    const levels = taken(gate.levels, size);
    const layer = new ImageData(size.width, size.height);
    for (let i = 0; i < levels.length; i++) {
      const place = (levels[i] / data.gate_levels) * (VIRIDIS.length - 1);
      const below = Math.min(Math.floor(place), VIRIDIS.length - 2);
      const color = VIRIDIS[below].map((c, k) => Math.round(c + (place - below) * (VIRIDIS[below + 1][k] - c)));
      layer.data.set([...color, 255], 4 * i);
    }
    return offscreen(layer);
  }

  function caption(side, item, gate) {
    const key = `${at("network").value}|${at(side).value}`;
    const parts = [`${item.name}, Dice ${percent(mean(item.dice[key] ?? []))}`];
    if (at("gate").checked) parts.push(gate ? `gate from ${gate.low.toFixed(2)} (dark) to ${gate.high.toFixed(2)} (bright)` : "no spatial gate");
    if (at("errors").checked) parts.push("errors (striped): missed in orange, added in blue, another structure in pink");
    return `${variantName(at(side).value)}: ${parts.join("; ")}.`;
  }

  async function draw() {
    const mine = ++turn;
    const item = current();
    const indices = PLANES.map((plane) => index(item, plane));
    const scale = LONGEST / Math.max(...PLANES.flatMap((plane) => extent(item, plane)));
    const look = ["image", "reference", "prediction", "errors", "gate"].map((name) => at(name).checked);
    for (const side of SIDES) {
      const [maps, images] = [await unpack(item, side), await Promise.all(PLANES.map((plane, k) => picture(item, plane, indices[k])))];
      if (mine !== turn) return; // superseded by a newer call
      PLANES.forEach((plane, k) => {
        const canvas = part(`${side}-canvas`, plane);
        const slice = slicesOf(item, plane)[indices[k]];
        const what = { case: item.name, slice, network: at("network").value, variant: at(side).value };
        const state = JSON.stringify([what, look, at("opacity").value, on.join("")]);
        if (states.get(canvas) === state) return;
        states.set(canvas, state);
        [canvas.width, canvas.height] = extent(item, plane).map((mm) => Math.max(Math.round(mm * scale), 1));
        const context = canvas.getContext("2d");
        context.fillStyle = "#000";
        context.fillRect(0, 0, canvas.width, canvas.height);
        if (at("image").checked) context.drawImage(images[k], 0, 0, canvas.width, canvas.height);
        if (at("gate").checked && maps.gate) {
          context.globalAlpha = at("opacity").value / 100;
          context.drawImage(heat(maps.gate, item, plane, indices[k]), 0, 0, canvas.width, canvas.height);
          context.globalAlpha = 1;
        }
        const size = cut(sizeOf(item), plane, indices[k]);
        const [reference, prediction] = [maps.reference, maps.prediction].map((stack) => taken(stack, size));
        const { layer, counts } = overlay(size, reference, prediction, canvas);
        context.drawImage(offscreen(layer), 0, 0);
        canvas.dataset.drawn = JSON.stringify({ ...what, ...counts });
        const title = `${volumes ? `${plane} slice` : "slice"} ${slice + 1}`;
        const count = item.reference ? `${counts.errors} wrong pixels` : `${counts.predicted} labelled pixels`;
        canvas.setAttribute("aria-label", `${item.name}, ${title}, ${variantName(at(side).value)}: ${count}`);
      });
      at(`${side}-caption`).textContent = item.about ?? caption(side, item, maps.gate);
    }
    shown = item;
    if (volumes) aim(item);
  }

  function number() {
    const item = current();
    for (const plane of PLANES) {
      const slices = slicesOf(item, plane);
      const count = countOf(item, plane);
      const text = count > 1 ? `${slices[index(item, plane)] + 1} of ${count}` : "1";
      part("number", plane).textContent = text;
      part("slice", plane).setAttribute("aria-valuetext", `slice ${text}`);
    }
  }

  function chooseCase(chosen) {
    unpacked.clear();
    at("case").value = chosen;
    const item = current();
    PLANES.forEach((plane, k) => {
      const last = slicesOf(item, plane).length - 1;
      part("slice", plane).max = last;
      part("slice", plane).disabled = last < 1;
      setIndex(item, plane, volumes ? item.start[k] : Math.floor(last / 2));
    });
    if (volumes) layOut(item);
    for (const button of at("picked").children) button.setAttribute("aria-pressed", String(Number(button.dataset.index) === Number(chosen)));
    number();
    numbers();
    return draw();
  }

  function step(plane, by) {
    part("slice", plane).value = Number(part("slice", plane).value) + by;
    number();
    return draw();
  }

  // all planes have the same scale, and no slice is higher than LONGEST pixels
  function layOut(item) {
    const [[x, z], [, y]] = ["coronal", "axial"].map((plane) => extent(item, plane));
    const column = (mm) => `minmax(0, ${(100 * mm) / (x + y)}fr)`;
    at("root").style.setProperty("--wide", `${column(x)} ${column(x)} ${column(y)}`);
    at("root").style.setProperty("--narrow", `${column(x)} ${column(y)}`);
    at("root").style.setProperty("--widest", `${Math.round((LONGEST * (2 * x + y)) / Math.max(y, z))}px`);
  }

  // the planes that a step to the right and a step down in a slice go through
  const ALONG = { coronal: ["sagittal", "axial"], axial: ["sagittal", "coronal"], sagittal: ["coronal", "axial"] };

  // the pixel at the crosshair, and its place among the slices of these planes: the same rule in both directions
  function crossed(item, plane, [x, y]) {
    return [plane === "sagittal" ? item.slices.length - 1 - x : x, y];
  }

  function move(plane, pixel) {
    const item = current();
    crossed(item, plane, pixel).forEach((i, k) => {
      const last = slicesOf(item, ALONG[plane][k]).length - 1;
      setIndex(item, ALONG[plane][k], Math.min(Math.max(i, 0), last));
    });
    number();
    return draw();
  }

  const crosshair = (item, plane) => crossed(item, plane, ALONG[plane].map((other) => index(item, other)));

  function aim(item) {
    const [left, top] = crosshair(item, "coronal");
    const place = (index(item, "coronal") * item.height + top) * item.width + left;
    for (const plane of PLANES) {
      const size = cut(sizeOf(item), plane, 0);
      const [x, y] = crosshair(item, plane);
      for (const side of SIDES) {
        const frame = part(`${side}-canvas`, plane).parentElement;
        frame.style.setProperty("--x", `${(100 * (x + 0.5)) / size.width}%`);
        frame.style.setProperty("--y", `${(100 * (y + 0.5)) / size.height}%`);
      }
    }
    at("under").textContent = under(item, SIDES, place);
  }

  // the structures at a place in the packed volume
  function under(item, sides, place) {
    const label = (name) => unpacked.get(`${item.name} ${name}`)?.[place] ?? 0;
    const key = (side) => `${at("network").value}|${at(side).value}`;
    const of = (side, structure) => (structure && !data.regions ? ` (Dice of this case ${percent(item.dice[key(side)]?.[structure - 1])})` : "");
    if (!item.reference) return `${volumes ? "At the crosshair: " : ""}${names[label(`map ${key(sides[0])}`)]}.`;
    const wanted = label("reference");
    const parts = sides.map((side) => {
      const found = label(`map ${key(side)}`);
      return `${variantName(at(side).value)}: ${names[found]}${!volumes && wanted === found ? "" : of(side, found)}.`;
    });
    const first = volumes ? `At the crosshair: reference ${names[wanted]}.` : `Reference: ${names[wanted]}${of(sides[0], wanted)}.`;
    return [first, ...parts].join(" ");
  }

  // the numbers next to the names of the structures
  function numbers() {
    if (data.regions) return; // the scores are those of regions, and the maps show labels
    const item = current();
    const keys = SIDES.map((side) => `${at("network").value}|${at(side).value}`);
    data.structures.forEach((_, i) => {
      document.getElementById(`v-dice-${i}`).textContent = item.amounts?.[i] ?? keys.map((key) => percent(item.dice[key]?.[i])).join(" | ");
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
    if (first) at(SIDES[SIDES.length - 1]).value = variants[variants.length - 1][0];
    const gated = data.cases.some(({ gates }) => Object.keys(gates).some((key) => key.startsWith(`${network().id}|`)));
    at("gate-label").hidden = !gated;
  }

  // the pixel of a slice of a size under the pointer
  function pixel(event, { width, height }) {
    const box = event.currentTarget.getBoundingClientRect();
    const x = Math.floor(((event.clientX - box.left) / box.width) * width);
    const y = Math.floor(((event.clientY - box.top) / box.height) * height);
    return [Math.min(Math.max(x, 0), width - 1), Math.min(Math.max(y, 0), height - 1)];
  }

  function point(event) {
    if (!shown) return;
    const side = SIDES.find((name) => at(`${name}-canvas`) === event.currentTarget);
    const [x, y] = pixel(event, shown);
    at("under").textContent = under(shown, [side], (index(shown, PLANES[0]) * shown.height + y) * shown.width + x);
  }

  function browse(canvas) {
    canvas.addEventListener("pointermove", point);
    canvas.addEventListener("pointerdown", point);
    canvas.addEventListener("keydown", (event) => {
      const by = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, PageUp: 5, PageDown: -5 }[event.key];
      if (!by) return;
      event.preventDefault();
      step(PLANES[0], by);
    });
  }

  function browseVolume(canvas, plane) {
    const follow = (event) => move(plane, pixel(event, cut(sizeOf(current()), plane, 0)));
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      follow(event);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (event.buttons & 1) follow(event);
    });
    canvas.addEventListener("keydown", (event) => {
      const far = event.shiftKey ? 5 : 1;
      const by = { PageUp: far, PageDown: -far }[event.key];
      const to = { ArrowRight: [far, 0], ArrowLeft: [-far, 0], ArrowUp: [0, -far], ArrowDown: [0, far] }[event.key];
      if (!by && !to) return;
      event.preventDefault();
      if (by) step(plane, by);
      else move(plane, crosshair(current(), plane).map((place, k) => place + to[k]));
    });
    let rest = 0;
    canvas.addEventListener("wheel", (event) => {
      // elsewhere the wheel scrolls the page
      if (document.activeElement !== canvas) return;
      event.preventDefault();
      rest += event.deltaY * (event.deltaMode ? NOTCH / 3 : 1);
      const notches = Math.trunc(rest / NOTCH);
      rest -= notches * NOTCH;
      if (notches) step(plane, -notches);
    }, { passive: false });
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
  options(at("case"), data.cases.map(({ name, title }, i) => [i, title ?? name]));
  at("network").addEventListener("change", () => {
    chooseNetwork();
    numbers();
    draw();
  });
  at("case").addEventListener("change", () => chooseCase(at("case").value));
  for (const link of document.querySelectorAll("a[data-case]")) link.addEventListener("click", () => chooseCase(link.dataset.case));
  for (const plane of PLANES) part("slice", plane).addEventListener("input", () => step(plane, 0));
  for (const side of SIDES) {
    at(side).addEventListener("change", () => {
      numbers();
      draw();
    });
    for (const plane of PLANES) (volumes ? browseVolume : browse)(part(`${side}-canvas`, plane), plane);
  }
  if (volumes) at("crosshair").addEventListener("input", () => at("root").classList.toggle("bare", !at("crosshair").checked));
  for (const name of ["image", "reference", "prediction", "errors", "gate", "opacity"]) at(name).addEventListener("input", draw);
  const ofSlices = [
    data.cases.some(({ slices, count }) => slices.length < count) ? "Of each case, every n-th slice of the part that contains structures is shown." : "",
    data.view === "picture" ? "" : `Slices are ${data.view}; ${data.view === "sagittal" ? "anterior is on the right, superior" : `the subject's left is on the left, ${data.view === "axial" ? "anterior" : "superior"}`} is up.`,
  ];
  const shrunk = ({ slices, rows, columns, counts }) => [slices, rows, columns].some((kept, k) => kept.length < counts[k]);
  const ofVolumes = volumes && [
    data.cases.some(shrunk) ? "Volumes are cropped to the structures, with a margin; large ones are reduced to every n-th voxel." : "",
    "The subject's left (L) is on the left of coronal and axial slices; anterior (A) is up in axial slices and on the right of sagittal ones; superior (S) is up. Slices are counted as stored.",
    "Click or drag in a picture to move the crosshair, or use the arrow keys on it; Page Up and Page Down on it, and the wheel after a click, change the slice.",
  ];
  const pairs = new Set(data.structures.map(({ color }) => color)).size < data.structures.length;
  const ofScores = () => [
    `Test cases of seed ${data.seed}, sorted from worst to best by the Dice of ${data.by}${data.networks.length > 1 ? " (mean over the networks)" : ""}.`,
    data.left_out ? `${data.left_out} more cases are left out to limit the size of the page; it shows the worst, the median and the best case and an even selection between them.` : "",
    data.regions
      ? "The structures of this data set are regions that share labels: the pictures show the labels, and the Dice of a case is the mean over its regions."
      : `The numbers next to the name of a structure are its Dice in this case, ${volumes ? "upper | lower row" : "left | right"}.`,
    "The spatial gate is that of the last block that has one.",
  ];
  at("note").textContent = [
    ...(data.notes ?? ofScores()),
    ...(volumes ? ofVolumes : ofSlices),
    pairs ? "Some structures have the same colour, such as the left and right structure of a pair." : "",
    volumes || data.view === "picture" ? "" : "Arrow keys on a picture change the slice.",
  ].filter(Boolean).join(" ");
  chooseNetwork();
  chooseCase(data.picked.median ?? 0);
})();
