
// A page of its own: the buffers stand in it as text
const bytes = id => Uint8Array.from(atob(document.getElementById(id).textContent.trim()), c => c.charCodeAt(0))
document.body.classList.add("scripted")
mount(document.getElementById("explorer"), { runs: bytes("runs"), scene: bytes("scene"), land: bytes("land") },
  JSON.parse(document.getElementById("values").textContent))
