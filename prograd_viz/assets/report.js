
// A page of its own: the buffers stand in it as text
const decoded = text => Uint8Array.from(atob(text), c => c.charCodeAt(0))
const buffers = id => document.getElementById(id).textContent.trim().split(/\s+/).filter(Boolean).map(decoded)
document.body.classList.add("scripted")
mount(document.getElementById("explorer"), { runs: buffers("runs")[0], scenes: buffers("scene"), land: buffers("land")[0] },
  JSON.parse(document.getElementById("values").textContent))

// In a frame of another page: that page learns how tall this one is, and says which theme its reader chose
const themed = ({ data, source }) => {
  if (source !== parent || !["auto", "dark", "light"].includes(data?.theme)) return
  document.documentElement.style.colorScheme = data.theme === "auto" ? "" : data.theme
  document.body.dataset.theme = data.theme
}
if (parent !== window) {
  document.body.classList.add("framed")
  document.querySelector(".hint a").target = "_blank"
  new ResizeObserver(() => parent.postMessage({ height: document.body.offsetHeight }, "*")).observe(document.body)
  addEventListener("message", themed)
}
