"""Run by ``test_foreign_clients`` in a virtual environment that has LiteLLM and langchain-openai; prints what they got as JSON.

Arguments: the addresses of a server with a small context and of one that is asked in its place.
"""

import json
import os
import sys

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # nothing is downloaded

import litellm
from langchain_openai import ChatOpenAI, OpenAI

litellm.suppress_debug_info = True
SMALL, LARGE = (f"{url}/v1" for url in sys.argv[1:])
SHORT = [{"role": "user", "content": "Go?"}]
LONG = [{"role": "user", "content": "light " * 99}]


def model(name, url):
    settings = {"model": "openai/tiny", "api_base": url, "api_key": "none", "max_retries": 0}
    return {"model_name": name, "litellm_params": settings}


def error_of(ask, *args, **settings):
    try:
        ask(*args, **settings)
    except Exception as error:
        return [kind.__name__ for kind in type(error).__mro__]
    return []


direct = {"model": "openai/tiny", "api_base": SMALL, "api_key": "none", "max_tokens": 5, "max_retries": 0}
router = litellm.Router(
    model_list=[model("small", SMALL), model("large", LARGE)],
    context_window_fallbacks=[{"small": ["large"]}],
    num_retries=0,
)
chat = ChatOpenAI(model="tiny", base_url=SMALL, api_key="none", max_retries=0, max_tokens=5)
text = OpenAI(model="tiny", base_url=SMALL, api_key="none", max_retries=0, max_tokens=5, temperature=0)
answer = litellm.completion(messages=SHORT, **direct)
found = {
    "litellm": [answer.choices[0].message.content, answer.usage.completion_tokens],
    "litellm stream": "".join(
        chunk.choices[0].delta.content or "" for chunk in litellm.completion(messages=SHORT, stream=True, **direct)
    ),
    "litellm text": litellm.text_completion(prompt="Go", **{**direct, "model": "text-completion-openai/tiny"})
    .choices[0]
    .text,
    "litellm too long": error_of(litellm.completion, messages=LONG, **direct),
    "litellm falls back": router.completion(model="small", messages=LONG, max_tokens=5).choices[0].message.content,
    "langchain": [(got := chat.invoke("Go?")).content, got.usage_metadata["output_tokens"]],
    "langchain stream": "".join(chunk.content for chunk in chat.stream("Go?")),
    "langchain text": text.invoke("Go"),
    "langchain too long": error_of(chat.invoke, LONG[0]["content"]),
}
print(json.dumps(found))
