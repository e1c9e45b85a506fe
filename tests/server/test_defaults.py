"""A request that gives no settings is answered with the checkpoint's, as in Python."""

from __future__ import annotations

from dataclasses import replace

from tests.runtime.llms import make_llm
from tests.server.conftest import MODEL, serving_llm
from tt_edge.generation_config import GenerationConfig

CHAT = [{"role": "user", "content": "Go?"}]
RECOMMENDED = GenerationConfig(6, temperature=1.5, top_k=40, repetition_penalty=1.3, suppress_tokens=(9, 10))


def test_settings_of_the_checkpoint(folder):
    with make_llm(folder) as llm:
        sampled = llm.chat(CHAT, replace(RECOMMENDED, seed=11)).text
        greedy = llm.chat(CHAT, replace(RECOMMENDED, temperature=0.0)).text
        plain = llm.chat(CHAT, GenerationConfig(6)).text
        text = llm.generate(["The light"], replace(RECOMMENDED, seed=11))[0].text
    assert sampled not in (greedy, plain)
    with serving_llm(make_llm(folder, name=MODEL, generation_defaults=RECOMMENDED)) as served:
        client = served.client()

        def chat(**settings):
            answer = client.chat.completions.create(model=MODEL, messages=CHAT, max_tokens=6, **settings)
            return answer.choices[0].message.content

        assert chat(seed=11) == sampled
        assert chat(temperature=0) == greedy
        assert client.completions.create(model=MODEL, prompt="The light", max_tokens=6, seed=11).choices[0].text == text
