// The explorer: recorded trainings, seen in a browser. One view for notebooks (anywidget) and for reports.
// No third-party code. The Python side is prograd_viz.screen, which packs the data, and prograd_viz.explorer.

/**
 * Numbers and maps come as safetensors buffers, whose metadata hold a JSON text under "about".
 * @typedef {object} Method
 * @property {number|string} key  lambda, or the name of a method that has none
 * @property {string} name        what it is called in sentences
 * @property {string} short       its mark on the slider
 * @property {string} colour      hex, the same as in figures
 *
 * @typedef {object} RunSet       one training: R methods, S steps, K snapshots
 * @property {string} name
 * @property {Method[]} methods
 * @property {number} reference   which method is compared with the slider's: CoOp where there is one
 * @property {string[]} columns   of its record
 * @property {string[]} tested    test sets
 * @property {Object<string, ?number>} zero  accuracy of zero-shot CLIP by test set
 *
 * @typedef {object} Tensor
 * @property {number[]} shape
 * @property {Uint8Array|Int16Array|Float32Array|Float64Array} data
 *
 * Buffer "runs": about {title, compare, t, zero: Method, words, sets: RunSet[]}; of set s the tensors
 *   s.record [columns, R, S], s.snapshots [K], s.arrows [R, S, 4, 2], s.tokens [R, S, M]
 * Buffers "scenes", one for all run sets or, where their classes differ, one each: about {split, splits, layer, layers, explainer, targets, classes, images: [{name, type, label}], size,
 *   masks}; tensors pictures (files, one behind the other), ends [B], masks (bits), areas [B]; of set s and target t
 *   s.maps.t [K, R, B, h, w] of 255ths of s.top.t [K, R, B], s.share.t [K, R, B], s.explained.t [K, R, B, 2],
 *   s.predicted and s.chance [K, R, B]; the same of zero-shot CLIP under "zero", without K and R
 * Buffer "land": about {set, ends, split}; tensors x [X], y [Y], loss_ce, loss_kl, accuracy [Y, X], paths [R, K, 2],
 *   inside [R]
 */

const SVG = "http://www.w3.org/2000/svg"
const TYPES = { U8: Uint8Array, I16: Int16Array, F32: Float32Array, F64: Float64Array }

// ---------------------------------------------------------------------------------------------- small tools

/** An element: attributes, listeners as functions, children as nodes or text */
function make(tag, attributes = {}, ...children) {
  const node = tag.startsWith("svg:") ? document.createElementNS(SVG, tag.slice(4)) : document.createElement(tag)
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") node.addEventListener(name, value)
    else if (value !== false && value != null) node.setAttribute(name, value === true ? "" : value)
  }
  node.append(...children.filter(child => child != null))
  return node
}

/** Digits as Python prints them: an exact tie goes to the even neighbour */
export function fixed(x, digits) {
  const scaled = Math.abs(x) * 10 ** digits, whole = Math.floor(scaled)
  if (scaled - whole !== 0.5 || (whole % 2) !== 0) return x.toFixed(digits)
  return (Math.sign(x) * whole / 10 ** digits).toFixed(digits)
}

export const percent = x => Number.isFinite(x) ? `${fixed(100 * x, 0)}%` : "-"
const signed = x => (x < 0 ? "\u2212" : "+") + fixed(Math.abs(x), 2)
const clamp = (x, low, high) => Math.min(Math.max(x, low), high)
const finite = values => values.filter(Number.isFinite)
const brief = x => Math.abs(x) < 0.001 && x !== 0 ? x.toExponential(0) : `${+x.toPrecision(2)}`
const short = x => x === 0 ? "0" : Math.abs(x) < 0.01 || Math.abs(x) >= 1000 ? x.toExponential(1) : `${+x.toPrecision(3)}`

/** About n round numbers between two ends */
function ticks(low, high, n = 4) {
  const rough = (high - low) / n, unit = 10 ** Math.floor(Math.log10(rough))
  const step = unit * [1, 2, 5, 10].find(k => k * unit >= rough)
  const found = []
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + 1e-9 * step; k++) found.push(k * step)
  return found
}

/** The tensors of a safetensors buffer, and what its metadata say */
export function unpack(view) {
  const bytes = new Uint8Array(view.buffer ?? view, view.byteOffset ?? 0, view.byteLength).slice()
  const first = 8 + Number(new DataView(bytes.buffer).getBigUint64(0, true))
  const header = JSON.parse(new TextDecoder().decode(bytes.subarray(8, first)))
  const found = { about: JSON.parse(header.__metadata__.about) }
  delete header.__metadata__
  for (const [name, { dtype, shape, data_offsets: [start, end] }] of Object.entries(header)) {
    const Kind = TYPES[dtype]
    found[name] = { shape, data: new Kind(bytes.buffer, first + start, (end - start) / Kind.BYTES_PER_ELEMENT) }
  }
  return found
}

/** What the reader has chosen; whoever changes it tells all others */
class State {
  constructor(values) { Object.assign(this, { values, watchers: [] }) }

  get(name) { return this.values[name] }

  set(change, from = "here") {
    const names = Object.keys(change).filter(name => this.values[name] !== change[name])
    if (!names.length) return
    Object.assign(this.values, change)
    for (const see of this.watchers) see(names, from)
  }
}

/** Call later, once, however often it is asked for; `now` in the meantime skips the wait */
function later(call, wait) {
  let timer = null
  return () => { timer ??= setTimeout(() => { timer = null; call() }, wait) }
}

/** Values averaged over a window around each place; NaN is left out */
function smooth(values, window = 15) {
  const half = window >> 1, out = new Float64Array(values.length)
  for (let i = 0; i < values.length; i++) {
    let sum = 0, n = 0
    for (let j = Math.max(0, i - half); j <= Math.min(values.length - 1, i + half); j++) {
      if (Number.isFinite(values[j])) { sum += values[j]; n++ }
    }
    out[i] = n ? sum / n : NaN
  }
  return out
}

// ---------------------------------------------------------------------------------------------- data

/** A training as the panels ask for it */
class Training {
  /** @param {RunSet} about */
  constructor(book, s, about) {
    Object.assign(this, about, { book, s })
    this.steps = book.steps(s)
    this.places = Array.from(book[`${s}.snapshots`].data)
    this.hasText = this.places.length > 0
    if (!this.hasText) this.places = [0, ...this.steps]
    this.last = this.steps.at(-1) ?? this.places.at(-1)
    this.kept = {}
  }

  /** A column of a method, [S] */
  column(name, r) {
    const c = this.columns.indexOf(name), { shape: [, R, S], data } = this.book[`${this.s}.record`]
    return c < 0 ? null : data.subarray((c * R + r) * S, (c * R + r + 1) * S)
  }

  /** The same, averaged over 15 steps, computed once */
  smoothed(name, r) { return this.kept[`${name} ${r}`] ??= smooth(this.column(name, r)) }

  /** Position of a step in the record, or -1 */
  row(step) { return this.steps[step - 1] === step ? step - 1 : this.steps.indexOf(step) }

  /** Position of the snapshot nearest to a step */
  place(step) {
    let low = 0, high = this.places.length - 1
    while (high - low > 1) {
      const middle = (low + high) >> 1
      if (this.places[middle] <= step) low = middle; else high = middle
    }
    return step - this.places[low] <= this.places[high] - step ? low : high
  }

  /** Which method has this key; numbers need only be near */
  method(key) {
    const near = typeof key === "number" ? m => typeof m.key === "number" && Math.abs(m.key - key) < 1e-9 : m => m.key === key
    return this.methods.findIndex(near)
  }

  /** The same, or the one with the nearest lambda, or the last */
  nearest(key) {
    const r = this.method(key), gap = m => typeof m.key === "number" ? Math.abs(m.key - key) : Infinity
    if (r >= 0 || typeof key !== "number") return r >= 0 ? r : this.methods.length - 1
    return this.methods.reduce((best, m, i) => gap(m) < gap(this.methods[best]) ? i : best, 0)
  }

  conflicts(r) {
    const conflict = this.column("conflict", r)
    return this.steps.filter((_, i) => conflict[i] === 1)
  }

  rate(r) {
    const conflict = this.column("conflict", r), cos = this.column("cos", r), agree = this.column("agree", r)
    const known = cos.some(Number.isFinite) || agree.some(a => a === 1)
    return known ? conflict.reduce((sum, c) => sum + c, 0) / conflict.length : NaN
  }

  /** The last value of a column that was measured at or before a step */
  upTo(name, r, step) {
    const values = this.column(name, r)
    if (values) for (let i = values.length - 1; i >= 0; i--) {
      if (this.steps[i] <= step && Number.isFinite(values[i])) return values[i]
    }
    return NaN
  }

  /** What a method sees in an image: r is a method, or -1 for zero-shot CLIP */
  look(scene, target, k, r, b) {
    const zero = r < 0, of = zero ? "zero" : this.s, B = scene.about.images.length
    const at = zero ? b : (k * this.methods.length + r) * B + b, maps = scene[`${of}.maps.${target}`]
    if (!maps) return null
    const [h, w] = maps.shape.slice(-2), number = name => scene[`${of}.${name}`].data[at]
    const [one, two] = scene[`${of}.explained.${target}`].data.subarray(2 * at, 2 * at + 2)
    const name = c => scene.about.classes[c] ?? "no prediction"
    const label = scene.about.images[b].label, predicted = number("predicted")
    return {
      cells: maps.data.subarray(at * h * w, (at + 1) * h * w), h, w, top: number(`top.${target}`),
      share: number(`share.${target}`), chance: number("chance"), predicted: name(predicted),
      explained: two < 0 ? name(one) : `${name(one)} \u2212 ${name(two)}`,
      right: label < 0 || predicted < 0 ? null : label === predicted,
    }
  }
}

/** Everything that came from Python */
class Book {
  constructor({ runs, scenes, land }) {
    Object.assign(this, unpack(runs))
    this.sets = this.about.sets.map((about, s) => new Training(this, s, about))
    this.scenes = scenes.map(unpack)
    this.land = land?.byteLength ? unpack(land) : null
  }

  steps(s) {
    const { shape: [, R, S], data } = this[`${s}.record`], c = this.about.sets[s].columns.indexOf("step")
    return Array.from(data.subarray(c * R * S, c * R * S + S))
  }
}

// ---------------------------------------------------------------------------------------------- maps

/** Where each pixel lies between two cells, with half-cell centres: left cell, weight of its right neighbour */
function between(cells, side) {
  const left = new Uint16Array(side), weight = new Float32Array(side)
  for (let i = 0; i < side; i++) {
    const at = clamp((i + 0.5) * cells / side - 0.5, 0, cells - 1)
    left[i] = Math.min(Math.floor(at), Math.max(0, cells - 2))
    weight[i] = cells > 1 ? at - left[i] : 0
  }
  return { left, weight }
}

/** A map at image resolution, bilinear, as the library resizes it -> Float32Array [height * width] */
export function resized(cells, h, w, height, width) {
  const across = between(w, width), down = between(h, height), wide = new Float32Array(h * width)
  for (let j = 0; j < h; j++) {
    for (let x = 0; x < width; x++) {
      const at = j * w + across.left[x], a = across.weight[x]
      wide[j * width + x] = cells[at] * (1 - a) + (a ? cells[at + 1] * a : 0)
    }
  }
  const out = new Float32Array(height * width)
  for (let y = 0; y < height; y++) {
    const upper = down.left[y] * width, b = down.weight[y]
    for (let x = 0; x < width; x++) {
      out[y * width + x] = wide[upper + x] * (1 - b) + (b ? wide[upper + width + x] * b : 0)
    }
  }
  return out
}

/** 256 colours of a map with their opacity, as pixels */
function palette(heat, opacity) {
  const colours = new Uint32Array(256), bytes = new Uint8Array(colours.buffer)
  for (let i = 0; i < 256; i++) bytes.set([heat[3 * i], heat[3 * i + 1], heat[3 * i + 2], 255 * Math.sqrt(i / 255) * opacity], 4 * i)
  return colours
}

const PIXELS = 224  // A map is painted with so many pixels along its longer side, and enlarged by the browser

/** One of the pictures of a row: the image, or a map over it; with its numbers below */
class Card {
  constructor(view, title) {
    this.view = view
    this.chip = make("span", { class: "pv-chip" })
    this.title = make("span", {}, title)
    this.base = make("canvas"), this.heat = make("canvas"), this.line = make("canvas")
    this.value = make("output", { class: "pv-value" })
    this.stage = make("div", { class: "pv-stage", pointermove: e => this.read(e), pointerleave: () => { this.value.textContent = "" } },
      this.base, this.heat, this.line, this.value)
    this.says = make("div", { class: "pv-says" })
    this.bar = make("div", { class: "pv-bar" }, make("i"), make("b"))
    this.share = make("div", { class: "pv-share" })
    this.node = make("figure", { class: "pv-card" }, make("figcaption", {}, this.chip, this.title),
      this.stage, this.says, this.bar, this.share)
  }

  name(colour, title) {
    this.chip.style.background = colour
    this.chip.style.visibility = colour ? "visible" : "hidden"
    if (this.title.textContent !== title) this.title.textContent = title
    this.colour = colour
  }

  /** The picture and the object's outline; once for each image */
  frame(picture, outline, grey) {
    if (this.picture === picture && this.outline === outline) return
    this.picture = picture, this.outline = outline
    const scale = PIXELS / Math.max(picture.width, picture.height)
    this.width = Math.max(1, Math.round(picture.width * scale)), this.height = Math.max(1, Math.round(picture.height * scale))
    for (const canvas of [this.base, this.heat]) { canvas.width = this.width; canvas.height = this.height }
    const pen = this.base.getContext("2d", { willReadFrequently: true })
    pen.imageSmoothingEnabled = picture.width > PIXELS
    pen.drawImage(picture, 0, 0, this.width, this.height)
    if (grey) {
      const image = pen.getImageData(0, 0, this.width, this.height), p = image.data
      for (let o = 0; o < p.length; o += 4) p[o] = p[o + 1] = p[o + 2] = (0.299 * p[o] + 0.587 * p[o + 1] + 0.114 * p[o + 2]) * 0.7 + 76
      pen.putImageData(image, 0, 0)
    }
    this.line.width = 2 * this.width, this.line.height = 2 * this.height
    if (outline) this.line.getContext("2d").drawImage(outline, 0, 0, this.line.width, this.line.height)
    this.image = new ImageData(this.width, this.height)
    this.pixels = new Uint32Array(this.image.data.buffer)
    this.stage.style.aspectRatio = `${this.width} / ${this.height}`
  }

  /** A map; `top` gets the last colour */
  map(look, top, colours) {
    this.look = look
    if (!look) return this.heat.getContext("2d").clearRect(0, 0, this.width, this.height)
    const scale = top > 0 ? look.top / top : 0, values = resized(look.cells, look.h, look.w, this.height, this.width)
    for (let i = 0; i < values.length; i++) this.pixels[i] = colours[values[i] * scale + 0.5 | 0]
    this.heat.getContext("2d").putImageData(this.image, 0, 0)
    this.values = values, this.scale = scale
  }

  read(event) {
    if (!this.look) return
    const box = this.stage.getBoundingClientRect()
    const x = clamp((event.clientX - box.left) / box.width * this.width | 0, 0, this.width - 1)
    const y = clamp((event.clientY - box.top) / box.height * this.height | 0, 0, this.height - 1)
    this.value.textContent = `${percent(this.values[y * this.width + x] * this.scale / 255)} of the row's largest`
  }

  /** The numbers below */
  numbers(look, area) {
    const [fill, mark] = this.bar.children, share = look.share
    const verdict = look.right === null ? "" : look.right ? "\u2713 right" : "\u2717 wrong"
    const name = make("b", {}, look.predicted), chance = Number.isFinite(look.chance) ? ` ${percent(look.chance)} ` : " "
    this.says.replaceChildren(name, chance, make("span", { class: look.right ? "pv-right" : "pv-wrong" }, verdict))
    this.says.title = `${look.predicted}${chance}${verdict}; the map explains ${look.explained}`
    fill.style.width = `${100 * (share || 0)}%`
    fill.style.background = this.colour
    mark.style.left = `${100 * (area || 0)}%`
    mark.style.visibility = area > 0 ? "visible" : "hidden"
    const none = !Number.isFinite(look.top) ? "no map" : look.top > 0 ? "no mask" : "empty map"
    this.share.textContent = Number.isFinite(share) ? `${percent(share)} on the object, ${fixed(share / area, 1)} per area` : none
  }

  /** Words in place of numbers */
  words(first, second) {
    this.says.replaceChildren(make("b", {}, first))
    this.says.title = first
    this.share.textContent = second
    this.bar.style.visibility = "hidden"
  }
}

/** Rows of four: the image, zero-shot CLIP, the reference (CoOp) and the method at the slider */
class MapRow {
  constructor(view, training) {
    this.view = view
    this.cards = ["image", "", "", ""].map(title => new Card(view, title))
    this.title = make("h4", { hidden: true })
    this.node = make("div", { class: "pv-maps" }, this.title, ...this.cards.map(card => card.node))
    this.training = training
  }

  draw(b, caption) {
    const { book, state, scene } = this.view, training = this.training(), { zero } = book.about
    const r = training.nearest(state.get("lam")), reference = training.methods[training.reference], method = training.methods[r]
    this.title.hidden = !caption
    this.title.textContent = caption ?? ""
    const colours = [null, zero.colour, reference.colour, method.colour]
    this.cards.forEach((card, i) => card.name(colours[i], ["image", zero.name, reference.name, method.name][i]))
    if (!scene) return this.cards.forEach(card => card.words(training.hasText ? "preparing \u2026" : "no text features", ""))
    const { picture, outline } = this.view.images[b], image = scene.about.images[b], area = scene.areas.data[b]
    this.cards.forEach((card, i) => card.frame(picture, outline, i > 0))
    const k = training.place(state.get("step")), target = this.view.target()
    const looks = [-1, training.reference, r].map(m => training.look(scene, target, k, m, b))
    const top = Math.max(0, ...looks.map(look => look?.top).filter(Number.isFinite))
    looks.forEach((look, i) => {
      const card = this.cards[i + 1]
      card.map(look && Number.isFinite(look.top) ? look : null, top, this.view.colours)
      if (!look) return card.words(training.hasText ? "no text features of it" : "no text features were recorded", "")
      card.numbers(look, area)
      card.bar.style.visibility = area > 0 ? "visible" : "hidden"
    })
    this.cards[0].words(image.name, area > 0 ? `object: ${percent(area)} of the image` : "no mask")
    this.looks = looks
  }
}

// ---------------------------------------------------------------------------------------------- charts

/** Axes, lines and a cursor in a box that keeps its size */
class Chart {
  /**
   * @param {object} options
   *   x, y: [low, high]; xTicks, yTicks: numbers; xLabel, yLabel; format: of the y ticks; title
   *   lines: [{r, colour, points: [[x, y]], dots, dash, wide, band}]; shade: [low, high] along y
   *   seek: function of x; read: function of (x, y) that returns words
   */
  constructor(options) {
    Object.assign(this, options)
    this.svg = make("svg:svg", { role: "img", "aria-label": this.label ?? this.title ?? "" })
    this.tip = make("output", { class: "pv-tip", hidden: true })
    this.node = make("div", { class: "pv-chart" }, this.svg, this.tip)
    const at = e => { const box = this.svg.getBoundingClientRect(); return [e.clientX - box.left, e.clientY - box.top] }
    const seek = e => { if (e.buttons & 1) this.seek?.(this.back(...at(e))) }
    this.svg.addEventListener("pointerdown", e => { this.svg.setPointerCapture(e.pointerId); seek(e) })
    this.svg.addEventListener("pointermove", e => { seek(e); this.point(...at(e)) })
    this.svg.addEventListener("pointerleave", () => { this.tip.hidden = true })
    new ResizeObserver(([entry]) => this.fit(entry.contentRect.width, entry.contentRect.height)).observe(this.node)
  }

  back(px, py) {
    const [left, top, width, height] = this.inner
    return [this.x[0] + (px - left) / width * (this.x[1] - this.x[0]), this.y[1] - (py - top) / height * (this.y[1] - this.y[0])]
  }

  px(x) { return this.inner[0] + (x - this.x[0]) / (this.x[1] - this.x[0]) * this.inner[2] }

  py(y) { return this.inner[1] + (this.y[1] - y) / (this.y[1] - this.y[0]) * this.inner[3] }

  point(px, py) {
    const words = this.read?.(...this.back(px, py))
    this.tip.hidden = !words
    if (!words) return
    this.tip.textContent = words
    this.tip.style.left = `${clamp(px + 12, 0, Math.max(0, this.size[0] - this.tip.offsetWidth))}px`
    this.tip.style.top = `${py > this.size[1] / 2 ? 0 : this.size[1] - this.tip.offsetHeight}px`
  }

  /** Draw all that does not move */
  fit(width, height) {
    if (width < 60 || height < 60) return
    this.size = [width, height]
    const left = this.square ? 4 : 38, top = this.title ? 18 : 6, bottom = this.xLabel ? 34 : 20
    this.inner = [left, top, width - left - 8, height - top - bottom]
    if (this.square) {
      const side = Math.min(this.inner[2], this.inner[3])
      this.inner = [left + (this.inner[2] - side) / 2, top, side, side]
    }
    const [x0, y0, w, h] = this.inner
    this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`)
    const text = (x, y, words, anchor = "middle", extra = {}) => make("svg:text", { x, y, "text-anchor": anchor, ...extra }, words)
    const parts = []
    if (this.shade) parts.push(make("svg:rect", { x: x0, width: w, y: this.py(this.shade[1]), height: this.py(this.shade[0]) - this.py(this.shade[1]), class: "pv-shade" }))
    for (const y of this.yTicks) {
      if (!this.bare) parts.push(make("svg:line", { x1: x0, x2: x0 + w, y1: this.py(y), y2: this.py(y), class: "pv-grid" }))
      parts.push(text(x0 - 5, this.py(y) + 4, this.format(y), "end"))
    }
    const apart = this.xTicks.filter(x => x === this.xTicks.at(-1) || this.px(this.xTicks.at(-1)) - this.px(x) > 40)
    for (const x of apart) parts.push(text(this.px(x), y0 + h + 14, (this.xFormat ?? short)(x), x === this.x[1] ? "end" : "middle"))
    if (this.xLabel) parts.push(text(x0 + w / 2, y0 + h + 29, this.xLabel))
    if (this.title) parts.push(text(x0, 12, this.title, "start", { class: "pv-strong" }))
    this.groups = this.lines.map(line => this.line(line))
    this.moving = make("svg:g")
    this.svg.replaceChildren(...parts, ...this.groups, this.moving)
    this.onfit?.(this)
    this.emphasise(this.shown)
    this.redraw?.()
  }

  line(line) {
    const group = make("svg:g", { class: "pv-line" }), d = []
    let down = false
    for (const [x, y] of line.points) {
      if (!Number.isFinite(y)) { down = false; continue }
      d.push(`${down ? "L" : "M"}${this.px(x).toFixed(1)} ${this.py(y).toFixed(1)}`)
      down = true
    }
    if (line.band) {
      const known = line.band.filter(([, low, high]) => Number.isFinite(low + high))
      const edge = [...known.map(([x, low]) => [x, low]), ...known.reverse().map(([x, , high]) => [x, high])]
      const outline = edge.map(([x, y]) => `${this.px(x).toFixed(1)},${this.py(clamp(y, ...this.y)).toFixed(1)}`).join(" ")
      group.append(make("svg:polygon", { points: outline, fill: line.colour, opacity: 0.18 }))
    }
    if (line.dots) {
      const every = Math.ceil(line.dots.length / 2000)
      const marks = line.dots.filter(([, y], i) => Number.isFinite(y) && i % every === 0)
      const at = marks.map(([x, y]) => `M${this.px(x).toFixed(1)} ${this.py(y).toFixed(1)}h.01`).join("")
      group.append(make("svg:path", { d: at, stroke: line.colour, class: "pv-dots" }))
    }
    if (line.halo) group.append(make("svg:path", { d: d.join(""), class: "pv-halo" }))
    const dash = line.dash ? "5 4" : null
    group.append(make("svg:path", { d: d.join(""), stroke: line.colour, "stroke-width": line.wide ?? 1.8, "stroke-dasharray": dash, fill: "none" }))
    return group
  }

  /** Only these methods in full; others stay as faint lines */
  emphasise(shown) {
    this.shown = shown
    if (!shown || !this.groups) return
    this.lines.forEach(({ r }, i) => this.groups[i].classList.toggle("pv-faint", r !== undefined && !shown.includes(r)))
  }

  /** A vertical line, and dots at [x, y, colour] */
  cursor(x, dots = []) {
    if (!this.moving) return
    const nodes = []
    if (x !== null) nodes.push(make("svg:line", { x1: this.px(x), x2: this.px(x), y1: this.inner[1], y2: this.inner[1] + this.inner[3], class: "pv-cursor" }))
    for (const [at, y, colour] of dots) {
      if (Number.isFinite(at + y)) nodes.push(make("svg:circle", { cx: this.px(at), cy: this.py(y), r: 4.5, fill: colour, class: "pv-dot" }))
    }
    this.moving.replaceChildren(...nodes)
  }
}

// ---------------------------------------------------------------------------------------------- panels

/** A quiet box with a heading, a legend and a chart */
class Panel {
  constructor(group, title, { wide = 1, extra = [] } = {}) {
    Object.assign(this, { group, view: group.view, wide })
    this.note = make("span", { class: "pv-note" })
    this.legend = make("div", { class: "pv-legend" })
    this.body = make("div", { class: "pv-body" })
    this.foot = make("footer", { hidden: true })
    this.node = make("section", { class: "pv-panel", "aria-label": title },
      make("header", {}, make("h4", {}, ...formula(title)), this.note, ...extra), this.legend, this.body, this.foot)
  }

  get training() { return this.group.training() }

  /** Methods to show in full: the reference and the one at the slider */
  shown() { return [...new Set([this.training.reference, this.training.nearest(this.view.state.get("lam"))])] }

  seek(step) { this.view.go(clamp(Math.round(step), 0, this.training.last)) }

  key(entries) {
    this.legend.replaceChildren(...entries.map(([colour, words, dash]) => {
      const chip = make("i", { class: dash ? "pv-chip pv-dashed" : "pv-chip" })
      chip.style[dash ? "borderTopColor" : "background"] = colour
      return make("span", {}, chip, ...formula(words))
    }))
  }

  methods(more = []) { this.key([...this.shown().map(r => [this.training.methods[r].colour, this.training.methods[r].name]), ...more]) }

  /** Steps at which something may be pointed at */
  near(x) { return this.training.places[this.training.place(clamp(x, 0, this.training.last))] }

  stepAxis() {
    const last = Math.max(1, this.training.last), found = ticks(0, last).filter(x => Number.isInteger(x) && x < 0.9 * last)
    return { x: [0, last], xTicks: [...found, last], xLabel: "step" }
  }
}

/** G_d -> G with a lowered d */
function formula(words) {
  return words.split(/(G_[dg]|L_(?:ce|kl))/).map(part => /^[GL]_/.test(part) ? make("i", {}, part[0], make("sub", {}, part.slice(2))) : part)
}

/** Mean and 95% interval over seeds of one column, by method name; with one seed the column itself */
function overSeeds(panel, name, r, smoothing) {
  const { training, view } = panel, { sets, about } = view.book, own = set => smoothing ? set.smoothed(name, r) : set.column(name, r)
  const alike = about.compare ? [training] : sets.filter(set => set.methods[r]?.name === training.methods[r].name)
  const values = alike.map(own)
  if (alike.length < 2) return { mean: values[0] }
  const n = Math.min(...values.map(v => v.length)), mean = new Float64Array(n), low = [], high = []
  for (let i = 0; i < n; i++) {
    const known = finite(values.map(v => v[i])), m = known.reduce((a, c) => a + c, 0) / known.length
    const deviation = Math.sqrt(known.reduce((a, c) => a + (c - m) ** 2, 0) / (known.length - 1))
    const half = known.length === alike.length ? about.t * deviation / Math.sqrt(known.length) : NaN
    mean[i] = m
    low.push(m - half)
    high.push(m + half)
  }
  return { mean, low, high }
}

class CosinePanel extends Panel {
  constructor(group) {
    super(group, "Cosine of G_d and G_g", { wide: 2 })
    this.note.classList.add("pv-wordy")
    const { training } = this, lines = training.methods.map((method, r) => {
      const { mean, low, high } = overSeeds(this, "cos", r, true), steps = training.steps
      const points = steps.map((x, i) => [x, mean[i]]), cos = training.column("cos", r)
      return { r, colour: method.colour, points, dots: steps.map((x, i) => [x, cos[i]]), band: low && steps.map((x, i) => [x, low[i], high[i]]) }
    })
    this.chart = new Chart({
      ...this.stepAxis(), y: [-1, 1], yTicks: [-1, -0.5, 0, 0.5, 1], format: y => y === 0 ? "0" : signed(y).replace(/0$/, ""), shade: [-1, 0],
      lines, seek: ([x]) => this.seek(x), read: x => this.read(x), redraw: () => this.draw(), label: "Cosine of the two gradients over the steps",
    })
    this.body.append(this.chart.node)
    this.known = lines.some(line => line.dots.some(([, y]) => Number.isFinite(y)))
  }

  read(x) {
    const step = Math.round(clamp(x, 1, this.training.last)), i = this.training.row(step)
    if (i < 0) return ""
    const of = r => `${this.training.methods[r].name} ${Number.isFinite(this.training.column("cos", r)[i]) ? signed(this.training.column("cos", r)[i]) : "none"}`
    return `step ${step}: ${this.shown().map(of).join(", ")}`
  }

  draw() {
    const { training, view } = this, step = view.state.get("step"), i = training.row(step)
    const rates = this.shown().map(r => [training.methods[r].colour, `${training.methods[r].name}: ${percent(training.rate(r))} of steps in conflict`])
    const several = view.book.sets.length > 1 && !view.book.about.compare
    this.note.textContent = this.known ? "below 0 they conflict; line: mean of 15" : "not recorded"
    this.legend.classList.toggle("pv-two", several)
    this.key([...rates, ...several ? [["var(--pv-line)", "95% interval over seeds"]] : []])
    this.chart.emphasise(this.shown())
    this.chart.cursor(step, i < 0 ? [] : this.shown().map(r => [step, training.column("cos", r)[i], training.methods[r].colour]))
  }
}

class PlanePanel extends Panel {
  constructor(group) {
    super(group, "Gradient plane")
    this.svg = make("svg:svg", { role: "img", "aria-label": "The two gradients, the method's direction and the real step, to scale" })
    this.body.append(this.svg)
    new ResizeObserver(([entry]) => { this.size = [entry.contentRect.width, entry.contentRect.height]; this.draw() }).observe(this.body)
  }

  draw() {
    const { training, view } = this, step = view.state.get("step"), i = training.row(step), r = training.nearest(view.state.get("lam"))
    const method = training.methods[r], grey = view.book.about.zero.colour
    const norm = name => training.column(name, r)?.[i]
    this.key([[grey, "G_g"], [view.book.about.coop, "G_d"], [method.colour, "G"], ["currentColor", "real step"]])
    if (!this.size || this.size[1] < 60) return
    const [width, height] = this.size, middle = [width / 2, height / 2]
    const parts = [make("svg:rect", { x: 0, y: middle[1], width, height: height / 2, class: "pv-shade" }),
      make("svg:line", { x1: 0, x2: width, y1: middle[1], y2: middle[1], class: "pv-grid" }),
      make("svg:text", { x: 6, y: 14 }, "to the teacher"), make("svg:text", { x: 6, y: height - 6 }, "away from it")]
    const { shape: [, S], data } = view.book[`${training.s}.arrows`], at = (r * S + i) * 8
    const angle = norm("angle_deg")
    if (i < 0 || !data.length || !Number.isFinite(norm("norm_gd"))) this.note.textContent = i < 0 ? "before the first step" : "not recorded"
    else {
      const agree = norm("agree") === 1
      this.note.textContent = agree ? "no angle: still the teacher's" : `${fixed(angle, 0)}\u00b0 apart`
      const ends = [0, 1, 2, 3].map(n => [data[at + 2 * n], data[at + 2 * n + 1]])
      const reach = 1.2 * Math.max(...finite(ends.flat()).map(Math.abs), 1e-12), scale = Math.min(...middle) / reach
      const arrow = (n, colour, wide, extra = {}) => {
        if (finite(ends[n]).length < 2) return []
        const [x, y] = [middle[0] + ends[n][0] * scale, middle[1] - ends[n][1] * scale]
        const length = Math.hypot(x - middle[0], y - middle[1]) || 1, head = Math.min(11, length)
        const [ux, uy] = [(x - middle[0]) / length, (y - middle[1]) / length], neck = [x - ux * head, y - uy * head]
        const side = head * 0.42 + wide / 4
        const tip = `${x},${y} ${neck[0] - uy * side},${neck[1] + ux * side} ${neck[0] + uy * side},${neck[1] - ux * side}`
        return [make("svg:line", { x1: middle[0], y1: middle[1], x2: neck[0], y2: neck[1], stroke: colour, "stroke-width": wide, ...extra }),
          make("svg:polygon", { points: tip, fill: colour, ...extra })]
      }
      parts.push(...arrow(2, method.colour, 9, { opacity: 0.55 }), ...arrow(1, view.book.about.coop, 3), ...arrow(0, grey, 3), ...arrow(3, "currentColor", 1.6, { "stroke-dasharray": "4 3" }))
      const write = (n, sub, length) => {
        if (finite(ends[n]).length < 2) return
        const [x, y] = [middle[0] + ends[n][0] * scale, middle[1] - ends[n][1] * scale], tight = n === 1 && x > width - 78
        parts.push(make("svg:text", { x: tight ? width - 4 : x + 7, y: clamp(y + (n === 2 ? -8 : tight ? 17 : 4), 12, height - 4), "text-anchor": tight ? "end" : "start", class: "pv-strong" },
          make("svg:tspan", { "font-style": "italic" }, "G"), make("svg:tspan", { dy: 3, "font-size": 11 }, sub),
          make("svg:tspan", { dy: -3, "font-weight": 400 }, length)))
      }
      const long = name => ` ${brief(norm(name))}`
      write(0, "g", long("norm_gg")), write(1, "d", long("norm_gd")), write(2, "", "")
    }
    this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`)
    this.svg.replaceChildren(...parts)
  }
}

const COLUMN_NAMES = { loss_ce: "L_ce", loss_kl: "L_kl", cos: "cosine" }
const plain = name => COLUMN_NAMES[name] ?? name.replace("acc_", "")
const axis = name => name.startsWith("acc_") ? `accuracy, ${plain(name)}` : name === "cos" ? "cosine" : `${plain(name).replace("_", " ")} (nats)`

class TradeoffPanel extends Panel {
  constructor(group) {
    const known = group.training().columns.filter(name => (COLUMN_NAMES[name] || name.startsWith("acc_")) && group.training().column(name, 0).some(Number.isFinite))
    const choose = (axis, usual) => {
      const select = make("select", { "aria-label": `column along ${axis}`, change: () => this.build() }, ...known.map(name => make("option", { value: name }, plain(name))))
      select.value = usual.find(name => known.includes(name)) ?? known[0]
      return select
    }
    const x = choose("x", ["acc_same", "loss_kl"]), y = choose("y", ["acc_shifted", "acc_new", "loss_ce"])
    super(group, "Trade-off")
    Object.assign(this, { xs: x, ys: y, known })
    this.foot.hidden = false
    this.foot.append("\u2191 ", y, " \u2192 ", x)
    this.build()
  }

  /** A column as the path shows it: accuracies as measured, the rest averaged over 15 steps */
  values(name, r) { return name.startsWith("acc_") ? this.training.column(name, r) : this.training.smoothed(name, r) }

  build() {
    const { training } = this, [x, y] = [this.xs.value, this.ys.value], used = x && y
    this.paths = training.methods.map((method, r) => {
      if (!used) return []
      const a = this.values(x, r), b = this.values(y, r)
      return training.steps.map((step, i) => [a[i], b[i], step]).filter(([a, b]) => Number.isFinite(a + b))
    })
    const range = n => {
      const all = this.paths.flat().map(p => p[n]), low = Math.min(...all), high = Math.max(...all), room = 0.06 * (high - low || 1)
      return all.length ? [low - room, high + room] : [0, 1]
    }
    const lines = training.methods.map((method, r) => ({ r, colour: method.colour, points: this.paths[r].map(([a, b]) => [a, b]), halo: true }))
    const shown = name => name?.startsWith("acc_") ? percent : short
    this.chart = new Chart({
      x: range(0), y: range(1), xTicks: ticks(...range(0), 3), yTicks: ticks(...range(1)), xFormat: shown(x), format: shown(y),
      lines, redraw: () => this.draw(), label: used ? `${axis(y)} against ${axis(x)}, a path per method` : "not recorded",
      seek: ([a, b]) => { const p = this.closest(a, b); if (p) this.view.go(p[2]) },
      read: (a, b) => { const p = this.closest(a, b); return p && `step ${p[2]}: ${shown(x)(p[0])}, ${shown(y)(p[1])}` },
    })
    this.body.replaceChildren(this.chart.node)
    this.note.textContent = !used ? "not recorded" : [x, y].every(name => name.startsWith("acc_")) ? "of accuracies" : ""
  }

  closest(a, b) {
    const wide = this.chart.x[1] - this.chart.x[0], tall = this.chart.y[1] - this.chart.y[0], gap = p => ((p[0] - a) / wide) ** 2 + ((p[1] - b) / tall) ** 2
    return this.shown().flatMap(r => this.paths[r]).reduce((best, p) => !best || gap(p) < gap(best) ? p : best, null)
  }

  draw() {
    const step = this.view.state.get("step")
    this.methods()
    this.chart.emphasise(this.shown())
    this.chart.cursor(null, this.shown().map(r => {
      const p = this.paths[r].findLast(p => p[2] <= step) ?? this.paths[r][0]
      return p ? [p[0], p[1], this.training.methods[r].colour] : [NaN, NaN, ""]
    }))
  }
}

class AccuracyPanel extends Panel {
  constructor(group) {
    super(group, "Accuracy", { wide: 2 })
    const { training } = this
    this.body.classList.add("pv-several")
    this.charts = training.tested.map(split => {
      const lines = training.methods.map((method, r) => {
        const { mean, low, high } = overSeeds(this, `acc_${split}`, r, false), steps = training.steps
        const known = steps.map((x, i) => [x - 1, mean[i], low?.[i], high?.[i]]).filter(([, y]) => Number.isFinite(y))
        return { r, colour: method.colour, points: known.map(([x, y]) => [x, y]), band: low && known.map(([x, , a, b]) => [x, a, b]) }
      })
      const zero = training.zero[split]
      if (Number.isFinite(zero)) lines.push({ colour: this.view.book.about.zero.colour, points: [[0, zero], [training.last, zero]], dash: true })
      const all = finite(lines.flatMap(line => [...line.points.map(p => p[1]), ...(line.band ?? []).flatMap(p => [p[1], p[2]])])), low = Math.min(...all, 1), high = Math.max(...all, 0), room = 0.08 * (high - low || 0.1)
      const y = [Math.max(0, low - room), Math.min(1, high + room)], last = Math.max(1, training.last)
      const chart = new Chart({
        x: [0, last], xTicks: [0, last], xLabel: "step", y, yTicks: ticks(...y, 3), format: percent, title: split, lines, seek: ([x]) => this.seek(x),
        redraw: () => this.draw(), label: `Accuracy on ${split} over the steps`,
        read: x => `step ${this.near(x)}: ${this.shown().map(r => `${training.methods[r].name} ${percent(training.upTo(`acc_${split}`, r, this.near(x)))}`).join(", ")}`,
      })
      this.body.append(chart.node)
      return { split, chart }
    })
    if (!this.charts.length) this.note.textContent = "not recorded"
  }

  draw() {
    const { training, view } = this, step = view.state.get("step")
    this.methods([[view.book.about.zero.colour, view.book.about.zero.name, true]])
    for (const { split, chart } of this.charts) {
      chart.emphasise(this.shown())
      chart.cursor(step, this.shown().map(r => [step, training.upTo(`acc_${split}`, r, step + 1), training.methods[r].colour]))
    }
  }
}

class TokensPanel extends Panel {
  constructor(group) {
    super(group, "Cosine per context vector")
    const { shape: [, , M] } = this.view.book[`${this.training.s}.tokens`]
    this.M = M
    this.canvas = make("canvas", { class: "pv-under" })
    this.chart = new Chart({
      ...this.stepAxis(), y: [0.5, M + 0.5], bare: true, yTicks: ticks(1, Math.max(2, M), 4).filter(m => Number.isInteger(m) && m <= M), format: y => `${M + 1 - y}`, lines: [],
      seek: ([x]) => this.seek(x), read: (x, y) => this.read(x, y), onfit: chart => this.under(chart), redraw: () => this.draw(), label: "Cosine of the two gradients within each context vector, over the steps",
    })
    this.chart.node.prepend(this.canvas)
    this.body.append(this.chart.node)
    this.legend.append(make("span", {}, "\u22121"), make("span", { class: "pv-ramp" }), make("span", {}, "+1"), this.method = make("span"))
  }

  under({ inner: [x, y, w, h] }) {
    Object.assign(this.canvas.style, { left: `${x}px`, top: `${y}px`, width: `${w}px`, height: `${h}px` })
  }

  cosine(m, i) {
    const r = this.training.nearest(this.view.state.get("lam")), { shape: [, S, M], data } = this.view.book[`${this.training.s}.tokens`]
    return data[(r * S + i) * M + m]
  }

  read(x, y) {
    const step = Math.round(clamp(x, 1, this.training.last)), i = this.training.row(step), m = clamp(Math.round(this.M + 1 - y), 1, this.M)
    return i < 0 ? "" : `step ${step}, vector ${m}: ${Number.isFinite(this.cosine(m - 1, i)) ? signed(this.cosine(m - 1, i)) : "none"}`
  }

  draw() {
    const { training, view } = this, r = training.nearest(view.state.get("lam"))
    if (this.painted !== r) this.paint(this.painted = r)
    this.method.textContent = training.methods[r].name
    this.chart.cursor(view.state.get("step"))
  }

  paint() {
    const S = this.training.steps.length, wide = clamp(S, 1, 600)
    this.canvas.width = wide, this.canvas.height = this.M
    const pen = this.canvas.getContext("2d"), image = pen.createImageData(wide, this.M)
    for (let m = 0; m < this.M; m++) {
      for (let x = 0; x < wide; x++) image.data.set(diverging(this.cosine(m, Math.floor(x * S / wide))), 4 * (m * wide + x))
    }
    pen.putImageData(image, 0, 0)
  }
}

/** -1 orange, 0 pale, +1 blue; NaN transparent */
function diverging(c) {
  if (!Number.isFinite(c)) return [0, 0, 0, 0]
  const end = c < 0 ? [213, 94, 0] : [0, 114, 178], a = Math.min(1, Math.abs(c))
  return [...end.map(v => 240 + (v - 240) * a), 255]
}

const SURFACES = { loss_kl: "L_kl, divergence from zero-shot CLIP", loss_ce: "L_ce on the shots", accuracy: "accuracy" }

class LandscapePanel extends Panel {
  constructor(group) {
    const select = make("select", { "aria-label": "what the contours show", change: () => this.paint() }, ...Object.entries(SURFACES).map(([value, words]) => make("option", { value }, words.split(",")[0])))
    super(group, "Landscape", { extra: [make("span", { class: "pv-pick" }, select)] })
    this.surface = select
    this.land = this.view.book.land
    if (!this.land || this.land.about.set !== this.training.s) return this.offer()
    const { x, y, paths } = this.land, [, K] = paths.shape
    this.paths = this.training.methods.map((_, r) => Array.from({ length: K }, (_, k) => [paths.data[2 * (r * K + k)], paths.data[2 * (r * K + k) + 1]]))
    this.canvas = make("canvas", { class: "pv-under" })
    const lines = this.training.methods.map((method, r) => ({ r, colour: method.colour, points: this.paths[r], halo: true }))
    this.chart = new Chart({
      x: [x.data[0], x.data.at(-1)], y: [y.data[0], y.data.at(-1)], xTicks: [], yTicks: [], format: short, lines, square: true,
      label: "Contours on the plane of contexts, with the path of each method", onfit: chart => this.under(chart), redraw: () => this.draw(),
      seek: ([a, b]) => { const k = this.closest(a, b); if (k !== null) this.view.go(this.training.places[k]) },
      read: (a, b) => this.read(a, b),
    })
    this.chart.node.prepend(this.canvas)
    this.body.append(this.chart.node)
    this.foot.hidden = false
    this.paint()
  }

  /** Without a landscape: a button that asks for one, where somebody can compute it */
  offer() {
    this.surface.hidden = true
    const { able, book } = this.view, button = make("button", { type: "button", click: () => this.view.ask({ ask: "landscape" }) }, "compute the landscape")
    const words = able ? "The losses around the path are computed from the model." : `It was computed for ${book.sets[this.land.about.set].name} alone.`
    this.body.append(make("p", { class: "pv-offer" }, words, make("br"), able ? button : ""))
  }

  under({ inner: [x, y, w, h], svg }) {
    Object.assign(this.canvas.style, { left: `${x}px`, top: `${y}px`, width: `${w}px`, height: `${h}px` })
    svg.insertBefore(make("svg:rect", { x, y, width: w, height: h, class: "pv-frame" }), svg.firstChild)
  }

  closest(a, b) {
    let best = null, gap = Infinity
    for (const r of this.shown()) this.paths[r].forEach(([x, y], k) => { const d = (x - a) ** 2 + (y - b) ** 2; if (d < gap) { gap = d; best = k } })
    return best
  }

  read(a, b) {
    const { x, y } = this.land, X = x.data.length, Y = y.data.length, name = this.surface.value
    const i = Math.round((a - x.data[0]) / (x.data.at(-1) - x.data[0]) * (X - 1)), j = Math.round((b - y.data[0]) / (y.data.at(-1) - y.data[0]) * (Y - 1))
    if (i < 0 || j < 0 || i >= X || j >= Y) return ""
    const value = this.land[name].data[j * X + i]
    return `${SURFACES[name].split(",")[0].replace("_", " ")} ${name === "accuracy" ? percent(value) : `${short(value)} nats`}`
  }

  /** Filled contours: losses on a logarithmic scale, 14 levels, dark is high */
  paint() {
    const name = this.surface.value, { shape: [Y, X], data } = this.land[name], side = 240, levels = 14
    const top = Math.max(...finite(Array.from(data))), low = name === "accuracy" ? Math.min(...finite(Array.from(data))) : Math.max(Math.min(...finite(Array.from(data))), 1e-4 * top)
    const scaled = Float32Array.from(data, v => name === "accuracy" ? (v - low) / (top - low || 1) : Math.log(Math.max(v, low) / low) / (Math.log(top / low) || 1))
    const large = resized(scaled, Y, X, side, side), level = large.map(v => Math.min(levels - 1, Math.floor(v * levels)))
    this.canvas.width = this.canvas.height = side
    const pen = this.canvas.getContext("2d"), image = pen.createImageData(side, side)
    for (let j = 0; j < side; j++) {
      for (let i = 0; i < side; i++) {
        const at = (side - 1 - j) * side + i, here = level[at], edge = here !== level[at + (i < side - 1 ? 1 : 0)] || here !== level[at + (at + side < side * side ? side : 0)]
        const grey = 246 - 176 * here / (levels - 1) - (edge ? 34 : 0)
        image.data.set([grey, grey, grey + 4, 255], 4 * (j * side + i))
      }
    }
    pen.putImageData(image, 0, 0)
    const show = v => name === "accuracy" ? percent(v) : brief(v)
    this.foot.textContent = `light ${show(low)}, dark ${show(top)}${name === "accuracy" ? "" : " nats"}`
    this.foot.title = `to the right: towards ${this.land.about.ends[0]}'s end`
    this.draw()
  }

  draw() {
    if (!this.chart) return
    const { training, land } = this, k = training.place(this.view.state.get("step"))
    this.key(this.shown().map(r => [training.methods[r].colour, `${training.methods[r].name} ${percent(land.inside.data[r])}`]))
    this.legend.classList.add("pv-two")
    this.legend.append(make("span", { title: "the share of a displacement that lies in the plane of this picture" }, "in this plane"))
    this.note.textContent = ""
    this.chart.emphasise(this.shown())
    this.chart.cursor(null, this.shown().map(r => [...(this.paths[r][Math.min(k, this.paths[r].length - 1)] ?? [NaN, NaN]), training.methods[r].colour]))
  }
}

const PANELS = { cosine: CosinePanel, plane: PlanePanel, landscape: LandscapePanel, accuracy: AccuracyPanel, tradeoff: TradeoffPanel, tokens: TokensPanel }
const ROWS = [["cosine", "plane", "landscape"], ["accuracy", "tradeoff", "tokens"]]

/** All that shows one training: its maps and its panels */
class Group {
  constructor(view, training) {
    Object.assign(this, { view, training })
    this.rows = make("div", { class: "pv-rows" })
    this.maps = []
    const there = name => view.wanted.includes(name) && !(name === "tokens" && !view.book[`${training().s}.tokens`].shape[2]) && !(name === "accuracy" && !training().tested.length) && !(name === "landscape" && !view.able && !view.book.land)
    this.panels = []
    const rows = ROWS.map(names => {
      const panels = names.filter(there).map(name => new PANELS[name](this)), total = panels.reduce((sum, p) => sum + p.wide, 0)
      const narrow = panels.filter(p => p.wide === 1).length
      for (const panel of panels) {
        panel.node.style.setProperty("--pv-wide", `span ${Math.round(12 * panel.wide / total)}`)
        panel.node.style.setProperty("--pv-mid", `span ${panel.wide === 2 || narrow === 1 ? 12 : 6}`)
      }
      this.panels.push(...panels)
      return make("div", { class: "pv-grid-row" }, ...panels.map(panel => panel.node))
    })
    this.node = make("div", { class: "pv-group" }, make("h3", { hidden: !view.book.about.compare }, training().name), this.rows, ...rows)
  }

  draw() {
    const { view } = this, count = view.scene?.about.images.length ?? 0, chosen = Math.min(view.state.get("image"), Math.max(0, count - 1))
    const pins = view.state.get("pins").filter(b => b !== chosen && b < count), shown = view.wanted.includes("maps") ? [chosen, ...pins] : []
    while (this.maps.length < shown.length) {
      this.maps.push(new MapRow(view, this.training))
      this.rows.append(this.maps.at(-1).node)
    }
    this.maps.forEach((row, n) => {
      row.node.hidden = n >= shown.length
      if (n < shown.length) row.draw(shown[n], n ? `pinned: ${view.scene.about.images[shown[n]].name}` : null)
    })
    for (const panel of this.panels) panel.draw()
  }
}

// ---------------------------------------------------------------------------------------------- the view

const TARGET_WORDS = { predicted: "predicted class", true: "true class", contrast: "true class against its rival" }
const EXPLAINERS = { GradCAM: "Grad-CAM" }
const FILTERS = {
  all: ["all", "all images"],
  differ: ["differ", "the reference and the method predict different classes"],
  gained: ["gained", "the reference is wrong and the method right"],
  lost: ["lost", "the reference is right and the method wrong"],
  moved: ["moved", "by the change of the share on the object, largest first"],
}

/** Everything between the data and the page */
export class View {
  /**
   * @param {HTMLElement} el     where to draw
   * @param {State} state        of the reader's choices
   * @param {object} options     ask: function of (message, buffers) to the kernel, or null; panels: names
   */
  constructor(el, state, { ask = null, panels = ["maps", ...Object.keys(PANELS)] } = {}) {
    Object.assign(this, { state, ask, able: false, wanted: panels, images: [], scene: null })
    this.root = make("div", { class: "pv-root", tabindex: 0, role: "application", "aria-label": "Explorer of a training", keydown: e => this.press(e) })
    this.root.explorer = this  // for a console, and for tests
    el.append(this.root)
    this.tell = later(() => { this.twin.textContent = this.sentence() }, 350)
    state.watchers.push((names, from) => this.changed(names, from))
    new ResizeObserver(() => this.theme()).observe(this.root)  // notebooks put it into the page later
    this.media = matchMedia("(prefers-color-scheme: dark)")
    this.media.addEventListener("change", this.retheme = () => this.theme())
    this.observer = new MutationObserver(this.retheme)
    this.observer.observe(document.body, { attributes: true, attributeFilter: ["class", "data-jp-theme-light", "data-theme", "data-vscode-theme-kind"] })
  }

  remove() {
    this.observer.disconnect()
    this.media.removeEventListener("change", this.retheme)
    this.stop()
  }

  /** Form controls follow the page: dark where its text is light */
  theme() {
    if (!this.root.isConnected) return
    this.root.style.colorScheme = ""
    const { color } = getComputedStyle(this.root), [r, g, b] = color.match(/[\d.]+/g).map(Number)
    const dark = 0.3 * r + 0.6 * g + 0.1 * b > (color.startsWith("color(") ? 0.5 : 128)
    this.root.style.colorScheme = dark ? "dark" : "light"
    this.root.dataset.theme = dark ? "dark" : "light"
  }

  /** Take over what came from Python */
  async adopt(buffers) {
    const book = new Book(buffers), turn = this.turn = (this.turn ?? 0) + 1
    const opened = scene => Promise.all(scene.about.images.map((_, b) => openImage(scene, b)))
    const pictures = await Promise.all(book.scenes.map(opened))
    if (turn !== this.turn) return  // newer data have come meanwhile
    Object.assign(this, { book, pictures, land: book.land })
    this.openScene()
    this.able = Boolean(this.ask) && book.about.able
    this.heat = book.heat.data
    this.colours = palette(this.heat, this.state.get("opacity"))
    const focus = document.activeElement, name = this.root.contains(focus) ? focus.getAttribute("aria-label") : null
    this.build()
    const missing = this.able && !this.land && this.wanted.includes("landscape") && (this.scene || !this.wanted.includes("maps"))
    if (missing) this.ask({ ask: "landscape", unasked: true })  // the kernel decides: where it takes seconds
    if (name) [...this.root.querySelectorAll("[aria-label]"), this.root].find(n => n.getAttribute("aria-label") === name)?.focus({ preventScroll: true })
    this.draw()
  }

  /** The images of the training that is seen */
  openScene() {
    const one = this.book.scenes.length > 1 ? Math.min(this.state.get("set"), this.book.scenes.length - 1) : 0
    this.scene = this.book.scenes[one] ?? null
    this.images = this.pictures[one] ?? []
  }

  /** The training that sliders and panels speak of */
  training() { return this.book.sets[Math.min(this.state.get("set"), this.book.sets.length - 1)] }

  target() {
    const wanted = this.state.get("target"), known = this.scene.about.targets
    return known.includes(wanted) ? wanted : this.lastTarget && known.includes(this.lastTarget) ? this.lastTarget : known[0]
  }

  build() {
    const { book } = this, groups = book.about.compare ? book.sets : [null]
    this.controls = this.wanted.includes("maps") || this.wanted.length ? new Controls(this) : null
    this.groups = groups.map(set => new Group(this, set ? () => set : () => this.training()))
    this.twin = make("p", { class: "pv-twin", role: "status", "aria-live": "polite" })
    const main = make("div", { class: book.about.compare ? "pv-main pv-compare" : "pv-main" }, ...this.groups.map(group => group.node))
    this.rail = this.wanted.includes("maps") ? new Rail(this) : null
    this.root.replaceChildren(this.controls.node, make("div", { class: "pv-with-rail" }, this.rail ? this.rail.node : "", main), this.twin)
    this.root.classList.toggle("pv-small", this.wanted.length < 3)
  }

  changed(names, from) {
    if (names.includes("opacity") && this.heat) this.colours = palette(this.heat, this.state.get("opacity"))
    if (names.includes("target") && this.scene?.about.targets.includes(this.state.get("target"))) this.lastTarget = this.state.get("target")
    if (names.includes("set") && this.book) {
      this.openScene()
      this.build()
      return this.draw()
    }
    if (this.book) this.update()
  }

  /** Draw now, at most once between two frames of the screen */
  update() {
    if (this.waiting) { this.again = true; return }
    this.waiting = true
    this.draw()
    requestAnimationFrame(() => {
      this.waiting = false
      if (this.again) { this.again = false; this.update() }
    })
  }

  draw() {
    this.controls.draw()
    this.rail?.draw()
    for (const group of this.groups) group.draw()
    this.tell()
    this.drawn = performance.now()
  }

  /** To the place nearest to a step */
  go(step) { this.state.set({ step: this.training().places[this.training().place(step)] }) }

  /** Along the snapshots */
  walk(places) {
    const training = this.training(), k = training.place(this.state.get("step"))
    this.state.set({ step: training.places[clamp(k + places, 0, training.places.length - 1)] })
  }

  /** To another method: they are in the order of the slider */
  turnTo(more) {
    const training = this.training(), r = clamp(training.nearest(this.state.get("lam")) + more, 0, training.methods.length - 1)
    this.state.set({ lam: training.methods[r].key })
  }

  /** To the next or the last conflict that has a snapshot */
  conflict(way) {
    const training = this.training(), step = this.state.get("step"), there = new Set(training.places)
    const all = training.conflicts(training.nearest(this.state.get("lam"))).filter(s => there.has(s))
    const found = way > 0 ? all.find(s => s > step) : all.findLast(s => s < step)
    if (found !== undefined) this.state.set({ step: found })
  }

  press(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return
    event.stopPropagation()  // notebooks take arrows and letters for commands of their own
    const { target } = event, typing = target.matches("select, input:not([type=range]), textarea")
    if (typing) return
    const far = event.shiftKey ? 10 : 1, onLambda = target.matches("[data-slider=lam]"), onOther = target.matches("input") && !target.dataset.slider
    if (onOther) return
    const along = n => onLambda ? this.turnTo(n) : this.walk(n * far)
    const act = {
      ArrowLeft: () => along(-1), ArrowRight: () => along(1), ArrowDown: () => this.turnTo(-1), ArrowUp: () => this.turnTo(1),
      Home: () => onLambda ? this.turnTo(-1e6) : this.walk(-1e9), End: () => onLambda ? this.turnTo(1e6) : this.walk(1e9),
      PageUp: () => this.walk(10), PageDown: () => this.walk(-10), n: () => this.conflict(1), p: () => this.conflict(-1),
      " ": target.matches("button") ? null : () => this.playing ? this.stop() : this.play(),
    }[event.key]
    if (!act) return
    event.preventDefault()
    act()
  }

  play() {
    const training = this.training()
    if (training.place(this.state.get("step")) === training.places.length - 1) this.state.set({ step: training.places[0] })
    let before = performance.now(), owed = 0
    const tick = now => {
      owed += (now - before) / 1000 * this.state.get("speed")
      before = now
      if (owed >= 1) { this.walk(Math.floor(owed)); owed %= 1 }
      if (training.place(this.state.get("step")) === training.places.length - 1) return this.stop()
      this.playing = requestAnimationFrame(tick)
    }
    this.playing = requestAnimationFrame(tick)
    this.controls.draw()
  }

  stop() {
    if (this.playing) cancelAnimationFrame(this.playing)
    this.playing = null
    this.controls?.draw()
  }

  /** What the frame shows, in words */
  sentence() {
    const training = this.training(), step = this.state.get("step"), r = training.nearest(this.state.get("lam")), i = training.row(step)
    const method = training.methods[r].name, cos = i < 0 ? NaN : training.column("cos", r)[i]
    const agree = i >= 0 && training.column("agree", r)[i] === 1
    const gradients = i < 0 ? "before the first step" : Number.isFinite(cos) ? `the gradients ${cos < 0 ? "conflict" : "agree"}, cosine ${signed(cos)} (${fixed(training.column("angle_deg", r)[i], 0)}\u00b0)` : agree ? "the prompt is still the teacher's" : "the gradients were not recorded"
    const looks = this.groups.at(this.book.about.compare ? 0 : -1).maps[0]?.looks, names = [this.book.about.zero.name, training.methods[training.reference].name, method]
    const said = look => `${look.predicted} (${percent(look.chance)}${look.right === null ? "" : look.right ? ", right" : ", wrong"}${Number.isFinite(look.share) ? `, ${percent(look.share)} of the map on the object` : ""})`
    const seen = looks?.every(Boolean) ? [...new Map(names.map((name, n) => [name, looks[n]]))].map(([name, look]) => `${name} predicts ${said(look)}`) : []
    return `Step ${step}, ${method}: ${gradients}. ${seen.length ? `${this.scene.about.images[Math.min(this.state.get("image"), this.images.length - 1)].name}: ${seen.join("; ")}.` : ""}`
  }
}

/** The picture of an image and the outline of its object, both ready to be drawn */
async function openImage(scene, b) {
  const { pictures, ends, masks, about } = scene, start = b ? ends.data[b - 1] : 0
  const picture = await createImageBitmap(new Blob([pictures.data.slice(start, ends.data[b])], { type: about.images[b].type }))
  if (!masks.data.length || !scene.areas.data[b]) return { picture, outline: null }
  const [H, W] = about.size, bytes = Math.ceil(H * W / 8), bits = masks.data.subarray(b * bytes, (b + 1) * bytes), scale = Math.max(1, Math.round(2 * PIXELS / Math.max(H, W)))
  const inside = (y, x) => y >= 0 && x >= 0 && y < H && x < W ? bits[(y * W + x) >> 3] >> 7 - ((y * W + x) & 7) & 1 : 0
  const outline = make("canvas", { width: W * scale, height: H * scale }), pen = outline.getContext("2d")
  for (const [colour, wide] of [["rgba(0,0,0,.55)", 5], ["#fff", 2.6]]) {
    pen.strokeStyle = colour
    pen.lineWidth = wide
    pen.beginPath()
    for (let y = 0; y <= H; y++) {
      for (let x = 0; x <= W; x++) {
        if (inside(y, x) !== inside(y - 1, x)) { pen.moveTo(x * scale, y * scale); pen.lineTo((x + 1) * scale, y * scale) }
        if (inside(y, x) !== inside(y, x - 1)) { pen.moveTo(x * scale, y * scale); pen.lineTo(x * scale, (y + 1) * scale) }
      }
    }
    pen.stroke()
  }
  return { picture, outline }
}

/** Title, choices and sliders */
class Controls {
  constructor(view) {
    this.view = view
    const { book, scene, state, wanted } = view, training = view.training(), maps = wanted.includes("maps")
    const button = (words, label, click, more = {}) => make("button", { type: "button", "aria-label": label, title: label, click, ...more }, words)
    this.title = make("strong", {}, book.about.title)
    this.subtitle = make("span", { class: "pv-note" })
    this.choices = make("div", { class: "pv-choices" })
    if (maps) this.choose()
    const R = training.methods.length
    this.lam = make("input", { type: "range", min: 0, max: Math.max(1, R - 1), step: 1, "aria-label": book.about.words.strength, "data-slider": "lam", disabled: R < 2, input: () => state.set({ lam: training.methods[Math.min(this.lam.value, R - 1)].key }) })
    const many = R > 7
    const marks = make("div", { class: "pv-marks", "aria-hidden": true }, ...training.methods.map((m, r) => {
      const mark = make("span", {}, many && r % Math.ceil(R / 7) && r < R - 1 ? "" : m.short)
      mark.style.left = `${R > 1 ? 100 * r / (R - 1) : 0}%`
      return mark
    }))
    this.step = make("input", { type: "range", min: 0, max: Math.max(1, training.places.length - 1), step: 1, "aria-label": "step", "data-slider": "step", disabled: training.places.length < 2, input: () => state.set({ step: training.places[Math.min(this.step.value, training.places.length - 1)] }) })
    this.film = make("canvas", { class: "pv-film", title: "steps in conflict", "aria-hidden": true })
    this.playButton = button("\u25b6", "play (space)", () => view.playing ? view.stop() : view.play())
    const speed = make("select", { "aria-label": "speed", title: "snapshots per second", change: e => state.set({ speed: +e.target.value }) }, ...[5, 15, 30, 60].map(n => make("option", { value: n, selected: n === state.get("speed") }, `${n}/s`)))
    this.where = make("output", { class: "pv-where" })
    const jumps = [this.playButton, speed, button("\u2039 p", "previous conflict (p)", () => view.conflict(-1)), button("n \u203a", "next conflict (n)", () => view.conflict(1))]
    this.bar = make("div", { class: "pv-sliders" },
      make("label", {}, book.about.words.symbol), make("div", { class: "pv-lam" }, this.lam, marks), this.trainer(),
      make("label", {}, "step"), make("div", { class: "pv-step" }, this.step, this.film), make("div", { class: "pv-jumps" }, ...jumps, this.where))
    this.work = make("div", { class: "pv-work", role: "status" })
    this.node = make("header", { class: "pv-head" }, make("div", { class: "pv-title" }, this.title, this.subtitle, this.choices), this.bar, this.work)
    if (scene) this.subtitle.textContent = ""
    new ResizeObserver(() => { this.filmed = null; if (view.controls === this) this.strip() }).observe(this.film)
  }

  /** A picker; a single entry can only be read */
  pick(label, name, options, usual) {
    const known = options.some(([value]) => value === usual) ? options : [...options, [usual, String(usual)]]
    if (known.length < 2 && !this.view.ask) return ""  // a page of its own has nothing to choose here
    const select = make("select", { "aria-label": label, title: label, disabled: known.length < 2, change: () => this.view.state.set({ [name]: select.value }) }, ...known.map(([value, words]) => make("option", { value, selected: value === usual }, words)))
    return make("label", { class: "pv-choice" }, `${label} `, select)
  }

  choose() {
    const { view } = this, { scene, state, book } = view, button = (words, label, click) => make("button", { type: "button", title: label, "aria-label": label, click }, words)
    if (scene) {
      const { about } = scene, some = names => view.able ? names : names.filter(name => name === about.split)
      const targets = [...new Set([...about.targets, ...(view.able ? about.classes.slice(0, 200) : [])])].map(name => [name, TARGET_WORDS[name] ?? name])
      const layers = view.able ? about.layers : about.layers.filter(([value]) => value === about.layer)
      this.choices.append(this.pick("target", "target", targets, state.get("target")), this.pick("map", "explainer", [[about.explainer, EXPLAINERS[about.explainer] ?? about.explainer]], about.explainer),
        this.pick("images", "split", some(about.splits).map(name => [name, name]), about.split), this.pick("layer", "target_layer", layers, about.layer))
    }
    if (book.sets.length > 1 && !book.about.compare) {
      const select = make("select", { "aria-label": "seed", change: () => state.set({ set: +select.value }) }, ...book.sets.map((set, s) => make("option", { value: s, selected: s === state.get("set") }, set.name)))
      this.choices.append(make("label", { class: "pv-choice" }, "maps of ", select))
    }
    const opacity = make("input", { type: "range", min: 0, max: 1, step: 0.05, value: state.get("opacity"), "aria-label": "opacity of the maps", input: () => state.set({ opacity: +opacity.value }) })
    this.choices.append(make("label", { class: "pv-choice" }, "opacity ", opacity))
    this.pin = button("pin", "keep this image in view", () => {
      const b = state.get("image"), pins = state.get("pins")
      state.set({ pins: pins.includes(b) ? pins.filter(p => p !== b) : [...pins, b].slice(-2) })
    })
    this.choices.append(this.pin)
    if (view.able) {
      const files = make("input", { type: "file", accept: "image/*", multiple: true, hidden: true, "aria-label": "photos", change: async () => {
        const chosen = [...files.files], buffers = await Promise.all(chosen.map(file => file.arrayBuffer()))
        view.ask({ ask: "photos", names: chosen.map(file => file.name) }, buffers.map(buffer => new DataView(buffer)))
        files.value = ""
      } })
      this.choices.append(files, button("your photos", "look at photos of your own", () => files.click()))
    }
    if (view.ask) this.choices.append(button("save figure", "save what is on screen: PDF, PNG and CSV", () => view.ask({ ask: "save" })))
  }

  /** A further lambda to train */
  trainer() {
    const { view } = this, { words, able } = view.book.about
    if (!view.ask || !able || !words.train || !view.wanted.includes("maps")) return make("span")
    const field = make("input", { type: "number", step: "any", "aria-label": `a ${words.strength} to train`, placeholder: "0.25" })
    const begin = () => {
      const value = field.value === "" ? NaN : +field.value, [low, high] = words.train
      if (!(value >= low && value <= high)) return this.say(`${words.strength} is a number from ${low} to ${high}; got ${field.value || "nothing"}`, true)
      view.ask({ ask: "train", lam: value })
    }
    field.addEventListener("keydown", e => { if (e.key === "Enter") begin() })
    return make("span", { class: "pv-train" }, field, make("button", { type: "button", click: begin, title: "train it just as the others were" }, "+ train"))
  }

  /** A word to the reader, with progress and a way to cancel */
  say(words, wrong = false, done = null) {
    this.work.classList.toggle("pv-wrong", wrong)
    const bar = done === null ? null : make("progress", { max: 1, value: done })
    const cancel = done === null ? null : make("button", { type: "button", click: () => this.view.ask({ ask: "cancel" }) }, "cancel")
    this.work.replaceChildren(...[words, bar, cancel].filter(Boolean))
  }

  /** The conflicts of a method below the step slider, like the frames of a film */
  strip() {
    const training = this.view.training(), r = training.nearest(this.view.state.get("lam")), wide = this.film.clientWidth
    if (this.filmed === r || !wide) return
    this.filmed = r
    this.film.width = wide, this.film.height = 7
    const pen = this.film.getContext("2d"), last = training.last || 1
    pen.fillStyle = this.view.book.about.coop
    for (const step of training.conflicts(r)) pen.fillRect((step - 0.5) / last * (wide - 1), 0, Math.max(0.7, wide / last * 0.8), 7)
  }

  draw() {
    const { view } = this, { state, scene } = view, training = view.training(), r = training.nearest(state.get("lam")), step = state.get("step")
    const method = training.methods[r], k = training.place(step), i = training.row(step), cos = i < 0 ? NaN : training.column("cos", r)[i]
    this.lam.value = r
    this.lam.setAttribute("aria-valuetext", method.name)
    this.step.value = k
    this.step.setAttribute("aria-valuetext", `step ${step}`)
    this.where.replaceChildren(make("b", {}, String(step)), ` of ${training.last}`, make("span", { class: cos < 0 ? "pv-conflict" : "" }, Number.isFinite(cos) ? `cos ${signed(cos)}` : ""))
    this.playButton.textContent = view.playing ? "\u275a\u275a" : "\u25b6"
    this.strip()
    if (scene) {
      const { about } = scene, wanted = state.get("target"), shown = view.target(), layer = about.layers.find(([value]) => value === about.layer)?.[1] ?? about.layer
      this.subtitle.textContent = [about.split, shown === wanted ? `map of ${TARGET_WORDS[shown] ? `the ${TARGET_WORDS[shown]}` : shown}` : `asking for the map of ${wanted} \u2026`, `${EXPLAINERS[about.explainer] ?? about.explainer} at ${layer}`, about.masks].filter(Boolean).join(" \u00b7 ")
      if (this.pin) this.pin.textContent = state.get("pins").includes(state.get("image")) ? "unpin" : "pin"
    }
  }
}

/** The images to choose from */
class Rail {
  constructor(view) {
    this.view = view
    const { scene } = view
    this.filter = make("select", { "aria-label": "which images", change: () => view.state.set({ filter: this.filter.value }) }, ...Object.entries(FILTERS).map(([value, [words, title]]) => make("option", { value, title }, words)))
    this.list = make("div", { class: "pv-thumbs", role: "listbox", "aria-label": "images to choose from" })
    this.node = make("nav", { class: "pv-rail", "aria-label": "rail" }, this.filter, this.list)
    this.thumbs = (scene?.about.images ?? []).map((image, b) => {
      const canvas = make("canvas", { width: 88, height: 88 }), { picture } = view.images[b]
      canvas.getContext("2d").drawImage(picture, 0, 0, 88, 88)
      return make("button", { type: "button", role: "option", title: image.name, "aria-label": image.name, click: () => view.state.set({ image: b }) }, canvas)
    })
  }

  /** Images that fit the filter, judged by the last snapshot: moving the step moves nothing here */
  chosen() {
    const { view } = this, filter = view.state.get("filter"), training = view.training(), target = view.target(), k = training.places.length - 1
    const all = this.thumbs.map((_, b) => b)
    if (filter === "all" || !training.hasText) return all
    const look = r => b => training.look(view.scene, target, k, r, b), one = look(training.reference), two = look(training.nearest(view.state.get("lam")))
    const change = b => Math.abs(one(b).share - two(b).share) || 0
    if (filter === "moved") return all.sort((a, b) => change(b) - change(a))
    const fits = { differ: b => one(b).predicted !== two(b).predicted, gained: b => one(b).right === false && two(b).right, lost: b => one(b).right && two(b).right === false }[filter]
    return all.filter(fits)
  }

  draw() {
    const { state, scene } = this.view
    if (!scene) return
    const key = [state.get("filter"), state.get("lam"), state.get("set"), this.view.target()].join(" ")
    if (this.key !== key) {
      this.key = key
      const chosen = this.chosen()
      this.filter.value = state.get("filter")
      this.filter.title = `${FILTERS[state.get("filter")][1]}, judged by the end of training`
      this.list.replaceChildren(...(chosen.length ? chosen.map(b => this.thumbs[b]) : [make("p", { class: "pv-note" }, "none")]))
    }
    this.thumbs.forEach((thumb, b) => thumb.setAttribute("aria-selected", b === state.get("image")))
  }
}

// ---------------------------------------------------------------------------------------------- where it runs

const SHARED = ["lam", "step", "image", "target", "explainer", "split", "target_layer", "opacity", "pins", "set", "filter", "speed"]

/** In a notebook: the choices are traits of the widget, so that other widgets can follow and lead */
function render({ model, el }) {
  const state = new State(Object.fromEntries(SHARED.map(name => [name, model.get(name)])))
  const view = new View(el, state, { ask: (message, buffers = []) => model.send(message, undefined, buffers), panels: model.get("_panels") })
  const save = later(() => model.save_changes(), 40)
  state.watchers.push((names, from) => {
    if (from === "kernel") return
    for (const name of names) model.set(name, state.get(name))
    save()
  })
  const listen = { }
  for (const name of SHARED) listen[`change:${name}`] = () => state.set({ [name]: model.get(name) }, "kernel")
  const buffers = () => ({ runs: model.get("_runs"), scenes: model.get("_scenes"), land: model.get("_land") })
  const work = () => { const { text = "", wrong = false, done = null } = model.get("_work"); view.controls?.say(text, wrong, done) }
  const adopt = later(() => view.adopt(buffers()).then(work), 0)
  for (const name of ["_runs", "_scenes", "_land"]) listen[`change:${name}`] = adopt
  listen["change:_work"] = work
  for (const [name, call] of Object.entries(listen)) model.on(name, call)
  view.adopt(buffers()).then(work)
  return () => {
    for (const [name, call] of Object.entries(listen)) model.off(name, call)
    view.remove()
  }
}

/** In a page of its own: the choices stand in the address */
export function mount(el, buffers, values) {
  const shown = new URLSearchParams(location.hash.slice(1)), first = { ...values }
  for (const [name, text] of shown) {
    const number = text.trim() === "" ? NaN : +text
    if (name === "target" || name === "lam" && !Number.isFinite(number)) first[name] = text
    if (["lam", "step", "image", "set"].includes(name) && number >= 0) first[name] = number
    if (name === "pins") first.pins = text.split(",").map(Number).filter(b => b >= 0)
  }
  const state = new State(first), view = new View(el, state)
  const write = later(() => {
    const text = ["lam", "step", "image", "target", "set", "pins"].filter(name => String(state.get(name)) !== String(values[name])).map(name => `${name}=${encodeURIComponent(state.get(name))}`)
    history.replaceState(null, "", `#${text.join("&")}`)
  }, 200)
  state.watchers.push(write)
  view.adopt(buffers)
  return view
}

export default { render }
