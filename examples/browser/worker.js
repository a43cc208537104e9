// Keeps the models, and separates without holding up the page.

import { Separator } from "./separate.js";

const loading = Separator.load();

self.onmessage = async ({ data: { channels, texts } }) => {
  try {
    const separator = await loading;
    self.postMessage({ progress: 0 });
    const result = await separator.separate(channels, texts, (progress) => self.postMessage({ progress }));
    self.postMessage({ result });
  } catch (error) {
    self.postMessage({ error: error.message || String(error) });
  }
};
