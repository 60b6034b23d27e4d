"""The example of DSPy of docs/frameworks.md, with the language model that DSPy has for tests.

Run by a test with the Python of an environment that has DSPy. Prints what the language model was asked, and what the
module made of its answer.
"""

import json
import sys
from pathlib import Path
from typing import Any

import dspy
from dspy.utils import DummyLM


def main(code_file: str, question: str) -> None:
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(Path(code_file).read_text("utf-8"), code_file, "exec"), names)
    model = DummyLM([{"reasoning": "The first passage says it.", "answer": "With open eyes."}])
    dspy.configure(lm=model)
    prediction = names["answer_from_passages"](question=question)
    prompt = json.dumps(model.history[-1], default=str, ensure_ascii=False)
    print(json.dumps({"answer": prediction.answer, "prompt": prompt}))


if __name__ == "__main__":
    main(*sys.argv[1:])
