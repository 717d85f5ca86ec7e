// The explorer's page: a map of all objects, what is known of each, and what the model draws.
// It asks its own server alone, and loads nothing from elsewhere.
import createScatterplot from "/static/regl-scatterplot.js";

const $ = (id) => document.getElementById(id);
const state = {
  about: null, columns: new Map(), selection: [], at: 0, row: null,
  like: [], unlike: [], found: [], odd: [], farEnd: null, marks: [], filters: [], offsets: [], token: 0,
};
window.deepfits = state; // for tests and the curious

const RAMP = ["#440154", "#482878", "#3e4a89", "#31688e", "#26838f", "#1f9d8a", "#6cce5a", "#b6de2b", "#fee825"];
const CATEGORIES = ["#3b6ea8", "#c8553d", "#3f8f6b", "#8a6bb1", "#b8892b", "#5f6b78", "#d17fae", "#6aa6c8", "#8f5a3c",
  "#a3b04d", "#2f4b6b", "#e0a07c", "#7fc4a8", "#c3b2db", "#e3cc8f", "#aab2bb", "#93305f", "#2a7f94", "#5d3b26", "#66752b",
  "#111111", "#ff7f50", "#00a0a0", "#b000b0"];
const LEVELS = 64;
const NO_PICTURES = "no images, since the cutouts are unknown: start with --store STORE";

function mix(a, b, t) {
  const part = (hex, k) => parseInt(hex.slice(1 + 2 * k, 3 + 2 * k), 16);
  return "#" + [0, 1, 2].map((k) => Math.round(part(a, k) * (1 - t) + part(b, k) * t).toString(16).padStart(2, "0")).join("");
}
const SCALE = Array.from({ length: LEVELS }, (_, n) => {
  const place = (n / (LEVELS - 1)) * (RAMP.length - 1), low = Math.min(Math.floor(place), RAMP.length - 2);
  return mix(RAMP[low], RAMP[low + 1], place - low);
});

function say(text, kind = "hint") { $("message").textContent = text || ""; $("message").className = kind; }
function warn(error) { say(error.message, "warning"); }

async function ask(path, options) {
  const answer = await fetch(path, options).catch(() => { throw new Error("the explorer does not answer: is `deepfits explore` still running?"); });
  if (!answer.ok) {
    let text = `${answer.status}`;
    try { text = (await answer.json()).error || text; } catch { /* not JSON: the status has to do */ }
    throw new Error(text);
  }
  return answer;
}
const json = async (answer) => (await answer).json();
const post = (path, body) => ask(path, {
  method: "POST", headers: { "x-deepfits": "1", "content-type": "application/json" }, body: JSON.stringify(body),
});
const make = (tag, set = {}, ...inside) => { const e = Object.assign(document.createElement(tag), set); e.append(...inside); return e; };
const format = (n) => n.toLocaleString("en");
const counted = (n, what) => `${format(n)} ${what}${n === 1 ? "" : "s"}`;
const attempt = (work) => async (...inputs) => {
  try { say(""); return await work(...inputs); } catch (error) { warn(error); return undefined; }
};

async function column(name) {
  if (!state.columns.has(name)) {
    const answer = await ask(`/api/column/${encodeURIComponent(name)}`);
    const info = JSON.parse(answer.headers.get("x-column"));
    state.columns.set(name, { info, values: new Float32Array(await answer.arrayBuffer()) });
  }
  return state.columns.get(name);
}

// A scale as the plot wants it: the domain is what is seen, the range is in pixels.
function linear() {
  let domain = [-1, 1], range = [0, 1];
  const scale = (value) => range[0] + ((value - domain[0]) / (domain[1] - domain[0])) * (range[1] - range[0]);
  scale.domain = (given) => { if (!given) return domain; domain = [...given]; return scale; };
  scale.range = (given) => { if (!given) return range; range = [...given]; return scale; };
  scale.copy = () => linear().domain(domain).range(range);
  return scale;
}
let begun = ask("/api/about"); // on its way while the plot sets itself up
const xScale = linear(), yScale = linear();
const plot = createScatterplot({
  canvas: $("canvas"), width: "auto", height: "auto", backgroundColor: "#ffffff", pointSize: 3, pointSizeSelected: 4,
  pointColorActive: "#e01b24", pointColorHover: "#e01b24", lassoColor: "#e01b24", opacityBy: "density", xScale, yScale,
  deselectOnDblClick: true, lassoOnLongPress: true, aspectRatio: 1,
});

state.plot = plot;

function position({ values, info }) {
  const [first, last] = seen(info), out = new Float32Array(values.length);
  for (let n = 0; n < out.length; n++) out[n] = 2 * (values[n] - first) / (last - first) - 1;
  return out;
}

async function draw() {
  const token = ++state.token;
  const names = [$("x").value, $("y").value, $("colour").value];
  const [x, y, c] = await Promise.all([column(names[0]), column(names[1]), names[2] ? column(names[2]) : null]);
  if (token !== state.token) return;
  const px = position(x), py = position(y), number = px.length, z = new Float32Array(number);
  const logarithmic = $("log").checked && c && c.info.kind === "number" && c.info.high > 0;
  if (c && c.info.kind === "category") {
    const last = c.info.categories.length;
    for (let n = 0; n < number; n++) z[n] = Number.isFinite(c.values[n]) ? c.values[n] : last;
    plot.set({ colorBy: "valueA", pointColor: [...c.info.categories.map((_, n) => CATEGORIES[n % CATEGORIES.length]), "#c9ced6"] });
  } else if (c) {
    const scale = logarithmic ? Math.log : (value) => value, [low, high] = ramp(c.info, logarithmic).map(scale), span = high - low || 1;
    for (let n = 0; n < number; n++) {
      const value = scale(c.values[n]), level = Number.isFinite(value) ? Math.min(1, Math.max(0, (value - low) / span)) : -1;
      z[n] = level < 0 ? LEVELS : Math.round(level * (LEVELS - 1)); // the last colour is for "unknown"
    }
    plot.set({ colorBy: "valueA", pointColor: [...SCALE, "#c9ced6"] });
  } else {
    plot.set({ colorBy: null, pointColor: "#3b6ea8" });
  }
  legend(c, logarithmic);
  const shown = visible(px, py);
  for (let n = 0; n < number; n++) { if (!Number.isFinite(px[n]) || !Number.isFinite(py[n])) { px[n] = 3; py[n] = 3; } }
  // One after the other: taking a scale writes what is seen into both.
  xScale.domain(seen(x.info)); plot.set({ xScale }); yScale.domain(seen(y.info)); plot.set({ yScale });
  const { clientWidth, clientHeight } = $("plot"), enlarged = Math.min(3, Math.max(1, Math.sqrt(clientWidth * clientHeight) / 1000));
  plot.set({ pointSize: (number > 300000 ? 1.5 : number > 50000 ? 2.2 : 4) * enlarged });
  const filtered = shown.length < number;
  const selected = state.selection.filter(state.isShown);
  state.numShown = shown.length;
  count();
  // The plot refuses to draw while it draws: one drawing waits for the other, and only the latest is made.
  state.drawing = (state.drawing ?? Promise.resolve()).catch(() => {}).then(() => token !== state.token ? null : plot.draw(
    { x: px, y: py, z, valueA: z },
    { zDataType: "categorical", ...(filtered ? { filter: shown } : {}), ...(selected.length ? { select: selected } : {}) },
  ));
  await state.drawing;
  ticks();
}
// The first and last value of an axis: east is left, as on the sky.
function seen({ name, low, high }) {
  const margin = high > low ? (high - low) / 18 : Math.abs(high) / 2 || 1, ends = [low - margin, high + margin];
  return name === "ra" ? ends.reverse() : ends;
}

function visible(px, py) {
  const rows = [], tests = state.filters.map((f) => ({ ...f, values: state.columns.get(f.name).values }));
  for (let n = 0; n < px.length; n++) {
    if (Number.isFinite(px[n]) && Number.isFinite(py[n]) && tests.every((f) => f.values[n] >= f.low && f.values[n] <= f.high)) rows.push(n);
  }
  state.shownRows = rows;
  const shown = rows.length === px.length ? null : new Set(rows);
  state.isShown = (row) => !shown || shown.has(row);
  return rows;
}

function ticks() {
  for (const [id, scale, side, name] of [["x-ticks", xScale, "left", $("x").value], ["y-ticks", yScale, "top", $("y").value]]) {
    const [low, high] = scale.domain(), span = Math.abs(high - low), box = $("plot").getBoundingClientRect();
    const rough = span / 5, power = 10 ** Math.floor(Math.log10(rough)), step = [1, 2, 5, 10].map((k) => k * power).find((s) => s >= rough);
    const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9)); // as many as tell one mark from the next
    const marks = [];
    for (let value = Math.ceil(Math.min(low, high) / step) * step; value <= Math.max(low, high); value += step) {
      const fraction = (value - low) / (high - low), at = side === "left" ? fraction * box.width : (1 - fraction) * box.height;
      if (at < 24 || at > (side === "left" ? box.width : box.height) - 22) continue; // cut off, or behind a name
      const mark = make("span", { textContent: Number(value.toFixed(digits)).toString() });
      mark.style[side] = `${at}px`; marks.push(mark);
    }
    $(id).replaceChildren(...marks, make("span", { className: "name", textContent: name }));
  }
  marks();
}
// A ring around the chosen object; and positions of an overlay at which there is no object, where the axes are the sky.
function marks() {
  const canvas = $("marks"), box = $("plot").getBoundingClientRect(), pen = canvas.getContext("2d");
  canvas.width = box.width; canvas.height = box.height;
  const chosen = state.row !== null && state.isShown?.(state.row) && plot.getScreenPosition(state.row);
  if (chosen) { pen.strokeStyle = "#e01b24"; pen.lineWidth = 2; pen.beginPath(); pen.arc(...chosen, 11, 0, 2 * Math.PI); pen.stroke(); pen.lineWidth = 1; }
  if ($("x").value !== "ra" || $("y").value !== "dec") return;
  const [left, right] = xScale.domain(), [low, high] = yScale.domain();
  pen.strokeStyle = "#c8553d"; pen.beginPath();
  for (const [ra, dec] of state.marks) {
    const x = ((ra - left) / (right - left)) * box.width, y = (1 - (dec - low) / (high - low)) * box.height;
    pen.moveTo(x - 4, y - 4); pen.lineTo(x + 4, y + 4); pen.moveTo(x - 4, y + 4); pen.lineTo(x + 4, y - 4);
  }
  pen.stroke();
}

// The values at the two ends of the colours.
function ramp({ low, high }, logarithmic) { return [logarithmic ? Math.max(low, high * 1e-4) : low, high]; }

function legend(c, logarithmic) {
  const box = $("legend"); box.replaceChildren();
  if (!c) return;
  const add = (textContent, className = "") => { const e = make("span", { textContent, className }); box.append(e); return e; };
  box.append(make("b", { textContent: c.info.name + (logarithmic ? " (log)" : ""), title: state.about.words[c.info.name] ?? "" }));
  if (c.info.kind === "category") {
    c.info.categories.forEach((name, n) => {
      const dot = make("i"); dot.style.background = CATEGORIES[n % CATEGORIES.length];
      box.append(make("span", {}, dot, name || "(empty)"));
    });
  } else {
    const [low, high] = ramp(c.info, logarithmic), digits = Math.ceil(Math.log10(Math.abs(high) / (high - low))) + 3;
    const end = (value) => { add(show(value, Math.min(15, Math.max(4, digits)))).title = "values beyond have the same colour"; };
    if (c.values.some(Number.isFinite)) { end(low); add("", "ramp").style.background = `linear-gradient(90deg, ${RAMP.join(",")})`; end(high); }
    if (!c.values.every((value) => Number.isFinite(logarithmic ? Math.log(value) : value))) add(`grey: unknown${logarithmic ? ", or not above 0" : ""}`, "why");
  }
}
function show(value, digits = 4) {
  if (value === null || value === undefined) return "–";
  if (typeof value !== "number") return String(value);
  return Number.isSafeInteger(value) ? String(value) : Number(value.toPrecision(digits)).toString();
}
function count() {
  const { num_objects: all } = state.about, shown = state.numShown ?? all;
  $("count").textContent = counted(all, "object") + (shown < all ? `, ${format(shown)} shown` : "") +
    (state.selection.length ? `, ${format(state.selection.length)} selected` : "") +
    (state.about.num_tagged ? `, ${format(state.about.num_tagged)} tagged` : "");
  $("save-what").textContent = state.selection.length ? `${format(state.selection.length)} selected, with all their columns and tags.`
    : "Nothing is selected: draw a lasso or a box on the map, or press “Select what is shown”.";
}

// An object

async function select(rows, first = rows[0], onMap = true) {
  state.selection = Array.from(rows); state.at = Math.max(0, state.selection.indexOf(first));
  if (onMap) plot.select(state.selection, { preventEvent: true });
  count(); bar();
  if (state.selection.length) await choose(state.selection[state.at]);
}
function bar() {
  const box = $("selection-bar"); box.replaceChildren();
  if (state.selection.length < 2) return;
  const button = (textContent, onclick) => box.append(make("button", { textContent, onclick }), " ");
  button("←", () => step(-1)); button("→", () => step(1));
  box.append(`${state.at + 1} of ${format(state.selection.length)} `);
  button("Clear selection", () => { state.selection = []; plot.deselect({ preventEvent: true }); count(); bar(); });
}
const step = attempt(async (by) => {
  if (!state.selection.length) return;
  state.at = (state.at + by + state.selection.length) % state.selection.length; bar();
  await choose(state.selection[state.at]);
});

async function choose(row) {
  state.row = row; marks();
  const object = await json(ask(`/api/object/${row}`));
  if (state.row !== row) return;
  state.object = object;
  const f = object.facts, line = make("p", { className: "hint" });
  if (f.ra !== undefined && f.ra !== null) {
    const text = `${f.ra.toFixed(6)} ${f.dec.toFixed(6)}`, href = `https://aladin.cds.unistra.fr/AladinLite/?target=${encodeURIComponent(text)}&fov=0.02`;
    const copy = make("button", { textContent: "copy", onclick: () => navigator.clipboard.writeText(text) });
    line.append(`ra, dec ${text} `, navigator.clipboard ? copy : "", " ", make("a", { textContent: "Aladin", href, target: "_blank", rel: "noreferrer" }), " ");
    if (state.about.samp) line.append(make("button", { textContent: "send position", title: "By SAMP, to an Aladin or TOPCAT running on this machine", onclick: attempt(() => samp("position", [row])) }), " ");
  }
  line.append(`χ² per pixel ${show(f.reduced_chi2)}, ${f.status ?? ""}`, object.tag ? ` · ${object.tag}` : "");
  const box = make("div", {}, make("h2", { textContent: object.object_id, id: "object-id" }), line);
  box.append(state.about.has_pictures ? pictures(`/api/panels/${row}.png`) : make("p", { className: "why", textContent: NO_PICTURES }));
  box.append(...perBand(f));
  if (object.redshift) box.append(...redshift(object.redshift));
  else if (object.why) box.append(make("p", { className: "why", id: "no-redshift", textContent: object.why }));
  const similar = () => { state.like = []; state.unlike = []; state.found = []; return tab("like"); };
  const tags = make("p", {}, make("button", { textContent: "More like this", className: "main", onclick: similar }), " ");
  for (const [textContent, tag] of [["Keep (k)", "keep"], ["Discard (d)", "discard"], ["No tag (u)", null]]) {
    tags.append(make("button", { textContent, onclick: () => mark(tag) }), " ");
  }
  box.append(tags, facts(f, FIRST));
  box.append(make("details", {}, make("summary", { textContent: `all ${Object.keys(f).length} columns` }), facts(f)));
  box.append(make("details", {}, make("summary", { textContent: "latent" }), make("p", { className: "why", textContent: object.latent.map((v) => v === null ? "–" : v.toFixed(3)).join("  ") })));
  $("object").replaceChildren(box);
  if (!$("tab-draw").hidden) walk();
}
const FIRST = ["z_phot", "z_spec", "truth.z_spec", "kind", "snr", "flags", "star_score", "anomaly", "anomaly_reason", "artefact", "latent_distance", "tag"];
// Flux and χ² of the fit in each band, drawn where there are no data.
function perBand(f) {
  const rows = state.about.bands.filter((band) => f[`flux_model_${band}`] !== undefined && f[`flux_model_${band}`] !== null);
  if (!rows.length) return [];
  return [fluxes(Object.fromEntries(rows.map((band) => [band, [f[`flux_model_${band}`], f[`flux_model_err_${band}`] ?? null]])), rows.filter((band) => f[`dof_${band}`] === 0),
    (band) => f[`dof_${band}`] > 0 ? show(f[`chi2_${band}`] / f[`dof_${band}`]) : "–")];
}
function fluxes(known, missing, chi2) {
  const table = make("table", { className: "bands-table" }), head = table.insertRow();
  for (const text of ["band", "flux of the fit, nJy", "AB mag", ...(chi2 ? ["χ²/pixel"] : [])]) head.append(make("th", { textContent: text }));
  for (const [band, [flux, error]] of Object.entries(known)) {
    const line = table.insertRow(), mag = flux > 0 ? (31.4 - 2.5 * Math.log10(flux)).toFixed(2) : "–";
    const sigma = (1.0857 * error) / flux, err = flux > 0 && error > 0 ? ` ± ${sigma.toFixed(sigma < 0.02 ? 3 : 2)}` : "";
    for (const text of [band + (missing.includes(band) ? " (filled in)" : ""), show(flux) + (error === null ? "" : ` ± ${Number(error.toPrecision(2))}`), mag + err, ...(chi2 ? [chi2(band)] : [])]) line.insertCell().textContent = text;
    if (missing.includes(band)) line.className = "filled";
  }
  return table;
}
function pictures(source, id = "panels") {
  const named = (className, names) => make("div", { className }, ...names.map((textContent) => make("span", { textContent })));
  const heads = named("heads", ["observed", "best fit", "residual/σ", state.about.has_scenes ? "scene" : "drawn"]);
  const bands = named("bands", ["all", ...state.about.bands]); bands.style.gridTemplateRows = `repeat(${state.about.bands.length + 1}, 1fr)`;
  const image = make("img", { src: source, alt: "observed, fitted, residual and drawn images in every band", id });
  return make("div", { className: "panels" }, heads, bands, image);
}
function redshift({ method, edges, density, z_spec, z_phot, low, high }) {
  const width = 400, height = 110, foot = 18, top = Math.max(edges.at(-1), z_spec ?? 0) * 1.08, highest = Math.max(...density);
  const x = (z) => (z / top) * width, y = (p) => height - foot - (p / highest) * (height - foot - 6);
  const draw = (tag, set, text) => {
    const e = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(set)) e.setAttribute(name, value);
    if (text) e.textContent = text;
    return e;
  };
  const steps = density.map((p, n) => `L${x(edges[n])} ${y(p)}L${x(edges[n + 1])} ${y(p)}`).join("");
  const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, id: "pz", role: "img", "aria-label": "p(z)" });
  svg.append(draw("path", { d: `M${x(edges[0])} ${y(0)}${steps}L${x(edges.at(-1))} ${y(0)}Z`, fill: "#c9d9ec", stroke: "#3b6ea8" }));
  for (const [z, colour] of [[z_phot, "#3b6ea8"], [z_spec, "#c8553d"]]) {
    if (z !== null) svg.append(draw("line", { x1: x(z), x2: x(z), y1: 0, y2: height - foot, stroke: colour, "stroke-width": 1.5 }));
  }
  svg.append(draw("line", { x1: 0, x2: width, y1: height - foot, y2: height - foot, stroke: "#5f6b78" }));
  const step = [0.1, 0.2, 0.5, 1, 2, 5].find((one) => top / one <= 8) ?? 10;
  for (let z = 0; z < top; z += step) svg.append(draw("text", { x: Math.max(x(z), 6), y: height - 5, "font-size": 11, fill: "#5f6b78", "text-anchor": "middle" }, Number(z.toFixed(2)).toString()));
  svg.append(draw("text", { x: width - 2, y: height - 5, "font-size": 11, fill: "#5f6b78", "text-anchor": "end" }, "z"));
  const words = make("p", { className: "why", title: `z_phot and p(z) by the method that did best on objects left out while it learned (${method}); half of the true redshifts should lie where p(z) has half its area` });
  const said = (text, colour) => make("b", { textContent: text, style: `color: ${colour}` });
  words.append(said(`z_phot ${show(z_phot)}`, "var(--accent)"), ` (68%: ${show(low)} to ${show(high)}), by ${method}`);
  if (z_spec !== null) words.append("; ", said(`z_spec ${show(z_spec)}`, "var(--alarm)"), ", not learned from");
  return [svg, words];
}
function facts(values, wanted = Object.keys(values)) {
  const table = make("table");
  for (const name of wanted) {
    if (values[name] === null || values[name] === undefined || values[name] === "") continue;
    const line = table.insertRow(); line.insertCell().textContent = name; line.insertCell().textContent = show(values[name]);
    line.title = state.about.words[name] ?? "";
  }
  return table;
}
const mark = attempt(async (tag) => {
  if (state.row === null) return;
  state.about.num_tagged = (await json(post("/api/tag", { rows: [state.row], tag }))).num_tagged;
  state.columns.delete("tag"); count(); await choose(state.row);
  if ($("colour").value === "tag") await draw();
});

// Tiles of galaxies

// A picture cut from one sheet of many, which the server draws at once.
function sheet(rows) {
  const perLine = 8, columns = Math.min(perLine, rows.length), lines = Math.ceil(rows.length / columns);
  const source = state.about.has_pictures && rows.length ? `/api/strip.png?columns=${perLine}&rows=${rows.join(",")}` : null;
  return (n) => {
    const tile = make("button", { className: "tile" }); tile.dataset.row = rows[n];
    if (!source) { tile.textContent = `row ${rows[n]}`; return tile; }
    tile.style.backgroundImage = `url("${source}")`; tile.style.backgroundSize = `${columns * 100}% ${lines * 100}%`;
    const x = columns > 1 ? ((n % columns) / (columns - 1)) * 100 : 0, y = lines > 1 ? (Math.floor(n / columns) / (lines - 1)) * 100 : 0;
    tile.style.backgroundPosition = `${x}% ${y}%`;
    return tile;
  };
}
const opening = (rows, row) => attempt(() => { tab("object"); return select(rows, row); });
const distances = (answer) => answer.distance.map((d) => `distance ${d.toFixed(2)} (random object of the same brightness: 1)`);
function tiles(rows, box, notes = [], dress = null) {
  const shown = rows.slice(0, 96), cut = sheet(shown), grid = make("div", { className: "tiles" });
  shown.forEach((row, n) => {
    const tile = cut(n), holder = make("div", { className: "holder" }, tile); tile.title = notes[n] ?? `row ${row}`;
    tile.onclick = opening(rows, row);
    if (dress) holder.append(...dress(row));
    grid.append(holder);
  });
  box.replaceChildren(grid);
}
function examples() {
  const box = $("examples"), own = state.like.length ? state.like : state.row === null ? [] : [state.row], all = [...own, ...state.unlike], cut = sheet(all);
  box.replaceChildren();
  all.forEach((row, n) => {
    const tile = cut(n), holder = make("div", { className: "holder" }, tile); tile.title = "leave it out";
    holder.append(make("span", { className: "why", textContent: n < own.length ? "like" : "less like" }));
    tile.onclick = () => { state.like = state.like.filter((one) => one !== row); state.unlike = state.unlike.filter((one) => one !== row); return findLike(); };
    box.append(holder);
  });
}
// What the filters say, as conditions that the server understands.
function conditions() {
  return state.filters.flatMap((f) => f.text !== undefined ? [`${f.name} == ${JSON.stringify(f.text)}`]
    : [...(f.low > -Infinity ? [`${f.name} >= ${f.low}`] : []), ...(f.high < Infinity ? [`${f.name} <= ${f.high}`] : [])]);
}
const findLike = attempt(async () => {
  if (!state.like.length && state.row !== null) state.like = [state.row];
  examples();
  if (!state.like.length) throw new Error("choose an object first");
  const window = $("like-bright").checked ? Number($("like-window").value) : null;
  const answer = await json(post("/api/neighbours", { like: state.like, unlike: state.unlike, number: 48, magnitude_window: window, where: conditions() }));
  state.found = answer.rows;
  const more = (to, row) => () => { if (!to.includes(row)) to.push(row); return findLike(); };
  $("like-warning").textContent = answer.warning;
  tiles(answer.rows, $("like-strip"), distances(answer), (row) => [
    make("button", { className: "more", textContent: "+", title: "more like that", onclick: more(state.like, row) }),
    make("button", { className: "less", textContent: "−", title: "less like that", onclick: more(state.unlike, row) }),
  ]);
});
const rankOdd = attempt(async () => {
  const query = new URLSearchParams([["number", 48], ["everything", $("odd-everything").checked ? 1 : 0], ...conditions().map((one) => ["where", one])]);
  const answer = await json(ask(`/api/odd?${query}`));
  state.odd = answer.objects;
  $("odd-apart").textContent = answer.left_out ? `Set apart: ${answer.left_out}.` : "";
  const rows = state.odd.map((o) => o.row), cut = sheet(rows), list = make("div", { className: "cards" });
  state.odd.forEach((o, n) => {
    const tile = cut(n); tile.onclick = opening(rows, o.row);
    list.append(make("div", { className: "card" }, tile, make("span", { className: "why", textContent: `${o.score.toFixed(1)}: ${o.why}` })));
  });
  $("odd-list").replaceChildren(list);
  if (!rows.length) say(answer.left_out ? "no other object that passes the filters is odd" : "no object that passes the filters is odd", "warning");
});

// Drawing

function seeing() {
  const own = state.about.drawn_fwhm_arcsec ?? 0, wanted = Number($("draw-fwhm").value);
  return { fwhm: Math.sqrt(Math.max(0, wanted ** 2 - own ** 2)).toFixed(3), noise: $("draw-noise").value };
}
function walk() {
  $("walk").hidden = !state.about.has_model;
  if (!state.about.has_model) {
    const unknown = state.about.has_pictures ? "the model is unknown: start with --model MODEL" : NO_PICTURES;
    $("draw-what").textContent = state.about.has_model === false ? unknown : "the model is being loaded …";
    return;
  }
  const query = new URLSearchParams({ offsets: state.offsets.map((v) => v.toFixed(2)).join(","), ...seeing() });
  if (state.row !== null) query.set("row", state.row);
  if (state.farEnd !== null && state.row !== null) { query.set("end", state.farEnd); query.set("way", $("draw-way").value); }
  $("walk").src = `/api/walk.png?${query}`;
  $("draw-what").textContent = state.row === null ? "from the mean of all objects" : `from ${state.object?.object_id ?? ""}`;
  const unknown = state.about.drawn_fwhm_arcsec === null;
  $("draw-fwhm").nextElementSibling.textContent = `${unknown ? "+" : ""}${Number($("draw-fwhm").value).toFixed(2)}″`;
  $("draw-noise").nextElementSibling.textContent = `${$("draw-noise").value} ×`;
  $("draw-noise").title = "in units of the noise of the images";
  $("draw-way").nextElementSibling.textContent = Number($("draw-way").value).toFixed(2);
}
function sliders() {
  state.offsets = Array(state.about.num_directions).fill(0);
  $("sliders").replaceChildren(...state.offsets.map((_, n) => {
    const input = make("input", { type: "range", min: -3, max: 3, step: 0.1, value: 0 }), out = make("output", { textContent: "0" });
    input.oninput = () => { state.offsets[n] = Number(input.value); out.textContent = input.value; walk(); };
    return make("label", {}, `PC ${n + 1}`, input, out);
  }));
}

// Filters

function filterRow() {
  const own = { name: $("colour").value || $("x").value, low: -Infinity, high: Infinity };
  const pick = $("x").cloneNode(true), off = make("button", { textContent: "×", title: "remove the filter" }), values = make("span");
  const box = make("span", { className: "filter" }, pick, values, off);
  pick.id = ""; pick.value = own.name;
  const apply = attempt(async () => { if (!state.filters.includes(own)) state.filters.push(own); await draw(); });
  const prepare = attempt(async () => {
    own.name = pick.value; own.low = -Infinity; own.high = Infinity; delete own.text;
    values.replaceChildren(); // what is typed for the former column would be lost
    const { info } = await column(own.name);
    if (info.kind === "category") {
      const choice = make("select", {}, new Option("(any)", ""), ...info.categories.map((name, n) => new Option(name || "(empty)", n)));
      choice.onchange = () => {
        const code = choice.value === "" ? null : Number(choice.value);
        own.low = code ?? -Infinity; own.high = code ?? Infinity;
        if (code === null) delete own.text; else own.text = info.categories[code];
        return apply();
      };
      values.replaceChildren(choice);
    } else {
      const [low, high] = [["from", info.low], ["to", info.high]].map(([placeholder, value]) => make("input", { type: "number", step: "any", placeholder, title: `1% of the values lie beyond ${show(value)}` }));
      low.onchange = high.onchange = () => {
        own.low = low.value === "" ? -Infinity : Number(low.value); own.high = high.value === "" ? Infinity : Number(high.value);
        return apply();
      };
      values.replaceChildren(low, high);
    }
    if (state.filters.includes(own)) await draw();
  });
  pick.onchange = prepare;
  off.onclick = attempt(async () => { state.filters = state.filters.filter((f) => f !== own); box.remove(); await draw(); });
  $("filters").insertBefore(box, $("filter-add"));
  return prepare();
}

// Starting

function tab(name) {
  say("");
  for (const button of document.querySelectorAll("nav button")) {
    button.classList.toggle("on", button.dataset.tab === name);
    button.setAttribute("aria-selected", button.dataset.tab === name);
  }
  for (const section of document.querySelectorAll("aside > section")) section.hidden = section.id !== `tab-${name}`;
  if (name === "draw") walk();
  if (name === "like" && state.row !== null && !state.found.length) return findLike();
  if (name === "like") examples();
  if (name === "odd" && !state.odd.length) return rankOdd();
}
function mode(name) {
  for (const id of ["pan", "lasso", "box"]) $(id).classList.toggle("on", id === name);
  plot.set({ mouseMode: name === "pan" ? "panZoom" : "lasso", lassoType: name === "box" ? "rectangle" : "freeform" });
}
function fill(known) {
  const isMap = (name) => /^(pc|umap)\d+$/.test(name), names = [...known].sort((a, b) => isMap(b) - isMap(a) || a.localeCompare(b));
  for (const [id, wanted] of [["x", ["umap1", "pc1"]], ["y", ["umap2", "pc2"]], ["colour", ["g_minus_r", "g_minus_i", "reduced_chi2"]]]) {
    const before = $(id).value, choices = id === "colour" ? ["", ...names] : names;
    $(id).replaceChildren(...choices.map((name) => make("option", { textContent: name || "(one colour)", value: name, title: state.about.words[name] ?? "" })));
    $(id).value = choices.includes(before) && before ? before : wanted.find((name) => choices.includes(name)) ?? choices[0];
  }
}
async function refresh() { const answer = begun ?? ask("/api/about"); begun = null; state.about = { ...state.about, ...await json(answer) }; fill(state.about.columns); count(); }

function send(path, file) {
  return json(ask(`${path}${path.includes("?") ? "&" : "?"}name=${encodeURIComponent(file.name)}`, { method: "POST", headers: { "x-deepfits": "1" }, body: file }));
}
function fitted(answer, what) {
  const box = make("div"), near = make("div");
  box.append(make("h2", { textContent: what }), make("p", { textContent: `χ² per pixel ${show(answer.reduced_chi2)}, ${answer.status}` + (answer.missing.length ? `; filled in: ${answer.missing.join(", ")}` : "") }));
  box.append(pictures(answer.picture, "fit-panels"), fluxes(answer.fluxes, answer.missing));
  if (answer.redshift) box.append(...redshift(answer.redshift));
  if (answer.why) box.append(make("p", { className: "why", textContent: answer.why }));
  box.append(make("p", { textContent: "Nearest objects of the run:" }), make("p", { className: "warning", textContent: answer.warning }), near);
  $("upload-result").replaceChildren(box); tiles(answer.rows, near, distances(answer));
}
const upload = attempt(async (file) => {
  if (!file) return;
  tab("fit"); say("fitting …");
  const answer = await send("/api/upload", file);
  say(""); fitted(answer, file.name);
});
const atPosition = attempt(async (place) => {
  tab("fit"); $("position-text").value = place; say("cutting out and fitting …");
  const answer = await json(post("/api/position", { place }));
  say(""); fitted(answer, place);
});
async function keep(answer) {
  const name = /filename="(.+)"/.exec(answer.headers.get("content-disposition"))[1], href = URL.createObjectURL(await answer.blob());
  make("a", { href, download: name }).click(); URL.revokeObjectURL(href);
}
async function samp(what, rows) {
  if (!rows.length) throw new Error("nothing is selected");
  const { sent_to: names } = await json(post("/api/samp", { what, rows }));
  say(`sent to ${names.join(", ")}`);
}

async function start() {
  await refresh();
  $("title").textContent = document.title = state.about.title;
  sliders(); await filterRow();
  $("bands").textContent = state.about.bands.join(", ");
  $("samp-table").hidden = !state.about.samp;
  const mapped = attempt(async () => { const c = $("colour").value && await column($("colour").value); if (c) $("log").checked = c.info.is_skewed; await draw(); });
  $("x").onchange = $("y").onchange = attempt(draw); $("colour").onchange = mapped; $("log").onchange = attempt(draw);
  $("pan").onclick = () => mode("pan"); $("lasso").onclick = () => mode("lasso"); $("box").onclick = () => mode("box");
  $("zoom-all").onclick = () => plot.zoomToOrigin({ transition: true });
  $("zoom-selection").onclick = () => state.selection.length && plot.zoomToPoints(state.selection, { padding: 0.2, transition: true });
  $("umap").onclick = attempt(async () => {
    let answer = await json(post("/api/umap", {}));
    while (answer.state === "running") {
      say("UMAP is being computed in the background"); await new Promise((done) => setTimeout(done, 2000));
      answer = { state: (await json(ask("/api/about"))).umap };
    }
    if (answer.state !== "done") throw new Error("UMAP failed; see the terminal for the reason");
    say(""); await refresh(); $("x").value = "umap1"; $("y").value = "umap2"; await draw();
  });
  for (const button of document.querySelectorAll("nav button")) button.onclick = () => tab(button.dataset.tab);
  $("find").onsubmit = attempt(async (event) => {
    event.preventDefault();
    const { row, separation_arcsec: apart } = await json(ask(`/api/find?what=${encodeURIComponent($("find-id").value)}`));
    tab("object"); await select([row]);
    if (apart !== undefined) say(`${apart.toFixed(2)}″ from that position`);
  });
  $("like-clear").onclick = () => { state.like = []; state.unlike = []; return findLike(); };
  $("filter-add").onclick = filterRow;
  $("select-shown").onclick = attempt(() => state.shownRows.length ? select(state.shownRows) : say("no object is shown", "warning"));
  $("like-go").onclick = findLike; $("like-select").onclick = attempt(() => select(state.found));
  $("odd-go").onclick = $("odd-everything").onchange = rankOdd; $("odd-select").onclick = attempt(() => select(state.odd.map((o) => o.row)));
  for (const id of ["draw-fwhm", "draw-noise", "draw-way"]) $(id).oninput = walk;
  $("draw-reset").onclick = () => { $("draw-fwhm").value = $("draw-fwhm").min; $("draw-noise").value = 0; $("draw-way").value = 0; sliders(); walk(); };
  $("between-set").onclick = attempt(() => {
    if (state.row === null) throw new Error("choose an object first");
    state.farEnd = state.row; $("draw-way").disabled = $("between-go").disabled = false;
    $("far-end").replaceChildren(make("div", { className: "holder" }, sheet([state.farEnd])(0)), make("span", { className: "why", textContent: `other end: ${state.object.object_id}; now choose the object to start from` }));
  });
  $("between-go").onclick = attempt(() => {
    if (state.row === null) throw new Error("choose an object to start from");
    const query = new URLSearchParams({ first: state.row, second: state.farEnd, ...seeing() });
    $("between").replaceChildren(make("img", { src: `/api/between.png?${query}`, alt: "generated galaxies between the two" }));
  });
  $("save").onclick = attempt(async () => {
    if (!state.selection.length) throw new Error("nothing is selected");
    await keep(await post("/api/save", { rows: state.selection, format: $("save-format").value }));
  });
  $("unmatched-save").onclick = attempt(async () => keep(await ask("/api/unmatched")));
  $("unmatched-show").onclick = attempt(() => { $("x").value = "ra"; $("y").value = "dec"; return draw(); });
  $("overlay-go").onclick = attempt(async () => {
    const file = $("overlay-file").files[0]; if (!file) throw new Error("choose a catalogue first");
    const answer = await send(`/api/overlay?radius=${Number($("overlay-radius").value)}`, file);
    state.columns.clear(); state.marks = answer.unmatched; await refresh(); await select(answer.rows); await draw();
    const shown = answer.unmatched.length < answer.num_unmatched ? ` (the first ${format(answer.unmatched.length)} of them)` : "";
    $("unmatched").hidden = !answer.num_unmatched;
    $("unmatched-what").textContent = `${counted(answer.num_unmatched, "position")} without an object; crosses show them when the axes are ra and dec${shown}.`;
    const rest = answer.total - answer.matched - answer.num_unmatched;
    const why = rest ? `; ${format(rest)} more are at objects that a nearer position has, or have no coordinates` : "";
    say(`${counted(answer.matched, "object")} matched and selected, of ${counted(answer.total, "position")}${why}`);
  });
  $("samp-table").onclick = attempt(() => samp("table", state.selection));
  for (const button of document.querySelectorAll(".select-tag")) button.onclick = attempt(async () => {
    const { info, values } = await column("tag"), code = info.categories.indexOf(button.dataset.tag);
    const rows = code < 0 ? [] : [...values.keys()].filter((row) => values[row] === code);
    if (!rows.length) throw new Error(`no object is tagged ${button.dataset.tag}`);
    await select(rows);
  });
  $("upload-file").onchange = () => upload($("upload-file").files[0]);
  $("position").onsubmit = (event) => { event.preventDefault(); return atPosition($("position-text").value); };
  const over = (is) => $("drop").classList.toggle("over", is);
  document.addEventListener("dragover", (event) => { event.preventDefault(); over(true); });
  document.addEventListener("dragleave", () => over(false));
  document.addEventListener("drop", (event) => {
    event.preventDefault(); over(false);
    const file = event.dataTransfer.files[0], text = event.dataTransfer.getData("text/plain");
    if (file) return upload(file);
    if (text) return atPosition(text.trim());
  });
  plot.subscribe("select", attempt(({ points }) => select(points, points[0], false)));
  plot.subscribe("deselect", () => { state.selection = []; count(); bar(); });
  plot.subscribe("draw", ticks); // whatever is the reason, such as a window of another size
  plot.subscribe("pointOver", (row) => {
    const box = $("hover"), [x, y] = plot.getScreenPosition(row) ?? [0, 0];
    box.replaceChildren(state.about.has_pictures ? make("img", { src: `/api/strip.png?rows=${row}`, alt: "" }) : `#${row}`);
    box.style.left = `${x + 14}px`; box.style.top = `${y + 14}px`; box.style.display = "block";
  });
  plot.subscribe("pointOut", () => { $("hover").style.display = "none"; });
  document.addEventListener("keydown", (event) => {
    if (/INPUT|SELECT|TEXTAREA/.test(event.target.tagName)) return;
    const work = { ArrowLeft: () => step(-1), ArrowRight: () => step(1), k: () => mark("keep"), d: () => mark("discard"), u: () => mark(null) }[event.key];
    if (work) { event.preventDefault(); work(); }
  });
  examples();
  await mapped();
  if (!plot.isSupported) say("The map may stay empty: this browser lacks WebGL features it needs. Try another browser, or enable hardware acceleration.", "warning");
  state.ready = true;
  Object.assign(state.about, await json(ask("/api/drawer"))); // the model takes longer to load than the map
  if (!state.about.has_images) $("position-hint").textContent = "The images are unknown: start with --images DIRECTORY, the directory given to `deepfits cutouts`.";
  const own = state.about.drawn_fwhm_arcsec ?? 0;
  Object.assign($("draw-fwhm"), { min: own, max: own + 2 }); $("draw-fwhm").value = own;
  if (!$("tab-draw").hidden) walk();
  state.complete = true;
}
start().catch(warn);
