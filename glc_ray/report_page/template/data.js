// The data: scripts that call glcReport with JSON, for a page from file:// may read nothing else.

const FORMAT = 1;
const data = { index: null, files: new Map(), videos: new Map(), pipelines: new Map() };

globalThis.glcReport = {
  index: (value) => { data.index = value; },
  rows: (value) => { data.files.set(value.file, value.rows); },
  video: (value) => { data.videos.set(value.id, value); },
  pipeline: (value) => { data.pipelines.set(value.hash, value.pipeline); },
};

const loading = new Map();

// Run a script of data once; a question mark and what follows it keep old copies away.
function load(name, version) {
  const key = `${name}?${version}`;
  if (!loading.has(key)) {
    loading.set(key, new Promise((resolve, reject) => {
      const script = el("script", { src: `data/${name}?v=${version}` });
      script.onload = () => { script.remove(); resolve(); };
      script.onerror = () => {
        script.remove();
        loading.delete(key);
        reject(new Error(`data/${name} cannot be read`));
      };
      document.head.append(script);
    }));
  }
  return loading.get(key);
}

const versions = new Map();

// Load the index; rows of files that have changed are forgotten. Returns whether anything changed.
async function loadIndex() {
  const before = data.index;
  const moment = Date.now();
  await load("index.js", moment);
  loading.delete(`index.js?${moment}`);
  if (data.index.format !== FORMAT) throw new Error("the data are another version's: make the report again");
  data.index.files.forEach(([, version], file) => {
    if (versions.get(file) !== version) data.files.delete(file);
  });
  return !before || before.written_at !== data.index.written_at;
}

// The rows of a file.
async function loadRows(file) {
  const [, version] = data.index.files[file];
  if (!data.files.has(file)) {
    const name = `rows-${String(file).padStart(5, "0")}.js`;
    loading.delete(`${name}?${version}`);
    await load(name, version);
    versions.set(file, version);
  }
  return data.files.get(file);
}

// What a video has beyond its row; empty where that is nothing.
async function loadVideo(row) {
  if (!row.has_video_file) return {};
  await load(`videos/${row.id}.js`, row.finished_at);
  return data.videos.get(row.id);
}

// The whole specification of a video, or null.
async function loadSpecification(row, texts) {
  if (!row.pipeline) return null;
  await load(`pipelines/${row.pipeline}.js`, 1);
  return {
    prompt: texts.prompt || row.prompt || "",
    ...row.own,
    seed: row.seed,
    pipeline: data.pipelines.get(row.pipeline),
  };
}
