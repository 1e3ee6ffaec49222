// For the keyboard and screen readers: what is wider than its place and scrolls is reached, and the search has a name.
const reachable = new ResizeObserver((changes) => {
  for (const { target } of changes) {
    if (target.scrollWidth > target.clientWidth) target.setAttribute("tabindex", "0");
    else target.removeAttribute("tabindex");
  }
});
document$.subscribe(({ body }) => requestAnimationFrame(() => {
  for (const wide of body.querySelectorAll(".md-typeset__scrollwrap, .katex-display")) reachable.observe(wide);
}));
document.querySelector("[data-md-component=search]").setAttribute("aria-label", "Search");
