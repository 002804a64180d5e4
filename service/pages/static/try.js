// Answers while the customer's words are typed. Without this script the form works by its button.
const form = document.getElementById("ticket");
const answer = document.getElementById("answer");
const pause = 250; // milliseconds without a key
let timer;
let asking;

async function ask() {
  asking?.abort();
  asking = new AbortController();
  try {
    const response = await fetch("/", {
      method: "POST",
      headers: { "X-Part": "answer", "Content-Type": "application/x-www-form-urlencoded" },
      body: new URLSearchParams(new FormData(form)),
      signal: asking.signal,
    });
    if (response.ok) answer.innerHTML = await response.text();
  } catch (error) {
    if (error.name !== "AbortError") answer.textContent = "The service does not answer. Is it still running?";
  }
}

form.addEventListener("input", () => {
  clearTimeout(timer);
  timer = setTimeout(ask, pause);
});
form.addEventListener("submit", (event) => {
  event.preventDefault();
  clearTimeout(timer);
  ask();
});
document.getElementById("hint").hidden = false;
