"use strict";
(() => {
  const $ = (selector, root = document) => root.querySelector(selector);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  for (const form of all("form.controls")) {
    form.hidden = false;
    form.addEventListener("submit", (event) => event.preventDefault());
  }

  // The gallery of suspects: filter and order.
  const gallery = $("#suspects"), controls = $("form[data-for=suspects]");
  if (gallery) {
    const cards = all(".card", gallery);
    const text = (a, b) => a.localeCompare(b, undefined, { numeric: true });
    const orders = {
      sure: (a, b) => b.dataset.sure - a.dataset.sure,
      unsure: (a, b) => a.dataset.sure - b.dataset.sure,
      label: (a, b) => text(a.dataset.label, b.dataset.label) || orders.sure(a, b),
      suggestion: (a, b) => text(a.dataset.suggestion, b.dataset.suggestion) || orders.sure(a, b),
    };
    const more = $("#more"), atOnce = 24;
    let limit = atOnce;
    const update = () => {
      const { class: label, suggestion, order, neighbors } = controls.elements;
      let fitting = 0;
      gallery.append(...cards.sort(orders[order.value]));
      for (const card of cards) {
        const fits = (!label.value || card.dataset.label === label.value)
          && (!suggestion.value || card.dataset.suggestion === suggestion.value);
        fitting += fits;
        card.hidden = !fits || fitting > limit;
        const near = $(".near", card);
        if (near) near.hidden = !neighbors.checked;
      }
      const shown = Math.min(fitting, limit);
      more.hidden = shown === fitting;
      more.textContent = `Show ${fitting - shown} more`;
      $("output", controls).textContent = shown < fitting ? `${shown} of ${fitting} shown` : `${shown} shown`;
    };
    controls.addEventListener("change", () => { limit = atOnce; update(); });
    more.addEventListener("click", () => {
      const next = cards[cards.findLastIndex((card) => !card.hidden) + 1];
      limit = Infinity;
      update();
      if (next) { next.tabIndex = -1; next.focus({ preventScroll: true }); }
    });
    update();
  }

  // The map: a picture under the pointer or the arrow keys; color by verdict or by label.
  const world = $("#world");
  if (!world) return;
  const data = JSON.parse($("#map-data").textContent);
  const cursor = $("#cursor"), tip = $("#tip"), form = $("form[data-for=world]").elements;
  const byVerdict = $("#by-verdict"), byClass = $("#by-class");
  const words = ["clean", "mislabeled", "foreign"];
  const boxes = words.map((word) => $(`#map-key input[name=${word}]`));
  const n = data.x.length, nameOf = (c) => (c < 0 ? "no label" : data.classes[c]);
  const visible = (i) => boxes[data.verdict[i]].checked && (!form.class.value || data.label[i] === Number(form.class.value));
  let current = -1;

  const counts = new Map();
  for (const label of data.label) counts.set(label, (counts.get(label) || 0) + 1);
  const frequent = [...counts.keys()].filter((c) => c >= 0).sort((a, b) => counts.get(b) - counts.get(a));
  for (const c of [...frequent].sort((a, b) => a - b)) form.class.add(new Option(`${nameOf(c)} (${counts.get(c)})`, c));
  const palette = ["#4477aa", "#ee6677", "#228833", "#ccaa33", "#44a5cc", "#aa3377", "#999933", "#ee8866", "#7766cc", "#44aa88"];
  const rest = "#8a8f96";

  const draw = (chosen, name, shape, color) => {
    const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
    path.setAttribute("d", chosen.map((i) => `M${data.x[i]} ${data.y[i]}${shape}`).join(""));
    path.setAttribute("class", `dots ${name}`);
    if (color) path.setAttribute("stroke", color);
    byClass.append(path);
  };
  const legend = (entries) => {
    $("#class-key").replaceChildren(...entries.map(([name, color]) => {
      const item = document.createElement("li"), dot = document.createElement("i");
      dot.style.background = color;
      item.append(dot, name);
      return item;
    }));
  };
  const update = () => {
    const colored = form.color.value === "class", only = form.class.value;
    const rows = [...Array(n).keys()].filter((i) => boxes[data.verdict[i]].checked);
    byClass.replaceChildren();
    legend([]);
    words.forEach((word, v) => { $(`.${word}`, byVerdict).style.display = boxes[v].checked && !colored ? "" : "none"; });
    byVerdict.setAttribute("class", only ? "faint" : "");
    const own = rows.filter((i) => !only || data.label[i] === Number(only));
    if (colored) {
      const ranked = frequent.slice(0, palette.length);
      const groups = ranked.map((c, rank) => [own.filter((i) => data.label[i] === c), nameOf(c), palette[rank]]);
      const others = own.filter((i) => !ranked.includes(data.label[i]));
      if (others.length) groups.push([others, "others", rest]);
      if (only) draw(rows, "rest", data.shapes[0], rest);
      for (const [chosen, , color] of groups) draw(chosen, "", data.shapes[0], color);
      legend(groups.filter(([chosen]) => chosen.length).map(([, name, color]) => [name, color]));
    } else if (only) {
      words.forEach((word, v) => draw(own.filter((i) => data.verdict[i] === v), `${word} chosen`, data.shapes[v]));
    }
    $("form[data-for=world] output").textContent = `${rows.filter(visible).length.toLocaleString("en-US")} shown`;
    hide();
  };

  const hide = () => { current = -1; tip.hidden = true; cursor.setAttribute("hidden", ""); };
  const show = (i) => {
    current = i;
    cursor.removeAttribute("hidden");
    cursor.setAttribute("cx", data.x[i]);
    cursor.setAttribute("cy", data.y[i]);
    const tile = $("i", tip).style, zoom = 80;
    tile.backgroundSize = `${data.columns * zoom}px auto`;
    tile.backgroundPosition = `-${(i % data.columns) * zoom}px -${Math.floor(i / data.columns) * zoom}px`;
    const verdict = words[data.verdict[i]], bold = document.createElement("b"), small = document.createElement("small");
    bold.textContent = verdict === "mislabeled" && data.suggestion[i] >= 0 ? `${nameOf(data.label[i])} → ${nameOf(data.suggestion[i])}` : nameOf(data.label[i]);
    small.textContent = data.id[i];
    $("p", tip).replaceChildren(bold, document.createElement("br"), `${verdict}, probability ${(data.sure[i] / 100).toFixed(2).replace(/^0/, "")}`, small);
    tip.hidden = false;
    const box = world.getBoundingClientRect(), scale = box.width / 1000;
    const x = data.x[i] * scale, y = data.y[i] * scale;
    tip.style.left = `${Math.max(4, Math.min(x + 16, box.width - tip.offsetWidth - 4))}px`;
    tip.style.top = `${y + 16 + tip.offsetHeight > box.height ? Math.max(4, y - tip.offsetHeight - 14) : y + 16}px`;
    world.setAttribute("aria-label", `${data.id[i]}: ${bold.textContent}, ${verdict}`);
  };
  const nearest = (x, y, fits) => {
    let best = -1, least = Infinity;
    for (let i = 0; i < n; i++) {
      if (!visible(i) || !fits(i)) continue;
      const distance = (data.x[i] - x) ** 2 + (data.y[i] - y) ** 2;
      if (distance < least) { least = distance; best = i; }
    }
    return [best, least];
  };
  const point = (event) => {
    const box = world.getBoundingClientRect(), scale = box.width / 1000;
    const [i, distance] = nearest((event.clientX - box.left) / scale, (event.clientY - box.top) / scale, () => true);
    if (i >= 0 && distance * scale * scale < 900) show(i); else hide();
  };
  world.addEventListener("pointermove", point);
  world.addEventListener("pointerdown", point);
  world.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") hide(); });
  world.addEventListener("keydown", (event) => {
    const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (event.key === "Escape") hide();
    if (!way) return;
    event.preventDefault();
    const [x, y] = current < 0 ? [500, 300] : [data.x[current], data.y[current]];
    const ahead = (i) => {
      const along = (data.x[i] - x) * way[0] + (data.y[i] - y) * way[1];
      const aside = Math.abs((data.x[i] - x) * way[1] + (data.y[i] - y) * way[0]);
      return along > 0 && along >= aside;
    };
    const [i] = nearest(x, y, current < 0 ? () => true : ahead);
    if (i >= 0) show(i);
  });
  for (const box of boxes) box.addEventListener("change", update);
  form.color.addEventListener("change", update);
  form.class.addEventListener("change", update);
  update();
})();
