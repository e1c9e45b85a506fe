"""EleutherAI's harness on a bundle gives what its own Hugging Face model gives on the checkpoint.

It needs 500 MB of packages, so it has a virtual environment of its own on top of this one: one that the test makes, or the one
whose Python ``TT_EDGE_LM_EVAL_PYTHON`` names.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from tests.evaluation.conftest import CAPACITY
from tests.evaluation.data_files import write_gsm8k

SCRIPT = Path(__file__).with_name("lm_eval_script.py")
ROOT = Path(__file__).parents[2]
PACKAGE = "lm-eval>=0.4.13,<0.5"
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}

CHOICES = [
    {
        "question": "What does the car do at a red light?",
        "choices": ["It stops.", "It drives on.", "It sings."],
        "gold": 0,
    },
    {"question": "Who waits on the left?", "choices": ["A pedestrian", "An ambulance"], "gold": 0},
    {"question": "Where does the ambulance come from?", "choices": ["The front", "behind", "Above", "x"], "gold": 1},
]
TASKS = {
    "our_choices": """
output_type: multiple_choice
doc_to_text: "Question: {{question}}\\nAnswer:"
doc_to_choice: "{{choices}}"
doc_to_target: gold
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
""",
    "our_text": """
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{question}} {{answer}}"
metric_list: [{metric: word_perplexity}, {metric: byte_perplexity}]
""",
    "our_sums": """
output_type: generate_until
doc_to_text: "Question: {{question}}\\nAnswer:"
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["Question:"], max_gen_toks: 24, do_sample: false}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
""",
}


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    if given := os.environ.get("TT_EDGE_LM_EVAL_PYTHON"):
        return given
    folder = tmp_path_factory.mktemp("lm_eval")
    venv.create(folder, with_pip=False)  # making its own pip takes as long as importing torch
    made = folder / "bin" / "python"
    packages = subprocess.run(
        [made, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    here = sysconfig.get_path("purelib")
    Path(packages, "these.pth").write_text(f"import site; site.addsitedir({here!r})\n")
    constraints = ["--constraint", str(ROOT / "constraints.txt")]
    pip = [sys.executable, "-m", "pip", "--python", made, "install", "--quiet", "--no-compile"]
    subprocess.run([*pip, *constraints, PACKAGE], check=True, timeout=900)
    return made


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    """Tasks of our own: a YAML file and JSON lines each."""
    folder = tmp_path_factory.mktemp("tasks")
    (folder / "our_choices.jsonl").write_text("".join(json.dumps(row) + "\n" for row in CHOICES))
    for name in ("our_text", "our_sums"):
        write_gsm8k(folder / f"{name}.jsonl", 3)
    for name, text in TASKS.items():
        data = (
            f"dataset_path: json\ndataset_kwargs: {{data_files: {{test: {folder / name}.jsonl}}}}\ntest_split: test\n"
        )
        (folder / f"{name}.yaml").write_text(f"task: {name}\n{data}{text}")
    return folder


def run(python, *arguments, cache):
    environment = os.environ | OFFLINE | {"HF_HOME": str(cache), "PYTHONPATH": str(ROOT)}
    done = subprocess.run([python, *map(str, arguments)], capture_output=True, text=True, timeout=500, env=environment)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


@pytest.mark.heavy
def test_equal_to_the_harness_own_model(python, bundle, checkpoint, tasks, tmp_path):
    found = json.loads(run(python, SCRIPT, bundle, checkpoint, tasks, CAPACITY, cache=tmp_path).splitlines()[-1])
    ours, theirs = found["tt_edge"], found["hf"]
    for task in TASKS:
        assert len(ours["samples"][task]) == 3
        assert_close(ours["samples"][task], theirs["samples"][task])
        assert ours["metrics"][task] == pytest.approx(theirs["metrics"][task], rel=1e-4)
    assert_close(ours["pairs"], theirs["pairs"])
    assert ours["rolling"] == pytest.approx(theirs["rolling"], rel=1e-5)
    for name in ("generations", "chat", "prefill"):
        assert ours[name] == theirs[name]


def assert_close(ours, theirs):
    """Log-likelihoods within 1e-3; everything else equal."""
    if isinstance(ours, list):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            assert_close(one, other)
    elif isinstance(ours, float):
        assert ours == pytest.approx(theirs, abs=1e-3)
    else:
        assert ours == theirs


@pytest.mark.heavy
def test_the_command(python, bundle, tasks, tmp_path):
    model = ["--model", "tt_edge", "--model_args", f"bundle={bundle}"]
    options = [*model, "--tasks", "our_choices", "--include_path", tasks]
    out = run(python, "-m", "tt_edge.evaluation.lm_eval", *options, cache=tmp_path)
    assert "our_choices" in out
    assert "|acc" in out.replace(" ", "")


def test_without_the_harness():
    """Where it is not installed, importing the module says what to install."""
    block = "import sys; sys.modules['lm_eval'] = None\n"
    done = subprocess.run(
        [sys.executable, "-c", block + "import tt_edge.evaluation.lm_eval"], capture_output=True, text=True, check=False
    )
    assert "MissingDependencyError: the harness is not installed" in done.stderr
    assert "pip install 'tt-edge[lm-eval]'" in done.stderr
