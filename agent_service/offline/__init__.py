"""The offline model: a scripted stand-in for the Claude API, which serves the Messages API on loopback.

    async with OfflineModel(key=key) as model:     # ANTHROPIC_BASE_URL=model.url, ANTHROPIC_API_KEY=key
        ...

Without a key it answers every process that reaches its port.

The real SDK and the real CLI run whole sessions against it, tools and all, with no key and no network. It does what the
prompt says, one directive a line, in the order of the lines:

    say: TEXT                         a block of text
    say-json: "STRING"                the same from a JSON string: newlines, NUL, lone surrogates
    think: TEXT                       a block of thinking
    bash: COMMAND                     run a command with the Bash tool
    background: COMMAND               run it in the background
    tool: NAME {JSON}                 use any tool, MCP tools and Agent included
    ask: QUESTION | OPTION | OPTION   ask the user, with AskUserQuestion (two to four options)
    json: {OBJECT}                    give this as the structured output, again and again while it is refused
    result                            say the text of the last tool result
    recall                            say the first prompt of the conversation
    request: FIELD                    say a field of the API request; of `tools` only the names
    slow: SECONDS                     "tick 1 tick 2 ", ten pieces a second
    tokens: COUNT                     so many pieces of text at full speed
    wait: SECONDS                     begin the answer (message_start), then silence
    turns: COUNT                      so many model turns, each a call of Bash `true`
    fail: STATUS [RETRY_AFTER]        an API error, on every attempt
    fail-once: STATUS [RETRY_AFTER]   an API error, on the first attempt
    stop: REASON                      end the message for a reason of the API's, such as refusal or max_tokens
    cut                               drop the connection in mid-answer, on every attempt
    cut-once                          the same, on the first attempt
    help                              say what can be written

Lines without a directive are echoed, adjacent ones together: `echo (3 messages): TEXT`; the number counts the messages
of user and assistant so far. A directive with a bad argument is answered with a text that says what is accepted. An
assistant message ends with a tool call or with the last step; an empty one says `done`. After other output of the same
message, `fail` is an error event in the stream, and the CLI asks once more before it gives up. A message that the user
sends while a tool runs is added to the end of the steps. A background task that ends after the last step is answered
with `noted: SUMMARY`.

The model keeps no state between requests, except which `-once` has happened: the position among the steps is read from
the conversation, so resumed and forked sessions continue correctly. Tokens are counted as a quarter of the
characters, rounded up: input is what prompts, answers and tool results say (not what the CLI adds to them), output
what is answered; so `tokens: N` costs N. The CLI prices a model it does not know, like "offline", at 4 dollars a
million tokens of input and 20 of output, so that total_cost_usd is known in advance.
"""

from .directives import help_text
from .server import OFFLINE_MODEL_NAME, OfflineModel, serve_forever

__all__ = ["OFFLINE_MODEL_NAME", "OfflineModel", "help_text", "serve_forever"]
