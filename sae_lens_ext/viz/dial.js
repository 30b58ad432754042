// The dial: draws the view that Python sends, and sends back what the user turns.
// Everything that comes from a model or a tokenizer is set as text.

const DELAY_MS = 120;

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

// A token of spaces alone would not be seen.
function shown(token) {
  const text = token.replaceAll("\n", "\u21b5");
  return text.trim() ? text : text.replaceAll(" ", "\u2423") || "\u2205";
}
const percent = (share) => `${(100 * share).toFixed(1)} %`;
const rounded = (value) => (Math.abs(value) >= 100 ? value.toFixed(0) : value.toPrecision(3));
const keyOf = (feature) => `${feature.site} ${feature.feature}`;

function slider(min, max, step, value, label) {
  const input = make("input");
  input.type = "range";
  Object.assign(input, { min: String(min), max: String(max), step: String(step) });
  input.value = String(value);
  input.setAttribute("aria-label", label);
  return input;
}

// JupyterLab takes keys for its notebook, such as arrows to fold headings and letters to
// cut cells, wherever no text is being written. Those with a modifier stay its own.
function keepKey(event) {
  const isModified = event.ctrlKey || event.metaKey || event.altKey;
  if (!isModified && event.key !== "Escape") event.stopPropagation();
}


// What a view says of k, the token to look at and the pins, as a request would.
function turnedOf(view) {
  const k = Object.fromEntries(view.sites.map((site) => [site.name, site.k]));
  const pins = view.pins.map(({ site, feature, by }) => ({ site, feature, by }));
  return { k, position: view.position, pins };
}

class Dial {
  constructor(model, el) {
    this.model = model;
    this.number = 0;
    this.linked = true;
    this.timer = null;
    const view = model.get("view");
    this.adopt(view);

    this.root = make("div", "sle-dial");
    this.root.setAttribute("role", "group");
    this.root.setAttribute("aria-label", "The dial: features per token");
    this.root.addEventListener("keydown", keepKey);
    this.knobs = make("div", "sle-knobs");
    this.tokens = make("div", "sle-tokens");
    this.tokens.setAttribute("role", "listbox");
    this.tokens.setAttribute("aria-orientation", "horizontal");
    this.tokens.setAttribute("aria-label", "Tokens; arrow keys choose one");
    this.tokens.addEventListener("keydown", (event) => this.onTokenKey(event));
    this.note = make("div", "sle-note");
    this.note.setAttribute("role", "status");
    this.error = make("div", "sle-error");
    this.error.setAttribute("role", "alert");
    this.bare = make("div", "sle-bare");
    this.spliced = make("div");
    const columns = make("div", "sle-columns");
    columns.append(this.bare, this.spliced);
    this.pinned = make("div");
    this.features = make("div", "sle-features");
    this.root.append(
      this.knobs, this.error, make("h4", "", "Text (shade: KL of the next token)"),
      this.tokens, this.note, columns, this.pinned, this.features,
    );
    el.append(this.root);

    this.makeKnobs(view);
    this.makeTokens(view);
    this.makePins(view);
    this.draw();
  }

  // What the user turns, as Python has it: after a change that failed, or that was made
  // in another view of this widget.

  adopt(view) {
    this.k = turnedOf(view).k;
    this.position = view.position;
    this.pins = view.pins.map((pin) => ({ ...pin }));
  }

  follow(view) {
    if (JSON.stringify(this.turned()) === JSON.stringify(turnedOf(view))) return;
    this.adopt(view);
    this.showK();
    this.markToken();
    this.makePins(view);
  }

  // k: a slider for every site, that move together where they are linked.

  makeKnobs(view) {
    this.outputs = {};
    this.sliders = {};
    for (const site of view.sites) {
      const knob = make("div", "sle-knob");
      const label = `k at ${site.name}`;
      const input = slider(1, site.largest, 1, site.k, label);
      const output = make("output", "sle-number");
      knob.append(make("span", "sle-site", site.name), input, output);
      input.addEventListener("input", () => this.turn(view, site.name, Number(input.value)));
      this.sliders[site.name] = input;
      this.outputs[site.name] = output;
      this.knobs.append(knob);
    }
    if (view.sites.length > 1) {
      const label = make("label", "sle-link");
      const box = make("input");
      box.type = "checkbox";
      box.checked = this.linked;
      box.addEventListener("change", () => { this.linked = box.checked; });
      label.append(box, make("span", "", "one k for all sites"));
      this.knobs.append(label);
    }
    this.showK();
  }

  turn(view, name, k) {
    for (const site of view.sites) {
      if (this.linked || site.name === name) this.k[site.name] = Math.min(k, site.largest);
    }
    this.showK();
    this.ask();
  }

  showK() {
    for (const [name, input] of Object.entries(this.sliders)) {
      input.value = String(this.k[name]);
      this.outputs[name].textContent = `k = ${this.k[name]}`;
    }
  }

  // Tokens: one of them is in the tab order, and arrow keys move it.

  makeTokens(view) {
    this.tokenButtons = view.tokens.map((token, index) => {
      const button = make("button", "sle-token", shown(token));
      button.type = "button";
      button.setAttribute("role", "option");
      button.addEventListener("click", () => this.lookAt(index));
      return button;
    });
    this.tokens.append(...this.tokenButtons);
    this.markToken();
  }

  markToken() {
    this.tokenButtons.forEach((button, index) => {
      button.setAttribute("aria-selected", String(index === this.position));
      button.tabIndex = index === this.position ? 0 : -1;
    });
  }

  lookAt(index) {
    this.position = Math.max(0, Math.min(index, this.tokenButtons.length - 1));
    this.markToken();
    this.ask();
  }

  onTokenKey(event) {
    const last = this.tokenButtons.length - 1;
    const targets = {
      ArrowLeft: this.position - 1, ArrowUp: this.position - 1,
      ArrowRight: this.position + 1, ArrowDown: this.position + 1,
      Home: 0, End: last,
    };
    if (!(event.key in targets)) return;
    event.preventDefault();
    this.lookAt(targets[event.key]);
    this.tokenButtons[this.position].focus();
  }

  // Pins: drawn when one is added or removed, so that a slider keeps its focus.

  makePins(view) {
    const scales = Object.fromEntries(view.sites.map((site) => [site.name, site.scale || 1]));
    const rows = this.pins.map((pin) => {
      const row = make("div", "sle-pin");
      const limit = Math.max(2 * scales[pin.site], Math.abs(pin.by));
      const input = slider(-limit, limit, limit / 100, pin.by, `steer feature ${pin.feature} by`);
      const output = make("output", "sle-number");
      const show = () => {
        output.textContent = (pin.by > 0 ? "+" : "") + rounded(pin.by);
        input.setAttribute("aria-valuetext", output.textContent);
      };
      input.addEventListener("input", () => {
        pin.by = Number(input.value);
        show();
        this.ask();
      });
      const remove = make("button", "sle-action", "unpin");
      remove.type = "button";
      remove.setAttribute("aria-label", `unpin feature ${pin.feature}`);
      remove.addEventListener("click", () => {
        this.pins = this.pins.filter((other) => other !== pin);
        this.makePins(view);
        this.ask();
        // What had the focus is gone.
        const next = this.pinned.querySelector("input") ?? this.tokenButtons[this.position];
        next.focus({ preventScroll: true });
      });
      show();
      row.append(make("span", "sle-number", String(pin.feature)),
        make("span", "sle-label", this.labelOf(view, pin)), input, output, remove);
      return row;
    });
    const title = make("h4", "", "Pinned features, and what is added to each");
    this.pinned.replaceChildren(...(rows.length ? [title, ...rows] : []));
  }

  labelOf(view, feature) {
    const site = view.sites.length > 1 ? feature.site : "";
    return [feature.label, site].filter(Boolean).join(" \u00b7 ");
  }

  pin(view, feature) {
    this.pins.push({ ...feature, by: 0 });
    this.makePins(view);
    this.ask();
    // To be steered next.
    [...this.pinned.querySelectorAll("input")].at(-1).focus({ preventScroll: true });
  }

  // Requests and views.

  // Sends the last of several changes, once the user has paused.
  ask() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.request(), DELAY_MS);
  }

  turned() {
    const pins = this.pins.map(({ site, feature, by }) => ({ site, feature, by }));
    return { k: { ...this.k }, position: this.position, pins };
  }

  request() {
    this.timer = null;
    this.number += 1;
    this.root.setAttribute("aria-busy", "true");
    this.model.set("request", { number: this.number, ...this.turned() });
    this.model.save_changes();
  }

  draw() {
    const view = this.model.get("view");
    // An earlier request was answered, and the user has gone on since.
    if (this.timer !== null || view.answers < this.number) return;
    this.number = view.answers;
    this.root.setAttribute("aria-busy", "false");
    this.error.textContent = view.error;
    this.follow(view);

    const top = Math.max(1e-9, ...view.kl);
    this.tokenButtons.forEach((button, index) => {
      const share = Math.round(60 * view.kl[index] / top);
      button.style.background = `color-mix(in srgb, var(--sle-orange) ${share}%, transparent)`;
      button.title = `KL ${view.kl[index].toFixed(3)} nats`;
    });
    const token = shown(view.tokens[view.position]);
    const kl = view.kl[view.position].toFixed(3);
    this.note.textContent =
      `After \u201c${token}\u201d (token ${view.position}): KL from the bare model ${kl} nats`;
    this.drawBars(this.bare, "Bare model", view.bare);
    this.drawBars(this.spliced, "Spliced model", view.spliced);
    this.drawFeatures(view);
  }

  drawBars(holder, title, pairs) {
    const rows = pairs.map(([name, probability]) => {
      const row = make("div", "sle-bar");
      row.append(make("span", "sle-name", shown(name)), this.bar(probability),
        make("span", "sle-number", percent(probability)));
      return row;
    });
    holder.replaceChildren(make("h4", "", title), ...rows);
  }

  bar(share) {
    const track = make("div", "sle-track");
    const fill = make("div", "sle-fill");
    fill.style.width = `${Math.max(0, Math.min(100, 100 * share))}%`;
    track.append(fill);
    return track;
  }

  drawFeatures(view) {
    const focused = this.features.contains(document.activeElement)
      ? document.activeElement.dataset.key : null;
    const pinned = new Set(this.pins.map(keyOf));
    const top = Math.max(1e-9, ...view.features.map((feature) => feature.value));
    const rows = view.features.map((feature) => {
      const row = make("div", "sle-feature");
      const button = make("button", "sle-action", pinned.has(keyOf(feature)) ? "pinned" : "pin");
      button.type = "button";
      button.dataset.key = keyOf(feature);
      button.disabled = pinned.has(keyOf(feature));
      button.setAttribute("aria-label", `pin feature ${feature.feature}`);
      button.addEventListener("click", () => {
        button.disabled = true;
        this.pin(view, feature);
      });
      row.append(make("span", "sle-number", String(feature.feature)),
        make("span", "sle-label", this.labelOf(view, feature)), this.bar(feature.value / top),
        make("span", "sle-number", rounded(feature.value)), button);
      return row;
    });
    const empty = make("div", "sle-note", "Nothing is spliced at this token.");
    const order = view.sites.length > 1 ? "by site, strongest first" : "strongest first";
    this.features.replaceChildren(
      make("h4", "", `Active features, ${order}`), ...(rows.length ? rows : [empty]),
    );
    if (focused !== null) {
      const buttons = [...this.features.querySelectorAll("button")];
      buttons.find((button) => button.dataset.key === focused)?.focus();
    }
  }
}

export default {
  render({ model, el }) {
    const dial = new Dial(model, el);
    const onView = () => dial.draw();
    model.on("change:view", onView);
    return () => model.off("change:view", onView);
  },
};
