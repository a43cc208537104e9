// The server's routes, as functions. Errors are those of the server, in its words.

import { TEXTS } from "./texts.js";

export class ApiError extends Error {
  constructor(status, type, message) {
    super(message);
    this.status = status;
    this.type = type;
  }
}

async function request(method, path, body) {
  const options = { method, headers: {} };
  if (body !== undefined) {
    options.body = JSON.stringify(body);
    options.headers["Content-Type"] = "application/json";
  }
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new ApiError(0, "Unreachable", TEXTS.unreachable);
  }
  if (!response.ok) throw errorOf(response.status, await response.text());
  return response;
}

function errorOf(status, text) {
  try {
    const { type, message } = JSON.parse(text).error;
    return new ApiError(status, type, message);
  } catch {
    return new ApiError(status, "ServerError", `${status}: ${text.slice(0, 200)}`);
  }
}

const json = async (method, path, body) => (await request(method, path, body)).json();

export const session = () => json("GET", "/v1/session");
export const logIn = (token) => json("POST", "/v1/session", { token });
export const concepts = () => json("GET", "/v1/concepts");
export const models = () => json("GET", "/v1/models");
export const recording = (id) => json("GET", `/v1/recordings/${id}`);
export const deleteRecording = (id) => request("DELETE", `/v1/recordings/${id}`);
export const separate = (recording, body) => json("POST", "/v1/separations", { recording: recording.id, ...body });
export const separation = (id) => json("GET", `/v1/separations/${id}`);
export const cancel = (id) => json("DELETE", `/v1/separations/${id}`);
export const deleteSeparation = (id) => request("DELETE", `/v1/separations/${id}`);
export const embed = (body) => json("POST", "/v1/embeddings", body);
export const recommend = (text) => json("GET", `/v1/recommendations?text=${encodeURIComponent(text)}`);
export const bytes = async (path) => (await request("GET", path)).arrayBuffer();
export const peaks = (path, level, start, stop) => json("GET", `${path}?level=${level}&start=${start}&stop=${stop}`);

export const audioPath = (id, format) => `/v1/recordings/${id}/audio?format=${format}`;
export const archivePath = (id, format) => `/v1/separations/${id}/archive?format=${format}`;
export const filePath = (file, format) => `${file.url}?format=${format}`;

/** Upload a file; `onProgress` is told the fraction. An XMLHttpRequest, as fetch knows no progress of uploads. */
export function upload(file, name, onProgress = () => {}) {
  return new Promise((resolve, reject) => {
    const form = new FormData();
    form.append("file", file, name);
    const xhr = new XMLHttpRequest();
    xhr.open("POST", "/v1/recordings");
    xhr.upload.onprogress = (event) => event.lengthComputable && onProgress(event.loaded / event.total);
    xhr.onload = () =>
      xhr.status === 201 ? resolve(JSON.parse(xhr.responseText)) : reject(errorOf(xhr.status, xhr.responseText));
    xhr.onerror = () => reject(new ApiError(0, "Unreachable", TEXTS.unreachable));
    xhr.send(form);
  });
}

const ENDED = ["done", "failed", "cancelled"];
const MAX_STREAMS = 2; // browsers keep six connections to a server in all; the rest wait in line, as do their jobs
const line = [];
let nStreams = 0;

function nextStream() {
  while (nStreams < MAX_STREAMS && line.length) {
    nStreams++;
    line.shift()();
  }
}

/** Follow a separation until its end. `onEvent` gets each event; returns a function that stops listening. */
export function watch({ id }, onEvent, onEnd) {
  let source = null;
  const stop = () => {
    if (source) nStreams--;
    else if (line.includes(open)) line.splice(line.indexOf(open), 1);
    source?.close();
    source = null;
    nextStream();
  };
  const end = async () => {
    stop();
    onEnd(await separation(id).catch((error) => ({ state: "failed", error })));
  };
  const open = () => {
    source = new EventSource(`/v1/separations/${id}/events`);
    source.onmessage = (message) => {
      const event = JSON.parse(message.data);
      if (ENDED.includes(event.state)) end();
      else onEvent(event);
    };
    source.onerror = () => source?.readyState === EventSource.CLOSED && end(); // else the browser comes again by itself
  };
  line.push(open);
  nextStream();
  return stop;
}
