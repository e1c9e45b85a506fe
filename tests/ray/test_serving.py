"""The server on Ray Serve: what clients see of it, on two nodes, of which one is lost under load."""

from __future__ import annotations

import re
import threading
import time
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from tt_edge.errors import InvalidInputError
from tt_edge.generation_config import GenerationConfig
from tt_edge.runtime.llm import LLM

openai = pytest.importorskip("openai")
pytestmark = pytest.mark.xdist_group("ray")
ROOT = Path(__file__).parents[2]
SLOTS, WAITING, REPLICAS = 2, 2, 2
#: Long enough that a client is in the middle of it when something happens.
TOKENS = 240


@pytest.fixture(scope="module")
def url(nodes, bundle):
    """A replica on each node."""
    import ray
    from ray import serve

    from tt_edge.ray.serving import application

    nodes.add()
    ray.init(nodes.address, log_to_driver=False, logging_level="ERROR")
    port = 18_000 + time.monotonic_ns() % 10_000
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    # Texts, as `serve run` gives them.
    arguments = {"bundle": str(bundle), "runtime": "reference", "replicas": str(REPLICAS), "max_waiting": str(WAITING)}
    arguments["session_affinity"] = "true"
    serve.run(application(arguments), logging_config={"log_level": "WARNING"})
    yield f"http://127.0.0.1:{port}"
    serve.shutdown()
    ray.shutdown()


@pytest.fixture
def client(url):
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def llm(bundle):
    with LLM.load(bundle, "reference") as llm:
        yield llm


def one_process_answers(llm, prompt):
    (completion,) = llm.generate(prompt, GenerationConfig(max_new_tokens=TOKENS, ignore_eos=True))
    return completion.text


def test_whole_and_streamed(client, llm):
    """As one process answers, piece by piece."""
    expected = one_process_answers(llm, "the light")
    asked = {
        "model": "tiny",
        "prompt": "the light",
        "max_tokens": TOKENS,
        "temperature": 0,
        "extra_body": {"ignore_eos": True},
    }
    assert client.completions.create(**asked).choices[0].text == expected
    times, text = [], ""
    for event in client.completions.create(**asked, stream=True):
        times.append(time.monotonic())
        text += event.choices[0].text
    assert text == expected
    assert times[len(times) // 2] - times[0] > 0.1 * (times[-1] - times[0]) > 0, "not all at the end"


def test_a_conversation_stays_where_its_cache_is(client):
    for number in range(6):  # by chance, one of 64 times
        text, cached = f"car {number} " * 8, []
        for _ in range(2):
            answer = client.completions.create(
                model="tiny", prompt=text, max_tokens=4, extra_headers={"x-session-id": f"session {number}"}
            )
            cached.append(answer.usage.prompt_tokens_details.cached_tokens)
            text += answer.choices[0].text
        assert cached[1] > 16, number


def test_a_client_that_goes_away_frees_its_slot(client, url):
    session = {"x-session-id": "one that leaves"}  # its replica's metrics, too

    def metric(name):
        request = urllib.request.Request(f"{url}/metrics", headers=session)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return float(re.search(rf"^tt_edge_{name} (\S+)$", answer.read().decode(), re.MULTILINE)[1])

    before = metric("generated_tokens_total")
    asked = {"max_tokens": TOKENS, "extra_headers": session, "extra_body": {"ignore_eos": True}}
    stream = client.completions.create(model="tiny", prompt="a car", stream=True, **asked)
    next(iter(stream))
    stream.close()
    deadline = time.monotonic() + 20
    while metric("requests_running"):
        assert time.monotonic() < deadline
    assert 1 <= metric("generated_tokens_total") - before < TOKENS / 2


def test_too_many_get_429(client):
    def ask(number):
        try:
            client.completions.create(
                model="tiny", prompt=f"car {number}", max_tokens=TOKENS, extra_body={"ignore_eos": True}
            )
        except openai.RateLimitError as error:
            return error.response.headers["retry-after"], error.body["code"]
        return "answered"

    with ThreadPoolExecutor(20) as pool:
        found = Counter(pool.map(ask, range(20)))
    assert set(found) == {"answered", ("1", "queue_full")}
    assert found["answered"] >= SLOTS + WAITING


def test_a_lost_machine(nodes, client, llm):
    """Its requests break; each is answered when its client asks again, as one process answers."""
    prompts = [f"car {number} of the road" for number in range(10)]
    expected = [one_process_answers(llm, prompt) for prompt in prompts]
    broken, begun = [], threading.Event()

    def ask(prompt):
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                text = ""
                for event in client.completions.create(
                    model="tiny", prompt=prompt, max_tokens=TOKENS, temperature=0, stream=True,
                    extra_body={"ignore_eos": True},
                ):  # fmt: skip
                    if event.choices:
                        text += event.choices[0].text
                        done = event.choices[0].finish_reason
                    begun.set()
                if done:
                    return text
                broken.append("ended early")
            except openai.RateLimitError:
                time.sleep(0.1)
            except (openai.APIError, OSError) as error:
                broken.append(repr(error))
                time.sleep(0.1)
            except Exception as error:  # of the HTTP client: the stream broke off
                broken.append(repr(error))
        return None

    with ThreadPoolExecutor(6) as pool:
        answers = pool.map(ask, prompts)
        assert begun.wait(30)
        time.sleep(0.3)
        nodes.lose()
        assert list(answers) == expected
    assert broken, "some were on that machine"


def test_a_replica_that_is_stopped_answers_first(client, llm):
    """The last test of the application: it is deleted while it streams."""
    from ray import serve

    expected = one_process_answers(llm, "the end")
    stream = client.completions.create(
        model="tiny", prompt="the end", max_tokens=TOKENS, temperature=0, stream=True, extra_body={"ignore_eos": True}
    )
    text = next(iter(stream)).choices[0].text
    with ThreadPoolExecutor(1) as pool:
        deleted = pool.submit(serve.delete, "default")
        text += "".join(event.choices[0].text for event in stream)
        deleted.result()
    assert text == expected
    assert serve.status().applications == {}


def test_the_example_is_of_ray_serves_form():
    from ray.serve.schema import ServeDeploySchema

    from tt_edge.ray.serving import Server, application

    config = ServeDeploySchema.model_validate(yaml.safe_load((ROOT / "examples" / "ray_serve.yaml").read_text()))
    (app,) = config.applications
    assert app.import_path == "tt_edge.ray.serving:application"
    assert application(app.args)
    assert [deployment.name for deployment in app.deployments] == [Server.name]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"bundle": "b", "replicas": "none"}, "replicas is 'none': "),
        ({"bundle": "b", "slots": "4"}, r"slots is '4': Extra inputs .*; the arguments are bundle, runtime, "),
        ({}, r"bundle is \{\}: Field required"),
    ],
)
def test_wrong_arguments(given, message):
    from tt_edge.ray.serving import application

    with pytest.raises(InvalidInputError, match=f"^{message}") as caught:
        application(given)
    assert "\n" not in str(caught.value)
