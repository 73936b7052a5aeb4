// One video: it plays, its scores follow it, and what it was made of.

const PLAYED = /\.(mp4|webm)$/i;
const SEEN = /\.(webp|gif|png)$/i;

// Fill the dialog with a video.
//   go      {previous, next}: what shows the neighbours, or null; close
async function showVideo(dialog, row, go) {
  const body = el("div", { class: "video-body" });
  const heading = el("h2", { id: "video-title", dir: "auto", tabindex: "-1" }, title(row));
  dialog.replaceChildren(
    el("div", { class: "video-bar" },
      el("button", { type: "button", class: "close", onclick: go.close }, "Back"),
      el("span", { class: "video-steps" },
        el("button", { type: "button", disabled: !go.previous, onclick: go.previous, "aria-label": "Previous video" }, "←"),
        el("button", { type: "button", disabled: !go.next, onclick: go.next, "aria-label": "Next video" }, "→"))),
    heading, el("p", { class: "video-name" }, state(row), " ", el("bdi", {}, row.name || "")), body);
  const shown = player(row);
  const time = gantt(row);
  const scores = el("section", { hidden: true }, el("h3", {}, "Scores"));
  const evaluation = el("section", { hidden: true }, el("h3", {}, "Evaluation"));
  const specification = el("section", { hidden: true }, el("h3", {}, "Specification"));
  const error = el("p", { class: "error whole", dir: "auto", hidden: !row.error }, row.error || "");
  body.append(...[
    error,
    shown.element,
    factsOf(row),
    scores,
    evaluation,
    time ? el("section", {}, el("h3", {}, "Time"), time) : null,
    sheet(row.contact_sheet, "Contact sheet", `Contact sheet of ${row.name}: frames from its beginning to its end`),
    sheet(row.preview_sheet, "Noise to picture", `Preview sheet of ${row.name}: what it was at some steps of its denoising`),
    specification,
  ].filter(Boolean));
  heading.focus({ preventScroll: true });
  dialog.scrollTop = 0;
  const more = await loadVideo(row).catch(() => ({}));
  if (more.prompt) heading.textContent = more.prompt;
  if (more.error) error.textContent = more.error;
  if (more.scores) fillScores(scores, more.scores, shown);
  if (more.evaluation) fillEvaluation(evaluation, more.evaluation, row, shown);
  await fillSpecification(specification, row, more);
}

// {element, video}: what plays, or what says why nothing does.
function player(row) {
  if (!row.path) return { element: el("p", { class: "notice" }, "There is no video of it.") };
  const url = fileUrl(row.path);
  const link = () => el("a", { href: url }, row.path.split("/").pop());
  if (SEEN.test(row.path)) {
    return { element: el("div", { class: "stage-box" }, el("img", { src: url, alt: `The video ${row.name}` })) };
  }
  if (!PLAYED.test(row.path)) {
    return { element: el("p", { class: "notice" }, "Browsers do not play this format: ", link()) };
  }
  const video = el("video", { src: url, controls: true, loop: true, playsinline: true, preload: "metadata",
    "aria-label": `Video: ${row.name}`, style: { aspectRatio: `${row.width || 16} / ${row.height || 9}` } });
  const box = el("div", { class: "stage-box" }, video);
  video.addEventListener("error", () => {
    box.replaceWith(el("p", { class: "notice" }, "This browser cannot play the video: ", link()));
  });
  return { element: box, video };
}

function factsOf(row) {
  const facts = [
    ["Length", row.num_frames ? `${counted(row.num_frames, "frame")}${row.fps ? `, ${duration(row.num_frames / row.fps)} at ${number(row.fps, 3)} per second` : ""}` : null],
    ["Size", row.width ? `${row.width} × ${row.height}, ${bytes(row.size_bytes || 0)}` : null],
    ["Seed", row.seed],
    ["Model and method", row.model ? `${row.model}, ${row.method}` : null],
    ["Windows", row.num_windows ? `${counted(row.num_windows, "forward")}${row.anchor_forwards ? `, ${number(row.anchor_forwards)} more of anchors` : ""}` : null],
    ["Finished", row.finished_at ? time(row.finished_at) : null],
    ["Catalog", row.catalog_line ? `line ${row.catalog_line}${row.priority ? `, priority ${row.priority}` : ""}` : null],
    ["Went on at", row.resumed_at_step ? `step ${row.resumed_at_step}` : null],
    ["Halved batches", row.halved_batches ? number(row.halved_batches) : null],
  ].filter(([, value]) => value);
  return el("dl", { class: "fact-list" }, facts.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))));
}

function sheet(path, title, words) {
  if (!path) return null;
  const url = fileUrl(path);
  return el("section", {}, el("h3", {}, title),
    el("a", { class: "sheet", href: url },
      el("img", { src: url, loading: "lazy", decoding: "async", alt: words })));
}

function fillScores(section, scores, shown) {
  const frames = scores.drift.length;
  const common = { frames, fps: scores.fps };
  const plots = [
    plot({ ...common, values: scores.change, first: 1, marks: scores.window_borders, title: "Change", unit: "", digits: 2 }),
    plot({ ...common, values: scores.drift, first: 0, anchor: scores.anchor_frames, title: "Drift", unit: "", digits: 4 }),
  ].filter((one, at) => at || scores.change.length);
  const { seam } = scores.summary;
  section.append(...plots, el("p", { class: "quiet" },
    scores.window_borders.length ? "Upright lines: where windows begin or end; the stronger, the more steps have it there. " : "",
    seam === null ? "" : `Seam ${number(seam, 2)}: change at the borders that every step has, by the change elsewhere. `,
    "Shaded: the clip that drift is measured from."));
  section.hidden = false;
  follow(plots, shown, frames, scores.fps);
}

// What `glc-ray evaluate` found: numbers first, and curves for who opens them.
function fillEvaluation(section, evaluation, row, shown) {
  const values = Object.entries(evaluation.values);
  if (!values.length) return;
  section.append(el("dl", { class: "fact-list" },
    values.map(([name, value]) => el("div", {}, el("dt", {}, name.replaceAll("_", " ")), el("dd", {}, significant(value))))));
  const frames = evaluation.num_frames;
  const fps = row.fps || 8;
  const curves = Object.entries(evaluation.curves).filter(([, curve]) => curve.values.length > 1);
  if (curves.length && frames) {
    const plots = curves.map(([name, curve]) => plot({
      values: curve.values, first: curve.first, step: curve.step, frames, fps,
      title: name.replaceAll("_", " ") + (name === "temporal_flickering" ? ": change" : name.startsWith("motion_smoothness") ? ": error" : ""),
      unit: "", digits: 3 }));
    section.append(el("details", {}, el("summary", {}, "Frame by frame"), ...plots));
    follow(plots, shown, frames, fps);
  }
  section.hidden = false;
}

// Plots show the frame that plays or is pointed at, and a click plays from there.
function follow(plots, { video }, frames, fps) {
  const show = (frame) => plots.forEach((one) => one.show(frame));
  if (video) {
    const next = () => {
      show(Math.min(Math.floor(video.currentTime * fps + 1e-3), frames - 1));
      if (!video.paused && video.isConnected) requestAnimationFrame(next);
    };
    for (const event of ["play", "seeked"]) video.addEventListener(event, next);
  }
  for (const one of plots) {
    one.picture.addEventListener("pointermove", (event) => show(one.frameAt(event)));
    one.picture.addEventListener("click", (event) => {
      if (video) video.currentTime = (one.frameAt(event) + 0.5) / fps;
    });
  }
}

async function fillSpecification(section, row, texts) {
  const whole = await loadSpecification(row, texts).catch(() => null);
  if (!whole) return;
  // The seed as it is: JSON holds it whole, JavaScript's numbers would not.
  const text = JSON.stringify(whole, null, 2).replace(/"seed": "(\d+)",\n  "pipeline"/, '"seed": $1,\n  "pipeline"');
  const link = el("a", { href: `data:application/json;charset=utf-8,${encodeURIComponent(text)}`, download: `${row.name || row.id}.json` }, "Download as JSON");
  const versions = row.versions ? Object.entries(parsed(row.versions)).map(([name, version]) => `${name} ${version}`).join(" · ") : "";
  section.append(
    el("p", { class: "quiet" }, link, versions ? ` · ${versions}` : ""),
    el("details", {}, el("summary", {}, "Show it here"), el("pre", { tabindex: "0" }, text)));
  section.hidden = false;
}

function parsed(text) {
  try {
    return JSON.parse(text) || {};
  } catch {
    return {};
  }
}
