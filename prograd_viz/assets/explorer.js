// The explorer: recorded trainings, seen in a browser. One view for notebooks (anywidget) and for reports.
// No third-party code. The Python side is prograd_viz.screen, which packs the data, and prograd_viz.explorer.

/**
 * Numbers and maps come as safetensors buffers, whose metadata hold a JSON text under "about"; a tensor here is
 * {shape, data}.
 *
 * Buffer "runs": about {compare, able, t, coop: colour of G_d, zero: {name, colour}, sets: RunSet[],
 *   trainable: whether more strengths can be trained}; tensors heat [256, 3] and, of set s,
 *   s.record [columns, R, S], s.snapshots [K], s.arrows [R, S, 4, 2], s.tokens [R, S, M]
 * RunSet, one training of R methods, S steps and K snapshots: {name, methods: Method[] in the order of the slider,
 *   reference: which method is compared with the slider's (CoOp where there is one), columns: of its record,
 *   tested: test sets, zero: accuracy of zero-shot CLIP by test set}
 * Method: {key: lambda, or the name of a method that has none, name: what it is called in sentences, rule: "coop",
 *   "prograd" or another, colour: the same as in figures}
 * Buffers "scenes", one for each run set: about {split, splits, layer, layers: the default one first, explainer,
 *   explainers, targets, classes, names, labels, masks}; tensors pictures [B, H, W, 3], masks (bits) [B, bytes],
 *   areas [B]; of target t: maps.t [K, R, B, h, w] of 255ths of top.t [K, R, B], NaN: no map yet; share.t [K, R, B],
 *   explained.t [K, R, B, 2], predicted and chance [K, R, B]; the same of zero-shot CLIP under "zero.", without K and
 *   with R = 1
 * Buffer "land": about {set, ends: two keys}; tensors x [X], y [Y], loss_ce, loss_kl, accuracy [Y, X], steps [K],
 *   paths [R, K, 2], inside [R]
 */

const SVG = "http://www.w3.org/2000/svg"
const TYPES = { U8: Uint8Array, I16: Int16Array, F32: Float32Array, F64: Float64Array }

// ---------------------------------------------------------------------------------------------- small tools

/** An element: attributes, listeners as functions, a style as an object, children as nodes or text */
function make(tag, attributes = {}, ...children) {
  const node = tag.startsWith("svg:") ? document.createElementNS(SVG, tag.slice(4)) : document.createElement(tag)
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") node.addEventListener(name, value)
    else if (name === "style") Object.assign(node.style, value)  // the policy of a report forbids the attribute
    else if (value !== false && value != null) node.setAttribute(name, value === true ? "" : value)
  }
  node.append(...children.filter(child => child != null))
  return node
}

/** A button whose label is read aloud and shown by the pointer */
function button(content, label, click, role = null) {
  return make("button", { type: "button", title: label, "aria-label": label, click, role }, content)
}

/** A select of [value, words, title] */
function picker(attributes, options, usual) {
  const option = ([value, words, title]) => make("option", { value, title, selected: value === usual }, words)
  return make("select", attributes, ...options.map(option))
}

/** Change the words of a node where they differ: each change lays the page out again */
function write(node, words) { if (node.textContent !== words) node.textContent = words }

/** Change the attributes of a node where they differ: faster than another node */
function put(node, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value)
  }
}

/** A line of a drawing, and its ends as attributes */
const ends = ([x1, y1], [x2, y2]) => ({ x1, y1, x2, y2 })
const segment = (from, to, attributes) => make("svg:line", { ...ends(from, to), ...attributes })

/** Digits as Python prints them: an exact tie goes to the even neighbour */
export function fixed(x, digits) {
  const scaled = Math.abs(x) * 10 ** digits
  const whole = Math.floor(scaled)
  const tie = scaled - whole === 0.5 && Number.isInteger(x * 2 ** (digits + 1))  // the product alone may be rounded
  if (!tie || whole % 2 !== 0) return x.toFixed(digits)
  return (Math.sign(x) * whole / 10 ** digits).toFixed(digits)
}

/** A number in three digits */
function short(x) {
  if (x === 0) return "0"
  const far = Math.abs(x) < 0.01 || Math.abs(x) >= 1000
  return far ? x.toExponential(1) : `${+x.toPrecision(3)}`
}

export const percent = x => Number.isFinite(x) ? `${fixed(100 * x, 0)}%` : "-"
const signed = x => (x < 0 ? "\u2212" : "+") + fixed(Math.abs(x), 2)
const cosine = x => Number.isFinite(x) ? signed(x) : "none"
const brief = x => Math.abs(x) < 0.001 && x !== 0 ? x.toExponential(0) : `${+x.toPrecision(2)}`
const clamp = (x, low, high) => Math.min(Math.max(x, low), high)
const finite = values => values.filter(Number.isFinite)
const sum = values => values.reduce((a, b) => a + b, 0)

/** The smallest and the largest finite value; infinite where there is none */
function extent(values) {
  const wider = ([low, high], value) => [Math.min(low, value), Math.max(high, value)]
  return finite(values).reduce(wider, [Infinity, -Infinity])
}

/** The same with some room at both ends, and no narrower than `least`; [0, 1] without a value */
function roomy(values, room, least) {
  const [low, high] = extent(values)
  const more = Math.max(room * (high - low || Math.abs(high) || 1), (least - (high - low)) / 2)
  return low <= high ? [low - more, high + more] : [0, 1]
}

/** The same of shares, which stay between 0 and 1; so wide that their ticks are whole per cents */
function shares(values, room) {
  const [low, high] = roomy(values, room, 0.04)
  return [low, high].map(end => clamp(end + Math.max(0, -low) + Math.min(0, 1 - high), 0, 1))
}

/** About n round numbers between two ends */
function ticks(low, high, n = 4) {
  const rough = (high - low) / n
  const unit = 10 ** Math.floor(Math.log10(rough))
  const step = unit * [1, 2, 5, 10].find(k => k * unit >= rough)
  const found = []
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + 1e-9 * step; k++) found.push(k * step)
  return found
}

/** The tensors of a safetensors buffer, and what its metadata say */
export function unpack(view) {
  const bytes = new Uint8Array(view.buffer ?? view, view.byteOffset ?? 0, view.byteLength).slice()
  const first = 8 + Number(new DataView(bytes.buffer).getBigUint64(0, true))
  const { __metadata__: { about }, ...tensors } = JSON.parse(new TextDecoder().decode(bytes.subarray(8, first)))
  const found = { about: JSON.parse(about) }
  for (const [name, { dtype, shape, data_offsets: [start, end] }] of Object.entries(tensors)) {
    const Kind = TYPES[dtype]
    found[name] = { shape, data: new Kind(bytes.buffer, first + start, (end - start) / Kind.BYTES_PER_ELEMENT) }
  }
  return found
}

/** The part of a tensor at its first indices: tensor[i][j]... */
function part({ shape, data }, ...indices) {
  const size = shape.slice(indices.length).reduce((a, b) => a * b, 1)
  const at = indices.reduce((before, index, n) => before * shape[n] + index, 0)
  return data.subarray(at * size, (at + 1) * size)
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

/** Call later, and once, however often it is asked for */
function later(call, wait) {
  let timer = null
  const due = () => {
    timer = null
    call()
  }
  return () => { timer ??= setTimeout(due, wait) }
}

/** Call with the size of a node whenever it changes, for as long as there is that node */
function watch(node, call) {
  new ResizeObserver(([{ contentRect: { width, height } }]) => call(width, height)).observe(node)
}

/** Values averaged over a window around each place; NaN is left out */
function smooth(values, window = 15) {
  const half = window >> 1
  return Float64Array.from(values, (_, i) => {
    const known = finite(Array.from(values.subarray(Math.max(0, i - half), i + half + 1)))
    return sum(known) / known.length
  })
}

// ---------------------------------------------------------------------------------------------- data

/** A training as the panels ask for it */
class Training {
  /** @param {object} about  a RunSet */
  constructor(book, s, about) {
    Object.assign(this, about, { book, s })
    this.steps = Array.from(this.column("step", 0))
    this.places = Array.from(book[`${s}.snapshots`].data)
    this.hasText = this.places.length > 0
    if (!this.hasText) this.places = [0, ...this.steps]
    this.last = this.steps.at(-1) ?? this.places.at(-1)
    this.kept = {}
  }

  /** A column of a method, [S] */
  column(name, r) {
    const c = this.columns.indexOf(name)
    return c < 0 ? null : part(this.book[`${this.s}.record`], c, r)
  }

  /** The same, averaged over 15 steps, computed once */
  smoothed(name, r) { return this.kept[`${name} ${r}`] ??= smooth(this.column(name, r)) }

  /** Position of a step in the record, or -1 */
  row(step) { return this.steps[step - 1] === step ? step - 1 : this.steps.indexOf(step) }

  /** Position of the snapshot nearest to a step */
  place(step) {
    const low = Math.max(0, this.places.findLastIndex(place => place <= step))
    const high = Math.min(low + 1, this.places.length - 1)
    return step - this.places[low] <= this.places[high] - step ? low : high
  }

  /** Which method has this key; numbers need only be near */
  method(key) {
    const near = m => typeof m.key === "number" && typeof key === "number" && Math.abs(m.key - key) < 1e-9
    return this.methods.findIndex(m => near(m) || String(m.key) === String(key))
  }

  /** The same, or the one with the nearest lambda, or the last */
  nearest(key) {
    const r = this.method(key)
    if (r >= 0) return r
    const gaps = this.methods.map(m => [m.key, key].every(Number.isFinite) ? Math.abs(m.key - key) : NaN)
    const found = gaps.indexOf(extent(gaps)[0])
    return found >= 0 ? found : this.methods.length - 1
  }

  conflicts(r) {
    const conflict = this.column("conflict", r)
    return this.steps.filter((_, i) => conflict[i] === 1)
  }

  /** The share of the steps with recorded gradients that are in conflict */
  rate(r) { return this.conflicts(r).length / finite(this.column("conflict", r)).length }

  /** What a method sees in an image: r is a method, or -1 for zero-shot CLIP */
  look(scene, target, k, r, b) {
    const { images, classes } = scene.about
    const of = r < 0 ? "zero." : ""
    const maps = scene[`${of}maps.${target}`]
    if (!maps) return null
    const [h, w] = maps.shape.slice(-2)
    const get = name => part(scene[of + name], ...(r < 0 ? [0, b] : [k, r, b]))
    const named = c => classes[c] ?? "no prediction"
    const [predicted] = get("predicted")
    const [one, two] = get(`explained.${target}`)
    const { label } = images[b]
    return {
      cells: get(`maps.${target}`), h, w,
      top: get(`top.${target}`)[0],
      share: get(`share.${target}`)[0],
      chance: get("chance")[0],
      predicted: named(predicted),
      explained: two < 0 ? named(one) : `${named(one)} \u2212 ${named(two)}`,
      right: label < 0 || predicted < 0 ? null : label === predicted,
    }
  }
}

/** Everything that came from Python */
class Book {
  constructor(runs, scenes, land) {
    Object.assign(this, unpack(runs))
    this.sets = this.about.sets.map((about, s) => new Training(this, s, about))
    this.scenes = scenes.map(unpack)
    for (const { about } of this.scenes) {
      about.images = about.names.map((name, b) => ({ name: name.replace(/^\d+: /, ""), label: about.labels[b] }))
    }
    this.land = land?.byteLength ? unpack(land) : null
    const { methods } = this.sets[0]
    const numbered = methods.every(({ rule }) => rule === "coop" || rule === "prograd") ? "lambda" : "strength"
    this.strength = methods.some(({ key }) => typeof key === "string") ? "method" : numbered  // tells them apart
  }
}

// ---------------------------------------------------------------------------------------------- maps

/** Rows of n values, drawn out to m values and turned into columns; bilinear, with half-cell centres */
function stretched(values, rows, n, m, out = new Float32Array(m * rows)) {
  for (let i = 0; i < m; i++) {
    const at = clamp((i + 0.5) * n / m - 0.5, 0, n - 1)
    const left = Math.min(Math.floor(at), Math.max(0, n - 2))
    const weight = Math.fround(at - left)
    for (let row = 0; row < rows; row++) {
      const cell = row * n + left
      out[i * rows + row] = values[cell] * (1 - weight) + (weight ? values[cell + 1] * weight : 0)
    }
  }
  return out
}

/** A map at image resolution, as the library resizes it -> Float32Array [height * width], `out` where it is given */
export function resized(cells, h, w, height, width, out) {
  return stretched(stretched(Float32Array.from(cells), h, w, width), width, h, height, out)  // of one kind: faster
}

/** 256 colours of a map with their opacity, as pixels */
function palette(heat, opacity) {
  const colours = new Uint32Array(256)
  const bytes = new Uint8Array(colours.buffer)
  for (let i = 0; i < 256; i++) {
    bytes.set(heat.subarray(3 * i, 3 * i + 3), 4 * i)
    bytes[4 * i + 3] = 255 * Math.sqrt(i / 255) * opacity
  }
  return colours
}

const PIXELS = 224  // A map is painted with so many pixels along its longer side, and enlarged by the browser

/** One of the pictures of a row: the image, or a map over it; with its numbers below */
class Card {
  constructor() {
    this.chip = make("span", { class: "pv-chip" })
    this.title = make("span")
    this.base = make("canvas")
    this.heat = make("canvas")
    this.line = make("canvas")
    this.value = make("output", { class: "pv-value" })
    const pointerleave = () => { this.value.textContent = "" }
    const stage = { class: "pv-stage", pointermove: event => this.read(event), pointerleave }
    this.stage = make("div", stage, this.base, this.heat, this.line, this.value)
    this.what = make("b")
    this.chance = make("span")
    this.verdict = make("span")
    this.says = make("div", { class: "pv-says" }, this.what, this.chance, this.verdict)
    this.fill = make("i")
    this.mark = make("b")
    const words = "the share of the map on the object; the mark: the object's share of the image"
    this.bar = make("div", { class: "pv-bar", title: words }, this.fill, this.mark)
    const area = "the share of the map on the object; that over the object's share of the image"
    this.share = make("div", { class: "pv-share", title: area })
    const caption = make("figcaption", {}, this.chip, this.title)
    this.node = make("figure", { class: "pv-card" }, caption, this.stage, this.says, this.bar, this.share)
  }

  name(colour, title) {
    this.chip.style.background = colour
    this.chip.style.display = colour ? "" : "none"
    write(this.title, title)
    this.colour = colour
  }

  /** The picture and the object's outline; once for each image */
  frame(picture, outline, pale) {
    if (this.picture === picture && this.outline === outline) return
    const scale = PIXELS / Math.max(picture.width, picture.height)
    const [width, height] = [picture.width, picture.height].map(side => Math.max(1, Math.round(side * scale)))
    const image = new ImageData(width, height)
    Object.assign(this, { picture, outline, width, height, image, pixels: new Uint32Array(image.data.buffer) })
    this.values = new Float32Array(width * height)
    for (const canvas of [this.base, this.heat]) Object.assign(canvas, { width, height })
    Object.assign(this.line, { width: 2 * width, height: 2 * height })
    const pen = this.base.getContext("2d")
    pen.imageSmoothingEnabled = picture.width > PIXELS
    pen.drawImage(picture, 0, 0, width, height)
    for (const [operation, colour] of pale ? [["saturation", "#fff"], ["source-over", "#ffffff4c"]] : []) {
      Object.assign(pen, { globalCompositeOperation: operation, fillStyle: colour })  // no colours, and pale
      pen.fillRect(0, 0, width, height)
    }
    if (outline) this.line.getContext("2d").drawImage(outline, 0, 0, 2 * width, 2 * height)
    this.stage.style.aspectRatio = `${width} / ${height}`
  }

  /** A map; `top` gets the last colour */
  map(look, top, colours) {
    this.look = look
    const pen = this.heat.getContext("2d")
    if (!look) return pen.clearRect(0, 0, this.width, this.height)
    this.scale = top > 0 ? look.top / top : 0
    resized(look.cells, look.h, look.w, this.height, this.width, this.values)
    for (let i = 0; i < this.values.length; i++) this.pixels[i] = colours[this.values[i] * this.scale + 0.5 | 0]
    pen.putImageData(this.image, 0, 0)
  }

  read(event) {
    if (!this.look) return
    const box = this.stage.getBoundingClientRect()
    const x = clamp((event.clientX - box.left) / box.width * this.width | 0, 0, this.width - 1)
    const y = clamp((event.clientY - box.top) / box.height * this.height | 0, 0, this.height - 1)
    this.value.textContent = `${percent(this.values[y * this.width + x] * this.scale / 255)} of the row's largest`
  }

  /** The numbers below, and a bar as long as the share, with a mark at the object's area; busy: maps may come */
  numbers(look, area, busy) {
    const { predicted, explained, share, top, right } = look
    const chance = Number.isFinite(look.chance) ? ` ${percent(look.chance)} ` : " "
    const verdict = { true: "\u2713 right", false: "\u2717 wrong" }[right] ?? ""
    const why = top > 0 ? "no mask" : "empty map"
    const none = Number.isFinite(top) ? why : busy ? "map in preparation" : "no map"
    const known = Number.isFinite(share)
    const said = known ? `${percent(share)} on the object, ${fixed(share / area, 1)} per area` : none
    this.words(predicted, said, chance, verdict)
    this.verdict.className = right ? "pv-right" : "pv-wrong"
    this.says.title += `; the map explains ${explained}`
    if (!(area > 0)) return
    Object.assign(this.fill.style, { width: `${100 * (share || 0)}%`, background: this.colour })
    this.mark.style.left = `${100 * area}%`
    this.bar.style.visibility = "visible"
  }

  /** Words, and no bar */
  words(what, share, chance = "", verdict = "") {
    for (const [name, words] of Object.entries({ what, share, chance, verdict })) write(this[name], words)
    this.says.title = what + chance + verdict
    this.bar.style.visibility = "hidden"
  }
}

/** Rows of four: the image, zero-shot CLIP, the reference (CoOp) and the method at the slider */
class MapRow {
  constructor(view, training) {
    Object.assign(this, { view, training })
    this.cards = Array.from({ length: 4 }, () => new Card())
    this.title = make("h4", { role: "presentation" })
    this.node = make("div", { class: "pv-maps" }, this.title, ...this.cards.map(card => card.node))
  }

  draw(b, caption) {
    const { view, training, cards } = this
    const methods = [training.reference, view.method(training)]
    const heads = [{ name: "image", colour: null }, view.book.about.zero, ...methods.map(r => training.methods[r])]
    const scene = view.book.scenes[training.s]
    write(this.title, caption)
    cards.forEach((card, i) => card.name(heads[i].colour, heads[i].name))
    const waiting = training.hasText ? "preparing \u2026" : "no text features"
    if (!scene) return cards.forEach(card => card.words(waiting, ""))
    const { picture, outline } = view.images[b]
    const object = outline()
    const area = scene.areas.data[b]
    cards.forEach((card, i) => card.frame(picture, object, i > 0))
    const k = training.place(view.state.get("step"))
    this.looks = [-1, ...methods].map(r => training.look(scene, view.target(), k, r, b))
    const top = Math.max(0, ...finite(this.looks.map(look => look?.top)))
    this.looks.forEach((look, i) => {
      const card = cards[i + 1]
      card.map(look && Number.isFinite(look.top) ? look : null, top, view.colours)
      if (look) card.numbers(look, area, view.busy)
      else card.words(training.hasText ? "no text features of it" : "no text features were recorded", "")
    })
    cards[0].words(scene.about.images[b].name, area > 0 ? `object: ${percent(area)} of the image` : "no mask")
  }
}

// ---------------------------------------------------------------------------------------------- charts

/** Axes, lines and a cursor in a box that keeps its size */
class Chart {
  /**
   * @param {object} options
   *   x, y: [low, high]; xTicks, yTicks: numbers; xLabel, title, label: for those who hear it; xFormat, format: of the
   *   ticks; square, bare: without lines at the y ticks; shade: [low, high] along y
   *   lines: [{r, colour, points: [[x, y]] or [[x, y, low, high]] with a band, dots: [[x, y]], dash, halo}]
   *   seek: function of [x, y]; read: function of (x, y) that returns words, if any; onfit, redraw: after a change of
   *   size; under: a canvas that fills the axes, below all else
   */
  constructor(options) {
    Object.assign(this, options)
    const pointermove = event => this.move(event)
    const pointerdown = event => {
      this.svg.setPointerCapture(event.pointerId)
      this.move(event)
    }
    const pointerleave = () => { this.tip.textContent = "" }
    const listeners = { pointermove, pointerdown, pointerleave }
    this.svg = make("svg:svg", { role: "img", "aria-label": this.label, ...listeners })
    this.cursor = make("svg:line", { class: "pv-cursor" })
    this.dots = []
    this.moving = make("svg:svg", { class: "pv-moving", "aria-hidden": "true" }, this.cursor)  // the rest stays painted
    this.tip = make("output", { class: "pv-tip" })
    this.node = make("div", { class: "pv-chart" }, this.under, this.svg, this.moving, this.tip)
    watch(this.node, (width, height) => this.fit(width, height))
  }

  /** Say what is under the pointer; go there while it is pressed */
  move(event) {
    if (!this.inner) return  // not drawn yet
    const box = this.svg.getBoundingClientRect()
    const [px, py] = [event.clientX - box.left, event.clientY - box.top]
    const [left, top, width, height] = this.inner
    const [[x0, x1], [y0, y1]] = [this.x, this.y]
    const at = [x0 + (px - left) / width * (x1 - x0), y1 - (py - top) / height * (y1 - y0)]
    if (event.buttons & 1) this.seek(at)
    this.tip.textContent = this.read(...at)
    this.tip.style.left = `${clamp(px + 12, 0, Math.max(0, this.size[0] - this.tip.offsetWidth))}px`
    this.tip.style.top = `${py > this.size[1] / 2 ? 0 : this.size[1] - this.tip.offsetHeight}px`
  }

  px(x) { return this.inner[0] + (x - this.x[0]) / (this.x[1] - this.x[0]) * this.inner[2] }
  py(y) { return this.inner[1] + (this.y[1] - y) / (this.y[1] - this.y[0]) * this.inner[3] }

  /** A point as paths and polygons take it */
  at(x, y) { return `${this.px(x).toFixed(1)} ${this.py(y).toFixed(1)}` }

  /** Draw all that does not move */
  fit(width, height) {
    if (width < 60 || height < 60) return
    this.size = [width, height]
    const left = this.square ? 4 : 38
    const top = this.title ? 18 : 6
    const w = width - left - 8
    const h = height - top - (this.xTicks.length ? 20 : 4) - (this.xLabel ? 14 : 0)
    const side = Math.min(w, h)
    this.inner = this.square ? [left + (w - side) / 2, top, side, side] : [left, top, w, h]
    this.groups = this.lines.map(line => this.line(line))
    this.svg.replaceChildren(...this.axes(), ...this.groups)
    const names = ["left", "top", "width", "height"]
    if (this.under) names.forEach((name, n) => { this.under.style[name] = `${this.inner[n]}px` })
    this.onfit?.(this)
    this.redraw()
  }

  axes() {
    const [left, top, width, height] = this.inner
    const parts = []
    const write = (x, y, words, anchor, extra) => {
      parts.push(make("svg:text", { x, y, "text-anchor": anchor, ...extra }, words))
    }
    if (this.shade) {
      const [bottom, upper] = this.shade.map(y => this.py(y))
      parts.push(make("svg:rect", { x: left, width, y: upper, height: bottom - upper, class: "pv-shade" }))
    }
    for (const y of this.yTicks) {
      const level = this.py(y)
      if (!this.bare) parts.push(segment([left, level], [left + width, level], { class: "pv-grid" }))
      write(left - 5, level + 4, this.format(y), "end")
    }
    const last = this.xTicks.at(-1)
    for (const x of this.xTicks) {
      const apart = x === last || this.px(last) - this.px(x) > 40
      if (apart) write(this.px(x), top + height + 14, (this.xFormat ?? short)(x), x === this.x[1] ? "end" : "middle")
    }
    const below = this.xTicks.length ? 29 : 15
    if (this.xLabel) write(left + width / 2, top + height + below, this.xLabel, "middle")
    if (this.title) write(left, 12, this.title, "start", { class: "pv-strong" })
    return parts
  }

  line({ colour, points, dots, halo, dash }) {
    const draw = (d, attributes) => make("svg:path", { d, ...attributes })
    const parts = []
    const band = points.filter(([, , low, high]) => Number.isFinite(low + high))
    if (band.length) {
      const edge = [...band.map(([x, , low]) => [x, low]), ...band.map(([x, , , high]) => [x, high]).reverse()]
      const corners = edge.map(([x, y]) => this.at(x, clamp(y, ...this.y)))
      parts.push(make("svg:polygon", { points: corners.join(" "), fill: colour, "fill-opacity": 0.18 }))
    }
    if (dots) {
      const every = Math.ceil(dots.length / 2000)
      const shown = dots.filter(([, y], i) => Number.isFinite(y) && i % every === 0)
      const marks = shown.map(([x, y]) => `M${this.at(x, y)}h.01`)
      parts.push(draw(marks.join(""), { stroke: colour, class: "pv-dots" }))
    }
    const known = i => Number.isFinite(points[i]?.[1])
    const strokes = points.map(([x, y], i) => known(i) ? (known(i - 1) ? "L" : "M") + this.at(x, y) : "")
    const d = strokes.join("")
    if (halo) parts.push(draw(d, { class: "pv-halo" }))
    const dashes = dash ? "5 4" : null
    parts.push(draw(d, { stroke: colour, "stroke-width": 1.8, "stroke-dasharray": dashes, fill: "none" }))
    return make("svg:g", { class: "pv-line" }, ...parts)
  }

  /** These methods in full, others as faint lines; a vertical line at x, and dots at [x, y, colour] */
  show(methods, x, dots = []) {
    if (!this.inner) return  // not drawn yet
    this.lines.forEach(({ r }, i) => {
      this.groups[i].classList.toggle("pv-faint", r !== undefined && !methods.includes(r))
    })
    const [, top, , height] = this.inner
    if (x !== null) put(this.cursor, ends([this.px(x), top], [this.px(x), top + height]))
    const known = dots.filter(([at, y]) => Number.isFinite(at + y))
    while (this.dots.length < known.length) this.dots.push(make("svg:circle", { r: 4.5, class: "pv-dot" }))
    known.forEach(([at, y, fill], n) => put(this.dots[n], { cx: this.px(at), cy: this.py(y), fill }))
    if (this.moving.childElementCount - 1 === known.length) return
    this.moving.replaceChildren(this.cursor, ...this.dots.slice(0, known.length))
  }
}

// ---------------------------------------------------------------------------------------------- panels

/** A quiet box with a heading, a legend and a chart */
class Panel {
  constructor(view, training, title, wide = 1) {
    Object.assign(this, { view, training, wide })
    this.note = make("span", { class: "pv-note" })
    this.legend = make("div", { class: "pv-legend" })
    this.body = make("div", { class: "pv-body" })
    this.foot = make("footer")
    this.head = make("header", {}, make("h4", { role: "presentation" }, ...formula(title)), this.note)
    const box = { class: "pv-panel", "aria-label": title }
    this.node = make("section", box, this.head, this.legend, this.body, this.foot)
  }

  /** The step of the slider, or the last of a shorter training; the method at the slider; zero-shot CLIP */
  get step() { return clamp(this.view.state.get("step"), 0, this.training.last) }
  get r() { return this.view.method(this.training) }
  get zero() { return this.view.book.about.zero }

  /** Methods to show in full: the reference and the one at the slider */
  shown() { return [...new Set([this.training.reference, this.r])] }

  /** A chart in the body */
  plot(options) {
    const chart = new Chart({ redraw: () => this.draw(), ...options })
    this.body.append(chart.node)
    return chart
  }

  /** A line of every method */
  lines(of) { return this.training.methods.map(({ colour }, r) => ({ r, colour, ...of(r) })) }

  key(entries) {
    const said = JSON.stringify(entries)
    if (this.keyed === said) return
    this.keyed = said
    this.legend.replaceChildren(...entries.map(([colour, words, dash]) => {
      const style = { [dash ? "borderTopColor" : "background"]: colour }
      return make("span", {}, make("i", { class: dash ? "pv-chip pv-dashed" : "pv-chip", style }), ...formula(words))
    }))
  }

  /** The legend of the methods that are shown, each with a word of its own */
  methods(more = [], word = () => "") {
    const { methods } = this.training
    this.key([...this.shown().map(r => [methods[r].colour, methods[r].name + word(r)]), ...more])
  }

  /** The same methods in a chart, with a line at x and a dot for each where `at` says */
  show(chart, x, at) {
    const dots = this.shown().map(r => [...at(r), this.training.methods[r].colour])
    chart.show(this.shown(), x, dots)
  }

  /** A picker of what the panel shows, remembered when all is built anew; else the first of the usual ones there is */
  choose(name, label, options, usual, call) {
    const { chosen } = this.view
    const change = event => {
      chosen[name] = event.target.value
      call()
    }
    const first = [chosen[name], ...usual].find(value => options.some(option => option[0] === value))
    return picker({ "aria-label": label, change }, options, first)
  }

  /** What the legend says of bands, where there are any */
  band() {
    const { sets, about } = this.view.book
    return sets.length > 1 && !about.compare ? [["var(--pv-line)", "95% interval over seeds"]] : []
  }

  /** What the pointer reads of the methods that are shown */
  values(of) { return this.shown().map(r => `${this.training.methods[r].name} ${of(r)}`).join(", ") }

  /** A chart over the steps */
  plotSteps(options) {
    const last = Math.max(1, this.training.last)
    const found = ticks(0, last).filter(x => Number.isInteger(x) && x < 0.9 * last)
    const seek = ([x]) => this.view.go(clamp(Math.round(x), 0, this.training.last))
    return this.plot({ x: [0, last], xTicks: [...found, last], xLabel: "step", seek, ...options })
  }

  /** What the pointer reads at a step: `of` takes the position in the record */
  atStep(x, of) {
    const step = Math.round(clamp(x, 1, this.training.last))
    const i = this.training.row(step)
    return i < 0 ? "" : `step ${step}${of(i)}`
  }

  /** The step of the slider in a chart over the steps, with dots as high as `of` says */
  showStep(chart, of) { this.show(chart, this.step, r => [this.step, of(r)]) }
}

/** G_d -> G with a lowered d, and G in the same script; splitting keeps these symbols, as every other piece */
function formula(words) {
  const symbol = name => make("i", {}, "G", make("sub", {}, name.slice(2)))
  return words.split(/(\bG(?:_[dg])?\b)/).map((piece, n) => n % 2 ? symbol(piece) : piece)
}

/** The height of a line at or before a step */
const reached = (points, step) => points.findLast(([x]) => x <= step)?.[1] ?? NaN

/** [step, mean, low, high] of a column of a method over seeds, with the 95% interval; with one seed [step, value] */
function overSeeds({ training, view: { book: { sets, about } } }, kind, name, r) {
  const own = set => {
    const at = set.methods.findIndex(method => method.name === training.methods[r].name)
    return at < 0 ? null : set[kind](name, at)
  }
  const values = (about.compare ? [training] : sets).map(own).filter(Boolean)
  if (values.length < 2) return training.steps.map((step, i) => [step, values[0][i]])
  const n = Math.min(...values.map(v => v.length))
  return training.steps.slice(0, n).map((step, i) => {
    const known = finite(values.map(v => v[i]))
    const mean = sum(known) / known.length
    const variance = sum(known.map(x => (x - mean) ** 2)) / (known.length - 1)
    const half = known.length === sets.length ? about.t * Math.sqrt(variance / known.length) : NaN
    return [step, mean, mean - half, mean + half]
  })
}

class CosinePanel extends Panel {
  constructor(view, training) {
    super(view, training, "Cosine of G_d and G_g", 2)
    this.note.classList.add("pv-wordy")
    const lines = this.lines(r => {
      const cos = training.column("cos", r)
      const dots = training.steps.map((step, i) => [step, cos[i]])
      return { points: overSeeds(this, "smoothed", "cos", r), dots }
    })
    this.chart = this.plotSteps({
      y: [-1, 1], yTicks: [-1, -0.5, 0, 0.5, 1], format: y => y === 0 ? "0" : signed(y).replace(/0$/, ""),
      shade: [-1, 0],
      lines,
      label: "Cosine of the two gradients over the steps",
      read: x => this.atStep(x, i => `: ${this.values(r => cosine(training.column("cos", r)[i]))}`),
    })
    this.known = lines.some(line => line.dots.some(([, y]) => Number.isFinite(y)))
  }

  draw() {
    const { training, step } = this
    const more = this.band()
    const words = more.length ? "dots: one seed; line: mean of 15 steps and all seeds" : "dots: steps; line: mean of 15"
    write(this.note, this.known ? `${words}; below 0: conflict` : "not recorded")
    this.legend.classList.toggle("pv-two", more.length > 0)
    this.methods(more, r => {
      const rate = training.rate(r)
      return Number.isFinite(rate) ? `: ${percent(rate)} of steps in conflict` : ": no cosine recorded"
    })
    this.showStep(this.chart, r => training.column("cos", r)[training.row(step)])
  }
}

const ARROWS = [  // of the gradient plane, in the order of the data
  { sub: "g", wide: 3 },
  { sub: "d", wide: 3 },
  { sub: "", wide: 7, alpha: 0.85 },
  { wide: 1.6, dashes: "4 3" },
]

/** An arrow from the middle of the plane, and its name: G with a lowered letter and its length */
class Arrow {
  constructor({ sub, wide, dashes = null, alpha = 1 }) {
    this.wide = wide
    this.shaft = make("svg:line", { "stroke-width": wide, "stroke-dasharray": dashes, "stroke-opacity": alpha })
    this.head = make("svg:polygon", { "fill-opacity": alpha })
    this.node = make("svg:g", {}, this.shaft, this.head)
    this.length = make("svg:tspan", { dy: -3, "font-weight": 400 })
    const letter = make("svg:tspan", { "font-style": "italic" }, "G")
    const lowered = make("svg:tspan", { dy: 3, "font-size": 11 }, sub)
    this.name = make("svg:text", { class: "pv-strong" }, letter, lowered, this.length)
  }

  /** Point to a place of the plane, which reaches so far in all directions; one that is not finite hides the arrow */
  draw([width, height], [across, along], reach, colour) {
    const middle = [width / 2, height / 2]
    const scale = Math.min(...middle) / reach
    const [x, y] = [middle[0] + across * scale, middle[1] - along * scale]
    this.tip = [x, y]
    this.there = Number.isFinite(x + y)
    put(this.node, { visibility: this.there ? "visible" : "hidden" })
    if (!this.there) return
    const length = Math.hypot(x - middle[0], y - middle[1]) || 1
    const head = Math.min(11, length)
    const side = head * 0.42 + this.wide / 4
    const [ux, uy] = [(x - middle[0]) / length, (y - middle[1]) / length]
    const neck = [x - ux * head, y - uy * head]
    const wings = [-side, side].map(s => `${neck[0] + uy * s},${neck[1] - ux * s}`)
    put(this.shaft, { ...ends(middle, neck), stroke: colour })
    put(this.head, { points: `${x},${y} ${wings.join(" ")}`, fill: colour })
  }

  /** Write the name of arrow n beside its tip */
  label(n, [width, height], length) {
    put(this.name, { visibility: this.there ? "visible" : "hidden" })
    if (!this.there) return
    const [x, y] = this.tip
    const tight = n === 1 && x > width - 78
    const below = [4, tight ? 17 : 4, -8][n]
    const beside = tight ? width - 4 : x + 7
    const begin = n === 0 ? x - 64 : x
    const top = begin < 140 ? 28 : 12  // not over the words in the corner
    const low = n === 0 ? Math.min(y + below, height / 2 - 10) : y + below
    const place = `translate(${n === 0 ? width / 2 - 8 : beside} ${clamp(low, top, height - 4)})`
    put(this.name, { transform: place, "text-anchor": tight || n === 0 ? "end" : "start" })
    write(this.length, length)
  }
}

class PlanePanel extends Panel {
  constructor(view, training) {
    super(view, training, "Gradient plane")
    this.arrows = ARROWS.map(kind => new Arrow(kind))
    this.shade = make("svg:rect", { class: "pv-shade" })
    this.level = make("svg:line", { class: "pv-grid" })
    this.away = make("svg:text", { x: 6 }, "away from it")
    const back = [this.shade, this.level, make("svg:text", { x: 6, y: 14 }, "towards zero-shot CLIP"), this.away]
    const nodes = [2, 1, 0, 3].map(n => this.arrows[n].node)  // the later ones on top
    const label = "The two gradients, the method's direction and the real step, to scale"
    const names = this.arrows.slice(0, 3).map(arrow => arrow.name)
    this.svg = make("svg:svg", { role: "img", "aria-label": label }, ...back, ...nodes, ...names)
    this.body.append(this.svg)
    watch(this.body, (...size) => {
      this.size = size
      this.frame(...size)
      this.draw()
    })
  }

  /** All that does not move */
  frame(width, height) {
    put(this.shade, { y: height / 2, width, height: height / 2 })
    put(this.level, ends([0, height / 2], [width, height / 2]))
    put(this.away, { y: height - 6 })
  }

  draw() {
    const { training, r, arrows } = this
    const i = training.row(this.step)
    const colours = [this.zero.colour, this.view.book.about.coop, training.methods[r].colour, "var(--pv-ink)"]
    this.key(["G_g", "G_d", "G", "real step"].map((words, n) => [colours[n], words]))
    if (!this.size || this.size[1] < 60) return
    const of = name => training.column(name, r)[i]
    write(this.note, this.words(of))
    const known = Number.isFinite(of("norm_gd"))
    const tip = n => known ? [...part(this.view.book[`${training.s}.arrows`], r, i, n)] : [NaN, NaN]
    const tips = arrows.map((_, n) => tip(n))
    const reach = 1.2 * Math.max(1e-12, ...finite(tips.flat()).map(Math.abs))
    const lengths = known ? ["norm_gg", "norm_gd"].map(name => ` ${brief(of(name))}`) : []
    arrows.forEach((arrow, n) => arrow.draw(this.size, tips[n], reach, colours[n]))
    arrows.slice(0, 3).forEach((arrow, n) => arrow.label(n, this.size, lengths[n] ?? ""))
  }

  words(of) {
    const angle = of("angle_deg")
    if (angle === undefined) return "no step yet"
    if (!["norm_gd", "norm_gg"].some(name => Number.isFinite(of(name)))) return "not recorded"
    if (!Number.isFinite(of("agree"))) return "no angle: one gradient alone"
    if (of("agree") === 1) return "no angle: still the teacher's"
    return Number.isFinite(angle) ? `${fixed(angle, 0)}\u00b0 apart` : "no angle"
  }
}

const COLUMN_NAMES = { loss_ce: "cross-entropy", loss_kl: "divergence", cos: "cosine" }
const plain = name => COLUMN_NAMES[name] ?? name.replace("acc_", "")
const isAccuracy = name => Boolean(name?.startsWith("acc_"))

/** What an axis shows, in words */
function axis(name) {
  if (isAccuracy(name)) return `accuracy, ${plain(name)}`
  return name === "cos" ? "cosine" : `${plain(name)} (nats)`
}

/** A path of each method: [x, y, step] wherever both are known */
class PathPanel extends Panel {
  plotPaths(options) {
    const lines = this.lines(r => ({ points: this.paths[r], halo: true }))
    return this.plot({ lines, seek: at => this.near(at, p => this.view.go(p[2])), ...options })
  }

  /** Use the point that is nearest on the paths that are shown, if there is one */
  near([a, b], use) {
    const { x, y } = this.chart
    const gap = p => ((p[0] - a) / (x[1] - x[0])) ** 2 + ((p[1] - b) / (y[1] - y[0])) ** 2
    const all = this.shown().flatMap(r => this.paths[r])
    const nearest = all.reduce((best, p) => !best || gap(p) < gap(best) ? p : best, null)
    return nearest && use(nearest)
  }

  /** Show the methods, and where each is after a step */
  follow(step, word) {
    this.methods([], word)
    const place = r => this.paths[r].findLast(p => p[2] <= step) ?? this.paths[r][0] ?? [NaN, NaN]
    this.show(this.chart, null, r => place(r).slice(0, 2))
  }
}

class TradeoffPanel extends PathPanel {
  constructor(view, training) {
    super(view, training, "Trade-off")
    const shown = training.columns.filter(name => COLUMN_NAMES[name] || isAccuracy(name))
    const known = shown.filter(name => training.column(name, 0).some(Number.isFinite))
    const options = known.map(name => [name, plain(name)])
    const column = (along, usual) => this.choose(along, `column along ${along}`, options, usual, () => this.build())
    this.xs = column("x", ["acc_same", "loss_kl"])
    this.ys = column("y", ["acc_shifted", "acc_new", "loss_ce"])
    this.foot.append("\u2191 ", this.ys, " \u2192 ", this.xs)
    this.build()
  }

  /** [x, y, step] wherever both are known: accuracies as measured, the rest averaged over 15 steps */
  path(names, r) {
    const { training } = this
    const [a, b] = names.map(name => isAccuracy(name) ? training.column(name, r) : training.smoothed(name, r))
    return training.steps.map((step, i) => [a[i], b[i], step]).filter(([x, y]) => Number.isFinite(x + y))
  }

  build() {
    const [x, y] = [this.xs.value, this.ys.value]
    const used = x && y
    this.paths = this.training.methods.map((_, r) => used ? this.path([x, y], r) : [])
    const range = (name, n) => {
      const values = this.paths.flat().map(p => p[n])
      return isAccuracy(name) ? shares(values, 0.06) : roomy(values, 0.06, 0)
    }
    const [xRange, yRange] = [x, y].map(range)
    const [xFormat, format] = [x, y].map(name => isAccuracy(name) ? percent : short)
    this.chart?.node.remove()
    this.chart = this.plotPaths({
      x: xRange, xTicks: ticks(...xRange, 3), xFormat,
      y: yRange, yTicks: ticks(...yRange), format,
      label: used ? `${axis(y)} against ${axis(x)}, a path per method` : "not recorded",
      read: (...at) => this.near(at, p => `step ${p[2]}: ${xFormat(p[0])}, ${format(p[1])}`),
    })
    const words = [x, y].every(isAccuracy) ? "of accuracies" : ""
    this.note.textContent = used ? words : "not recorded"
  }

  draw() { this.follow(this.step) }
}

class AccuracyPanel extends Panel {
  constructor(view, training) {
    super(view, training, "Accuracy", 2)
    this.body.classList.add("pv-several")
    this.charts = training.tested.map(split => this.test(split))
    if (!this.charts.length) this.note.textContent = "not recorded"
  }

  /** The chart of one test set */
  test(split) {
    const { training } = this
    const last = Math.max(1, training.last)
    const lines = this.lines(r => {
      return { points: overSeeds(this, "column", `acc_${split}`, r).filter(([, y]) => Number.isFinite(y)) }
    })
    const { sets, about } = this.view.book
    const zeros = finite((about.compare ? [training] : sets).map(set => set.zero[split]))
    const zero = sum(zeros) / zeros.length  // NaN without any
    if (zeros.length) lines.push({ colour: this.zero.colour, points: [[0, zero], [last, zero]], dash: true })
    const values = lines.flatMap(({ points }) => points.flatMap(point => point.slice(1)))
    const y = shares(values, 0.08)
    return this.plotSteps({
      xTicks: [0, last],
      y, yTicks: ticks(...y, 5), format: percent,
      title: split,
      lines,
      label: `Accuracy on ${split} over the steps`,
      read: x => {
        const step = training.places[training.place(clamp(x, 0, training.last))]
        return `step ${step}: ${this.values(r => percent(reached(lines[r].points, step)))}`
      },
    })
  }

  draw() {
    this.methods([[this.zero.colour, this.zero.name, true], ...this.band()])
    for (const chart of this.charts) this.showStep(chart, r => reached(chart.lines[r].points, this.step))
  }
}

class TokensPanel extends Panel {
  constructor(view, training) {
    super(view, training, "Cosine per context vector")
    this.tokens = view.book[`${training.s}.tokens`]
    const { shape: [, , M] } = this.tokens
    this.canvas = make("canvas", { class: "pv-under pv-cells" })
    this.chart = this.plotSteps({
      y: [0.5, M + 0.5],
      yTicks: ticks(1, Math.max(2, M), 4).filter(m => Number.isInteger(m) && m <= M),
      format: y => `${M + 1 - y}`,
      bare: true,
      lines: [],
      label: "Cosine of the two gradients within each context vector, over the steps",
      read: (x, y) => {
        const m = clamp(Math.round(M + 1 - y), 1, M)
        return this.atStep(x, i => `, vector ${m}: ${cosine(part(this.tokens, this.r, i)[m - 1])}`)
      },
      under: this.canvas,
    })
    this.method = make("span")
    const ramp = [make("span", {}, "\u22121"), make("span", { class: "pv-ramp" }), make("span", {}, "+1")]
    this.legend.append(...ramp, this.method)
  }

  draw() {
    const { r } = this
    if (this.painted !== r) this.paint(r)
    this.painted = r
    write(this.method, this.training.methods[r].name)
    this.chart.show([], this.step)
  }

  paint(r) {
    const { shape: [, S, M] } = this.tokens
    const cosines = part(this.tokens, r)
    const width = clamp(S, 1, 600)
    paint(this.canvas, width, M, (x, m) => diverging(cosines[Math.floor(x * S / width) * M + m]))
  }
}

/** Give every pixel (x, y) of a canvas its colour */
function paint(canvas, width, height, colour) {
  Object.assign(canvas, { width, height })
  const pen = canvas.getContext("2d")
  const image = pen.createImageData(width, height)
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) image.data.set(colour(x, y), 4 * (y * width + x))
  }
  pen.putImageData(image, 0, 0)
}

/** -1 orange, 0 pale, +1 blue; NaN transparent */
function diverging(c) {
  if (!Number.isFinite(c)) return [0, 0, 0, 0]
  const end = c < 0 ? [213, 94, 0] : [0, 114, 178]
  return [...end.map(v => 240 + (v - 240) * Math.min(1, Math.abs(c))), 255]
}

const SURFACES = { loss_kl: "divergence", loss_ce: "cross-entropy", accuracy: "accuracy" }

class LandscapePanel extends PathPanel {
  constructor(view, training) {
    super(view, training, "Landscape")
    this.land = view.book.land
    if (!this.land || this.land.about.set !== training.s) return this.offer()
    const surfaces = Object.entries(SURFACES)
    this.surface = this.choose("surface", "what the contours show", surfaces, [], () => this.paint())
    this.head.append(make("span", { class: "pv-pick" }, this.surface))
    const words = "the share of a displacement that lies in the plane of this picture, where not all does"
    this.legend.title = `in brackets: ${words}`
    const { x, y, steps, paths, about: { ends } } = this.land
    const toward = training.methods[training.method(ends[0])]
    this.paths = training.methods.map((_, r) => Array.from(steps.data, (step, k) => [...part(paths, r, k), step]))
    this.canvas = make("canvas", { class: "pv-under" })
    this.chart = this.plotPaths({
      x: [x.data[0], x.data.at(-1)], xTicks: [],
      y: [y.data[0], y.data.at(-1)], yTicks: [],
      xLabel: `\u2192 towards the end of ${toward.name}`,
      square: true,
      label: "Contours on the plane of contexts, with the path of each method",
      under: this.canvas,
      onfit: chart => this.decorate(chart),
      read: (a, b) => this.read(a, b),
    })
    this.paint()
  }

  /** Without a landscape: a button that asks for one, where somebody can compute it */
  offer() {
    const { view, land } = this
    const able = view.able && this.training === view.training()  // the kernel computes that of the chosen run set
    const owner = land ? view.book.sets[land.about.set] : view.training()
    const words = able ? "The losses around the path are computed from the model."
      : `It was computed for ${owner.name} alone.`
    const click = () => view.ask({ ask: "landscape" })
    const ask = able ? make("button", { type: "button", click }, "compute the landscape") : ""
    this.body.append(make("p", { class: "pv-offer" }, words, make("br"), ask))
  }

  /** A frame, and a star where all paths begin */
  decorate(chart) {
    const [x, y, width, height] = chart.inner
    chart.svg.prepend(make("svg:rect", { x, y, width, height, class: "pv-frame" }))
    const [a, b] = this.paths[0][0]
    const corners = Array.from({ length: 10 }, (_, n) => {
      const [angle, radius] = [n * Math.PI / 5, n % 2 ? 0.42 * 7 : 7]
      return `${chart.px(a) + radius * Math.sin(angle)},${chart.py(b) - radius * Math.cos(angle)}`
    })
    chart.svg.append(make("svg:polygon", { points: corners.join(" "), class: "pv-start" }))
  }

  read(a, b) {
    const { x, y } = this.land
    const name = this.surface.value
    const cell = (at, { data }) => Math.round((at - data[0]) / (data.at(-1) - data[0]) * (data.length - 1))
    const [i, j] = [cell(a, x), cell(b, y)]
    if (i < 0 || j < 0 || i >= x.data.length || j >= y.data.length) return ""
    const value = this.land[name].data[j * x.data.length + i]
    return `${SURFACES[name]} ${name === "accuracy" ? percent(value) : `${short(value)} nats`}`
  }

  /** Filled contours: losses on a logarithmic scale, 14 levels, dark is high */
  paint() {
    const [side, levels] = [240, 14]
    const accuracy = this.surface.value === "accuracy"
    const { shape: [Y, X], data } = this.land[this.surface.value]
    const [least, top] = extent(data)
    const low = accuracy ? least : Math.max(least, 1e-4 * top, Number.MIN_VALUE)
    const linear = v => (v - low) / (top - low || 1)
    const logarithmic = v => Math.log(Math.max(v, low) / low) / (Math.log(top / low) || 1)
    const large = resized(Float32Array.from(data, accuracy ? linear : logarithmic), Y, X, side, side)
    const level = large.map(v => Math.min(levels - 1, Math.floor(v * levels)))
    const colour = (x, y) => {
      const at = (side - 1 - y) * side + x
      const here = level[at]
      const edge = here !== level[at + (x < side - 1)] || here !== level[at + side * (y > 0)]
      const grey = 246 - 176 * here / (levels - 1) - 34 * edge
      return [grey, grey, grey + 4, Number.isFinite(here) ? 255 : 0]
    }
    paint(this.canvas, side, side, colour)
    const [light, dark] = [low, top].map(accuracy ? percent : brief)
    const under = low > least ? "\u2264" : ""
    const first = this.land.steps.data[0]  // of a published prompt no earlier one is kept
    this.foot.textContent = `\u2605 ${first ? `step ${first}` : "start"}; light ${under}${light}, dark ${dark}${accuracy ? "" : " nats"}`
    this.draw()
  }

  draw() {
    if (!this.chart) return
    const { training } = this
    const share = r => this.land.inside.data[r]
    const bracket = r => share(r) < 0.995 ? ` (${percent(share(r))})` : ""
    this.follow(training.places[training.place(this.step)], bracket)
  }
}

const ROWS = [
  { cosine: CosinePanel, plane: PlanePanel, landscape: LandscapePanel },
  { accuracy: AccuracyPanel, tradeoff: TradeoffPanel, tokens: TokensPanel },
]
const ABSENT = {  // Why a panel may be missing
  accuracy: "accuracy, which was recorded on no test set",
  tokens: "the cosine per context vector, which was recorded at no step",
}

/** All that shows one training: its maps and its panels */
class Group {
  /** @param {Training} training  the same for as long as there is this group */
  constructor(view, training) {
    Object.assign(this, { view, training, maps: [], panels: [] })
    this.rows = make("div", { class: "pv-rows" })
    const empty = {
      accuracy: training.tested.length === 0,
      tokens: !view.book[`${training.s}.tokens`].data.some(Number.isFinite),
      landscape: !view.able && !view.book.land,
    }
    const wanted = name => view.wanted.includes(name)
    const rows = ROWS.map(kinds => this.row(kinds, name => wanted(name) && !empty[name]))
    const absent = Object.keys(ABSENT).filter(name => wanted(name) && empty[name]).map(name => ABSENT[name])
    this.title = make("h3", { hidden: !view.book.about.compare, title: training.name })
    const note = make("p", { class: "pv-absent", hidden: !absent.length }, `Not shown: ${absent.join("; ")}.`)
    this.node = make("div", { class: "pv-group" }, this.title, this.rows, ...rows, note)
  }

  row(kinds, isShown) {
    const panels = Object.keys(kinds).filter(isShown).map(name => new kinds[name](this.view, this.training))
    const total = sum(panels.map(panel => panel.wide))
    const narrow = panels.filter(panel => panel.wide === 1).length
    for (const { node, wide } of panels) {
      node.style.setProperty("--pv-wide", `span ${Math.round(12 * wide / total)}`)
      node.style.setProperty("--pv-mid", `span ${wide === 2 || narrow === 1 ? 12 : 6}`)
    }
    this.panels.push(...panels)
    return make("div", { class: "pv-grid-row" }, ...panels.map(panel => panel.node))
  }

  draw() {
    const { view, maps, training: { name, last } } = this
    const count = view.scene?.about.images.length ?? 0
    write(this.title, view.state.get("step") > last ? `its last step, ${last}: ${name}` : name)
    const all = new Set([view.image(), ...view.state.get("pins").filter(b => b < count)])  // the chosen one and pinned
    const images = view.wanted.includes("maps") ? [...all] : []
    while (maps.length < images.length) {
      maps.push(new MapRow(view, this.training))
      this.rows.append(maps.at(-1).node)
    }
    maps.forEach((row, n) => {
      row.node.hidden = n >= images.length
      if (n < images.length) row.draw(images[n], n ? `pinned: ${view.scene.about.images[images[n]].name}` : "")
    })
    for (const panel of this.panels) panel.draw()
  }
}

// ---------------------------------------------------------------------------------------------- the view

const TARGET_WORDS = new Map([
  ["predicted", "predicted class"],
  ["true", "true class"],
  ["contrast", "true class against its rival"],
])
const EXPLAINERS = { GradCAM: "Grad-CAM", GradECLIP: "Grad-ECLIP" }
const FILTERS = {  // What they mean, and whether what the reference and the method see of an image fits
  all: ["all images", () => true],
  differ: ["the reference and the method predict different classes", (a, b) => a.predicted !== b.predicted],
  gained: ["the reference is wrong and the method right", (a, b) => a.right === false && b.right],
  lost: ["the reference is right and the method wrong", (a, b) => a.right && b.right === false],
  moved: ["by the change of the share on the object, largest first", () => true],
}
const THEMES = ["class", "data-jp-theme-light", "data-theme", "data-vscode-theme-kind"]

/** Everything between the data and the page */
export class View {
  /** In `el`; `ask` is a function of (message, buffers) to the kernel, or null, `panels` are names */
  constructor(el, state, { ask = null, panels = ["maps", ...ROWS.flatMap(Object.keys)] } = {}) {
    Object.assign(this, { state, ask, able: false, wanted: panels, turn: 0, chosen: {} })
    const about = { tabindex: 0, role: "application", "aria-label": "Explorer of a training" }
    this.root = make("div", { class: "pv-root", ...about, keydown: event => this.press(event) })
    this.root.explorer = this  // for a console, and for tests
    el.append(this.root)
    const stop = { type: "button", hidden: true, click: () => ask({ ask: "cancel" }) }
    const bar = [make("progress", { max: 1, hidden: true }), make("button", stop, "cancel")]
    this.work = make("div", { class: "pv-work", role: "status" }, make("span"), ...bar)
    this.tell = later(() => { this.twin.textContent = this.sentence() }, 350)
    state.watchers.push(names => this.changed(names))
    this.theme = this.theme.bind(this)
    watch(this.root, this.theme)  // notebooks put it into the page later
    this.media = matchMedia("(prefers-color-scheme: dark)")
    this.media.addEventListener("change", this.theme)
    this.observer = new MutationObserver(this.theme)
    this.observer.observe(document.body, { attributes: true, attributeFilter: THEMES })
  }

  remove() {
    this.turn = Infinity  // data that still load come too late
    this.observer.disconnect()
    this.media.removeEventListener("change", this.theme)
    this.stop()
  }

  /** Form controls follow the page: dark where its text is light */
  theme() {
    const { root } = this
    if (!root.isConnected) return
    root.style.colorScheme = ""
    const { color } = getComputedStyle(root)
    const [r, g, b] = color.match(/[\d.]+/g).map(Number)
    const dark = 0.3 * r + 0.6 * g + 0.1 * b > (color.startsWith("color(") ? 0.5 : 128)
    root.style.colorScheme = root.dataset.theme = dark ? "dark" : "light"
  }

  /** Take over what came from Python */
  async adopt(buffers) {
    const turn = this.turn += 1
    const book = new Book(...buffers)
    const opened = scene => Promise.all(scene.about.images.map((_, b) => openImage(scene, b)))
    const pictures = await Promise.all(book.scenes.map(opened))
    if (turn !== this.turn || turn === Infinity) return  // newer data have come meanwhile
    Object.assign(this, { book, pictures, able: Boolean(this.ask) && book.about.able })
    this.colours = palette(book.heat.data, this.state.get("opacity"))
    this.build()
    const ready = this.scene || !this.wanted.includes("maps")
    const missing = this.able && !book.land && this.wanted.includes("landscape") && ready
    if (missing) this.ask({ ask: "landscape", unasked: true })  // the kernel decides: where it takes seconds
  }

  /** The training that sliders and panels speak of */
  training() { return this.book.sets[Math.min(this.state.get("set"), this.book.sets.length - 1)] }

  /** Its images and maps, where there are any, and their pictures */
  get scene() { return this.book.scenes[this.training().s] }
  get images() { return this.pictures[this.training().s] ?? [] }

  /** The step of the slider, or the last of a shorter training */
  step() { return clamp(this.state.get("step"), 0, this.training().last) }

  /** The chosen image, or the last where there are fewer */
  image() { return clamp(this.state.get("image"), 0, Math.max(0, this.images.length - 1)) }

  /** Which method of a training is at the slider */
  method(training = this.training()) { return training.nearest(this.state.get("lam")) }

  /** The score that the maps explain; until those of another have come, the one before */
  target() {
    const known = this.scene.about.targets
    return [this.state.get("target"), this.lastTarget].find(name => known.includes(name)) ?? known[0]
  }

  build() {
    const { book, root, wanted } = this
    const { compare } = book.about
    const focus = root.contains(document.activeElement) ? document.activeElement.getAttribute("aria-label") : null
    this.controls = new Controls(this)
    this.rail = wanted.includes("maps") ? new Rail(this) : null
    this.groups = (compare ? book.sets : [this.training()]).map(training => new Group(this, training))
    this.twin = make("p", { class: "pv-twin", role: "status", "aria-live": "polite" })
    const main = make("div", { class: compare ? "pv-main pv-compare" : "pv-main" }, ...this.groups.map(g => g.node))
    const body = make("div", { class: "pv-with-rail" }, this.rail?.node, main)
    root.replaceChildren(this.controls.node, body, this.twin)
    root.classList.toggle("pv-small", wanted.length < 3)
    const labelled = [root, ...root.querySelectorAll("[aria-label]")]
    if (focus) labelled.find(n => n.getAttribute("aria-label") === focus)?.focus({ preventScroll: true })
    this.draw()
  }

  changed(names) {
    if (!this.book) return
    const { state, book, scene } = this
    if (names.includes("opacity")) this.colours = palette(book.heat.data, state.get("opacity"))
    const target = state.get("target")
    if (names.includes("target") && scene?.about.targets.includes(target)) this.lastTarget = target
    if (names.includes("set")) this.build()
    else this.update()
  }

  /** Draw now, at most once between two frames of the screen */
  update() {
    this.again = this.waiting
    if (this.waiting) return
    this.waiting = true
    this.draw()
    requestAnimationFrame(() => {
      this.waiting = false
      if (this.again) this.update()
    })
  }

  draw() {
    this.controls.draw()
    this.rail?.draw()
    for (const group of this.groups) group.draw()
    this.tell()
    this.drawn = performance.now()
  }

  /** To the snapshot nearest to a step, or some snapshots further */
  go(step, further = 0) {
    const training = this.training()
    const { places } = training
    this.state.set({ step: places[clamp(training.place(step) + further, 0, places.length - 1)] })
  }

  walk(places) { this.go(this.state.get("step"), places) }

  /** To another method: they are in the order of the slider */
  turnTo(more) {
    const { methods } = this.training()
    this.state.set({ lam: methods[clamp(this.method() + more, 0, methods.length - 1)].key })
  }

  /** To the next or the last conflict that has a snapshot */
  conflict(way) {
    const training = this.training()
    const step = this.step()
    const there = new Set(training.places)
    const all = training.conflicts(this.method()).filter(s => there.has(s))
    const found = way > 0 ? all.find(s => s > step) : all.findLast(s => s < step)
    if (found !== undefined) this.state.set({ step: found })
  }

  press(event) {
    const { target, key } = event
    if (event.ctrlKey || event.metaKey || event.altKey) return
    event.stopPropagation()  // notebooks take arrows and letters for commands of their own
    if (target.matches("select, textarea, input:not([data-slider])")) return
    const onLambda = target.matches("[data-slider=lam]")
    const along = way => onLambda ? this.turnTo(way) : this.walk(event.shiftKey ? 10 * way : way)
    const toEnd = way => onLambda ? this.turnTo(way * 1e9) : this.walk(way * 1e9)
    const act = {
      ArrowLeft: () => along(-1),
      ArrowRight: () => along(1),
      ArrowDown: () => this.turnTo(-1),
      ArrowUp: () => this.turnTo(1),
      Home: () => toEnd(-1),
      End: () => toEnd(1),
      PageUp: () => this.walk(10),
      PageDown: () => this.walk(-10),
      n: () => this.conflict(1),
      p: () => this.conflict(-1),
      " ": target.matches("button") ? null : () => this.toggle(),
    }[key]
    if (!act) return
    event.preventDefault()
    act()
  }

  atEnd() { return this.training().place(this.state.get("step")) === this.training().places.length - 1 }

  /** Play, or stop */
  toggle() {
    if (this.playing) return this.stop()
    if (this.atEnd()) this.state.set({ step: this.training().places[0] })
    let before = performance.now()
    let owed = 0
    const tick = now => {
      owed += (now - before) / 1000 * this.state.get("speed")
      before = now
      if (owed >= 1) this.walk(Math.floor(owed))
      owed %= 1
      if (this.atEnd()) this.stop()
      else this.playing = requestAnimationFrame(tick)
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
    const { compare } = this.book.about
    return this.groups.map(group => `${compare ? `${group.training.name}. ` : ""}${this.told(group)}`).join(" ")
  }

  /** The same of one training */
  told({ training, maps }) {
    const step = clamp(this.state.get("step"), 0, training.last)
    const [reference, method] = [training.reference, this.method(training)].map(r => training.methods[r].name)
    const names = [this.book.about.zero.name, reference, method]
    const looks = maps[0]?.looks
    const start = `Step ${step}, ${method}: ${this.gradients(training, step)}. `
    if (!looks?.every(Boolean)) return start
    const said = names.map((name, n) => `${name} predicts ${seen(looks[n])}`)
    return `${start}${cut(this.scene.about.images[this.image()].name)}: ${[...new Set(said)].join("; ")}.`
  }

  gradients(training, step) {
    const i = training.row(step)
    if (i < 0) return "before the first step"
    const value = name => training.column(name, this.method(training))[i]
    const cos = value("cos")
    const none = value("agree") === 1 ? "the prompt is still the teacher's" : "no cosine was recorded"
    if (!Number.isFinite(cos)) return none
    const verb = cos < 0 ? "conflict" : "agree"
    return `the gradients ${verb}, cosine ${signed(cos)} (${fixed(value("angle_deg"), 0)}\u00b0)`
  }
}

/** A name that does not fill a sentence */
const cut = name => name.length > 40 ? `${name.slice(0, 40)}\u2026` : name

/** What a method sees, in words */
function seen({ predicted, chance, right, share }) {
  const verdict = { true: ", right", false: ", wrong" }[right] ?? ""
  const part = Number.isFinite(share) ? `, ${percent(share)} of the map on the object` : ""
  return `${cut(predicted)} (${percent(chance)}${verdict}${part})`
}

/** The picture of an image, ready to be drawn, and the outline of its object, drawn when it is first asked for */
async function openImage({ masks, areas, pictures }, b) {
  const [, H, W] = pictures.shape
  const pixels = new ImageData(W, H)
  pixels.data.fill(255)
  part(pictures, b).forEach((value, i) => { pixels.data[i + Math.floor(i / 3)] = value })  // opacity stays
  const picture = await createImageBitmap(pixels)
  let drawn = null
  const outline = () => drawn ??= drawOutline(part(masks, b), H, W)
  return { picture, outline: areas.data[b] > 0 ? outline : () => null }
}

/** White lines with dark edges around the pixels of a mask */
function drawOutline(bits, H, W) {
  const scale = Math.max(1, Math.round(2 * PIXELS / Math.max(H, W)))
  const canvas = make("canvas", { width: W * scale, height: H * scale })
  const pen = canvas.getContext("2d")
  const inside = (y, x) => {
    const at = y * W + x
    return y >= 0 && x >= 0 && y < H && x < W ? bits[at >> 3] >> 7 - (at & 7) & 1 : 0
  }
  const stroke = (...ends) => ends.forEach(([y, x], n) => pen[n ? "lineTo" : "moveTo"](x * scale, y * scale))
  pen.beginPath()
  for (let y = 0; y <= H; y++) {
    for (let x = 0; x <= W; x++) {
      if (inside(y, x) !== inside(y - 1, x)) stroke([y, x], [y, x + 1])
      if (inside(y, x) !== inside(y, x - 1)) stroke([y, x], [y + 1, x])
    }
  }
  for (const [colour, width] of [["rgba(0,0,0,.55)", 5], ["#fff", 2.6]]) {
    Object.assign(pen, { strokeStyle: colour, lineWidth: width })
    pen.stroke()
  }
  return canvas
}

/** Title, choices and sliders */
class Controls {
  constructor(view) {
    this.view = view
    this.followers = []
    const { book: { strength }, state } = view
    this.subtitle = make("span", { class: "pv-note" })
    const choices = make("div", { class: "pv-choices" }, ...(view.wanted.includes("maps") ? this.choose() : []))
    const symbol = make("label", {}, strength === "lambda" ? "\u03bb" : strength)
    const bar = [symbol, this.lambdas(), this.trainer(), make("label", {}, "step"), this.steps(), this.jumps()]
    const name = make("strong", {}, state.get("title"))
    const title = make("div", { class: "pv-title" }, name, this.subtitle, choices)
    const sliders = make("div", { class: "pv-sliders" }, ...bar)
    this.node = make("div", { class: "pv-head" }, title, sliders, view.ask && view.work)
  }

  /** A control that makes a choice, and shows it whoever makes it */
  follow(name, control) {
    const { state } = this.view
    const cast = typeof state.get(name) === "number" ? Number : String
    control.addEventListener("input", () => state.set({ [name]: cast(control.value) }))
    this.followers.push([name, control])
    return control
  }

  /** A slider along the values that a choice may have */
  slider(name, label, values) {
    const last = values.length - 1
    const input = event => this.view.state.set({ [name]: values[Math.min(event.target.value, last)] })
    const range = { type: "range", min: 0, max: Math.max(1, last), step: 1, disabled: last < 1 }
    return make("input", { ...range, "aria-label": label, "data-slider": name, input })
  }

  lambdas() {
    const keys = this.view.training().methods.map(({ key }) => key)
    const last = keys.length - 1
    this.lam = this.slider("lam", this.view.book.strength, keys)
    const every = last >= 7 ? Math.ceil((last + 1) / 7) : 1
    const marks = keys.map((key, r) => {
      const words = typeof key === "string" ? key : +key.toPrecision(6)
      const style = { left: `${last ? 100 * r / last : 0}%` }
      return make("span", { style }, r % every && r < last ? "" : words)
    })
    const scale = make("div", { class: "pv-marks", "aria-hidden": "true" }, ...marks)
    return make("div", { class: "pv-lam" }, this.lam, scale)
  }

  steps() {
    this.step = this.slider("step", "step", this.view.training().places)
    this.film = make("canvas", { class: "pv-film", title: "steps in conflict", "aria-hidden": "true" })
    watch(this.film, width => {
      this.filmed = null
      this.strip(width)
    })
    return make("div", { class: "pv-step" }, this.step, this.film)
  }

  jumps() {
    const { view } = this
    const speeds = [5, 15, 30, 60].map(n => [n, `${n}/s`])
    const speed = { "aria-label": "speed", title: "snapshots per second" }
    this.play = button("\u25b6", "play (space)", () => view.toggle())
    this.where = make("output", { class: "pv-where" }, make("b"), make("span"), make("span"))
    return make("div", { class: "pv-jumps" }, this.play,
      this.follow("speed", picker(speed, speeds, view.state.get("speed"))),
      button("\u2039 p", "\u2039 p: previous conflict", () => view.conflict(-1)),
      button("n \u203a", "n \u203a: next conflict", () => view.conflict(1)),
      this.where)
  }

  /** A picker; a single entry can only be read */
  pick(label, name, options, usual = this.view.state.get(name), words = `${label} `) {
    const known = options.some(([value]) => value === usual) ? options : [...options, [usual, String(usual)]]
    const disabled = known.length < 2
    if (disabled && !this.view.ask) return null  // a page of its own has nothing to choose here
    const select = picker({ "aria-label": label, title: label, disabled }, known, usual)
    return make("label", { class: "pv-choice" }, words, this.follow(name, select))
  }

  choose() {
    const { view } = this
    const { sets, about: { compare } } = view.book
    const seeds = sets.map(({ name }, s) => [s, name])
    const save = () => view.ask({ ask: "save" })
    this.pin = button("pin", "pin or unpin: keep this image in view", () => this.keep())
    return [
      ...(view.scene ? this.pickers() : []),
      sets.length > 1 && !compare ? this.pick("seed", "set", seeds, view.training().s, "maps of ") : null,
      this.opacity(),
      this.pin,
      ...(view.able ? this.photos() : []),
      view.ask ? button("save figure", "save figure: what is on screen, as PDF, PNG and CSV", save) : null,
    ]
  }

  /** What the maps explain and where the images come from */
  pickers() {
    const { able, scene: { about } } = this.view
    const classes = able ? about.classes.slice(0, 200) : []
    const targets = [...new Set([...about.targets, ...classes])].map(name => [name, TARGET_WORDS.get(name) ?? name])
    const splits = about.splits.filter(name => able || name === about.split).map(name => [name, name])
    const named = about.layers.map((name, n) => n ? [name, name] : ["default", `default (${name})`])
    const layers = named.filter(([value]) => able || value === about.layer)
    const known = able ? about.explainers : [about.explainer]
    const explainers = known.map(name => [name, EXPLAINERS[name] ?? name])
    return [
      this.pick("target", "target", targets),
      this.pick("map", "explainer", explainers, about.explainer),
      this.pick("images", "split", splits, about.split),
      about.layer ? this.pick("layer", "target_layer", layers, about.layer) : null,
    ]
  }

  opacity() {
    const range = { type: "range", min: 0, max: 1, step: 0.05, value: this.view.state.get("opacity") }
    const slider = make("input", { ...range, "aria-label": "opacity of the maps" })
    return make("label", { class: "pv-choice" }, "opacity ", this.follow("opacity", slider))
  }

  /** Pin the image, or let it go; at most two stay in view */
  keep() {
    const { state } = this.view
    const [b, pins] = [this.view.image(), state.get("pins")]
    state.set({ pins: pins.includes(b) ? pins.filter(pin => pin !== b) : [...pins, b].slice(-2) })
  }

  photos() {
    const change = async () => {
      const chosen = [...files.files]
      const contents = await Promise.all(chosen.map(file => file.arrayBuffer()))
      const message = { ask: "photos", names: chosen.map(file => file.name) }
      this.view.ask(message, contents.map(content => new DataView(content)))
      files.value = ""
    }
    const input = { type: "file", accept: "image/*", multiple: true, hidden: true }
    const files = make("input", { ...input, "aria-label": "photos", change })
    return [files, button("your photos", "your photos: look at images of your own", () => files.click())]
  }

  /** A further lambda to train */
  trainer() {
    const { view } = this
    const { strength, about: { trainable, able } } = view.book
    if (!view.ask || !able || !trainable || !view.wanted.includes("maps")) return make("span")
    const begin = () => {
      const lam = field.valueAsNumber
      const known = view.training().methods[view.training().method(lam)]
      if (known) view.state.set({ lam: known.key })  // it was trained before
      else if (Number.isFinite(lam)) view.ask({ ask: "train", lam })
      else this.say(`type a number to train another ${strength}`, true)
    }
    const keydown = event => { if (event.key === "Enter") begin() }
    const input = { type: "number", step: "any", placeholder: "0.25" }
    const field = make("input", { ...input, "aria-label": `a ${strength} to train`, keydown })
    const press = { type: "button", click: begin, title: "train it just as the others were" }
    return make("span", { class: "pv-train" }, field, make("button", press, "+ train"))
  }

  /** A word to the reader, with progress and a way to cancel */
  say(words, wrong = false, done = this.view.busy ? -1 : null) {
    const { work } = this.view
    const [text, progress, cancel] = work.children  // the same button all along, or a click could miss it
    const now = performance.now()
    if (done < 0) done = progress.value  // as it was
    if (done === null || wrong) this.kept = done === null ? null : { words, until: now + 5000 }
    else if (this.kept?.until > now) [words, wrong] = [this.kept.words, true]  // a refusal can be read
    work.classList.toggle("pv-wrong", wrong)
    write(text, words)  // said once by a screen reader
    progress.value = done ?? 0
    progress.hidden = cancel.hidden = done === null
    const before = this.view.busy
    this.view.busy = done !== null
    if (this.view.busy !== before) this.view.update()  // for cards that wait for their map
    for (const offer of this.view.root.querySelectorAll(".pv-offer button")) offer.disabled = done !== null
  }

  /** The conflicts of a method below the step slider, like the frames of a film */
  strip(width = this.film.width) {
    const training = this.view.training()
    const r = this.view.method()
    if (this.filmed === r || !width) return
    this.filmed = r
    Object.assign(this.film, { width, height: 7 })
    const pen = this.film.getContext("2d")
    pen.fillStyle = this.view.book.about.coop
    const last = training.last || 1
    const wide = Math.max(0.7, width / last * 0.8)
    for (const step of training.conflicts(r)) pen.fillRect((step - 0.5) / last * (width - 1), 0, wide, 7)
  }

  draw() {
    const { view } = this
    const { state } = view
    const training = view.training()
    const step = view.step()
    const r = view.method()
    const cos = training.column("cos", r)[training.row(step)]
    this.lam.value = r
    this.lam.setAttribute("aria-valuetext", training.methods[r].name)
    this.step.value = training.place(step)
    this.step.setAttribute("aria-valuetext", `step ${step}`)
    const [here, end, angle] = this.where.children
    write(here, String(step))
    write(end, ` of ${training.last}`)
    write(angle, Number.isFinite(cos) ? `cos ${signed(cos)}` : "")
    angle.classList.toggle("pv-conflict", cos < 0)
    write(this.play, view.playing ? "\u275a\u275a" : "\u25b6")
    this.play.setAttribute("aria-pressed", Boolean(view.playing))
    this.strip()
    for (const [name, control] of this.followers) {
      if (control.value !== String(state.get(name))) control.value = state.get(name)
    }
    if (!view.scene) return
    write(this.subtitle, this.caption(view.scene.about))
    if (!this.pin) return
    const pinned = state.get("pins").includes(view.image())
    write(this.pin, pinned ? "unpin" : "pin")
    this.pin.setAttribute("aria-pressed", pinned)
  }

  /** Which maps are shown */
  caption({ split, explainer, layer, layers, masks }) {
    const [shown, wanted] = [this.view.target(), this.view.state.get("target")]
    const words = TARGET_WORDS.has(shown) ? `the ${TARGET_WORDS.get(shown)}` : shown
    const map = shown === wanted ? `map of ${words}` : `asking for the map of ${wanted} \u2026`
    const where = layer === "default" && layers.length ? `default (${layers[0]})` : layer
    const how = (EXPLAINERS[explainer] ?? explainer) + (layer ? ` at ${where}` : "")
    return [this.view.book.about.titles[split] ?? split, map, how, masks].filter(Boolean).join(" \u00b7 ")
  }
}

/** The images to choose from */
class Rail {
  constructor(view) {
    this.view = view
    const change = event => view.state.set({ filter: event.target.value })
    const filters = Object.entries(FILTERS).map(([name, [meaning]]) => [name, name, meaning])
    this.filter = picker({ "aria-label": "which images", change }, filters)
    this.list = make("div", { class: "pv-thumbs", role: "listbox", "aria-label": "images to choose from" })
    this.node = make("nav", { class: "pv-rail", "aria-label": "rail" }, this.filter, this.list)
    this.thumbs = (view.scene?.about.images ?? []).map(({ name }, b) => this.thumb(name, b))
  }

  /** The middle of an image, as a square */
  thumb(name, b) {
    const { picture } = this.view.images[b]
    const canvas = make("canvas", { width: 88, height: 88 })
    const side = Math.min(picture.width, picture.height)
    const [left, top] = [(picture.width - side) / 2, (picture.height - side) / 2]
    canvas.getContext("2d").drawImage(picture, left, top, side, side, 0, 0, 88, 88)
    return button(canvas, name, () => this.view.state.set({ image: b }), "option")
  }

  /** Images that fit the filter, judged by the last snapshot: moving the step moves nothing here */
  chosen() {
    const { view } = this
    const training = view.training()
    const filter = view.state.get("filter")
    const all = this.thumbs.map((_, b) => b)
    if (filter === "all" || !training.hasText) return all
    const k = training.places.length - 1
    const look = (r, b) => training.look(view.scene, view.target(), k, r, b)
    const pairs = all.map(b => [look(training.reference, b), look(view.method(), b)])
    const change = b => Math.abs(pairs[b][0].share - pairs[b][1].share) || 0
    const fitting = all.filter(b => FILTERS[filter][1](...pairs[b]))
    return filter === "moved" ? fitting.sort((a, b) => change(b) - change(a)) : fitting
  }

  draw() {
    const { state, scene } = this.view
    if (!scene) return
    const filter = state.get("filter")
    const key = [filter, state.get("lam"), state.get("set"), this.view.target()].join(" ")
    if (this.key !== key) {
      this.key = key
      this.filter.value = filter
      this.filter.title = `${FILTERS[filter][0]}, judged by the end of training`
      const chosen = this.chosen().map(b => this.thumbs[b])
      const { reference, methods } = this.view.training()
      const alone = reference === this.view.method() ? `: ${methods[reference].name} is compared with itself` : ""
      this.list.replaceChildren(...(chosen.length ? chosen : [make("p", { class: "pv-note" }, `no image${alone}`)]))
    }
    this.thumbs.forEach((thumb, b) => thumb.setAttribute("aria-selected", b === this.view.image()))
  }
}

// ---------------------------------------------------------------------------------------------- where it runs

/** All choices, as they are where nobody says otherwise */
const USUAL = {
  lam: 0, step: 0, image: 0, set: 0, split: "", target: "predicted", explainer: "GradCAM", target_layer: "default",
  opacity: 0.85, pins: [], filter: "all", speed: 15, title: "",
}
const ALONE = ["opacity", "filter", "speed"]  // of this view alone; the rest is the widget's
const SHARED = Object.keys(USUAL).filter(name => !ALONE.includes(name))
const BUFFERS = ["_runs", "scenes", "land"]
const NUMBERS = ["step", "image", "set"]
const IN_ADDRESS = ["lam", "step", "image", "target", "set", "pins"]

/** In a notebook: the choices are traits of the widget, so that other widgets can follow and lead */
function render({ model, el }) {
  const state = new State({ ...USUAL, ...Object.fromEntries(SHARED.map(name => [name, model.get(name)])) })
  const unsaved = new Set()
  const saveNow = () => {
    const names = [...unsaved]
    unsaved.clear()
    for (const name of names) model.set(name, state.get(name))  // an echo may have undone it
    if (names.length) model.save_changes()
  }
  const save = later(saveNow, 100)  // what the kernel answers costs the page as much as a frame
  const ask = (message, buffers = []) => {
    saveNow()  // it is about what is on screen
    model.send(message, undefined, buffers)
  }
  const view = new View(el, state, { ask, panels: model.get("_panels") })
  state.watchers.push((names, from) => {
    if (from === "kernel") return
    for (const name of names.filter(name => SHARED.includes(name))) {
      unsaved.add(name)
      model.set(name, state.get(name))
    }
    save()
  })
  const work = () => {
    const { text = "", wrong = false, done = null } = model.get("_work")
    view.controls?.say(text, wrong, done)
  }
  const adopt = () => view.adopt(BUFFERS.map(name => model.get(name))).then(work)
  const again = later(adopt, 0)
  const follow = name => [`change:${name}`, () => {
    if (!unsaved.has(name)) state.set({ [name]: model.get(name) }, "kernel")  // else an echo of the value before
  }]
  const heard = [...SHARED.map(follow), ...BUFFERS.map(name => [`change:${name}`, again]), ["change:_work", work]]
  for (const [name, call] of heard) model.on(name, call)
  adopt()
  return () => {
    for (const [name, call] of heard) model.off(name, call)
    view.remove()
  }
}

/** In a page of its own: the choices stand in the address */
export function mount(el, buffers, chosen) {
  const values = { ...USUAL, ...chosen }
  const state = new State({ ...values, ...fromAddress() })
  const view = new View(el, state)
  const write = later(() => {
    const changed = IN_ADDRESS.filter(name => String(state.get(name)) !== String(values[name]))
    const text = changed.map(name => `${name}=${encodeURIComponent(state.get(name))}`)
    history.replaceState(null, "", `#${text.join("&")}`)
  }, 400)  // Safari refuses more than 100 in 30 seconds
  state.watchers.push(write)
  const settle = () => {  // what the address names may not be there
    view.go(state.get("step"))
    if (view.scene) state.set({ target: view.target() })
  }
  addEventListener("hashchange", () => {
    const found = fromAddress()
    if (!Object.keys(found).length) return  // a link within the page
    state.set({ ...Object.fromEntries(IN_ADDRESS.map(name => [name, values[name]])), ...found })
    settle()
  })
  view.adopt([buffers.runs, buffers.scenes, buffers.land]).then(settle)
  return view
}

/** What the address says and makes sense */
function fromAddress() {
  const found = {}
  for (const [name, text] of new URLSearchParams(location.hash.slice(1))) {
    const number = text.trim() === "" ? NaN : +text
    if (name === "target") found.target = text
    if (name === "lam") found.lam = Number.isFinite(number) ? number : text
    if (NUMBERS.includes(name) && Number.isInteger(number) && number >= 0) found[name] = number
    if (name === "pins") found.pins = text.split(",").filter(b => /^\d+$/.test(b)).map(Number)
  }
  return found
}

export default { render }
