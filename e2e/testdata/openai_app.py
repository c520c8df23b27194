"""An app that uses OpenAI's own client against a server with the pool `smollm2`, over its socket."""

import os

import httpx2
import openai

socket = os.environ["RINGMASTER_SOCKET"]
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


def main() -> None:
    transport = httpx2.HTTPTransport(uds=socket)
    with openai.OpenAI(
        base_url="http://ringmaster/v1", api_key="none", max_retries=0, http_client=httpx2.Client(transport=transport)
    ) as c:
        assert [m.id for m in c.models.list()] == ["smollm2"], c.models.list()
        assert c.models.retrieve("smollm2").owned_by == "ringmaster"

        whole = c.chat.completions.create(model="smollm2", messages=QUESTION, temperature=0)
        answer = whole.choices[0].message.content
        assert "Paris" in answer, answer
        assert whole.choices[0].finish_reason == "stop" and whole.choices[0].message.role == "assistant"
        assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens > 0
        assert whole.model == "smollm2" and whole.object == "chat.completion"

        parts = [{"role": "user", "content": [{"type": "text", "text": QUESTION[0]["content"]}]}]
        stream = c.chat.completions.create(
            model="smollm2", messages=parts, temperature=0, stream=True, stream_options={"include_usage": True}
        )
        text, finish, usage, chunks = "", None, None, 0
        for chunk in stream:
            chunks += 1
            for choice in chunk.choices:
                text += choice.delta.content or ""
                finish = choice.finish_reason or finish
            usage = chunk.usage or usage
        assert text == answer, (text, answer)
        assert finish == "stop" and usage == whole.usage and chunks > 3, (finish, usage, chunks)

        short = c.chat.completions.create(model="smollm2", messages=QUESTION, temperature=0, max_completion_tokens=2)
        assert short.choices[0].finish_reason == "length" and short.usage.completion_tokens == 2, short
        cut = c.chat.completions.create(model="smollm2", messages=QUESTION, temperature=0, stop=["Paris"])
        assert cut.choices[0].message.content == answer[: answer.index("Paris")], cut

        for call, kind, status, code in (
            (lambda: c.chat.completions.create(model="gpt", messages=QUESTION), openai.NotFoundError, 404, "model_not_found"),
            (lambda: c.models.retrieve("echo"), openai.NotFoundError, 404, "model_not_found"),
            (lambda: c.embeddings.create(model="smollm2", input="x"), openai.NotFoundError, 404, "unknown_action"),
            (
                lambda: c.chat.completions.create(model="smollm2", messages=[{"role": "king", "content": "x"}]),
                openai.BadRequestError,
                400,
                "invalid_argument",
            ),
            (
                lambda: c.chat.completions.create(
                    model="smollm2", messages=QUESTION, extra_headers={"x-ringmaster-timeout": "1"}
                ),
                openai.InternalServerError,
                504,
                "deadline",
            ),
        ):
            try:
                call()
            except openai.APIStatusError as e:
                assert isinstance(e, kind) and e.status_code == status and e.code == code, e  # noqa: PT017
            else:
                raise AssertionError(f"{kind.__name__} was expected")

        # Leaving a stream early cancels it: with one place in each of two workers, the third would have to wait.
        for _ in range(4):
            for _ in c.chat.completions.create(
                model="smollm2", messages=[{"role": "user", "content": "Write a long story."}], stream=True, max_tokens=2000
            ):
                break
    print("all good")


main()
