// Elements from text and nothing else: no data is ever read as HTML.

const SVG = "http://www.w3.org/2000/svg";

// el("p", {class: "x", hidden: true, onclick: f}, "text", child, ...): null children are left out.
function el(tag, properties, ...children) {
  return filled(document.createElement(tag), properties, children);
}

function svg(tag, properties, ...children) {
  return filled(document.createElementNS(SVG, tag), properties, children);
}

function filled(element, properties, children) {
  for (const [name, value] of Object.entries(properties || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") Object.assign(element.style, value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

const byId = (id) => document.getElementById(id);

const WHOLE = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

const number = (value, digits = 0) =>
  digits ? value.toLocaleString("en", { maximumFractionDigits: digits }) : WHOLE.format(value);

const significant = (value) => value.toLocaleString("en", { maximumSignificantDigits: 5 });

const counted = (count, noun) => `${number(count)} ${noun}${count === 1 ? "" : "s"}`;

// 0.42 s, 12 s, 3 min 20 s, 5 h 2 min, 3 d 4 h
function duration(seconds) {
  if (!(seconds >= 0)) return "–";
  if (seconds < 10) return `${number(seconds, seconds < 1 ? 2 : 1)} s`;
  const parts = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
  const whole = Math.round(seconds);
  const at = parts.findIndex(([size]) => whole >= size);
  const [size, unit] = parts[at];
  const rest = parts[at + 1];
  const more = rest ? Math.floor((whole % size) / rest[0]) : 0;
  return `${Math.floor(whole / size)} ${unit}${more ? ` ${more} ${rest[1]}` : ""}`;
}

const bytes = (size) =>
  size < 1e6 ? `${number(size / 1e3, 1)} kB` : size < 1e9 ? `${number(size / 1e6, 1)} MB` : `${number(size / 1e9, 2)} GB`;

const time = (seconds) =>
  new Date(seconds * 1000).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });

// Where a file of the output is, from here: names may hold any letter.
const fileUrl = (path) => `../${path.split("/").map(encodeURIComponent).join("/")}`;
