"""A conversation at a terminal, and through a pipe."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pexpect
import pytest

from tt_edge.runtime.llm import LLM


def started_in(home: Path | None, arguments: list[str]) -> pexpect.spawn:
    """A Python on a pseudo-terminal, which Ctrl-C reaches even where the tests themselves run in the background."""
    return pexpect.spawn(
        sys.executable, arguments, timeout=60, encoding="utf-8", env=PLAIN if home is None else {**PLAIN, "HOME": str(home)},
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip


@pytest.fixture
def terminal(bundle):
    """Starts ``tt-edge chat`` on a pseudo-terminal."""
    started = []

    def start(*options: object):
        argv = ["-m", "tt_edge", "chat", str(bundle), "--runtime", "reference", *map(str, options)]
        child = started_in(bundle, argv)
        started.append(child)
        return child

    yield start
    for child in started:
        child.close(force=True)


PICTURES = Path(__file__).parents[2] / "examples" / "road_scenes" / "pictures"


@pytest.fixture
def road_chat(tmp_path):
    """``tt-edge chat`` with the model of examples/road_scenes."""
    from tt_edge.compile.pipeline import compile_checkpoint
    from tt_edge.config import CompileConfig, EngineTarget

    config = CompileConfig.of(max_input_len=128, max_seq_len=224, max_image_tokens=96)
    compile_checkpoint(str(PICTURES.parent / "checkpoint"), tmp_path / "road.ttedge", config, EngineTarget())
    argv = ["-m", "tt_edge", "chat", str(tmp_path / "road.ttedge"), "--runtime", "reference", "--max-new-tokens", "24"]
    child = started_in(tmp_path, argv)
    yield child
    child.close(force=True)


PLAIN = {"TERM": "dumb", "PATH": "/usr/bin:/bin", "PYTHONUNBUFFERED": "1", "INPUTRC": "/dev/null"}


def answers(bundle, *messages: str, system: str | None = None) -> list[str]:
    """What the Python API answers, turn by turn."""
    from tt_edge.runtime.text.conversation import Conversation

    with LLM.load(bundle, "reference") as llm:
        conversation = Conversation(llm, system, llm.generation_defaults)
        return [conversation.say(message).text for message in messages]


def test_turns_commands_and_the_end(terminal, bundle):
    first, second = answers(bundle, "Is it red?", "Go on")
    (anew,) = answers(bundle, "Go on", system="Be kind.")
    child = terminal("--max-new-tokens", 64)
    child.expect("tiny: evaluated by the reference session. /help lists the commands")
    child.expect("> ")
    child.sendline("Is it red?")
    child.expect_exact(first.splitlines()[0])
    child.expect(r"\(\d+ tokens, [\d.]+/s, first after \d+ ms; 0 of \d+ were in the cache")
    child.sendline("Go on")
    child.expect_exact(second.splitlines()[0])
    child.expect(r"first after \d+ ms; [1-9]\d* of \d+ were in the cache")
    child.sendline("/help")
    child.expect(r"/reset +start over")
    child.sendline("/nonsense")
    child.expect("there is no /nonsense")
    child.sendline("/system Be kind.")
    child.expect("a new conversation")
    child.sendline("Go \\")
    child.expect("… ")
    child.sendcontrol("c")
    child.expect("> ")
    child.sendline("Go on")
    child.expect_exact(anew.splitlines()[0])
    child.sendline("/exit")
    child.expect(pexpect.EOF)
    child.wait()
    assert child.exitstatus == 0


def test_ctrl_c_stops_the_answer_and_not_the_program(bundle):
    slow = "import time, tt_edge.runtime.engine.session as s; f = s.Session.forward\n"
    slow += "def forward(*a, **k):\n    time.sleep(0.1)\n    return f(*a, **k)\ns.Session.forward = forward\n"
    slow += "import sys; from tt_edge.cli import main; sys.exit(main())"
    argv = ["-c", slow, "chat", str(bundle), "--runtime", "reference", "--temperature", "5", "--seed", "3"]
    child = started_in(None, argv)
    child.expect("> ")
    child.sendline("Go")
    child.expect("Go\r\n.")
    child.sendcontrol("c")
    child.expect(r"were in the cache; stopped\)")
    child.expect("> ")
    child.sendeof()
    child.expect(pexpect.EOF)
    child.wait()
    assert child.exitstatus == 0


def test_a_pipe(bundle):
    argv = [sys.executable, "-m", "tt_edge", "chat", bundle, "--runtime", "reference"]
    done = subprocess.run(argv, input="Is it red?\nGo on\n", capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stdout.splitlines() == [line for a in answers(bundle, "Is it red?", "Go on") for line in a.split("\n")]
    assert done.stderr == ""


def test_a_system_prompt_is_kept_on_disk(bundle, tmp_path):
    argv = [sys.executable, "-m", "tt_edge", "chat", bundle, "--runtime", "reference", "--system", "Be kind to all."]
    outputs = []
    for word in ("computed", f"read from {tmp_path / 'kv'}"):
        done = subprocess.run(
            [*argv, "--prefix-cache", tmp_path / "kv"], input="Go\n", capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert f"tokens, {word}" in done.stderr
        outputs.append(done.stdout)
    assert outputs[0] == outputs[1] == answers(bundle, "Go", system="Be kind to all.")[0] + "\n"
    assert [path.name for path in tmp_path.iterdir() if "kv" in path.name] == ["kv"]


def test_a_cache_that_cannot_be_written_is_reported_and_not_fatal(tt_edge, bundle, tmp_path, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda _prompt: (_ for _ in ()).throw(EOFError))
    file = tmp_path / "missing" / "kv"
    result = tt_edge("chat", bundle, "--runtime", "reference", "--system", "Be kind.", "--prefix-cache", file)
    assert result.status == 0
    assert f"--prefix-cache {file} was not written (No such file or directory); give a file in a folder" in result.err


ESCAPES = """
import sys
from tt_edge.runtime.text.tokenizer import BundleTokenizer
BundleTokenizer.decode = lambda self, ids, **_: "\\x1b]0;title\\x07\\x9b5nred" * len(list(ids))
from tt_edge.cli import main
sys.exit(main())
"""


@pytest.mark.parametrize("command", ["chat", "run"])
def test_escape_sequences_of_an_answer_do_not_reach_the_terminal(bundle, command):
    options = ["--prompt", "Go", "--max-new-tokens", "2"] if command == "run" else ["--max-new-tokens", "2"]
    argv = ["-c", ESCAPES, command, str(bundle), "--runtime", "reference", *options]
    child = started_in(None, argv)
    if command == "chat":
        child.expect("> ")
        child.sendline("Go")
    child.expect("␛]0;title␇\ufffd5nred␛]0;title␇")
    assert "\x1b]" not in child.before + child.after
    assert "\x9b" not in child.before + child.after
    child.close(force=True)
    if command == "run":  # through a pipe, and as JSON, it is as the model wrote it
        done = subprocess.run([sys.executable, *argv], capture_output=True, text=True, check=True)
        assert "\x1b]0;title\x07\x9b5nred" in done.stdout
        done = subprocess.run([sys.executable, *argv, "--json"], capture_output=True, text=True, check=True)
        assert json.loads(done.stdout)[0]["text"] == "\x1b]0;title\x07\x9b5nred" * 2


def test_too_long_a_conversation_goes_on(tt_edge, bundle, monkeypatch):
    lines = iter(["The light is green. " * 30, "Go"])

    def line(_prompt: str) -> str:
        try:
            return next(lines)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("builtins.input", line)
    result = tt_edge("chat", bundle, "--runtime", "reference")
    assert "tokens, and the model takes 64; start over (/reset)" in result.err
    assert result.out == answers(bundle, "Go")[0] + "\n"
    assert result.status == 0


def test_bad_options(tt_edge, bundle):
    tt_edge("chat", bundle, "--temperature", -1).fails_with("temperature is -1.0; it must be a number from 0", 2)
    tt_edge("chat", bundle, "--prefix-cache", "no/such").fails_with("--prefix-cache no/such does not exist", 2)


def test_pictures(road_chat):
    """An image is attached to the next message, and later turns find it in the cache."""
    child = road_chat
    child.expect("> ")
    child.sendline(f"/image {PICTURES / 'red_light.png'}")
    child.expect(r"\(attached red_light\.png, \d+ tokens\)")
    child.sendline("Describe the picture.")
    child.expect("red light")
    child.sendline("How many cars are there?")
    child.expect(r"\(\d+ tokens, .*; [4-9]\d of \d+ were in the cache")
    child.sendline("/image /no/such/file.png")
    child.expect("image /no/such/file.png does not exist; give a file")
    child.sendline("/image")
    child.expect("no image is named; give one, /image FILE")
    child.sendline("/exit")
    child.expect(pexpect.EOF)


def test_a_language_model_takes_no_pictures(terminal):
    child = terminal()
    child.expect("> ")
    child.sendline("/image a.png")
    child.expect("this model takes no images; chat with a vision-language model's bundle")
    child.sendline("/exit")
    child.expect(pexpect.EOF)
