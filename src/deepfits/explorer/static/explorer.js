// The explorer's page: a map of all objects, what is known of each, and what the model draws.
// It asks its own server alone, and loads nothing from elsewhere.
import createScatterplot from "/static/regl-scatterplot.js";

const $ = (id) => document.getElementById(id);
const state = {
  about: null, columns: new Map(), selection: [], at: 0, row: null,
  like: [], unlike: [], found: [], odd: [], otherEnd: null, filters: [], offsets: [], token: 0,
};
window.deepfits = state; // for tests and the curious

const RAMP = ["#440154", "#482878", "#3e4a89", "#31688e", "#26838f", "#1f9d8a", "#6cce5a", "#b6de2b", "#fee825"];
const CATEGORIES = ["#3b6ea8", "#c8553d", "#3f8f6b", "#8a6bb1", "#b8892b", "#5f6b78", "#d17fae", "#6aa6c8", "#8f5a3c",
  "#a3b04d", "#2f4b6b", "#e0a07c", "#7fc4a8", "#c3b2db", "#e3cc8f", "#aab2bb", "#93305f", "#2a7f94", "#5d3b26", "#66752b",
  "#111111", "#ff7f50", "#00a0a0", "#b000b0"];
const LEVELS = 64;

function mix(a, b, t) {
  const part = (hex, k) => parseInt(hex.slice(1 + 2 * k, 3 + 2 * k), 16);
  return "#" + [0, 1, 2].map((k) => Math.round(part(a, k) * (1 - t) + part(b, k) * t).toString(16).padStart(2, "0")).join("");
}
const SCALE = Array.from({ length: LEVELS }, (_, n) => {
  const place = (n / (LEVELS - 1)) * (RAMP.length - 1), low = Math.min(Math.floor(place), RAMP.length - 2);
  return mix(RAMP[low], RAMP[low + 1], place - low);
});

function say(text) { $("message").textContent = text || ""; }

async function ask(path, options) {
  const answer = await fetch(path, options);
  if (!answer.ok) {
    let text = `${answer.status}`;
    try { text = (await answer.json()).error || text; } catch { /* not JSON: the status has to do */ }
    throw new Error(text);
  }
  return answer;
}
const post = (path, body) => ask(path, {
  method: "POST", headers: { "x-deepfits": "1", "content-type": "application/json" }, body: JSON.stringify(body),
});
const attempt = (work) => async (...inputs) => {
  try { say(""); return await work(...inputs); } catch (error) { say(error.message); return undefined; }
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
const xScale = linear(), yScale = linear();
const plot = createScatterplot({
  canvas: $("canvas"), width: "auto", height: "auto", backgroundColor: "#ffffff", pointSize: 3, pointSizeSelected: 4,
  pointColorActive: "#e01b24", pointColorHover: "#e01b24", lassoColor: "#e01b24", opacityBy: "density", xScale, yScale,
  deselectOnDblClick: true, lassoOnLongPress: true, aspectRatio: 1,
});

state.plot = plot;

function position({ values, info }) {
  const half = (info.high - info.low) / 2 || 1, middle = (info.high + info.low) / 2;
  const out = new Float32Array(values.length);
  for (let n = 0; n < out.length; n++) out[n] = 0.9 * (values[n] - middle) / half;
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
    const low = logarithmic ? Math.log(Math.max(c.info.low, c.info.high * 1e-4)) : c.info.low;
    const high = logarithmic ? Math.log(c.info.high) : c.info.high, span = high - low || 1;
    for (let n = 0; n < number; n++) {
      const value = logarithmic ? Math.log(c.values[n]) : c.values[n];
      const level = Number.isFinite(value) ? Math.min(1, Math.max(0, (value - low) / span)) : -1;
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
  plot.set({ pointSize: number > 300000 ? 1.5 : number > 50000 ? 2.2 : 4 });
  const filtered = shown.length < number;
  const selected = state.selection.filter((row) => !filtered || state.shown.has(row));
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
function seen(info) { const half = (info.high - info.low) / 2 || 1, middle = (info.high + info.low) / 2; return [middle - half / 0.9, middle + half / 0.9]; }

function visible(px, py) {
  const rows = [], tests = state.filters.map((f) => ({ ...f, values: state.columns.get(f.name).values }));
  for (let n = 0; n < px.length; n++) {
    if (Number.isFinite(px[n]) && Number.isFinite(py[n]) && tests.every((f) => f.values[n] >= f.low && f.values[n] <= f.high)) rows.push(n);
  }
  state.shown = rows.length === px.length ? null : new Set(rows);
  return rows;
}

function ticks() {
  for (const [id, scale, side, name] of [["x-ticks", xScale, "left", $("x").value], ["y-ticks", yScale, "top", $("y").value]]) {
    const [low, high] = scale.domain(), span = Math.abs(high - low), box = $("plot").getBoundingClientRect();
    const rough = span / 5, power = 10 ** Math.floor(Math.log10(rough)), step = [1, 2, 5, 10].map((k) => k * power).find((s) => s >= rough);
    const marks = [];
    for (let value = Math.ceil(Math.min(low, high) / step) * step; value <= Math.max(low, high); value += step) {
      const fraction = (value - low) / (high - low), at = side === "left" ? fraction * box.width : (1 - fraction) * box.height;
      const mark = document.createElement("span");
      mark.style[side] = `${at}px`; mark.textContent = Number(value.toPrecision(4)).toString(); marks.push(mark);
    }
    const label = document.createElement("span"); label.className = "name"; label.textContent = name; marks.push(label);
    $(id).replaceChildren(...marks);
  }
}

function legend(c, logarithmic) {
  const box = $("legend"); box.replaceChildren();
  if (!c) return;
  const add = (tag, text) => { const e = document.createElement(tag); e.textContent = text; box.append(e); return e; };
  add("b", c.info.name + (logarithmic ? " (log)" : ""));
  if (c.info.kind === "category") {
    c.info.categories.forEach((name, n) => {
      const e = document.createElement("span"), dot = document.createElement("i");
      dot.style.background = CATEGORIES[n % CATEGORIES.length]; e.append(dot, name || "(empty)"); box.append(e);
    });
  } else {
    add("span", show(c.info.low)); const ramp = add("span", ""); ramp.className = "ramp";
    ramp.style.background = `linear-gradient(90deg, ${RAMP.join(",")})`; add("span", show(c.info.high));
    add("span", "grey: unknown").className = "why";
  }
}
function show(value) {
  if (value === null || value === undefined) return "–";
  if (typeof value !== "number") return String(value);
  return Number.isInteger(value) ? String(value) : Number(value.toPrecision(5)).toString();
}
function count() {
  const { num_objects: all } = state.about, shown = state.numShown ?? all;
  const format = (n) => n.toLocaleString("en");
  $("count").textContent = `${format(all)} objects` + (shown < all ? `, ${format(shown)} shown` : "") +
    (state.selection.length ? `, ${format(state.selection.length)} selected` : "") +
    (state.about.num_tagged ? `, ${format(state.about.num_tagged)} tagged` : "");
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
  const button = (text, work) => { const e = document.createElement("button"); e.textContent = text; e.onclick = work; box.append(e, " "); };
  button("←", () => step(-1)); button("→", () => step(1));
  box.append(`${state.at + 1} of ${state.selection.length.toLocaleString("en")} `);
  button("Nothing selected", () => { state.selection = []; plot.deselect({ preventEvent: true }); count(); bar(); });
}
const step = attempt(async (by) => {
  if (!state.selection.length) return;
  state.at = (state.at + by + state.selection.length) % state.selection.length; bar();
  await choose(state.selection[state.at]);
});

async function choose(row) {
  state.row = row;
  const object = await (await ask(`/api/object/${row}`)).json();
  if (state.row !== row) return;
  state.object = object;
  const box = document.createElement("div"), f = object.facts;
  const heading = document.createElement("h2"); heading.textContent = object.object_id; heading.id = "object-id"; box.append(heading);
  const line = document.createElement("p"); line.className = "hint";
  if (f.ra !== undefined && f.ra !== null) {
    const text = `${f.ra.toFixed(6)} ${f.dec.toFixed(6)}`;
    const aladin = document.createElement("a"); aladin.href = `https://aladin.cds.unistra.fr/AladinLite/?target=${encodeURIComponent(text)}&fov=0.02`;
    aladin.textContent = "Aladin"; aladin.target = "_blank"; aladin.rel = "noreferrer";
    const copy = document.createElement("button"); copy.textContent = "copy"; copy.onclick = () => navigator.clipboard.writeText(text);
    line.append(`ra, dec ${text} `, copy, " ", aladin, " · ");
  }
  line.append(`χ² per degree of freedom ${show(f.reduced_chi2)}, ${f.status ?? ""}`, object.tag ? ` · ${object.tag}` : ""); box.append(line);
  if (state.about.has_pictures) box.append(pictures(`/api/panels/${row}.png`));
  if (object.redshift) box.append(redshift(object.redshift));
  const tags = document.createElement("p");
  for (const [text, tag] of [["Keep (k)", "keep"], ["Discard (d)", "discard"], ["No tag (u)", null]]) {
    const e = document.createElement("button"); e.textContent = text; e.onclick = () => mark(tag); tags.append(e, " ");
  }
  box.append(tags, facts(f));
  const more = document.createElement("details"), summary = document.createElement("summary"); summary.textContent = "latent";
  const text = document.createElement("p"); text.className = "why"; text.textContent = object.latent.map((v) => v === null ? "–" : v.toFixed(3)).join("  ");
  more.append(summary, text); box.append(more);
  $("object").replaceChildren(box);
  if (!$("tab-draw").hidden) walk();
}
function pictures(source) {
  const box = document.createElement("div"); box.className = "panels";
  const heads = document.createElement("div"); heads.className = "heads";
  for (const text of ["observed", "best fit", "residual/σ", state.about.has_scenes ? "scene" : "drawn"]) { const e = document.createElement("span"); e.textContent = text; heads.append(e); }
  const bands = document.createElement("div"); bands.className = "bands"; bands.style.gridTemplateRows = `repeat(${state.about.bands.length + 1}, 1fr)`;
  for (const text of ["all", ...state.about.bands]) { const e = document.createElement("span"); e.textContent = text; bands.append(e); }
  const image = document.createElement("img"); image.src = source; image.alt = "observed, fitted, residual and drawn images in every band"; image.id = "panels";
  box.append(heads, bands, image); return box;
}
function redshift({ method, edges, density, z_spec, z_phot }) {
  const width = 400, height = 90, top = Math.max(edges.at(-1), z_spec ?? 0) * 1.1, highest = Math.max(...density);
  const x = (z) => (z / top) * width, y = (p) => height - 14 - (p / highest) * (height - 20);
  const make = (tag, set, text) => {
    const e = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(set)) e.setAttribute(name, value);
    if (text) e.textContent = text;
    return e;
  };
  const steps = density.map((p, n) => `L${x(edges[n])} ${y(p)}L${x(edges[n + 1])} ${y(p)}`).join("");
  const svg = make("svg", { viewBox: `0 0 ${width} ${height}`, id: "pz", role: "img", "aria-label": "p(z)" });
  svg.append(make("path", { d: `M${x(edges[0])} ${y(0)}${steps}L${x(edges.at(-1))} ${y(0)}Z`, fill: "#c9d9ec", stroke: "#3b6ea8" }));
  const mark = (z, name, colour, row) => {
    if (z === null) return;
    svg.append(make("line", { x1: x(z), x2: x(z), y1: 0, y2: height - 14, stroke: colour, "stroke-width": 1.5 }),
      make("text", { x: Math.min(x(z) + 4, width - 90), y: 11 + 13 * row, fill: colour, "font-size": 11 }, `${name} ${show(z)}`));
  };
  mark(z_phot, "z_phot", "#3b6ea8", 0); mark(z_spec, "z_spec", "#c8553d", 1);
  svg.append(make("text", { x: 0, y: height - 2, "font-size": 11, fill: "#5f6b78" }, `p(z), ${method}; z from 0 to ${top.toFixed(1)}`));
  return svg;
}
function facts(values) {
  const first = ["z_spec", "z_phot", "z_median", "z_err68_low", "z_err68_high", "oddity", "latent_distance"];
  const names = Object.keys(values), order = [...first.filter((n) => names.includes(n)), ...names.filter((n) => !first.includes(n))];
  const table = document.createElement("table");
  for (const name of order) {
    if (values[name] === null) continue;
    const line = table.insertRow(); line.insertCell().textContent = name; line.insertCell().textContent = show(values[name]);
  }
  return table;
}
const mark = attempt(async (tag) => {
  if (state.row === null) return;
  state.about.num_tagged = (await (await post("/api/tag", { rows: [state.row], tag })).json()).num_tagged;
  count(); await choose(state.row);
});

// Tiles of galaxies

function tiles(rows, box, notes = []) {
  const grid = document.createElement("div"); grid.className = "tiles";
  const perLine = 6, size = rows.length;
  const sheet = state.about.has_pictures && size ? `/api/strip.png?columns=${perLine}&rows=${rows.slice(0, 96).join(",")}` : null;
  const columns = Math.min(perLine, size), lines = Math.ceil(size / columns);
  rows.slice(0, 96).forEach((row, n) => {
    const tile = document.createElement("button"); tile.className = "tile"; tile.title = notes[n] ?? `row ${row}`; tile.dataset.row = row;
    if (sheet) {
      tile.style.backgroundImage = `url("${sheet}")`; tile.style.backgroundSize = `${columns * 100}% ${lines * 100}%`;
      const x = columns > 1 ? ((n % columns) / (columns - 1)) * 100 : 0, y = lines > 1 ? (Math.floor(n / columns) / (lines - 1)) * 100 : 0;
      tile.style.backgroundPosition = `${x}% ${y}%`;
    } else { tile.textContent = row; }
    tile.onclick = attempt(() => { tab("object"); return select(rows, row); });
    grid.append(tile);
  });
  box.replaceChildren(grid);
}
function examples() {
  const names = (rows) => rows.map((row) => `#${row}`).join(", ");
  $("examples").textContent = (state.like.length ? `like ${names(state.like)}` : "like the chosen object") + (state.unlike.length ? `, less like ${names(state.unlike)}` : "");
}
const findLike = attempt(async () => {
  const like = state.like.length ? state.like : state.row === null ? [] : [state.row];
  if (!like.length) throw new Error("choose an object first");
  const window = $("like-bright").checked ? Number($("like-window").value) : null;
  const answer = await (await post("/api/neighbours", { like, unlike: state.unlike, number: 48, magnitude_window: window })).json();
  state.found = answer.rows;
  tiles(answer.rows, $("like-strip"), answer.distance.map((d) => `distance ${d.toFixed(3)}`));
});
const rankOdd = attempt(async () => {
  state.odd = (await (await ask("/api/odd?number=48")).json()).objects;
  tiles(state.odd.map((o) => o.row), $("odd-list"), state.odd.map((o) => `${o.why} (${o.score.toFixed(1)})`));
});

// Drawing

function walk() {
  if (!state.about.has_model) return;
  const query = new URLSearchParams({ offsets: state.offsets.map((v) => v.toFixed(2)).join(","), fwhm: $("draw-fwhm").value, noise: $("draw-noise").value });
  if (state.row !== null) query.set("row", state.row);
  $("walk").src = `/api/walk.png?${query}`;
}
function sliders() {
  state.offsets = Array(state.about.num_directions).fill(0);
  $("sliders").replaceChildren(...state.offsets.map((_, n) => {
    const label = document.createElement("label"), input = document.createElement("input"), out = document.createElement("output");
    Object.assign(input, { type: "range", min: -3, max: 3, step: 0.1, value: 0 }); out.textContent = "0";
    input.oninput = () => { state.offsets[n] = Number(input.value); out.textContent = input.value; walk(); };
    label.append(`PC ${n + 1}`, input, out); return label;
  }));
}

// Filters

function filterRow() {
  const box = document.createElement("span"), pick = $("x").cloneNode(true), low = document.createElement("input"), high = document.createElement("input"), off = document.createElement("button");
  pick.id = ""; low.type = high.type = "number"; low.step = high.step = "any"; low.placeholder = "from"; high.placeholder = "to"; off.textContent = "×";
  const own = { name: pick.value, low: -Infinity, high: Infinity };
  const apply = attempt(async () => {
    own.name = pick.value; await column(own.name);
    own.low = low.value === "" ? -Infinity : Number(low.value); own.high = high.value === "" ? Infinity : Number(high.value);
    if (!state.filters.includes(own)) state.filters.push(own);
    await draw();
  });
  pick.onchange = low.onchange = high.onchange = apply;
  off.onclick = attempt(async () => { state.filters = state.filters.filter((f) => f !== own); box.remove(); await draw(); });
  box.append(pick, low, high, off); $("filters").append(box);
}

// Starting

function tab(name) {
  for (const button of document.querySelectorAll("nav button")) button.classList.toggle("on", button.dataset.tab === name);
  for (const section of document.querySelectorAll("aside > section")) section.hidden = section.id !== `tab-${name}`;
  if (name === "draw") walk();
}
function mode(name) {
  for (const id of ["pan", "lasso", "box"]) $(id).classList.toggle("on", id === name);
  plot.set({ mouseMode: name === "pan" ? "panZoom" : "lasso", lassoType: name === "box" ? "rectangle" : "freeform" });
}
function fill(names) {
  for (const [id, wanted] of [["x", ["umap1", "pc1"]], ["y", ["umap2", "pc2"]], ["colour", ["g_minus_r", "g_minus_i", "reduced_chi2"]]]) {
    const before = $(id).value, choices = id === "colour" ? ["", ...names] : names;
    $(id).replaceChildren(...choices.map((name) => new Option(name || "(one colour)", name)));
    $(id).value = choices.includes(before) && before ? before : wanted.find((name) => choices.includes(name)) ?? choices[0];
  }
}
async function refresh() { state.about = await (await ask("/api/about")).json(); fill(state.about.columns); count(); }

async function send(path, file) {
  return (await ask(`${path}${path.includes("?") ? "&" : "?"}name=${encodeURIComponent(file.name)}`, { method: "POST", headers: { "x-deepfits": "1" }, body: file })).json();
}
const upload = attempt(async (file) => {
  if (!file) return;
  const answer = await send("/api/upload", file), box = document.createElement("div"), text = document.createElement("p");
  text.textContent = `χ² per degree of freedom ${show(answer.reduced_chi2)}` + Object.entries(answer.predicted_njy).map(([band, flux]) => `; ${band} filled in: ${show(flux)} nJy in the cutout`).join("");
  const near = document.createElement("div"); box.append(text, pictures(answer.picture), "Nearest objects:", near);
  $("upload-result").replaceChildren(box); tiles(answer.rows, near);
});

async function start() {
  await refresh();
  $("title").textContent = document.title = state.about.title;
  sliders(); filterRow();
  const mapped = attempt(async () => { const c = $("colour").value && await column($("colour").value); if (c) $("log").checked = c.info.is_skewed; await draw(); });
  $("x").onchange = $("y").onchange = attempt(draw); $("colour").onchange = mapped; $("log").onchange = attempt(draw);
  $("pan").onclick = () => mode("pan"); $("lasso").onclick = () => mode("lasso"); $("box").onclick = () => mode("box");
  $("zoom-all").onclick = () => plot.zoomToOrigin({ transition: true });
  $("zoom-selection").onclick = () => state.selection.length && plot.zoomToPoints(state.selection, { padding: 0.2, transition: true });
  $("umap").onclick = attempt(async () => {
    let answer = await (await post("/api/umap", {})).json();
    while (answer.state === "running") {
      say("UMAP is being computed; go on meanwhile"); await new Promise((done) => setTimeout(done, 2000));
      answer = { state: (await (await ask("/api/about")).json()).umap };
    }
    if (answer.state !== "done") throw new Error("UMAP failed; the terminal says why");
    say(""); await refresh(); $("x").value = "umap1"; $("y").value = "umap2"; await draw();
  });
  for (const button of document.querySelectorAll("nav button")) button.onclick = () => tab(button.dataset.tab);
  $("find").onsubmit = attempt(async (event) => { event.preventDefault(); const { row } = await (await ask(`/api/find?id=${encodeURIComponent($("find-id").value)}`)).json(); tab("object"); await select([row]); });
  $("like-add").onclick = () => { if (state.row !== null && !state.like.includes(state.row)) state.like.push(state.row); examples(); };
  $("unlike-add").onclick = () => { if (state.row !== null && !state.unlike.includes(state.row)) state.unlike.push(state.row); examples(); };
  $("like-clear").onclick = () => { state.like = []; state.unlike = []; examples(); };
  $("like-go").onclick = findLike; $("like-select").onclick = attempt(() => select(state.found));
  $("odd-go").onclick = rankOdd; $("odd-select").onclick = attempt(() => select(state.odd.map((o) => o.row)));
  for (const id of ["draw-fwhm", "draw-noise"]) $(id).oninput = () => { $(id).nextElementSibling.textContent = $(id).value; walk(); };
  $("draw-reset").onclick = () => { sliders(); walk(); };
  $("between-set").onclick = () => { state.otherEnd = state.row; say(state.otherEnd === null ? "choose an object first" : ""); };
  $("between-go").onclick = attempt(async () => {
    if (state.otherEnd === null || state.row === null) throw new Error("choose an object, set it as the other end, then choose another");
    const image = document.createElement("img"); image.src = `/api/between.png?first=${state.otherEnd}&second=${state.row}`; image.alt = "drawn galaxies between the two"; $("between").replaceChildren(image);
  });
  $("save").onclick = attempt(async () => {
    if (!state.selection.length) throw new Error("nothing is selected");
    const answer = await post("/api/save", { rows: state.selection, format: $("save-format").value });
    const name = /filename="(.+)"/.exec(answer.headers.get("content-disposition"))[1], link = document.createElement("a");
    link.href = URL.createObjectURL(await answer.blob()); link.download = name; link.click(); URL.revokeObjectURL(link.href);
  });
  $("overlay-go").onclick = attempt(async () => {
    const file = $("overlay-file").files[0]; if (!file) throw new Error("choose a catalogue first");
    const answer = await send(`/api/overlay?radius=${Number($("overlay-radius").value)}`, file);
    state.columns.clear(); await refresh(); await select(answer.rows); await draw();
    say(`${answer.matched} objects match one of the ${answer.total} positions; they are selected`);
  });
  $("upload-file").onchange = () => upload($("upload-file").files[0]);
  const drop = $("drop");
  for (const name of ["dragover", "drop"]) document.addEventListener(name, (event) => event.preventDefault());
  drop.ondragover = () => drop.classList.add("over"); drop.ondragleave = () => drop.classList.remove("over");
  drop.ondrop = (event) => { drop.classList.remove("over"); upload(event.dataTransfer.files[0]); };
  plot.subscribe("select", attempt(({ points }) => select(points, points[0], false)));
  plot.subscribe("deselect", () => { state.selection = []; count(); bar(); });
  plot.subscribe("view", ticks);
  plot.subscribe("pointOver", (row) => {
    const box = $("hover"), [x, y] = plot.getScreenPosition(row) ?? [0, 0], image = document.createElement("img");
    if (state.about.has_pictures) { image.src = `/api/strip.png?rows=${row}`; image.alt = ""; box.replaceChildren(image); } else { box.textContent = `#${row}`; }
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
  state.ready = true;
}
start().catch((error) => say(error.message));
