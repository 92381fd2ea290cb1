// The conversation: what is sent, what streams in, and the figures of each answer.

import { ApiError, streamChat } from "/web/api.js";
import { element, render } from "/web/markdown.js";

const $ = (id) => document.getElementById(id);
const seconds = (value) => (value < 1 ? `${Math.round(value * 1000)} ms` : `${value.toFixed(2)} s`);

export class Chat {
  constructor({ model, sampling, system, onUnauthorized }) {
    Object.assign(this, { model, sampling, system, onUnauthorized });
    this.messages = []; // { role, content }
    this.abort = null; // of the answer that streams
    $("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      this.send($("message").value);
    });
    $("message").addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        this.send($("message").value);
      }
    });
    $("message").addEventListener("input", fitMessage);
    $("stop").addEventListener("click", () => this.abort?.abort());
    $("new-chat").addEventListener("click", () => this.clear());
    $("samples").addEventListener("click", (event) => {
      if (event.target.closest("button")) this.send(event.target.textContent);
    });
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.abort?.abort();
    });
  }

  clear() {
    this.abort?.abort();
    this.messages = [];
    $("thread").replaceChildren();
    $("welcome").hidden = false;
    $("message").focus();
    announce("New chat");
  }

  async send(text) {
    const content = text.trim();
    if (!content || this.abort) return;
    $("message").value = "";
    fitMessage();
    $("welcome").hidden = true;
    this.messages.push({ role: "user", content });
    $("thread").append(turn("user", element("div", { className: "text", textContent: content })));
    await this.answer();
  }

  async answer() {
    const answer = new AnswerView();
    $("thread").append(answer.node);
    scrollToEnd(true);
    const system = this.system();
    const messages = system ? [{ role: "system", content: system }, ...this.messages] : this.messages;
    this.abort = new AbortController();
    this.#setBusy(true);
    announce("Answering");
    try {
      const body = { model: this.model(), messages, ...this.sampling() };
      for await (const chunk of streamChat(body, this.abort.signal)) answer.take(chunk);
      answer.finish();
      announce(`Answer: ${answer.text}`);
    } catch (error) {
      if (error.name === "AbortError") {
        answer.finish("stopped");
        announce("Stopped");
      } else {
        const message = error instanceof ApiError ? error.message : `The page failed: ${error.message}`;
        answer.fail(message, () => this.#again(answer));
        if (error.status === 401) this.onUnauthorized();
      }
    }
    if (answer.text) this.messages.push({ role: "assistant", content: answer.text });
    answer.onAgain = () => this.#again(answer);
    this.abort = null;
    this.#setBusy(false);
    scrollToEnd();
  }

  #again(answer) {
    if (this.abort) return;
    while (answer.node.nextSibling) answer.node.nextSibling.remove();
    answer.node.remove();
    const turns = $("thread").children.length;
    this.messages.length = Math.min(this.messages.length, turns);
    while (this.messages.length && this.messages.at(-1).role === "assistant") this.messages.pop();
    this.answer();
  }

  #setBusy(isBusy) {
    const hadFocus = document.activeElement === $("stop") || document.activeElement === $("send");
    $("send").hidden = isBusy;
    $("stop").hidden = !isBusy;
    $("thread").setAttribute("aria-busy", String(isBusy));
    if (hadFocus) (isBusy ? $("stop") : $("message")).focus();
  }
}

class AnswerView {
  constructor() {
    this.text = "";
    this.reasoning = "";
    this.onAgain = () => {};
    this.begin = performance.now();
    this.first = this.last = 0;
    this.numChunks = 0;
    this.usage = null;
    this.reason = null;
    this.textNode = element("div", { className: "text waiting" });
    this.figures = element("p", { className: "figures" });
    this.node = turn("assistant", this.textNode, this.figures);
    this.frame = 0;
  }

  take(chunk) {
    this.usage = chunk.usage ?? this.usage;
    const choice = chunk.choices[0];
    if (!choice) return;
    this.reason = choice.finish_reason ?? this.reason;
    const { content, reasoning_content: reasoning } = choice.delta;
    if (!content && !reasoning) return;
    this.last = performance.now();
    this.first ||= this.last;
    this.numChunks += 1;
    this.text += content ?? "";
    this.reasoning += reasoning ?? "";
    // At most once a frame, however fast the tokens come.
    this.frame ||= requestAnimationFrame(() => this.#draw());
  }

  finish(why = "") {
    cancelAnimationFrame(this.frame);
    this.#draw();
    this.textNode.classList.remove("waiting", "streaming");
    if (!this.text && !this.reasoning) this.textNode.append(element("p", { className: "muted", textContent: "(no text)" }));
    this.#drawFigures(why || (this.reason === "length" ? "cut at max tokens" : ""));
    this.node.append(this.#buttons());
  }

  fail(message, again) {
    cancelAnimationFrame(this.frame);
    this.#draw();
    this.textNode.classList.remove("waiting", "streaming");
    const retry = element("button", { type: "button", className: "quiet", textContent: "Try again" });
    retry.addEventListener("click", again);
    this.node.append(element("div", { className: "error", role: "alert" }, element("p", { textContent: message }), retry));
  }

  #draw() {
    this.frame = 0;
    const end = isAtEnd();
    if (this.text || this.reasoning) this.textNode.classList.replace("waiting", "streaming");
    const nodes = [];
    if (this.reasoning) {
      const isOpen = this.textNode.querySelector("details")?.open ?? false;
      nodes.push(element("details", { open: isOpen }, element("summary", { textContent: "Reasoning" }), render(this.reasoning)));
    }
    this.textNode.replaceChildren(...nodes, render(this.text));
    this.#drawFigures();
    if (end) scrollToEnd(true);
  }

  #drawFigures(note = "") {
    if (!this.first) {
      this.figures.textContent = note;
      return;
    }
    const count = this.usage?.completion_tokens;
    const num = count ?? this.numChunks;
    const rate = num > 1 && this.last > this.first ? ((num - 1) * 1000) / (this.last - this.first) : null;
    const parts = [
      `${count === undefined ? "about " : ""}${num} token${num === 1 ? "" : "s"}`,
      rate && `${rate.toFixed(rate < 10 ? 1 : 0)} tok/s`,
      `first token after ${seconds((this.first - this.begin) / 1000)}`,
      note,
    ];
    this.figures.textContent = parts.filter(Boolean).join(" · ");
  }

  #buttons() {
    const copy = element("button", { type: "button", className: "quiet small", textContent: "Copy" });
    copy.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(this.text);
        copy.textContent = "Copied";
      } catch {
        copy.textContent = "Copying is not allowed here";
      }
      announce(copy.textContent);
      setTimeout(() => (copy.textContent = "Copy"), 1500);
    });
    const again = element("button", { type: "button", className: "quiet small", textContent: "Answer again" });
    again.addEventListener("click", () => this.onAgain());
    return element("div", { className: "after" }, copy, again);
  }
}

function turn(role, ...children) {
  const name = element("h3", { className: "who", textContent: role === "user" ? "You" : "Model" });
  return element("li", { className: `turn ${role}` }, name, ...children);
}

function announce(text) {
  $("announcer").textContent = text;
}

function fitMessage() {
  const message = $("message");
  message.style.height = "auto";
  message.style.height = `${Math.min(message.scrollHeight, 220)}px`;
}

function isAtEnd() {
  const scroll = $("scroll");
  return scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < 60;
}

function scrollToEnd(always = false) {
  if (always || isAtEnd()) $("scroll").scrollTop = $("scroll").scrollHeight;
}
