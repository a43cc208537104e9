// The same result elsewhere: the command line, the lines of Python, and a question as a file.

import * as api from "./api.js";

const shell = (text) => (/^[\w./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);
const several = (value) => (value === undefined || value === null ? [] : [value].flat());
const span = ([start, stop]) => `${start ?? ""}-${stop ?? ""}`;
const quoted = (text) => JSON.stringify(text);

/** Return the name of each recording that is an example. */
async function clipNames(queries) {
  const sounds = queries.flatMap((query) => [query, ...several(query.exclude)]);
  const ids = [...new Set(sounds.map((sound) => sound.audio).filter(Boolean))];
  const named = ids.map(async (id) => [id, (await api.recording(id).catch(() => ({ name: "example.wav" }))).name]);
  return Object.fromEntries(await Promise.all(named));
}

/** Return the options of a separation that are not the defaults, by their names in Python. */
function optionsOf(answer) {
  return Object.fromEntries(
    ["backend", "query_backend", "encoder"]
      .filter((name) => answer.options[name])
      .map((name) => [name, answer.options[name]]),
  );
}

/** Return the command for the terminal; where there are examples among several questions, a command for each. */
export async function commandOf(recording, answer) {
  const queries = answer.query || [];
  const names = await clipNames(queries);
  const command = (asked, folder) => commandFor(recording, asked, names, optionsOf(answer), folder);
  if (queries.length < 2 || !queries.some((query) => query.audio || query.example_range))
    return command(queries, "out/");
  return queries.map((query, index) => command([query], `out/${index + 1}/`)).join("\n");
}

/** Return the name that a text needs which holds "=": what is before the first one would be read as its name. */
const nameFor = (text) => (text.includes("=") ? `${text.replace(/[^\w -]+/g, " ").trim() || "sound"}=` : "");

/** What all questions share is given once, as the command line takes it. */
function commandFor(recording, queries, names, options, folder) {
  const words = ["unisep", "separate", shell(recording.name)];
  for (const query of queries) {
    const name = /^[\w -]+$/.test(query.name || "") ? `${query.name}=` : "";
    for (const text of several(query.text)) words.push("-q", shell((name || nameFor(text)) + text));
    if (query.audio) words.push("--query-audio", shell(name + names[query.audio]));
    if (query.example_range) words.push("--example-range", span(query.example_range));
  }
  for (const item of several(queries[0]?.exclude)) {
    if (item.audio) words.push("--exclude-audio", shell(names[item.audio]));
    else words.push("--exclude", shell(item.text || item));
  }
  if (queries[0]?.time_range) words.push("--time-range", span(queries[0].time_range));
  for (const [name, value] of Object.entries(options)) words.push(`--${name.replace("_", "-")}`, shell(value));
  return `${words.join(" ")} -o ${folder}`;
}

function pythonQuery(query, names) {
  if (Object.keys(query).join() === "text") return quoted(query.text);
  const sound = (item) => (item.audio ? `{"audio": ${quoted(names[item.audio])}}` : quoted(item.text || item));
  const parts = Object.entries(query).map(([key, value]) => {
    if (key === "audio") return `"audio": ${quoted(names[value])}`;
    if (key === "exclude") return `"exclude": [${several(value).map(sound).join(", ")}]`;
    if (key.endsWith("range")) return `"${key}": (${value.map((seconds) => seconds ?? "None").join(", ")})`;
    return `"${key}": ${JSON.stringify(value)}`;
  });
  return `{${parts.join(", ")}}`;
}

/** Return the lines of Python. */
export async function pythonOf(recording, answer) {
  const names = await clipNames(answer.query || []);
  const queries = (answer.query || []).map((query) => pythonQuery(query, names));
  const asked = queries.length ? `, query=${queries.length > 1 ? `[${queries.join(", ")}]` : queries[0]}` : "";
  const options = Object.entries(optionsOf(answer))
    .map(([name, value]) => `${name}=${quoted(value)}`)
    .join(", ");
  const call = `Separator(${options}).separate(${quoted(recording.name)}${asked})`;
  return `from unisep import Separator\n\nresult = ${call}\nresult.save("out/")\n`;
}

/** Return a query's vector as the safetensors file that `Embedding.load` reads: length, header, numbers. */
export function embeddingFile({ vector, space, provenance }) {
  const header = JSON.stringify({
    __metadata__: { space, provenance: JSON.stringify(provenance) },
    embedding: { dtype: "F32", shape: [vector.length], data_offsets: [0, 4 * vector.length] },
  });
  const bytes = new TextEncoder().encode(header);
  const padded = new Uint8Array(Math.ceil(bytes.length / 8) * 8).fill(32);
  padded.set(bytes);
  const length = new DataView(new ArrayBuffer(8));
  length.setBigUint64(0, BigInt(padded.length), true);
  return new Blob([length, padded, new Float32Array(vector)], { type: "application/octet-stream" });
}
