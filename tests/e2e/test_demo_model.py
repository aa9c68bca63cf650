"""test_demo_model.py - the bundled model answers what it was trained for.

tools/demo_model/check_questions.json was checked against Hugging Face's
generate() when the model was made; our engine must say the same things.
"""
import json

import httpx
import pytest

from conftest import ROOT

CASES = [c for c in json.loads((ROOT / "tools/demo_model/check_questions.json").read_text())
         if "tools" not in c]


@pytest.mark.parametrize("case", CASES, ids=[c["id"] for c in CASES])
def test_greedy_answer_contains(url, case):
    r = httpx.post(url + "/v1/chat/completions", timeout=60, json={
        "messages": case["messages"], "temperature": 0, "max_tokens": 120})
    assert r.status_code == 200, r.text
    text = r.json()["choices"][0]["message"]["content"]
    for want in [case["contains"]] if isinstance(case["contains"], str) else case["contains"]:
        assert want in text
