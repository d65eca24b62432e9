#!/usr/bin/env python3
"""Drives a running server with the `openai` package, as its users do.

    python3 openai_client.py http://127.0.0.1:8000/v1 [--api-key KEY]

Needs Python 3.9 and `openai` from PyPI. Exit status 0 only if every check holds. The checks ask nothing of
the model but that it generates: they hold for any weights.
"""

import argparse
import math
import sys
import traceback

import openai

PROMPT = "Once upon a time"
MESSAGES = [
    {"role": "system", "content": "You answer briefly."},
    {"role": "user", "content": "Tell me a story."},
]


def expect(condition, message):
    """An assertion that also holds under `python -O`."""
    if not condition:
        raise AssertionError(message)


def expect_error(kind, status, call, *words):
    """`call` must fail with this exception, this status, and these words in its message."""
    try:
        call()
    except openai.APIStatusError as error:
        expect(isinstance(error, kind), f"{type(error).__name__} instead of {kind.__name__}: {error}")
        expect(error.status_code == status, f"status {error.status_code} instead of {status}: {error}")
        body = error.body or {}
        expect(body.get("code") == status, f"the body's code is {body.get('code')}")
        for word in words:
            expect(word in str(error), f"{word!r} is not in: {error}")
        return
    raise AssertionError(f"no error; expected {kind.__name__}")


class Checks:
    def __init__(self, client, key):
        self.client = client
        self.key = key
        self.model = client.models.list().data[0].id

    def complete(self, prompt=PROMPT, **more):
        return self.client.completions.create(model=self.model, prompt=prompt, **more)

    def chat(self, **more):
        more = {"messages": MESSAGES, "max_tokens": 12, **more}
        return self.client.chat.completions.create(model=self.model, **more)

    # Models

    def check_models(self):
        models = self.client.models.list().data
        expect(models and models[0].object == "model", "a list of models")
        expect(models[0].model_dump()["max_model_len"] > 0, "the model's length")
        expect(self.client.models.retrieve(self.model).id == self.model, "one model by name")

    # Completions

    def check_completion(self):
        answer = self.complete(max_tokens=12, temperature=0)
        expect(answer.object == "text_completion", answer.object)
        expect(answer.id.startswith("cmpl-") and answer.model == self.model, f"{answer.id} {answer.model}")
        choice = answer.choices[0]
        expect(choice.index == 0 and choice.text, f"text: {choice}")
        expect(choice.finish_reason in ("stop", "length"), choice.finish_reason)
        usage = answer.usage
        expect(1 <= usage.completion_tokens <= 12, f"{usage}")
        expect(usage.total_tokens == usage.prompt_tokens + usage.completion_tokens, f"{usage}")

    def check_sixteen_tokens_by_default(self):
        answer = self.complete(extra_body={"ignore_eos": True})
        expect(answer.usage.completion_tokens == 16, f"{answer.usage}")
        expect(answer.choices[0].finish_reason == "length", answer.choices[0].finish_reason)

    def check_completion_stream(self):
        whole = self.complete(max_tokens=16, temperature=0)
        stream = self.complete(
            max_tokens=16, temperature=0, stream=True, stream_options={"include_usage": True})
        text, reasons, usages, ids = "", [], [], set()
        for chunk in stream:
            ids.add(chunk.id)
            if chunk.usage:
                expect(not chunk.choices, "usage comes without choices")
                usages.append(chunk.usage)
            for choice in chunk.choices:
                text += choice.text
                if choice.finish_reason:
                    reasons.append(choice.finish_reason)
        expect(text == whole.choices[0].text, f"{text!r} streamed, {whole.choices[0].text!r} whole")
        expect(reasons == [whole.choices[0].finish_reason], f"reasons {reasons}")
        expect(len(usages) == 1 and usages[0] == whole.usage, f"{usages} and {whole.usage}")
        expect(len(ids) == 1, f"ids {ids}")

    def check_continuous_usage(self):
        stream = self.complete(
            max_tokens=4, stream=True, extra_body={"ignore_eos": True},
            stream_options={"include_usage": True, "continuous_usage_stats": True})
        counts = [chunk.usage.completion_tokens for chunk in stream]
        expect(counts == sorted(counts) and counts[-1] == 4, f"{counts}")

    def check_several_prompts_and_n(self):
        answer = self.complete(prompt=[PROMPT, "The sun"], n=2, max_tokens=4, temperature=1, seed=1)
        expect([choice.index for choice in answer.choices] == [0, 1, 2, 3], f"{answer.choices}")
        again = self.complete(prompt=[PROMPT, "The sun"], n=2, max_tokens=4, temperature=1, seed=1)
        expect([choice.text for choice in answer.choices] == [choice.text for choice in again.choices],
               "the same seed gives the same texts")

    def check_seeds(self):
        def text(seed):
            return self.complete(max_tokens=24, temperature=1.5, seed=seed).choices[0].text

        texts = {text(seed) for seed in range(4)}
        expect(len(texts) > 1, f"different seeds give different texts: {texts}")

    def check_token_ids_as_prompt(self):
        first = self.complete(max_tokens=1, extra_body={"return_token_ids": True})
        ids = first.choices[0].model_dump()["prompt_token_ids"]
        answer = self.complete(prompt=ids, max_tokens=8, temperature=0)
        expect(answer.usage.prompt_tokens == len(ids), f"{answer.usage}")
        expect(answer.choices[0].text == self.complete(max_tokens=8, temperature=0).choices[0].text,
               "ids and text are the same prompt")

    def check_completion_logprobs(self):
        answer = self.complete(max_tokens=6, temperature=0, logprobs=3, extra_body={"ignore_eos": True})
        logprobs = answer.choices[0].logprobs
        expect(len(logprobs.tokens) == 6, f"{logprobs.tokens}")
        for token, logprob, top in zip(logprobs.tokens, logprobs.token_logprobs, logprobs.top_logprobs):
            expect(logprob <= 0 and 1 <= len(top) <= 4 and token in top, f"{token!r}: {logprob}, {top}")
            expect(math.isclose(top[token], max(top.values()), abs_tol=1e-6), "greedy takes the likeliest")
        expect(logprobs.text_offset[0] == 0 and logprobs.text_offset == sorted(logprobs.text_offset),
               f"{logprobs.text_offset}")
        echoed = self.complete(max_tokens=1, logprobs=0, echo=True).choices[0]
        expect(echoed.text.startswith(PROMPT), echoed.text)
        expect(echoed.logprobs.token_logprobs[0] is None, "nothing predicts the first token")
        expect(all(value <= 0 for value in echoed.logprobs.token_logprobs[1:]), f"{echoed.logprobs}")

    def check_stop(self):
        whole = self.complete(max_tokens=24, temperature=0, extra_body={"ignore_eos": True}).choices[0].text
        middle = len(whole) // 2
        stop = whole[middle:middle + 3]
        choice = self.complete(
            max_tokens=24, temperature=0, stop=[stop], extra_body={"ignore_eos": True}).choices[0]
        expect(choice.finish_reason == "stop", choice.finish_reason)
        expect(choice.text == whole[:whole.index(stop)], f"{choice.text!r} of {whole!r} up to {stop!r}")
        expect(choice.model_dump()["stop_reason"] == stop, f"{choice}")

    # Chat

    def check_chat(self):
        answer = self.chat(temperature=0)
        expect(answer.object == "chat.completion" and answer.id.startswith("chatcmpl-"), answer.id)
        message = answer.choices[0].message
        expect(message.role == "assistant" and isinstance(message.content, str), f"{message}")
        expect(message.tool_calls is None, f"{message.tool_calls}")
        expect(answer.choices[0].finish_reason in ("stop", "length"), answer.choices[0].finish_reason)
        expect(1 <= answer.usage.completion_tokens <= 12, f"{answer.usage}")

    def check_chat_stream(self):
        whole = self.chat(temperature=0)
        text, roles, reasons, usage = "", [], [], None
        for chunk in self.chat(temperature=0, stream=True, stream_options={"include_usage": True}):
            expect(chunk.object == "chat.completion.chunk", chunk.object)
            usage = chunk.usage or usage
            for choice in chunk.choices:
                text += choice.delta.content or ""
                if choice.delta.role:
                    roles.append(choice.delta.role)
                if choice.finish_reason:
                    reasons.append(choice.finish_reason)
        expect(text == whole.choices[0].message.content, f"{text!r} and {whole.choices[0].message.content!r}")
        expect(roles == ["assistant"], f"roles {roles}")
        expect(reasons == [whole.choices[0].finish_reason], f"reasons {reasons}")
        expect(usage == whole.usage, f"{usage} and {whole.usage}")

    def check_chat_parts(self):
        parts = [{"role": "user", "content": [{"type": "text", "text": "Tell me a story."}]}]
        plain = [{"role": "user", "content": "Tell me a story."}]
        answers = [self.chat(messages=messages, temperature=0) for messages in (parts, plain)]
        expect(answers[0].choices[0].message.content == answers[1].choices[0].message.content,
               "a part of text is the text")

    def check_chat_n(self):
        answer = self.chat(n=3, temperature=1, max_completion_tokens=4)
        expect([choice.index for choice in answer.choices] == [0, 1, 2], f"{answer.choices}")
        indices = {choice.index for chunk in self.chat(n=3, temperature=1, stream=True) for choice in chunk.choices}
        expect(indices == {0, 1, 2}, f"{indices}")

    def check_chat_logprobs(self):
        answer = self.chat(logprobs=True, top_logprobs=2, temperature=0, max_tokens=4)
        content = answer.choices[0].logprobs.content
        expect(len(content) == answer.usage.completion_tokens, f"{content}")
        for entry in content:
            expect(entry.logprob <= 0 and len(entry.top_logprobs) == 2, f"{entry}")
            likeliest = entry.top_logprobs[0]
            expect((entry.token, entry.logprob) == (likeliest.token, likeliest.logprob), f"{entry}")
            expect(isinstance(entry.bytes, list), f"{entry}")

    # Vectors

    def embed(self, text, **more):
        return self.client.embeddings.create(model=self.model, input=text, **more)

    def check_embeddings(self):
        # The package asks for base64 unless told otherwise, and decodes it.
        texts = ["A cat sat.", "A dog ran.", "A cat sat."]
        answer = self.embed(texts)
        first, second, third = (entry.embedding for entry in answer.data)
        expect([entry.index for entry in answer.data] == [0, 1, 2], f"{answer.data}")
        expect(abs(sum(number * number for number in first) - 1) < 1e-4, "a vector has length 1")
        expect(first == third and first != second, "the same text, the same vector")
        expect(answer.usage.prompt_tokens == answer.usage.total_tokens > 0, f"{answer.usage}")
        numbers = self.embed(texts[0], encoding_format="float").data[0].embedding
        expect(len(numbers) == len(first), f"{len(numbers)} numbers instead of {len(first)}")
        expect(all(math.isclose(a, b, abs_tol=1e-6) for a, b in zip(numbers, first)), "base64 holds the same numbers")
        ids = self.embed([[3, 4, 5], [6]]).data
        expect(len(ids) == 2, f"{len(ids)} vectors for two lists of ids")
        expect_error(openai.BadRequestError, 400, lambda: self.embed(""), "input")

    # Errors

    def check_errors(self):
        bad = openai.BadRequestError
        expect_error(openai.NotFoundError, 404,
                     lambda: self.client.completions.create(model="no-such-model", prompt=PROMPT), "no-such-model")
        expect_error(bad, 400, lambda: self.complete(temperature=-1), "temperature", "-1")
        expect_error(bad, 400, lambda: self.complete(top_p=2), "top_p", "2")
        expect_error(bad, 400, lambda: self.complete(extra_body={"temperature": "hot"}), "body.temperature")
        expect_error(bad, 400, lambda: self.complete(logprobs=10_000), "logprobs")
        expect_error(bad, 400, lambda: self.complete(prompt=""), "prompt")
        expect_error(bad, 400, lambda: self.complete(max_tokens=10_000_000), "maximum context length is")
        expect_error(bad, 400, lambda: self.complete(prompt="word " * 200_000), "maximum context length is")
        expect_error(bad, 400, lambda: self.chat(messages=[]), "messages")
        expect_error(bad, 400, lambda: self.chat(logit_bias={"x": 1}), "logit_bias")
        expect_error(bad, 400, lambda: self.chat(response_format={"type": "json_object"}), "response_format")
        if self.key:
            stranger = self.client.with_options(api_key="wrong")
            try:
                stranger.models.list()
            except openai.AuthenticationError:
                return
            raise AssertionError("a wrong key was accepted")

    def check_leaving_in_mid_stream(self):
        for _ in range(3):
            stream = self.complete(max_tokens=64, stream=True, extra_body={"ignore_eos": True})
            next(iter(stream))
            stream.close()
        expect(self.complete(max_tokens=2).choices, "the server goes on")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base_url", help="for instance http://127.0.0.1:8000/v1")
    parser.add_argument("--api-key", default="", help="if the server wants one")
    arguments = parser.parse_args()
    client = openai.OpenAI(
        base_url=arguments.base_url, api_key=arguments.api_key or "none", max_retries=0, timeout=120)
    checks = Checks(client, arguments.api_key)
    names = [name for name in dir(checks) if name.startswith("check_")]
    failed = 0
    for name in names:
        try:
            getattr(checks, name)()
            print(f"holds: {name}")
        except Exception:  # noqa: BLE001 - each check is reported, whatever went wrong in it
            failed += 1
            print(f"FALLS SHORT: {name}\n{traceback.format_exc()}")
    print(f"openai {openai.__version__}: {len(names) - failed} of {len(names)} checks hold")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
