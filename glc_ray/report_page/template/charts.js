// Plots of frame scores. They are pictures; the numbers stand beside them as text.

const WIDTH = 1000;
const HEIGHT = 160;
const MOST_POINTS = 1200;

// A small curve for a card: whole numbers from 0 to 99.
function spark(values) {
  if (!values || values.length < 2) return null;
  const step = 100 / (values.length - 1);
  const points = values.map((value, at) => `${(at * step).toFixed(1)},${(27 - value * 0.25).toFixed(1)}`);
  return svg("svg", { class: "spark", viewBox: "0 0 100 29", preserveAspectRatio: "none", "aria-hidden": "true" },
    svg("polyline", { points: points.join(" ") }));
}

// A plot of one number a frame.
//   values    of frames `first`, `first` + `step`, ...
//   frames    of the video
//   marks     [[frame, share], ...]: window borders
//   anchor    frames of the first clip
function plot({ values, first, step = 1, frames, fps, marks = [], anchor = 0, title, unit, digits }) {
  const top = niceTop(Math.max(...values, 0));
  const x = (frame) => (frame / Math.max(frames - 1, 1)) * WIDTH;
  const y = (value) => HEIGHT - (value / top) * HEIGHT;
  const cursor = svg("line", { class: "cursor", y1: 0, y2: HEIGHT, x1: -9, x2: -9 });
  const picture = svg("svg",
    { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img",
      "aria-label": `${title} of ${counted(values.length, "frame")}: ${summary(values, first, step, unit, digits)}` },
    anchor ? svg("rect", { class: "anchor", x: 0, y: 0, width: x(Math.min(anchor, frames) - 1), height: HEIGHT }) : null,
    [0.5, 1].map((share) => svg("line", { class: "grid", x1: 0, x2: WIDTH, y1: y(top * share), y2: y(top * share) })),
    marks.map(([frame, share]) =>
      svg("line", { class: "border", x1: x(frame), x2: x(frame), y1: 0, y2: HEIGHT, "stroke-opacity": 0.06 + 0.34 * share })),
    svg("polyline", { class: "line", points: outline(values).map(([at, value]) => `${x(at * step + first).toFixed(1)},${y(value).toFixed(1)}`).join(" ") }),
    cursor);
  const readout = el("output", { class: "readout" }, summary(values, first, step, unit, digits));
  const figure = el("figure", { class: "plot" },
    el("figcaption", {}, el("span", { class: "plot-title" }, title), readout),
    el("div", { class: "plot-body" },
      el("span", { class: "axis-top", "aria-hidden": "true" }, `${number(top, digits)}${unit}`),
      picture),
    el("div", { class: "axis", "aria-hidden": "true" },
      [0, 0.25, 0.5, 0.75, 1].map((share) => el("span", {}, `${number((share * (frames - 1)) / fps, 1)} s`))));
  // Show a frame: its number, and where it is.
  figure.show = (frame) => {
    const value = values[Math.floor((frame - first) / step)];
    cursor.setAttribute("x1", x(frame));
    cursor.setAttribute("x2", x(frame));
    readout.textContent = value === undefined
      ? `frame ${frame}`
      : `frame ${frame} · ${number(value, digits)}${unit}`;
  };
  figure.frameAt = (event) => {
    const box = picture.getBoundingClientRect();
    const share = Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
    return Math.round(share * (frames - 1));
  };
  figure.picture = picture;
  return figure;
}

function summary(values, first, step, unit, digits) {
  if (!values.length) return "no values";
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  const highest = values.reduce((best, value, at) => (value > values[best] ? at : best), 0);
  return `mean ${number(mean, digits)}${unit}, highest ${number(values[highest], digits)}${unit} at frame ${highest * step + first}`;
}

// Of more points than a screen has, the lowest and the highest of each part, so that no peak is lost.
function outline(values) {
  if (values.length <= MOST_POINTS) return values.map((value, at) => [at, value]);
  const parts = MOST_POINTS / 2;
  const points = [];
  for (let part = 0; part < parts; part += 1) {
    const from = Math.floor((part * values.length) / parts);
    const to = Math.floor(((part + 1) * values.length) / parts);
    let low = from;
    let high = from;
    for (let at = from; at < to; at += 1) {
      if (values[at] < values[low]) low = at;
      if (values[at] > values[high]) high = at;
    }
    for (const at of [Math.min(low, high), Math.max(low, high)]) points.push([at, values[at]]);
  }
  return points;
}

// The next of 1, 2, 5, 10, ... that holds a value.
function niceTop(value) {
  if (!(value > 0)) return 1;
  const size = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((factor) => factor * size).find((top) => top >= value * 0.999);
}
