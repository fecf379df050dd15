
// A page of its own: the state of the explorer stands in it, buffers as text
const decoded = text => Uint8Array.from(atob(text), c => c.charCodeAt(0))
const { _runs, scenes, land, ...chosen } = JSON.parse(document.getElementById("state").textContent)
const buffers = { runs: decoded(_runs), scenes: scenes.map(decoded), land: decoded(land) }
document.body.classList.add("scripted")
mount(document.getElementById("explorer"), buffers, chosen)

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
