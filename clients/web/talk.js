// Questions and answers: what was asked, what has come so far, and how it stands on the page.

const DISTANCE_FROM_END = 80; // pixels: a reader who scrolled further up is left where they are

export class Talk {
  constructor(log) {
    this.log = log;
    this.answers = new Map();
  }

  // Adds a question and returns the message that asks it.
  ask(question, mode) {
    const id = `q_${crypto.getRandomValues(new Uint32Array(4)).join("-")}`;
    const request = { type: "question.create", id, question, mode };
    const article = document.createElement("article");
    const [title, text, foot, note, cancel] = ["h3", "div", "footer", "span", "button"].map((tag) =>
      document.createElement(tag));
    title.textContent = question;
    text.className = "answer";
    cancel.type = "button";
    cancel.textContent = "Cancel";
    foot.append(note, cancel);
    article.append(title, text, foot);
    article.dataset.state = "running";
    this.answers.set(id, { request, article, text, note, cancel, next: 0, accepted: false });
    this.#add(article);
    return { request, cancel };
  }

  // Questions that the server has not confirmed: asked again after a reconnect, under their ids.
  unaccepted() {
    return [...this.answers.values()].filter((answer) => !answer.accepted).map((answer) => answer.request);
  }

  // Takes an event about an answer; false when it is about none of ours.
  take(message) {
    const answer = this.answers.get(message.id);
    if (!answer) return false;
    answer.accepted = true;
    const stay = this.#atEnd();
    if (message.type === "answer.started") this.#start(answer, message);
    else if (message.type === "answer.delta") this.#extend(answer, message);
    else if (message.type === "answer.done") this.#finish(answer, message);
    else if (message.type === "answer.failed" || message.type === "error") this.#fail(answer, message.error);
    if (stay) this.#scroll();
    return true;
  }

  // Ends every answer under way: nothing more will come for it.
  failAll(why) {
    for (const answer of [...this.answers.values()]) this.#fail(answer, { message: why });
  }

  notice(text, kind = "") {
    const last = this.log.lastElementChild;
    if (last?.className === "notice" && last.textContent === text) return;
    const line = document.createElement("p");
    line.className = "notice";
    line.dataset.kind = kind;
    line.textContent = text;
    this.#add(line);
  }

  #start(answer, message) {
    answer.note.textContent = moment(message);
  }

  #extend(answer, message) {
    if (message.index < answer.next) return; // repeated by a resumed connection
    answer.next = message.index + Math.max(1, message.token_ids?.length ?? 1);
    answer.text.append(message.text);
  }

  #finish(answer, message) {
    if (message.text) answer.text.textContent = message.text;
    const cancelled = message.finish_reason === "cancelled";
    answer.note.textContent = cancelled ? "cancelled" : moment({ ...message, mode: answer.request.mode });
    this.#settle(answer, "done");
  }

  #fail(answer, error) {
    answer.note.textContent = answer.text.textContent ? `broken off: ${error.message}` : "";
    if (!answer.text.textContent) answer.text.textContent = error.message;
    this.#settle(answer, "failed");
  }

  #settle(answer, state) {
    answer.article.dataset.state = state;
    answer.cancel.remove();
    this.answers.delete(answer.request.id);
  }

  #add(element) {
    this.log.append(element);
    this.#scroll();
  }

  #atEnd() {
    return this.log.scrollHeight - this.log.scrollTop - this.log.clientHeight < DISTANCE_FROM_END;
  }

  #scroll() {
    this.log.scrollTop = this.log.scrollHeight;
  }
}

function moment(message) {
  const parts = [];
  if (message.as_of_ms >= 0) parts.push(`as of ${clock(message.as_of_ms)}`);
  if (message.mode === "live") parts.push("followed live");
  if (message.timing?.first_token_ms) parts.push(`first word after ${Math.round(message.timing.first_token_ms)} ms`);
  return parts.join(" · ");
}

export function clock(milliseconds) {
  const seconds = Math.floor(milliseconds / 1000);
  return `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`;
}
