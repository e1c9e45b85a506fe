"""Run by ``test_lm_eval`` in a virtual environment that has lm-eval; prints what both of its models answered as JSON.

Arguments: a bundle, its checkpoint, a folder with tasks, and the length of a sequence.
"""

import json
import sys

import lm_eval
from lm_eval.api.instance import Instance
from lm_eval.api.registry import get_model
from lm_eval.tasks import TaskManager

import tt_edge.evaluation.lm_eval  # noqa: F401 (registers the model)

bundle, checkpoint, folder, length = sys.argv[1:]
TASKS = ["our_choices", "our_text", "our_sums"]
MODELS = {
    "tt_edge": {"bundle": bundle},
    "hf": {"pretrained": checkpoint, "dtype": "float32", "max_length": int(length), "device": "cpu"},
}
#: No context, blanks at its end, one that is too long, a continuation of one token, one that fills everything, and letters.
PAIRS = [
    ("", "The light"), ("The car stops ", "before the line."), ("The road is clear and " * 80, "the light is green"),
    ("Answer:", " A"), ("x", "The road is clear. " * 60), ("Die Ampel ist grün", ", also fährt das Auto weiter. ✓"),
]  # fmt: skip
GENERATIONS = [
    ("The light ahead is", {"until": ["the"], "max_gen_toks": 24}),
    ("A pedestrian waits " * 60, {"until": [], "max_gen_toks": 40, "do_sample": False, "temperature": 0.0}),
    ("Go", {"until": ["<|end|>", "\n"], "max_gen_toks": 12}),
]


def instances(kind, arguments):
    return [Instance(kind, {}, args, number) for number, args in enumerate(arguments)]


found = {}
for name, settings in MODELS.items():
    results = lm_eval.simple_evaluate(
        model=name, model_args=settings, tasks=TASKS, task_manager=TaskManager(include_path=folder), log_samples=True,
        bootstrap_iters=0,
    )  # fmt: skip
    model = get_model(name).create_from_arg_obj(settings)
    found[name] = {
        "samples": {
            task: [sample["resps"] for sample in sorted(samples, key=lambda sample: sample["doc_id"])]
            for task, samples in results["samples"].items()
        },
        "metrics": {
            task: {key: value for key, value in numbers.items() if isinstance(value, float)}
            for task, numbers in results["results"].items()
        },
        "pairs": model.loglikelihood(instances("loglikelihood", PAIRS)),
        "rolling": model.loglikelihood_rolling(
            instances("loglikelihood_rolling", [("The road is clear. " * 99,), ("x",)])
        ),
        "generations": model.generate_until(instances("generate_until", GENERATIONS)),
        "chat": model.apply_chat_template([{"role": "user", "content": "Go?"}]),
        "prefill": model.apply_chat_template(
            [{"role": "user", "content": "Go?"}, {"role": "assistant", "content": "Yes, "}], add_generation_prompt=False
        ),
    }
print(json.dumps(found))
