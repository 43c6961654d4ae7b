'use strict';
(function() {
const by_id = (id) => document.getElementById(id);
const log = by_id('log'), input = by_id('input');
let key = '';          // in memory only: a reload asks again
let messages = [];     // of this chat, without the system message
let running = null;    // AbortController of the answer that is being written
let not_sent = false;  // the text in the input box waits for a key

function headers() {
  const fields = {'Content-Type': 'application/json'};
  if (key) fields.Authorization = 'Bearer ' + key;
  return fields;
}

// What the server says about a request that it refuses.
async function refusal(response) {
  const text = await response.text();
  try {
    return JSON.parse(text).error.message;
  } catch {
    return `${response.status} ${response.statusText}`;
  }
}

// ---- the model and the key ------------------------------------------------------------------------

function ask_for_key(message) {
  by_id('lock').hidden = false;
  by_id('lock-error').textContent = message;
  by_id('key').focus();
}

// Asks which model there is; with a wrong key, or without the one that is needed, asks for the key.
async function find_model() {
  let response;
  try {
    response = await fetch('/v1/models', {headers: headers()});
  } catch {
    by_id('about').textContent = 'The server does not answer.';
    return false;
  }
  if (response.status === 401) {
    const wrong = key !== '';
    key = '';
    ask_for_key(wrong ? 'The server does not know this key.' : '');
    return false;
  }
  if (!response.ok) {
    by_id('about').textContent = await refusal(response);
    return false;
  }
  const model = (await response.json()).data[0];
  by_id('model').textContent = model.id;
  by_id('about').textContent = `context of ${model.max_model_len} tokens`;
  document.title = `${model.id} – osp serve`;
  by_id('lock').hidden = true;
  return true;
}

by_id('lock').addEventListener('submit', async (event) => {
  event.preventDefault();
  key = by_id('key').value.trim();
  by_id('key').value = '';
  if (!await find_model()) return;
  if (not_sent)
    send();
  else
    input.focus();
});

// ---- the chat -------------------------------------------------------------------------------------

// A new message at the end of the log. Text is text: nothing in it is read as HTML.
function add_message(role, text) {
  const article = document.createElement('article');
  const name = document.createElement('h2');
  const body = document.createElement('div');
  const note = document.createElement('p');
  article.className = role;
  name.textContent = role === 'user' ? 'You' : 'Model';
  body.className = 'text';
  body.dir = 'auto';
  body.append(document.createTextNode(text));
  note.className = 'note soft';
  article.append(name, body, note);
  log.append(article);
  log.scrollTop = log.scrollHeight;
  return {article, text: body.firstChild, note};
}

// Changes an answer and keeps its end in sight, unless the reader has scrolled up.
function change(edit) {
  const follows = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
  edit();
  if (follows) log.scrollTop = log.scrollHeight;
}

// A number as JSON. Integers stay as they are written: JavaScript would round a long seed.
function number_json(id) {
  const text = by_id(id).value.trim();
  if (text === '') return '';
  return /^-?\d+$/.test(text) ? text.replace(/^(-?)0+(?=\d)/, '$1') : String(Number(text));
}

function request_body() {
  const system = by_id('system').value;
  const body = {
    messages: system.trim() ? [{role: 'system', content: system}, ...messages] : messages,
    stream: true,
    stream_options: {include_usage: true},
  };
  let text = JSON.stringify(body).slice(0, -1);
  for (const id of ['temperature', 'max_completion_tokens', 'seed']) {
    const value = number_json(id);
    if (value) text += `,"${id}":${value}`;
  }
  return text + '}';
}

// The events of a streamed answer.
async function* events_of(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  try {
    while (true) {
      const {value, done} = await reader.read();
      if (done) return;
      const parts = (rest + value).split('\n\n');
      rest = parts.pop();
      for (const part of parts) {
        if (part.startsWith('data: {')) yield JSON.parse(part.slice(6));
      }
    }
  } finally {
    reader.cancel();
  }
}

const count = (n, what) => `${n} ${what}${n === 1 ? '' : 's'}`;

function summary_of(usage, reason, seconds) {
  const parts = [count(usage.completion_tokens, 'token')];
  // The first token comes with the end of the prompt.
  if (usage.completion_tokens > 1 && seconds > 0) {
    parts.push(`${((usage.completion_tokens - 1) / seconds).toFixed(1)} tokens/s`);
  }
  const cached = usage.prompt_tokens_details.cached_tokens;
  parts.push(`prompt of ${count(usage.prompt_tokens, 'token')}, ${cached} of them cached`);
  if (reason === 'length') parts.push('ended by the limit of tokens');
  return parts.join(' · ');
}

// Asks for an answer and shows it as it comes. Resolves to why there is none, '' if there is one.
async function receive(shown, signal) {
  const response = await fetch(
      '/v1/chat/completions',
      {method: 'POST', headers: headers(), body: request_body(), signal: signal});
  if (response.status === 401) {
    key = '';
    not_sent = true;
    ask_for_key('');
    return 'The server wants an API key.';
  }
  if (!response.ok) return refusal(response);
  let begin = 0, end = 0, usage = null, reason = null;
  for await (const event of events_of(response)) {
    signal.throwIfAborted();
    if (event.error) return event.error.message;
    if (event.usage) usage = event.usage;
    const choice = event.choices[0];
    if (!choice) continue;
    end = performance.now();
    if (!begin) begin = end;
    const piece = choice.delta.content;
    if (piece) change(() => shown.text.appendData(piece));
    if (choice.finish_reason) reason = choice.finish_reason;
  }
  if (!reason || !usage) return 'The server ended the answer early.';
  const summary = summary_of(usage, reason, (end - begin) / 1000);
  change(() => {
    shown.note.textContent = summary;
  });
  return '';
}

function show_running(controller) {
  running = controller;
  by_id('send').hidden = running !== null;
  by_id('stop').hidden = running === null;
}

async function send() {
  const question = input.value;
  if (running || question.trim() === '') return;
  not_sent = false;
  input.value = '';
  messages.push({role: 'user', content: question});
  const asked = add_message('user', question), shown = add_message('assistant', '');
  shown.article.classList.add('busy');
  const controller = new AbortController();
  show_running(controller);
  let problem;
  try {
    problem = await receive(shown, controller.signal);
  } catch (error) {
    problem =
        controller.signal.aborted ? 'Stopped.' : `The server does not answer (${error.message}).`;
  }
  show_running(null);
  shown.article.classList.remove('busy');
  if (!asked.article.isConnected) return;  // another chat has begun
  if (problem) {
    change(() => {
      shown.note.textContent = problem;
    });
    shown.note.classList.toggle('bad', problem !== 'Stopped.');
  }
  if (problem && shown.text.data === '') {
    // Nothing came: the question can be changed and sent again.
    messages.pop();
    asked.article.remove();
    if (input.value === '') input.value = question;
  } else {
    messages.push({role: 'assistant', content: shown.text.data});
  }
  if (by_id('lock').hidden) input.focus();
}

function stop() {
  if (running) running.abort();
}

by_id('composer').addEventListener('submit', (event) => {
  event.preventDefault();
  send();
});
input.addEventListener('keydown', (event) => {
  if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  send();
});
document.addEventListener('keydown', (event) => {
  if (event.key === 'Escape') stop();
});
by_id('stop').addEventListener('click', stop);
by_id('new').addEventListener('click', () => {
  stop();
  messages = [];
  log.replaceChildren();
  input.focus();
});
input.focus();
find_model();
})();
