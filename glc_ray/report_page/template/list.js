// The list: a card for each video of the page.

function card(row, href) {
  const facts = [
    row.num_frames ? counted(row.num_frames, "frame") : null,
    row.num_frames && row.fps ? duration(row.num_frames / row.fps) : null,
    row.width ? `${row.width} × ${row.height}` : null,
    row.method || null,
    `seed ${row.seed}`,
  ].filter(Boolean);
  return el("li", { class: "card", "data-id": row.id },
    el("a", { class: "card-link", href, "aria-describedby": `facts-${row.id}` },
      preview(row),
      el("span", { class: "card-title", dir: "auto" }, title(row))),
    el("div", { class: "card-body", id: `facts-${row.id}` },
      el("p", {}, state(row), " ", facts.join(" · ")),
      row.error ? el("p", { class: `error ${stateClass(row)}`, dir: "auto" }, row.error) : null,
      row.scores ? el("div", { class: "card-scores" },
        spark(row.scores.curve),
        el("p", {}, `change ${number(row.scores.change, 1)} · drift ${number(row.scores.drift, 3)}`
          + (row.scores.seam === undefined ? "" : ` · seam ${number(row.scores.seam, 2)}`))) : null,
      el("div", { class: "card-time" }, strip(row), row.total_s ? el("p", {}, duration(row.total_s)) : null)));
}

const title = (row) => row.prompt || row.name || (row.catalog_line ? `Line ${row.catalog_line}` : row.id);

function state(row) {
  return el("span", { class: `state ${stateClass(row)}` }, row.status);
}

const stateClass = (row) => (STATES.includes(row.status) ? row.status : "");

const STATES = ["done", "failed", "cancelled", "invalid"];

function preview(row) {
  const shape = row.width && row.height ? { aspectRatio: `${3 * row.width} / ${2 * row.height}` } : { aspectRatio: "9 / 4" };
  const path = row.preview || row.contact_sheet;
  if (!path) return null;
  const image = el("img", {
    src: fileUrl(path), alt: `${row.preview ? "Six frames" : "Contact sheet"} of ${row.name}`, loading: "lazy", decoding: "async",
    onerror: () => { image.replaceWith(el("span", { class: "picture-gone" }, "no picture")); },
  });
  return el("span", { class: "picture", style: shape }, image);
}

// The pager: previous, next, and where one is.
function pager(total, start, goTo) {
  const pages = Math.ceil(total / PER_PAGE);
  const page = start / PER_PAGE;
  const button = (label, target, enabled) =>
    el("button", { type: "button", disabled: !enabled, onclick: () => goTo(target) }, label);
  const choice = el("input", {
    type: "number", min: 1, max: pages, value: page + 1, inputmode: "numeric", "aria-label": `Page of ${pages}`,
    onchange: () => goTo(Math.min(Math.max(Math.round(Number(choice.value) || 1), 1), pages) - 1),
  });
  return [
    button("First", 0, page > 0),
    button("Previous", page - 1, page > 0),
    el("span", { class: "page-choice" }, choice, ` of ${number(pages)}`),
    button("Next", page + 1, page + 1 < pages),
    button("Last", pages - 1, page + 1 < pages),
  ];
}

// The run: its state, what waits, and the videos in work.
function runPanel(run, written, now) {
  const silent = now - written;
  const inWork = run.in_work || [];
  const isOn = run.state === "running";
  const heading = { running: "Rendering", done: "Finished", stopped: "Stopped", failed: "Failed", died: "Died" }[run.state] || run.state;
  const workers = run.workers || {};
  const facts = [
    `${isOn ? "since" : "began"} ${time(run.started_at)}`,
    isOn && run.num_queued ? `${number(run.num_queued)} queued` : null,
    isOn && workers.workers ? `${number(workers.busy)} of ${counted(workers.workers, "worker")} busy` : null,
    isOn && silent > 90 ? `last sign ${duration(silent)} ago` : null,
  ].filter(Boolean);
  return [
    el("p", { class: "run-state" }, el("strong", { class: isOn ? "live" : "" }, heading), " ", facts.join(" · ")),
    isOn && inWork.length ? el("ul", { class: "in-work" }, inWork.slice(0, 12).map((video) => el("li", {},
      el("bdi", { class: "in-work-name" }, video.name),
      el("progress", { max: 1, value: fractionOf(video), "aria-label": `${video.name}: ${video.state}` }),
      el("span", {}, progressWords(video)),
      video.preview ? el("a", { href: fileUrl(video.preview) }, "preview") : null))) : null,
    isOn && inWork.length > 12 ? el("p", { class: "quiet" }, `and ${inWork.length - 12} more`) : null,
  ].filter(Boolean);
}

function fractionOf(video) {
  if (video.state === "decoding") return video.num_frames ? video.frames_done / video.num_frames : 0;
  if (!video.num_steps) return 0;
  const ofStep = video.num_windows ? video.windows_done / video.num_windows : 0;
  return Math.min((video.steps_done + ofStep) / video.num_steps, 1);
}

function progressWords(video) {
  if (video.state === "denoising") return `denoising, step ${Math.min(video.steps_done + 1, video.num_steps)} of ${video.num_steps}`;
  if (video.state === "decoding") return `decoding, frame ${number(video.frames_done)} of ${number(video.num_frames)}`;
  return video.state;
}
