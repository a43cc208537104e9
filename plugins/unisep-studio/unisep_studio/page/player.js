// Plays all lanes from one clock: one AudioContext, one source for each lane, all started at one context time.

const AHEAD_SECONDS = 0.06; // sources are started a little ahead, so that none comes late
const RAMP_SECONDS = 0.012;
export const MIXTURE = "mixture";

/** Build source -> gain -> pan for one track. What is mono goes to both sides at full level, as in the file. */
function channelStrip(context, track, gain, destination) {
  const source = new AudioBufferSourceNode(context, { buffer: track.buffer });
  const volume = new GainNode(context, { gain });
  const pan = new StereoPannerNode(context, { pan: track.pan, channelCount: 2, channelCountMode: "explicit" });
  source.connect(volume).connect(pan).connect(destination);
  return { source, volume, pan };
}

export class Player extends EventTarget {
  tracks = new Map();
  isPlaying = false;
  isOriginal = false; // A/B: the mixture instead of the lanes
  audition = null; // the one lane that is listened to
  loop = null; // [start, stop] in seconds
  seconds = 0;
  #startTime = 0;
  #offset = 0;

  /** Begin with a new recording. */
  open(seconds, rateHz) {
    this.stop();
    this.tracks.clear();
    this.context?.close();
    try {
      this.context = new AudioContext({ sampleRate: rateHz });
    } catch {
      this.context = new AudioContext(); // a rate that this browser does not play: it converts
    }
    this.analyser = new AnalyserNode(this.context, { fftSize: 2048 });
    this.analyser.connect(this.context.destination);
    Object.assign(this, { seconds, isOriginal: false, audition: null, loop: null });
    this.#offset = 0;
  }

  decode(data) {
    return this.context.decodeAudioData(data);
  }

  /** Add a lane; one that comes while others play joins them in step. `scale` undoes the gain of a file. */
  add(id, buffer, { scale = 1, isMuted = false } = {}) {
    this.tracks.set(id, { id, buffer, scale, volume: 1, pan: 0, isMuted, isSolo: false, nodes: null });
    if (this.isPlaying) this.#startTrack(this.tracks.get(id), this.#onGrid(this.context.currentTime + AHEAD_SECONDS));
    this.#changed();
  }

  remove(id) {
    this.#stopTrack(this.tracks.get(id));
    this.tracks.delete(id);
    if (this.audition === id) this.audition = null;
    this.#changed();
  }

  set(id, values) {
    const track = this.tracks.get(id);
    if (!track) return;
    Object.assign(track, values);
    this.#changed();
  }

  /** Change who is heard as a whole: isOriginal, audition. */
  listen(values) {
    Object.assign(this, values);
    this.#changed();
  }

  /** Return the gain at which a track is heard. */
  gainOf(track) {
    const lanes = [...this.tracks.values()].filter((lane) => lane.id !== MIXTURE);
    const isMixture = this.isOriginal || !lanes.length;
    if (track.id === MIXTURE || isMixture) return isMixture && track.id === MIXTURE ? track.scale : 0;
    if (this.audition) return track.id === this.audition ? track.scale * track.volume : 0;
    const isHeard = lanes.some((lane) => lane.isSolo) ? track.isSolo : !track.isMuted;
    return isHeard ? track.scale * track.volume : 0;
  }

  get position() {
    return this.isPlaying ? this.#positionAt(this.context.currentTime) : this.#offset;
  }

  #positionAt(time) {
    const raw = this.#offset + Math.max(0, time - this.#startTime);
    if (!this.loop || this.#offset >= this.loop[1]) return Math.min(raw, this.seconds);
    const [start, stop] = this.loop;
    return raw < stop ? raw : start + ((raw - stop) % (stop - start));
  }

  /** Round to whole samples, so that a lane that comes later is in step to the sample. */
  #onGrid(seconds) {
    return Math.round(seconds * this.context.sampleRate) / this.context.sampleRate;
  }

  async play() {
    if (this.isPlaying || !this.context) return;
    await this.context.resume();
    if (this.loop && (this.#offset < this.loop[0] || this.#offset >= this.loop[1])) this.#offset = this.loop[0];
    if (this.#offset >= this.seconds - 0.01) this.#offset = 0;
    this.isPlaying = true;
    this.#startTime = this.#onGrid(this.context.currentTime + AHEAD_SECONDS);
    this.#offset = this.#onGrid(this.#offset);
    for (const track of this.tracks.values()) this.#startTrack(track, this.#startTime);
    this.#changed();
  }

  stop() {
    if (this.isPlaying) this.#offset = this.position;
    this.isPlaying = false;
    for (const track of this.tracks.values()) this.#stopTrack(track);
    this.#changed();
  }

  seek(seconds) {
    const wasPlaying = this.isPlaying;
    if (wasPlaying) this.stop();
    this.#offset = Math.min(Math.max(0, seconds), this.seconds);
    if (wasPlaying) this.play();
    else this.#changed();
  }

  setLoop(range) {
    const wasPlaying = this.isPlaying;
    if (wasPlaying) this.stop();
    this.loop = range && range[1] - range[0] > 0.02 ? range : null;
    if (wasPlaying) this.play();
    else this.#changed();
  }

  /** To be called for each picture: stops at the end. */
  tick() {
    if (this.isPlaying && !this.loop && this.position >= this.seconds) {
      this.stop();
      this.#offset = 0;
    }
  }

  /** Return what is heard now as one AudioBuffer, rendered through the same nodes. */
  render() {
    const { sampleRate } = this.context;
    const offline = new OfflineAudioContext(2, Math.max(1, Math.round(this.seconds * sampleRate)), sampleRate);
    for (const track of this.tracks.values()) {
      const gain = this.gainOf(track);
      if (gain) channelStrip(offline, track, gain, offline.destination).source.start(0);
    }
    return offline.startRendering();
  }

  /** Return the level of what is heard, as root mean square. */
  level() {
    if (!this.isPlaying) return 0;
    const samples = new Float32Array(this.analyser.fftSize);
    this.analyser.getFloatTimeDomainData(samples);
    return Math.sqrt(samples.reduce((sum, value) => sum + value * value, 0) / samples.length);
  }

  #startTrack(track, time) {
    track.nodes = channelStrip(this.context, track, this.gainOf(track), this.analyser);
    const { source } = track.nodes;
    if (this.loop) [source.loop, source.loopStart, source.loopEnd] = [true, ...this.loop];
    source.start(time, this.#positionAt(time));
  }

  #stopTrack(track) {
    if (!track?.nodes) return;
    track.nodes.source.stop();
    track.nodes.pan.disconnect();
    track.nodes = null;
  }

  #changed() {
    for (const track of this.tracks.values()) {
      if (!track.nodes) continue;
      const now = this.context.currentTime;
      track.nodes.volume.gain.setTargetAtTime(this.gainOf(track), now, RAMP_SECONDS);
      track.nodes.pan.pan.setTargetAtTime(track.pan, now, RAMP_SECONDS);
    }
    this.dispatchEvent(new Event("change"));
  }
}
