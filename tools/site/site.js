// The demo on the front page is as tall as what it shows, and in the theme that the reader chose for the site
const demo = document.querySelector("iframe.demo")
const theme = () => demo.contentWindow.postMessage({ theme: document.body.dataset.theme }, "*")
if (demo) {
  addEventListener("message", ({ data, source }) => {
    if (source !== demo.contentWindow || !(data?.height > 0)) return
    demo.style.height = `${data.height + 2}px`
    theme()
  })
  new MutationObserver(theme).observe(document.body, { attributeFilter: ["data-theme"] })
}

// What scrolls sideways is reached by the keyboard
for (const node of document.querySelectorAll("article :is(pre, .table-wrapper, .formula, .cell_output, p, table)")) {
  if (node.scrollWidth > node.clientWidth + 1 && getComputedStyle(node).overflowX !== "visible") node.tabIndex = 0
}

// The theme gives its captions a role without a level, and two landmarks without a name
for (const node of document.querySelectorAll(".caption[role=heading]")) node.ariaLevel = 2
for (const [name, label] of [["sidebar", "All pages"], ["toc", "On this page"]]) {
  document.querySelector(`.${name}-drawer`)?.setAttribute("aria-label", label)
}
