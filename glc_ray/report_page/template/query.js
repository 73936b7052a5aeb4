// Which videos are shown, in which order: as few files of rows as can be are read for it.

const PER_PAGE = 24;
const AT_ONCE = 4;

const SORTS = {
  newest: { label: "Newest first" },
  oldest: { label: "Oldest first" },
  name: { label: "Name", key: (row) => row.name || "" },
  line: { label: "Line of the catalog", key: (row) => row.catalog_line || Infinity },
  longest: { label: "Longest time", key: (row) => -(row.total_s || 0) },
  change: { label: "Most change", key: (row) => -score(row, "change") },
  still: { label: "Least change", key: (row) => (row.scores ? row.scores.change : Infinity) },
  drift: { label: "Most drift", key: (row) => -score(row, "drift") },
  seam: { label: "Strongest seam", key: (row) => -score(row, "seam") },
};

const score = (row, name) => (row.scores && row.scores[name] !== undefined ? row.scores[name] : -1);

// Files that may have a video of these states, in the order of the sort.
function filesFor(view) {
  const files = data.index.files
    .map(([count, , counts], file) => ({ file, count: view.states.size ? sum([...view.states].map((state) => counts[state] || 0)) : count }))
    .filter(({ count }) => count > 0);
  return view.sort === "newest" ? files.reverse() : files;
}

const sum = (values) => values.reduce((total, value) => total + value, 0);

function matches(row, view, words) {
  if (view.states.size && !view.states.has(row.status)) return false;
  if (!words.length) return true;
  row.text ??= [row.prompt, row.name, row.seed, row.error, row.method, row.model, row.id].join(" ").toLowerCase();
  return words.every((word) => row.text.includes(word));
}

// The videos of a page of a view.
//   onProgress(share)  while more than a page's files must be read
//   isCurrent()        whether anybody still waits for it
// Returns {rows, total, start}.
async function find(view, onProgress, isCurrent) {
  const words = view.search.toLowerCase().split(/\s+/).filter(Boolean);
  const files = filesFor(view);
  const inOrder = (rows) => (view.sort === "newest" ? rows.toReversed() : rows);
  if (!words.length && !SORTS[view.sort].key) {
    const total = sum(files.map(({ count }) => count));
    const start = startOf(view, total);
    const rows = [];
    let at = 0;
    for (const { file, count } of files) {
      if (at + count > start && at < start + PER_PAGE) {
        const found = inOrder((await loadRows(file)).filter((row) => matches(row, view, words)));
        rows.push(...found.slice(Math.max(start - at, 0), start + PER_PAGE - at));
      }
      at += count;
    }
    return { rows, total, start };
  }
  const found = files.map(() => []);
  let next = 0;
  let done = 0;
  const work = async () => {
    while (next < files.length && isCurrent()) {
      const at = next;
      next += 1;
      const rows = await loadRows(files[at].file);
      found[at] = inOrder(rows.filter((row) => matches(row, view, words)));
      done += 1;
      onProgress(done / files.length);
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, work));
  const all = found.flat();
  const key = SORTS[view.sort].key;
  if (key) {
    const keyed = all.map((row) => [key(row), row]);
    keyed.sort(([a], [b]) => (typeof a === "string" ? a.localeCompare(b, "en", { numeric: true }) : a === b ? 0 : a - b));
    keyed.forEach(([, row], at) => { all[at] = row; });
  }
  const start = startOf(view, all.length);
  return { rows: all.slice(start, start + PER_PAGE), total: all.length, start };
}

// The first video of the view's page, or of the last page where there are fewer.
const startOf = (view, total) => Math.min(view.page, Math.max(Math.ceil(total / PER_PAGE) - 1, 0)) * PER_PAGE;

// A video by its id, wherever it is.
async function findById(id) {
  for (const { file } of filesFor({ states: new Set(), sort: "newest" })) {
    const row = (await loadRows(file)).find((one) => one.id === id);
    if (row) return row;
  }
  return null;
}
