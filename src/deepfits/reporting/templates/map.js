const box = document.getElementById("map"), data = JSON.parse(document.getElementById("map-data").textContent);
const unpack = (text) => new Float32Array(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
const x = unpack(data.x), y = unpack(data.y), number = x.length;
const columns = Object.fromEntries(Object.entries(data.columns).map(([name, text]) => [name, unpack(text)]));
const RAMP = ["#440154", "#482878", "#3e4a89", "#31688e", "#26838f", "#1f9d8a", "#6cce5a", "#b6de2b", "#fee825", "#c9ced6"];
const UNKNOWN = RAMP.length - 1;
const canvas = box.querySelector("canvas"), hover = box.querySelector(".hover"), choice = box.querySelector("select");
const legend = box.querySelector(".legend");
const show = (value) => Number.isFinite(value) ? String(Number(value.toPrecision(4))) : "unknown";
try {
  const plot = createScatterplot({
    canvas, width: "auto", height: "auto", backgroundColor: "#ffffff", pointSize: number > 1500 ? 4 : 6, pointColor: RAMP,
    colorBy: "valueA", pointColorHover: "#e01b24", pointColorActive: "#e01b24", opacity: 0.75, aspectRatio: 1,
  });
  const draw = async () => {
    const values = columns[choice.value], sorted = values.filter(Number.isFinite).sort();
    const low = sorted[Math.floor(0.02 * (sorted.length - 1))], high = sorted[Math.floor(0.98 * (sorted.length - 1))];
    const level = Float32Array.from(values, (value) => Number.isFinite(value)
      ? Math.max(0, Math.min(UNKNOWN - 1, Math.round((UNKNOWN - 1) * (value - low) / (high - low || 1)))) : UNKNOWN);
    legend.replaceChildren();
    const ramp = document.createElement("i");
    ramp.style.background = `linear-gradient(90deg, ${RAMP.slice(0, UNKNOWN).join(",")})`;
    legend.append(show(low), ramp, show(high), " (grey: unknown)");
    await plot.draw({ x, y, valueA: level }, { zDataType: "categorical" });
    box.dataset.drawn = number;
  };
  for (const name of Object.keys(columns)) choice.add(new Option(name, name));
  choice.onchange = draw;
  const tell = (row) => {
    const [left, top] = plot.getScreenPosition(row) ?? [0, 0], picture = hover.querySelector("i"), text = hover.querySelector("span");
    picture.style.backgroundPosition = `-${3 * data.tile * (row % data.across)}px -${3 * data.tile * Math.floor(row / data.across)}px`;
    text.replaceChildren(data.id[row], ...Object.entries(columns).flatMap(([name, values]) =>
      [document.createElement("br"), `${name} ${show(values[row])}`]));
    hover.hidden = false;
    hover.style.left = `${Math.min(left + 12, canvas.clientWidth - hover.offsetWidth)}px`;
    hover.style.top = `${Math.min(top + 12, canvas.clientHeight - hover.offsetHeight)}px`;
  };
  plot.subscribe("pointOver", tell);
  plot.subscribe("pointOut", () => { hover.hidden = true; });
  plot.subscribe("select", ({ points }) => points.length && tell(points[0]));
  await draw();
  window.map = { plot, tell, data };
} catch (error) {
  box.classList.add("failed"); // no WebGL: the figure below shows the same
}
