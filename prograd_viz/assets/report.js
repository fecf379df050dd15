"use strict"
const data = JSON.parse(document.getElementById("data").textContent)
const $ = id => document.getElementById(id), bytes = text => Uint8Array.from(atob(text), c => c.charCodeAt(0))
const grids = bytes(data.grids), heat = bytes(data.heat), [K, R, B, H, W] = data.shape, side = 196, gap = 10, head = 26
const pictures = data.pictures.map(source => Object.assign(new Image(), { src: source }))
const masks = data.masks && data.masks.map(bytes)

// A map of quantised cells at (x, y) in [0, 1], bilinear with half-cell centres, as the library resizes it
function cell(start, x, y) {
  const u = Math.min(Math.max(x * W - 0.5, 0), W - 1), v = Math.min(Math.max(y * H - 0.5, 0), H - 1)
  const i = Math.floor(u), j = Math.floor(v), a = u - i, b = v - j, at = start + j * W + i, right = i < W - 1 ? 1 : 0, below = j < H - 1 ? W : 0
  return ((grids[at] * (1 - a) + grids[at + right] * a) * (1 - b) + (grids[at + below] * (1 - a) + grids[at + below + right] * a) * b) / 255
}

const inside = (mask, x, y) => mask[y * data.size + x >> 3] >> 7 - (y * data.size + x & 7) & 1

function panel(pen, left, b, start, top) {
  pen.drawImage(pictures[b], left, head, side, side)
  const pixels = pen.getImageData(left, head, side, side), p = pixels.data, n = data.size
  for (let y = 0; y < side; y++) for (let x = 0; x < side; x++) {
    const o = 4 * (y * side + x)
    if (start !== null) {
      const h = Math.min(cell(start, (x + 0.5) / side, (y + 0.5) / side) / top, 1), alpha = Math.sqrt(h) * 0.85, c = 3 * Math.round(h * 255)
      const grey = (0.299 * p[o] + 0.587 * p[o + 1] + 0.114 * p[o + 2]) * 0.7 + 76
      for (let k = 0; k < 3; k++) p[o + k] = grey * (1 - alpha) + heat[c + k] * alpha
    }
    if (masks) {
      const i = x * n / side | 0, j = y * n / side | 0, here = inside(masks[b], i, j)
      if (i > 0 && j > 0 && (here !== inside(masks[b], i - 1, j) || here !== inside(masks[b], i, j - 1))) p[o] = p[o + 1] = p[o + 2] = 255
    }
  }
  pen.putImageData(pixels, left, head)
}

// Lines over the steps in a box of a canvas, with a cursor: marks are heights with a tick, lines are { colour, points: [[step, height | null], ...], dash }
function plot(pen, [left, top, width, height], title, marks, lines, step, shade) {
  const last = data.steps.at(-1) || 1, low = Math.min(...marks), high = Math.max(...marks), x = s => left + width * s / last, y = v => top + height * (high - v) / (high - low)
  pen.fillStyle = "#f0f0f0"; if (shade) pen.fillRect(left, y(0), width, y(low) - y(0))
  pen.fillStyle = "#444"; pen.font = "12px system-ui, sans-serif"; pen.textAlign = "right"
  for (const v of marks) { pen.fillText(v, left - 8, y(v) + 4); pen.globalAlpha = 0.25; pen.fillRect(left, y(v), width, 1); pen.globalAlpha = 1 }
  pen.textAlign = "left"; pen.fillText(title, left + 4, top - 8); pen.fillText("0", left, top + height + 16)
  pen.textAlign = "center"; pen.fillText("step", left + width / 2, top + height + 16)
  pen.textAlign = "right"; pen.fillText(data.steps.at(-1), left + width, top + height + 16)
  for (const line of lines) {
    pen.strokeStyle = line.colour; pen.lineWidth = 1.8; pen.setLineDash(line.dash || []); pen.beginPath(); let down = false
    for (const [s, v] of line.points) { if (v === null) { down = false; continue } down ? pen.lineTo(x(s), y(v)) : pen.moveTo(x(s), y(v)); down = true }
    pen.stroke()
  }
  pen.setLineDash([]); pen.fillStyle = "#CC79A7"; pen.fillRect(x(step) - 1.5, top, 3, height)
}

const blank = (id, height) => { const pen = $(id).getContext("2d"); pen.canvas.height = height; pen.fillStyle = "#fff"; pen.fillRect(0, 0, 820, height); return pen }

function curves(runs, step) {
  plot(blank("curve", 220), [50, 26, 750, 168], "cosine of the two gradients; below 0 they conflict", [-1, -0.5, 0, 0.5, 1], runs.map(r => ({ colour: data.colours[r], points: data.cosines[r].map((c, s) => [s + 1, c]) })), step, true)
  const splits = Object.keys(data.accuracies), pen = blank("accuracy", splits.length ? 190 : 0), width = 820 / splits.length - 52
  splits.forEach((split, i) => plot(pen, [44 + i * (width + 52), 26, width, 138], `accuracy, ${split}`, [0, 0.5, 1], [
    { colour: data.grey, dash: [5, 4], points: [[0, data.teacher[split]], [data.steps.at(-1), data.teacher[split]]] },
    ...runs.map(r => ({ colour: data.colours[r], points: data.accuracies[split][r] }))], step))
}

function draw() {
  const b = +$("image").value, r = +$("lam").value, k = +$("step").value, area = H * W
  const prompts = [["zero-shot CLIP", data.grey, (K * R * B + b) * area, data.zero[b]]]
  for (const q of [...new Set([0, r])]) prompts.push([data.labels[q], data.colours[q], ((k * R + q) * B + b) * area, data.views[k][q][b]])
  const pen = $("panels").getContext("2d", { willReadFrequently: true })
  pen.canvas.width = (prompts.length + 1) * (side + gap) - gap
  pen.fillStyle = "#fff"; pen.fillRect(0, 0, pen.canvas.width, pen.canvas.height)
  pen.font = "14px system-ui, sans-serif"; pen.textAlign = "center"
  const top = Math.max(1 / 255, ...prompts.map(p => grids.subarray(p[2], p[2] + area).reduce((a, c) => Math.max(a, c), 0) / 255))
  panel(pen, 0, b, null); pen.fillStyle = "#222"; pen.fillText("image", side / 2, 18)
  prompts.forEach((p, i) => { panel(pen, (i + 1) * (side + gap), b, p[2], top); pen.fillStyle = p[1]; pen.fillText(p[0], (i + 1) * (side + gap) + side / 2, 18) })
  curves([...new Set([0, r])], data.steps[k])
  const cosine = k ? data.cosines[r][data.steps[k] - 1] : null
  $("says").textContent = `Step ${data.steps[k]}, ${data.labels[r]}: ` + (cosine === null ? "no angle between the gradients" : `the gradients ${cosine < 0 ? "conflict" : "agree"}, cosine ${cosine.toFixed(2)}`)
  $("lam-is").value = data.labels[r]; $("step-is").value = data.steps[k]
  const percent = x => x === null ? "-" : Math.round(100 * x) + "%"
  $("numbers").replaceChildren(...prompts.map(p => {
    const row = document.createElement("tr")
    for (const text of [p[0], data.classes[p[3][0]] ?? "no prediction", percent(p[3][1]), percent(p[3][2]), p[3][3] === null ? "-" : p[3][3].toFixed(2)]) row.insertCell().textContent = text
    return row
  }))
}

document.body.classList.add("scripted")
for (const id of ["image", "lam", "step"]) $(id).addEventListener("input", draw)
Promise.all(pictures.map(p => p.decode())).then(draw)
