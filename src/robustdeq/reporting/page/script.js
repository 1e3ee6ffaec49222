"use strict";
(() => {
  const root = document.documentElement;
  const prefersDark = matchMedia("(prefers-color-scheme: dark)");
  const themes = JSON.parse(document.getElementById("templates").textContent);
  const charts = [...document.querySelectorAll(".chart")];
  const sections = [...document.querySelectorAll(".run")];
  const radios = [...document.querySelectorAll("#runs input")];
  const toggle = document.getElementById("theme");
  const config = { displayModeBar: false, responsive: false, showTips: false };

  const theme = () => {
    if (root.classList.contains("printing")) return "light";
    return root.dataset.theme ?? (prefersDark.matches ? "dark" : "light");
  };

  const draw = (chart) => {
    if (chart.clientWidth === 0) return;
    const { data, layout } = JSON.parse(chart.querySelector("script").textContent);
    const template = themes[theme()];
    const colors = template.layout.colorway;
    for (const trace of data.filter((trace) => "meta" in trace)) {
      const color = colors[trace.meta % colors.length];
      trace.marker = { ...trace.marker, color };
      trace.line = { ...trace.line, color };
      if (trace.error_x) trace.error_x.color = color;
      if (trace.error_y) trace.error_y.color = color;
    }
    Plotly.react(chart.querySelector(".canvas"), data, { ...layout, template, width: chart.clientWidth }, config);
  };

  const reachable = (region) => {
    if (region.scrollWidth > region.clientWidth) region.tabIndex = 0;
    else region.removeAttribute("tabindex");
  };

  const refresh = () => {
    charts.forEach(draw);
    document.querySelectorAll(".scroll").forEach(reachable);
    toggle.setAttribute("aria-pressed", String(theme() === "dark"));
  };

  const choose = (slug) => {
    sections.forEach((section) => section.classList.toggle("chosen", section.dataset.run === slug));
    radios.forEach((radio) => (radio.checked = radio.value === slug));
    refresh();
  };

  const follow = () => {
    const [slug, place] = location.hash.slice(1).split("/");
    if (sections.some((section) => section.dataset.run === slug)) {
      choose(slug);
      if (place) document.getElementById(`${slug}/${place}`)?.scrollIntoView();
    } else if (!document.querySelector(".run.chosen")) choose(sections[0].dataset.run);
  };

  let width = innerWidth;
  addEventListener("resize", () => {
    if (innerWidth === width) return;
    width = innerWidth;
    requestAnimationFrame(refresh);
  });
  addEventListener("beforeprint", () => {
    root.classList.add("printing");
    charts.forEach(draw);
  });
  addEventListener("afterprint", () => {
    root.classList.remove("printing");
    refresh();
  });
  addEventListener("hashchange", follow);
  prefersDark.addEventListener("change", refresh);
  document.addEventListener("toggle", (event) => event.target.querySelectorAll(".scroll").forEach(reachable), true);
  toggle.addEventListener("click", () => {
    root.dataset.theme = theme() === "dark" ? "light" : "dark";
    refresh();
  });
  radios.forEach((radio) =>
    radio.addEventListener("change", () => {
      choose(radio.value);
      history.pushState(null, "", `#${radio.value}/`);
    }),
  );

  toggle.hidden = false;
  document.getElementById("runs")?.removeAttribute("hidden");
  root.classList.add("scripted");
  follow();
})();
