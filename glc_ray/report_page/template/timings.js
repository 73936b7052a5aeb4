// When a video's stages were at work: a strip, and the seconds as a table.

const MOST_QUEUED = 0.25;

// Stages with where they are on the clock, in seconds since the video was queued.
function stages(row) {
  const known = row.started_at && row.finished_at >= row.started_at;
  if (!known) return unplaced(row);
  const begin = row.queued_at && row.queued_at <= row.started_at ? row.queued_at : row.started_at;
  const found = [];
  const add = (name, from, to, text) => {
    if (to > from) found.push({ name, from: from - begin, to: to - begin, text: text || duration(to - from) });
  };
  add("queued", begin, row.started_at);
  const denoised = row.denoised_at || row.finished_at;
  add("denoise", row.started_at, denoised);
  if (row.decoding_at && row.decoded_at) {
    // Frames are encoded as they are decoded: each has its share of the time.
    const [decode, encode] = [row.decode_s || 0, Math.max((row.encode_s || 0) - (row.finished_at - row.decoded_at), 0)];
    const share = decode + encode > 0 ? decode / (decode + encode) : 1;
    const middle = row.decoding_at + share * (row.decoded_at - row.decoding_at);
    add("decode", row.decoding_at, middle, duration(decode));
    add("encode", middle, row.decoded_at, duration(encode));
    if (row.status === "done") add("join", row.decoded_at, row.finished_at);
  }
  return found;
}

// Of rows without times, the seconds one after another.
function unplaced(row) {
  let at = 0;
  const parts = [
    ["denoise", (row.prompt_s || 0) + (row.denoise_s || 0) + (row.fuse_s || 0) + (row.update_s || 0)],
    ["decode", row.decode_s || 0],
    ["encode", row.encode_s || 0],
  ];
  return parts.filter(([, seconds]) => seconds > 0).map(([name, seconds]) => {
    at += seconds;
    return { name, from: at - seconds, to: at, text: duration(seconds) };
  });
}

// Where a stage is on the strip, 0 to 1: waiting takes a quarter of it at most.
function places(found) {
  if (!found.length) return [];
  const end = Math.max(...found.map((stage) => stage.to));
  const waited = found[0].name === "queued" ? found[0].to : 0;
  const worked = Math.max(end - waited, 1e-9);
  const queue = waited ? Math.min(waited / (waited + worked), MOST_QUEUED) : 0;
  const place = (at) => (at <= waited ? (waited ? (at / waited) * queue : 0) : queue + ((at - waited) / worked) * (1 - queue));
  return found.map((stage) => ({ ...stage, left: place(stage.from), right: place(stage.to), cut: stage.name === "queued" && waited / (waited + worked) > MOST_QUEUED }));
}

function strip(row) {
  const found = places(stages(row));
  if (!found.length) return null;
  const words = found.map((stage) => `${stage.name} ${stage.text}`).join(", ");
  return el("div", { class: "strip", role: "img", "aria-label": `Time: ${words}` },
    found.map((stage) => el("i", {
      class: `stage ${stage.name}${stage.cut ? " cut" : ""}`, title: `${stage.name} ${stage.text}`,
      style: { left: percent(stage.left), width: percent(stage.right - stage.left) },
    })));
}

function gantt(row) {
  const found = places(stages(row));
  if (!found.length) return null;
  const details = {
    denoise: [["prompt", row.prompt_s], ["waiting for predictions", row.denoise_s], ["fusion and scheduler", row.fuse_s], ["refinement", row.update_s]],
    queued: found.some((stage) => stage.cut) ? [["shortened in the picture", null]] : [],
  };
  return el("table", { class: "gantt" },
    el("caption", { class: "unseen" }, "Stages of the video and the time they took"),
    el("thead", { class: "unseen" }, el("tr", {}, ["Stage", "When", "Time"].map((name) => el("th", { scope: "col" }, name)))),
    el("tbody", {}, found.map((stage) => el("tr", {},
      el("th", { scope: "row" }, stage.name),
      el("td", { class: "gantt-bar" },
        el("div", { class: "strip", "aria-hidden": "true" },
          el("i", { class: `stage ${stage.name}${stage.cut ? " cut" : ""}`, style: { left: percent(stage.left), width: percent(stage.right - stage.left) } })),
        el("span", { class: "gantt-more" }, (details[stage.name] || [])
          .filter(([, seconds]) => seconds === null || seconds > 0)
          .map(([name, seconds]) => (seconds === null ? name : `${name} ${duration(seconds)}`)).join(" · "))),
      el("td", { class: "gantt-time" }, stage.text)))));
}

const percent = (share) => `${(100 * share).toFixed(3)}%`;
