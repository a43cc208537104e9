// Puts the page, the runtime and the models into a folder that any web server can give away as it is: node build.js dist

import { execFileSync } from "node:child_process";
import { copyFileSync, existsSync, mkdirSync } from "node:fs";

const folder = process.argv[2] ?? "dist";
const runtime = "node_modules/onnxruntime-web/dist";
const parts = [
  "ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm",
  "ort.webgpu.min.mjs", "ort-wasm-simd-threaded.asyncify.mjs", "ort-wasm-simd-threaded.asyncify.wasm",
];
const page = ["index.html", "page.js", "client.js", "worker.js", "separate.js", "wordpiece.js"];

mkdirSync(folder, { recursive: true });
for (const file of parts) copyFileSync(`${runtime}/${file}`, `${folder}/${file}`);
for (const file of page) copyFileSync(file, `${folder}/${file}`);
if (!existsSync(`${folder}/film.onnx`)) {
  execFileSync(process.env.PYTHON ?? "python3", ["models.py", folder], { stdio: "inherit" });
}
