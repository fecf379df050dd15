
// A page of its own: the buffers stand in it as text
const decoded = text => Uint8Array.from(atob(text), c => c.charCodeAt(0))
const buffers = id => document.getElementById(id).textContent.trim().split(/\s+/).filter(Boolean).map(decoded)
document.body.classList.add("scripted")
mount(document.getElementById("explorer"), { runs: buffers("runs")[0], scenes: buffers("scene"), land: buffers("land")[0] },
  JSON.parse(document.getElementById("values").textContent))
