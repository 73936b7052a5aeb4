// What is shown is in the address, so that it can be kept, sent and gone back from.

const REFRESH_MS = 15000;

const view = { search: "", states: new Set(), sort: "newest", page: 0, video: "" };
let shown = { rows: [], total: 0, start: 0 };
let asked = 0;

function readAddress() {
  const given = new URLSearchParams(location.hash.slice(1));
  view.search = given.get("q") || "";
  view.states = new Set((given.get("state") || "").split(",").filter(Boolean));
  view.sort = Object.hasOwn(SORTS, given.get("sort")) ? given.get("sort") : "newest";
  view.page = Math.max(Math.floor(Number(given.get("page")) || 1), 1) - 1;
  view.video = given.get("video") || "";
}

function address(changes = {}) {
  const wanted = { ...view, ...changes };
  const given = new URLSearchParams();
  if (wanted.search) given.set("q", wanted.search);
  if (wanted.states.size) given.set("state", [...wanted.states].join(","));
  if (wanted.sort !== "newest") given.set("sort", wanted.sort);
  if (wanted.page) given.set("page", wanted.page + 1);
  if (wanted.video) given.set("video", wanted.video);
  return `#${given}`;
}

// Change what is shown; typing replaces the address instead of adding one for every letter.
function change(changes, replace = false) {
  const target = address(changes);
  if (replace) history.replaceState(null, "", target);
  else history.pushState(null, "", target);
  route();
}

function route() {
  readAddress();
  showControls();
  showList().then(openVideo);
}

let listed = "";

async function showList() {
  // Opening and closing a video leaves the list as it is.
  const wanted = address({ video: "" }) + data.index.written_at;
  if (wanted === listed) return;
  asked += 1;
  const mine = asked;
  const isCurrent = () => mine === asked;
  const found = byId("found");
  try {
    const progress = (share) => {
      if (isCurrent() && share < 1) found.textContent = `Looking through the videos: ${Math.round(100 * share)}%`;
    };
    const result = await find(view, progress, isCurrent);
    if (!isCurrent()) return;
    shown = result;
    listed = wanted;
  } catch (error) {
    if (isCurrent()) found.textContent = `${error.message}.`;
    return;
  }
  found.textContent = wordsOf(shown);
  const list = byId("videos");
  const focused = document.activeElement?.closest?.("[data-id]")?.dataset.id;
  list.replaceChildren(...shown.rows.map((row) => card(row, address({ video: row.id }))));
  if (focused) list.querySelector(`[data-id="${CSS.escape(focused)}"] a`)?.focus({ preventScroll: true });
  const pages = byId("pages");
  pages.hidden = shown.total <= PER_PAGE;
  pages.replaceChildren(...(pages.hidden ? [] : pager(shown.total, shown.start, (page) => {
    change({ page });
    window.scrollTo({ top: 0 });
    list.focus({ preventScroll: true });
  })));
}

function wordsOf({ total, start, rows }) {
  if (!data.index.num_rows) return "No video has come to its end yet.";
  if (!total) return "No video is like that.";
  const range = total > rows.length ? `${number(start + 1)} to ${number(start + rows.length)} of ` : "";
  return `${range}${counted(total, "video")}`;
}

function showControls() {
  const search = byId("search");
  if (search.value !== view.search) search.value = view.search;
  byId("sort").value = view.sort;
  const states = byId("states");
  const focused = document.activeElement?.dataset?.state;
  const chips = STATES.filter((name) => data.index.counts[name] || view.states.has(name)).map((name) =>
    el("button", {
      type: "button", class: "chip", "aria-pressed": view.states.has(name) ? "true" : "false", "data-state": name,
      onclick: () => {
        const wanted = new Set(view.states);
        if (!wanted.delete(name)) wanted.add(name);
        change({ states: wanted, page: 0 });
      },
    }, name, " ", el("span", { class: "count" }, number(data.index.counts[name] || 0))));
  states.replaceChildren(states.querySelector("legend"), ...chips);
  if (focused) states.querySelector(`[data-state="${focused}"]`)?.focus();
}

async function openVideo() {
  const dialog = byId("video");
  if (!view.video) {
    if (dialog.open) dialog.close();
    return;
  }
  if (dialog.open && dialog.dataset.id === view.video) return;
  const at = shown.rows.findIndex((row) => row.id === view.video);
  const row = at >= 0 ? shown.rows[at] : await findById(view.video).catch(() => null);
  if (!row) {
    change({ video: "" }, true);
    return;
  }
  const to = (other) => (other ? () => change({ video: other.id }, true) : null);
  dialog.dataset.id = row.id;
  if (!dialog.open) dialog.showModal();
  const near = (offset) => (at >= 0 ? shown.rows[at + offset] : undefined);
  await showVideo(dialog, row, { previous: to(near(-1)), next: to(near(1)), close: () => dialog.close() });
}

function closed() {
  const dialog = byId("video");
  const id = dialog.dataset.id;
  dialog.replaceChildren();
  delete dialog.dataset.id;
  if (view.video) change({ video: "" }, true);
  document.querySelector(`[data-id="${CSS.escape(id || "")}"] a`)?.focus();
}

function keys(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const isTyping = /^(input|select|textarea|video)$/i.test(event.target.tagName);
  if (byId("video").open) {
    const label = { ArrowLeft: "Previous video", ArrowRight: "Next video" }[event.key];
    if (label && !isTyping) document.querySelector(`#video [aria-label="${label}"]`).click();
  } else if (event.key === "/" && !isTyping) {
    event.preventDefault();
    byId("search").focus();
  }
}

function showRun() {
  const { run, output, written_at: written, version } = data.index;
  byId("where").replaceChildren(el("bdi", {}, output), ` · updated ${time(written)}`);
  byId("version").textContent = version;
  const panel = byId("run");
  panel.hidden = !run;
  if (run) panel.replaceChildren(...runPanel(run, written, Date.now() / 1000));
}

async function refresh() {
  if (document.visibilityState !== "visible" || data.index?.run?.state !== "running") return;
  const hasChanged = await loadIndex().catch(() => false);
  showRun();
  if (hasChanged) showControls();
  // Also what could not be read the last time; a list that is shown stays as it is.
  if (!byId("video").open) await showList();
}

async function begin() {
  byId("sort").append(...Object.entries(SORTS).map(([name, { label }]) => el("option", { value: name }, label)));
  byId("sort").addEventListener("change", (event) => change({ sort: event.target.value, page: 0 }));
  byId("search").addEventListener("input", (event) => change({ search: event.target.value, page: 0 }, true));
  byId("controls").addEventListener("submit", (event) => event.preventDefault());
  byId("video").addEventListener("close", closed);
  document.addEventListener("keydown", keys);
  document.querySelector(".skip").addEventListener("click", (event) => {
    event.preventDefault();
    byId("videos").focus();
  });
  try {
    await loadIndex();
  } catch (error) {
    byId("found").textContent = `${error.message}.`;
    return;
  }
  window.addEventListener("popstate", route);
  showRun();
  route();
  setInterval(refresh, REFRESH_MS);
}

begin();
